"""The verbs that experiment on a stored run: diagnose, replay, inject, localise. What they measure is kept in the run."""

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from qtrap_agents.cli.common import AsJson, RunPath, Tasks, show, to_the_end
from qtrap_agents.cli.run import do_run
from qtrap_agents.config import RunConfig, load_yaml
from qtrap_agents.errors import ConfigError
from qtrap_agents.store import RunDirectory

if TYPE_CHECKING:
    from qtrap_agents.experiments.inject import FaultPlan, Place

ArmName = Annotated[
    str | None, typer.Option("--arm", help="Arm to look at; needed where a run has several besides the baseline.")
]
Stored = Annotated[bool, typer.Option("--stored", help="Serve no arm: report what earlier calls have measured.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Chains of each suite and depth, at most.", min=1)]


class Kind(StrEnum):
    """Kinds of faults."""

    OFF_BY_ONE = "off-by-one"
    DIGIT = "digit"
    NAME = "name"
    DROP = "drop"
    SWAP = "swap"


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


def replay(
    run: RunPath,
    arm: ArmName = None,
    task: Tasks = None,
    limit: Limit = None,
    show_chains: Annotated[int, typer.Option("--show", help="Failed chains to list.", min=0)] = 20,
    stored: Stored = False,
    as_json: AsJson = False,
) -> None:
    """Run an arm's failed chains again hop by hop: which hop made them fail, and what one full-precision hop saves."""
    from qtrap_agents.report import replays, replays_view

    directory = RunDirectory.open(run)
    name = _arm(directory, arm)
    problems = [] if stored else _replay(directory, name, task, limit)
    found = replays.replay_report(directory, name, task)
    found = found.model_copy(update={"warnings": (*problems, *found.warnings)})
    show(as_json, replays.replays_json(found), lambda console: replays_view.render_replays(found, console, show_chains))


