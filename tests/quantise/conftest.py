"""A stand-in for an interpreter with llm-compressor: a script that does with a job what the test wants."""

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qtrap_agents import paths

STAND_IN = """\
#!{python}
import json, pathlib, shutil, sys, time
if sys.argv[1:3] == ["-I", "-c"]:
    print(json.dumps({versions!r}))
    raise SystemExit
job = json.loads(pathlib.Path(sys.argv[-1]).read_text())
out = pathlib.Path(job["out"])
rows = open(job["calibration"]).read().splitlines() if job["calibration"] else []
{work}
"""
WRITE = """\
print("qtrap: writing", flush=True)
shutil.copytree({packed!r}, out)
report = {{"versions": {versions!r}, "texts": len(rows), "tokens": 7 * len(rows)}}
pathlib.Path(job["report"]).write_text(json.dumps(report))
"""
VERSIONS = {"llmcompressor": "0.14.0.1", "torch": "2.13.0", "transformers": "5.17.0", "compressed-tensors": "0.19.0"}
PACKED = paths.REFERENCE_CHECKPOINTS / "small" / "gptq"

Write = Callable[..., Path]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def interpreter(workplace: Path) -> Write:
    """Writes a stand-in that does this with the job; by default it "makes" a shipped 4-bit checkpoint."""

    def write(work: str = WRITE.format(packed=str(PACKED), versions=VERSIONS), versions: dict[str, str] = VERSIONS) -> Path:
        path = workplace / "interpreter"
        path.write_text(STAND_IN.format(python=sys.executable, versions=versions, work=work))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


def recipe_of(folder: Path) -> dict[str, object]:
    """What a new checkpoint says about how it was made."""
    found: dict[str, object] = json.loads((folder / "qtrap_recipe.json").read_text())
    return found
