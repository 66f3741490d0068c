"""The command line. Every verb parses, calls one library function, renders; results on stdout, the rest on stderr."""

import logging
import sys
from typing import Annotated

import typer

from qtrap_agents import __version__
from qtrap_agents.cli import advise, bench, experiment, forecast, plan, quantise, read, run, simulate, tasks
from qtrap_agents.errors import QtrapError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
EXPERIMENTS = (experiment.diagnose, experiment.replay, experiment.inject, experiment.localise)
for verb in (
    run.run,
    read.compare,
    read.inspect,
    *EXPERIMENTS,
    bench.bench,
    bench.profile,
    advise.advise,
    simulate.fit,
    forecast.simulate,
    plan.plan,
    quantise.quantize,
    read.doctor,
):
    app.command()(verb)
app.add_typer(read.listing_app, name="list")
app.add_typer(tasks.app, name="tasks")


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
