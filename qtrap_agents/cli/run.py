"""`qtrap run`: start a run, or finish one."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from qtrap_agents.arms import ArmConfig, arm_by_name
from qtrap_agents.cli.common import AllowUnverified, to_the_end
from qtrap_agents.config import RunConfig
from qtrap_agents.errors import ConfigError, SimulationError
from qtrap_agents.plans import PLAN_ARM, PrecisionPlan, load_plan
from qtrap_agents.strict_yaml import describe, load_yaml

if TYPE_CHECKING:
    from qtrap_agents.runner import Plan


def run(
    config: Annotated[Path | None, typer.Argument(help="YAML file of the run; not needed with --plan or --resume.")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="Only these suites (repeatable); names or paths.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Workflow name or module:function.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only these arms of the file, or named ones (repeatable).")] = None,
    depth: Annotated[list[int] | None, typer.Option(help="Depths in hops (repeatable).", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Tasks per suite, depth and seed.", min=1)] = None,
    concurrency: Annotated[int | None, typer.Option(help="Tasks in flight.", min=1)] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds of the tasks (repeatable).")] = None,
    noise_floor: Annotated[bool | None, typer.Option(help="Serve the baseline twice, to see what noise alone does.")] = None,
    allow_unverified: AllowUnverified = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the run directory.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Precision plan to carry out beside its baseline; see `qtrap plan`.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run directory to finish.")] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Resume tasks that ended in an error too.")] = False,
) -> None:
    """Run suites of agent chains on every arm and store the traces."""
    changes = {
        "suites": suite, "workflow": workflow, "arms": arm, "depths": depth, "tasks_per_depth": limit,
        "concurrency": concurrency, "seeds": seed, "noise_floor": noise_floor, "out": str(out) if out else None,
        "allow_unverified": allow_unverified or None,
    }  # fmt: skip
    changes = {name: value for name, value in changes.items() if value or value is False}
    path = do_run(config, changes, resume, retry_errors, plan)
    print(path)
    print(f"next: qtrap compare {path}", file=sys.stderr)


def do_run(
    config: Path | None,
    changes: Mapping[str, Any],
    resume: Path | None,
    retry_errors: bool = False,
    plan_file: Path | None = None,
) -> Path:
    from qtrap_agents.report.progress import RunProgress
    from qtrap_agents.runner import execute, left_out, prepare, start
    from qtrap_agents.store import RunDirectory

    if retry_errors and resume is None:
        raise ConfigError("--retry-errors goes with --resume RUN: a new run has no errors yet")
    if resume is not None:
        if plan_file is not None:
            raise ConfigError("--resume finishes a run with the plan that it was started with; leave --plan out")
        directory = RunDirectory.open(resume)
        plan = prepare(_resumed(directory.config, config, changes))
        if plan.config.noise_floor != directory.config.noise_floor:
            directory = directory.reconfigured(directory.config.model_copy(update={"noise_floor": plan.config.noise_floor}))
    elif plan_file is not None:
        plan = _prepared(plan_file, planned(plan_file, config, changes))
        directory = start(plan, Path(plan.config.out))
    elif config is not None:
        plan = prepare(changed(load_yaml(config, RunConfig), changes))
        directory = start(plan, Path(plan.config.out))
    else:
        raise ConfigError("give a configuration file, such as configs/quickstart.yaml, --plan FILE or --resume RUN")
    hint = f"stored so far: {directory.path}; go on with `qtrap run --resume {directory.path}`"
    with RunProgress(Console(stderr=True)) as progress:
        for note in left_out(plan) if resume is None else ():
            progress.note(note)
        to_the_end(execute(directory, plan, progress, retry_errors), hint)
    return directory.path


def _prepared(plan_file: Path, config: RunConfig) -> "Plan":
    """Raises QtrapError; SimulationError names the file of the plan."""
    from qtrap_agents.runner import prepare

    try:
        return prepare(config)
    except SimulationError as error:
        raise SimulationError(f"{plan_file}: {error}") from error


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The configuration with the options of the command line."""
    data = config.model_dump() | {name: value for name, value in changes.items() if name != "arms"}
    if wanted := changes.get("arms"):
        data["arms"] = [arm_by_name(name, config.arms).model_dump() for name in wanted]
        if config.baseline not in wanted:
            data["baseline"] = None
    if isinstance(suites := changes.get("suites"), list):
        known = {suite.name: suite.model_dump() for suite in config.suites}
        data["suites"] = [known.get(name, {"name": name}) for name in suites]
    return _validated(data)


def _validated(data: Mapping[str, Any]) -> RunConfig:
    from pydantic import ValidationError

    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error, "command line", RunConfig, {})) from error


def planned(plan_file: Path, config: Path | None, changes: Mapping[str, Any]) -> RunConfig:
    """The run that carries out a plan: the baseline, the plan and the arms of `--arm`, on tasks of its suite and depth.

    Engine, sampling and limits are those of the configuration where one is given.

    Raises:
        ConfigError: a file is wrong, the configuration is for other suites, or an option says what the plan says already.
    """
    options = {"suites": "--suite", "workflow": "--workflow", "depths": "--depth"}
    if given := [option for name, option in options.items() if name in changes]:
        raise ConfigError(f"{plan_file}: a plan has its own suite, depth and workflow; leave {' and '.join(given)} out")
    plan = load_plan(plan_file)
    others = {name: arm_by_name(name, plan.arms) for name in changes.get("arms", ()) if name not in (plan.baseline, PLAN_ARM)}
    arms = (arm_by_name(plan.baseline, plan.arms), ArmConfig(name=PLAN_ARM, backend="plan"), *others.values())
    data: dict[str, Any] = {"name": PLAN_ARM, "suites": [plan.suite]} if config is None else _settings(plan_file, plan, config)
    data |= {"depths": [plan.depth], "workflow": "chain", "baseline": plan.baseline, "plan": plan.model_dump()}
    data |= {"arms": [arm.model_dump() for arm in arms]}
    data |= {name: value for name, value in changes.items() if name != "arms"}
    return _validated(data)


def _settings(plan_file: Path, plan: PrecisionPlan, config: Path) -> dict[str, Any]:
    """What a configuration says beside arms and depths, with the suite of the plan alone. Raises ConfigError."""
    from qtrap_agents.suites.catalog import load_suite

    base = load_yaml(config, RunConfig)
    suites = [suite.model_dump() for suite in base.suites if plan.suite in (suite.name, load_suite(suite).name)]
    if not suites:
        asked = ", ".join(suite.name for suite in base.suites)
        raise ConfigError(f"{plan_file}: the plan is for the suite '{plan.suite}', {config} asks {asked}; plan for that suite")
    return base.model_dump() | {"suites": suites}


def _resumed(stored: RunConfig, config: Path | None, changes: Mapping[str, Any]) -> RunConfig:
    """A run is resumed as it was started; only the concurrency may change, and whether the noise floor is measured."""
    others = sorted(set(changes) - {"concurrency", "noise_floor", "allow_unverified"})
    if others:
        raise ConfigError(f"--resume finishes a run as it was started and takes no other {', '.join(others)}; start a new run")
    if config is not None and load_yaml(config, RunConfig).name != stored.name:
        raise ConfigError(f"{config}: is not the configuration of that run ('{stored.name}'); leave it out with --resume")
    return changed(stored, changes)