def inject(
    source: Annotated[Path, typer.Argument(help="Run directory, or a configuration file whose baseline is run first.")],
    at: Annotated[str, typer.Option(help="Hop that is spoilt: a number from 1, first, middle, last or random.")] = "random",
    kind: Annotated[list[Kind] | None, typer.Option(help="Kind of fault (repeatable); by default any that fits.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the faults.")] = 0,
    suite: Annotated[list[str] | None, typer.Option(help="Of a configuration: only these suites (repeatable).")] = None,
    depth: Annotated[list[int] | None, typer.Option(help="Of a configuration: depths in hops (repeatable).", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Of a configuration: tasks per suite, depth and seed.", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="Of a configuration: folder for the run directory.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put one wrong premise of known place and size into baseline chains, and see how far it spreads."""
    from qtrap_agents.analysis.faults import ALL_KINDS
    from qtrap_agents.experiments.inject import FaultPlan
    from qtrap_agents.report import propagation, propagation_view

    kinds = tuple(name for name in ALL_KINDS if not kind or name in [chosen.value for chosen in kind])
    plan = FaultPlan(kinds=kinds, at=_place(at), seed=seed)
    changes = {"suites": suite, "depths": depth, "tasks_per_depth": limit, "out": str(out) if out else None}
    directory = _baseline_run(source, {name: value for name, value in changes.items() if value})
    _inject(directory, plan)
    found = propagation.propagation_report(directory, plan.name)
    show(as_json, propagation.propagation_json(found), lambda console: propagation_view.render_propagation(found, console))
    print(f"next: qtrap localise {directory.path} --faults {plan.name}", file=sys.stderr)


def localise(
    source: Annotated[Path, typer.Argument(help="Run directory with injected faults, or a JSONL file of traces without gold.")],
    faults: Annotated[str | None, typer.Option(help="Set of faults, where a run has several.")] = None,
    show_chains: Annotated[int, typer.Option("--show", help="Chains to list.", min=0)] = 10,
    stored: Stored = False,
    as_json: AsJson = False,
) -> None:
    """Find the hop that went wrong: by replay and by guesses on injected faults, by contradictions in a file of traces."""
    from qtrap_agents.report import localisation, localisation_view
    from qtrap_agents.report.faultsets import find_faults

    if source.is_file():
        seen = localisation.suspects(source)
        show(
            as_json,
            localisation.suspects_json(seen),
            lambda console: localisation_view.render_suspects(seen, console, show_chains),
        )
        return
    directory = RunDirectory.open(source)
    name = find_faults(directory, faults)
    if not stored:
        _find(directory, name)
    found = localisation.localise(directory, name)
    show(
        as_json,
        localisation.localisation_json(found),
        lambda console: localisation_view.render_localisation(found, console, show_chains),
    )


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


def _replay(directory: RunDirectory, arm: str, tasks: Sequence[str] | None, limit: int | None) -> list[str]:
    """Make the replays that are not stored yet; what could not be done, in sentences."""
    from qtrap_agents.experiments.passes import Bench
    from qtrap_agents.experiments.replays import Chains, choose, run_replays
    from qtrap_agents.report.progress import RunProgress

    chains, problems = Chains.of(directory, arm), list[str]()
    choice = choose(chains, tasks, limit)

    async def work() -> None:
        problems.extend(await run_replays(directory, Bench.set_up(directory, progress), arm, choice, chains))

    with RunProgress(Console(stderr=True)) as progress:
        to_the_end(work(), _again(directory, "replay", arm))
    return problems


def _inject(directory: RunDirectory, plan: "FaultPlan") -> None:
    from qtrap_agents.experiments.inject import draw_faults, run_faults
    from qtrap_agents.experiments.passes import Bench
    from qtrap_agents.report.progress import RunProgress

    drawn = draw_faults(directory, plan)
    with RunProgress(Console(stderr=True)) as progress:
        for reason, count in drawn.left_out.items():
            progress.note(f"{count:,} chains take no fault: {reason}")
        work = run_faults(directory, Bench.set_up(directory, progress), plan.name, drawn.faults)
        to_the_end(work, f"what is done so far is kept; the same command on {directory.path} goes on")


def _find(directory: RunDirectory, name: str) -> None:
    from qtrap_agents.experiments.locate import run_finder
    from qtrap_agents.experiments.passes import Bench
    from qtrap_agents.report.progress import RunProgress

    with RunProgress(Console(stderr=True)) as progress:
        work = run_finder(directory, Bench.set_up(directory, progress), name)
        to_the_end(work, f"what is done so far is kept; `qtrap localise {directory.path} --faults {name}` goes on")


def _baseline_run(source: Path, changes: Mapping[str, Any]) -> RunDirectory:
    """The run directory, or a new run of the baseline of a configuration."""
    if source.is_dir():
        if changes:
            raise ConfigError(f"{source}: a stored run takes no --{', --'.join(changes)}; give its configuration file instead")
        return RunDirectory.open(source)
    config = load_yaml(source, RunConfig)
    return RunDirectory.open(do_run(source, {**changes, "arms": [config.baseline_arm]}, None))


def _place(at: str) -> "Place":
    """Raises ConfigError for anything but a hop."""
    words: tuple[Literal["random", "first", "middle", "last"], ...] = ("random", "first", "middle", "last")
    for word in words:
        if at == word:
            return word
    if not at.isdecimal() or int(at) < 1:
        raise ConfigError(f"--at {at}: give a hop from 1, or one of {', '.join(words)}")
    return int(at)


def _arm(directory: RunDirectory, wanted: str | None) -> str:
    """The arm that is meant. Raises ConfigError where that is open."""
    others = [arm.name for arm in directory.config.arms if arm.name != directory.config.baseline_arm]
    if wanted is None and len(others) != 1:
        choices = " or ".join(others) or "none: the run has the baseline only"
        raise ConfigError(f"{directory.path}: choose an arm with --arm ({choices})")
    return wanted or others[0]


def _again(directory: RunDirectory, verb: str, arm: str) -> str:
    return f"what is measured so far is kept; `qtrap {verb} {directory.path} --arm {arm}` goes on"
