"""The command line. Every verb parses, calls one library function, renders; results on stdout, the rest on stderr."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qtrap_agents import __version__
from qtrap_agents.config import RunConfig, describe, load_yaml
from qtrap_agents.errors import ConfigError, QtrapError, unknown

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
show = typer.Typer(no_args_is_help=True, help="List suites, workflows, arms or runs.", rich_markup_mode=None)
app.add_typer(show, name="list")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
TRACES = Path("traces")


class Export(StrEnum):
    """Formats of a premise graph."""

    JSON = "json"
    GRAPHML = "graphml"


def main() -> None:
    """Entry point: expected errors are one sentence and exit code 2, bugs keep their traceback."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        app()
    except QtrapError as error:
        print(f"qtrap: {error}", file=sys.stderr)
        sys.exit(2)


def _version(value: bool) -> None:
    if value:
        print(f"qtrap {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Find the hop where a quantised agent chain turns a tiny error into logic collapse."""


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="YAML file of the run; not needed with --resume.")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="Only these suites (repeatable); names or paths.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Workflow name or module:function.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only these arms of the file (repeatable).")] = None,
    depth: Annotated[list[int] | None, typer.Option(help="Depths in hops (repeatable).", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Tasks per suite, depth and seed.", min=1)] = None,
    concurrency: Annotated[int | None, typer.Option(help="Tasks in flight.", min=1)] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds of the tasks (repeatable).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run directory.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run directory to finish.")] = None,
) -> None:
    """Run suites of agent chains on every arm and store the traces."""
    changes = {
        "suites": suite, "workflow": workflow, "arms": arm, "depths": depth, "tasks_per_depth": limit,
        "concurrency": concurrency, "seeds": seed, "out": str(out) if out else None,
    }  # fmt: skip
    changes = {name: value for name, value in changes.items() if value}
    path = _run(config, changes, resume)
    print(path)
    print(f"next: qtrap compare {path}", file=sys.stderr)


def _run(config: Path | None, changes: Mapping[str, Any], resume: Path | None) -> Path:
    from qtrap_agents.report.progress import RunProgress
    from qtrap_agents.runner import execute, prepare, start
    from qtrap_agents.store import RunDirectory

    if resume is not None:
        directory = RunDirectory.open(resume)
        plan = prepare(_resumed(directory.config, config, changes))
    elif config is not None:
        plan = prepare(_changed(load_yaml(config, RunConfig), changes))
        directory = start(plan, Path(plan.config.out))
    else:
        raise ConfigError("give a configuration file, such as configs/quickstart.yaml, or --resume RUN")
    hint = f"stored so far: {directory.path}; go on with `qtrap run --resume {directory.path}`"
    try:
        with RunProgress(Console(stderr=True)) as progress:
            asyncio.run(execute(directory, plan, progress))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"qtrap: interrupted; {hint}", file=sys.stderr)
        raise SystemExit(130) from None
    except QtrapError as error:
        raise type(error)(f"{str(error).rstrip('.')}; {hint}") from error
    return directory.path


