"""The verbs around an error model: `qtrap fit`."""

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from qtrap_agents.cli.common import AsJson, show

MODEL = "model.yaml"


def fit(
    runs: Annotated[list[Path], typer.Argument(help="Run directories of the same arms.")],
    out: Annotated[Path | None, typer.Option(help="File of the model; by default model.yaml in the first run.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm (repeatable).")] = None,
    covariates: Annotated[
        str, typer.Option(help="What slips may depend on: auto (as tests ask for), all, none, or names with commas.")
    ] = "auto",
    faults: Annotated[bool, typer.Option("--faults/--no-faults", help="Use injected faults of these runs too.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of the model.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit an error model to runs: how often hops slip, what wrong parents do to them, and what hops cost."""
    from qtrap_agents.environment import command_line
    from qtrap_agents.report import fit as fitting
    from qtrap_agents.report import fit_view
    from qtrap_agents.simulation.fit import parse_covariates
    from qtrap_agents.simulation.model_file import check_free, save_model
    from qtrap_agents.store import RunDirectory

    path, chosen = out or runs[0] / MODEL, parse_covariates(covariates)
    directories = [RunDirectory.open(run) for run in runs]
    check_free(path, force)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    report = fitting.fit_runs(directories, arm, chosen, faults, command_line(), date).model_copy(update={"path": str(path)})
    save_model(report.model, path, force)
    show(as_json, fitting.fit_json(report), lambda console: fit_view.render_fit(report, console))
    print(f"next: qtrap simulate {shlex.quote(str(path))}", file=sys.stderr)
