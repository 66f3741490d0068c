"""Where shipped suites, configurations and reference checkpoints lie, in a checkout and in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parent
REFERENCE_CHECKPOINTS = PACKAGE / "reference" / "checkpoints"


def shipped(folder: str) -> Path:
    """The shipped `tasks` or `configs` folder: inside the wheel, else beside the package in a checkout."""
    inside = PACKAGE / "_shipped" / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder
