"""The verbs that read stored runs and the machine: compare, inspect, list, doctor."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qtrap_agents.cli.common import AsJson, RunPath, console, print_json, show
from qtrap_agents.errors import ConfigError

TRACES = Path("traces")
listing_app = typer.Typer(no_args_is_help=True, help="List suites, workflows, arms or runs.", rich_markup_mode=None)


class Export(StrEnum):
    """Formats of a premise graph."""

    JSON = "json"
    GRAPHML = "graphml"


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
        print_json(comparison_json(report))
    else:
        render_comparison(report, console())


def inspect(
    run: RunPath,
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
        show(as_json, inspection.traces_json(found), lambda console: inspection_view.render_traces(found, console))
    elif export is not None:
        print(inspection.export_trace(directory, task, arm, export.value))
    elif against is not None:
        pair = inspection.compare_traces(directory, task, arm or directory.config.baseline_arm, against)
        show(as_json, inspection.pair_json(pair), lambda console: inspection_view.render_pair(pair, console, full))
    else:
        view = inspection.inspect_trace(directory, task, arm)
        show(as_json, inspection.trace_json(view), lambda console: inspection_view.render_trace(view, console, full))


@listing_app.command("suites")
def list_suites(as_json: AsJson = False) -> None:
    """Task suites that a run can name."""
    from qtrap_agents.report import listing

    rows = listing.suite_rows()
    show(as_json, listing.rows_json(rows), lambda console: listing.render_suites(rows, console))


@listing_app.command("workflows")
def list_workflows(
    diagram: Annotated[str | None, typer.Option(help="Print the graph of this workflow as Mermaid text instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Built-in workflows with their parameters, or the graph of one, your own module:function included."""
    from qtrap_agents.report import listing

    if diagram is not None:
        from qtrap_agents.workflows import diagrams

        print(diagrams.diagram(diagram))
        return

    rows = listing.workflow_rows()
    show(as_json, listing.rows_json(rows), lambda console: listing.render_workflows(rows, console))


@listing_app.command("arms")
def list_arms(as_json: AsJson = False) -> None:
    """Named arms, as a run names them, and shipped reference checkpoints, as an arm names them."""
    from qtrap_agents.report import listing

    arms, checkpoints = listing.arm_rows(), listing.checkpoint_rows()

    def render(console: Console) -> None:
        listing.render_arms(arms, console)
        listing.render_checkpoints(checkpoints, console)

    show(as_json, {"arms": listing.rows_json(arms), "checkpoints": listing.rows_json(checkpoints)}, render)


@listing_app.command("runs")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder of the run directories.")] = TRACES, as_json: AsJson = False
) -> None:
    """Stored runs and how far they are."""
    from qtrap_agents.report import listing

    rows = listing.run_rows(folder)
    show(as_json, listing.rows_json(rows), lambda console: listing.render_runs(rows, console))


def doctor(as_json: AsJson = False) -> None:
    """Check what this machine can run; exit code 1 where something needed is missing."""
    from qtrap_agents.doctor import run_checks
    from qtrap_agents.report.health import diagnosis_json, render_diagnosis

    diagnosis = run_checks()
    show(as_json, diagnosis_json(diagnosis), lambda console: render_diagnosis(diagnosis, console))
    if not diagnosis.ok:
        raise typer.Exit(1)
