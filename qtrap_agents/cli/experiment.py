"""The verbs that experiment on a stored run: diagnose, replay, inject, localise. What they measure is kept in the run."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from qtrap_agents.cli.common import AsJson, RunPath, Tasks, show, to_the_end
from qtrap_agents.errors import ConfigError
from qtrap_agents.store import RunDirectory

ArmName = Annotated[
    str | None, typer.Option("--arm", help="Arm to look at; needed where a run has several besides the baseline.")
]
Stored = Annotated[bool, typer.Option("--stored", help="Serve no arm: report what earlier calls have measured.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Chains of each suite and depth, at most.", min=1)]


def diagnose(
    run: RunPath,
    arm: ArmName = None,
    task: Tasks = None,
    top: Annotated[int, typer.Option(help="Most probable tokens to keep at each position.", min=1, max=20)] = 8,
    stored: Stored = False,
    as_json: AsJson = False,
) -> None:
    """Follow an arm's errors from token to chain: flips, false premises, recovered and collapsed chains."""
    from qtrap_agents.report import diagnosis, diagnosis_view

    directory = RunDirectory.open(run)
    name = _arm(directory, arm)
    warnings = [] if stored else _force(directory, name, top, task)
    found = diagnosis.diagnose(directory, name, task, warnings)
    show(as_json, diagnosis.diagnosis_json(found), lambda console: diagnosis_view.render_diagnosis(found, console))


def _force(directory: RunDirectory, arm: str, top: int, tasks: Sequence[str] | None) -> list[str]:
    """Read the baseline's text on both arms; what could not be done, in sentences."""
    from qtrap_agents.experiments.forcing import force
    from qtrap_agents.experiments.passes import Bench
    from qtrap_agents.report.progress import RunProgress

    warnings: list[str] = []

    async def work() -> None:
        warnings.extend(await force(Bench.set_up(directory, progress), arm, top, tasks))

    with RunProgress(Console(stderr=True)) as progress:
        to_the_end(work(), _again(directory, "diagnose", arm))
    return warnings


def _arm(directory: RunDirectory, wanted: str | None) -> str:
    """The arm that is meant. Raises ConfigError where that is open."""
    others = [arm.name for arm in directory.config.arms if arm.name != directory.config.baseline_arm]
    if wanted is None and len(others) != 1:
        choices = " or ".join(others) or "none: the run has the baseline only"
        raise ConfigError(f"{directory.path}: choose an arm with --arm ({choices})")
    return wanted or others[0]


def _again(directory: RunDirectory, verb: str, arm: str) -> str:
    return f"what is measured so far is kept; `qtrap {verb} {directory.path} --arm {arm}` goes on"