def _changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The configuration with the options of the command line."""
    from pydantic import ValidationError

    data = config.model_dump() | {name: value for name, value in changes.items() if name != "arms"}
    if wanted := changes.get("arms"):
        data["arms"] = [_arm(config, name) for name in wanted]
        if config.baseline not in wanted:
            data["baseline"] = None
    if isinstance(suites := changes.get("suites"), list):
        known = {suite.name: suite.model_dump() for suite in config.suites}
        data["suites"] = [known.get(name, {"name": name}) for name in suites]
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error, "command line", RunConfig, {})) from error


def _arm(config: RunConfig, name: str) -> dict[str, Any]:
    arms = {arm.name: arm.model_dump() for arm in config.arms}
    if name not in arms:
        raise ConfigError(unknown("arm", name, arms))
    return arms[name]


def _resumed(stored: RunConfig, config: Path | None, changes: Mapping[str, Any]) -> RunConfig:
    """A run is resumed as it was started; only the concurrency may change."""
    others = sorted(set(changes) - {"concurrency"})
    if others:
        raise ConfigError(f"--resume finishes a run as it was started and takes no other {', '.join(others)}; start a new run")
    if config is not None and load_yaml(config, RunConfig).name != stored.name:
        raise ConfigError(f"{config}: is not the configuration of that run ('{stored.name}'); leave it out with --resume")
    return _changed(stored, changes)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    baseline: Annotated[str | None, typer.Option(help="Arm to compare with; by default the baseline of the run.")] = None,
    margin: Annotated[float, typer.Option(help="Non-inferiority margin, as a share.", min=0.0, max=1.0)] = 0.02,
    as_json: AsJson = False,
) -> None:
    """Compare the arms of one or several runs: success, horizon, errors, flips, verdict, cost, identity."""
    from qtrap_agents.report.comparison import compare_runs, comparison_json
    from qtrap_agents.report.comparison_view import render_comparison
    from qtrap_agents.store import RunDirectory

    report = compare_runs([RunDirectory.open(path) for path in runs], baseline, margin)
    if as_json:
        _print_json(comparison_json(report))
    else:
        render_comparison(report, _console())


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    task: Annotated[str | None, typer.Argument(help="Task id, or the unambiguous beginning of one.")] = None,
    arm: Annotated[str | None, typer.Option(help="Only this arm; of one trace, the arm to show.")] = None,
    against: Annotated[str | None, typer.Option(help="Second arm, side by side with the first.")] = None,
    suite: Annotated[str | None, typer.Option(help="Only this suite.")] = None,
    depth: Annotated[int | None, typer.Option(help="Only this depth.", min=1)] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only traces with a wrong answer or an error.")] = False,
    limit: Annotated[int, typer.Option(help="Longest list.", min=1)] = 50,
    full: Annotated[bool, typer.Option("--full", help="Do not shorten prompts and completions.")] = False,
    export: Annotated[Export | None, typer.Option(help="Print the premise graph of the trace instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the traces of a run, or show one as a tree of hops."""
    from qtrap_agents.report import inspection, inspection_view
    from qtrap_agents.store import RunDirectory

    directory = RunDirectory.open(run)
    if task is None:
        if against or export:
            raise ConfigError("--against and --export need a TASK; `qtrap inspect RUN` lists them")
        found = inspection.list_traces(directory, arm=arm, depth=depth, failed=failed, suite=suite, limit=limit)
        _show(as_json, inspection.traces_json(found), lambda console: inspection_view.render_traces(found, console))
    elif export is not None:
        print(inspection.export_trace(directory, task, arm, export.value))
    elif against is not None:
        pair = inspection.compare_traces(directory, task, arm or directory.config.baseline_arm, against)
        _show(as_json, inspection.pair_json(pair), lambda console: inspection_view.render_pair(pair, console, full))
    else:
        view = inspection.inspect_trace(directory, task, arm)
        _show(as_json, inspection.trace_json(view), lambda console: inspection_view.render_trace(view, console, full))


@show.command("suites")
def list_suites(as_json: AsJson = False) -> None:
    """Task suites that a run can name."""
    from qtrap_agents.report import listing

    rows = listing.suite_rows()
    _show(as_json, listing.rows_json(rows), lambda console: listing.render_suites(rows, console))


@show.command("workflows")
def list_workflows(as_json: AsJson = False) -> None:
    """Built-in workflows."""
    from qtrap_agents.report import listing

    rows = listing.workflow_rows()
    _show(as_json, listing.rows_json(rows), lambda console: listing.render_workflows(rows, console))


@show.command("arms")
def list_arms(as_json: AsJson = False) -> None:
    """Shipped reference checkpoints, as an arm names them."""
    from qtrap_agents.report import listing

    rows = listing.checkpoint_rows()
    _show(as_json, listing.rows_json(rows), lambda console: listing.render_checkpoints(rows, console))


@show.command("runs")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder of the run directories.")] = TRACES, as_json: AsJson = False
) -> None:
    """Stored runs and how far they are."""
    from qtrap_agents.report import listing

    rows = listing.run_rows(folder)
    _show(as_json, listing.rows_json(rows), lambda console: listing.render_runs(rows, console))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check what this machine can run; exit code 1 where something needed is missing."""
    from qtrap_agents.doctor import run_checks
    from qtrap_agents.report.health import diagnosis_json, render_diagnosis

    diagnosis = run_checks()
    _show(as_json, diagnosis_json(diagnosis), lambda console: render_diagnosis(diagnosis, console))
    if not diagnosis.ok:
        raise typer.Exit(1)


def _console() -> Console:
    """Stdout; 120 columns where it is no terminal, so that a pipe does not squeeze tables."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def _show(as_json: bool, data: object, render: Callable[[Console], None]) -> None:
    if as_json:
        _print_json(data)
    else:
        render(_console())


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=1, ensure_ascii=False))
