"""`qtrap tasks`: check a suite, and begin one."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qtrap_agents.cli.common import AsJson, parameter, show

TASKS = Path("tasks")
app = typer.Typer(no_args_is_help=True, help="Check a task suite, or begin one of your own.", rich_markup_mode=None)


class Kind(StrEnum):
    """What a new suite is made of."""

    JSONL = "jsonl"
    PROCEDURAL = "procedural"


@app.command()
def validate(
    path: Annotated[str, typer.Argument(help="Directory of the suite, its suite.yaml, or its name.", metavar="PATH")],
    depth: Annotated[
        list[int] | None, typer.Option(help="Depths at which a procedural suite is drawn (repeatable; 1, 4, 16).", min=1)
    ] = None,
    limit: Annotated[int, typer.Option(help="Tasks drawn for each depth and seed of a procedural suite.", min=1)] = 20,
    param: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, as `params` of the suite in a run (repeatable).")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Show prompts through the chat template of this checkpoint.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Context in tokens that each prompt and its answer must fit into.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a suite: all that is wrong with it, and three tasks as the model will see them. Exit code 2 with problems."""
    from qtrap_agents.backends.tokenizer import Tokenizer
    from qtrap_agents.config import SuiteChoice
    from qtrap_agents.report.validation_view import render_validation, validation_json
    from qtrap_agents.validation import validate as validated

    choice = SuiteChoice(name=path, params=dict(parameter(one) for one in param or ()))
    tokenizer = Tokenizer(checkpoint) if checkpoint else None
    found = validated(choice, depth or (1, 4, 16), limit, tokenizer, max_tokens)
    show(as_json, validation_json(found), lambda console: render_validation(found, console))
    if not found.ok:
        raise typer.Exit(2)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the suite: letters, digits, `.`, `_` and `-`.")],
    kind: Annotated[Kind, typer.Option(help="jsonl: you write the tasks; procedural: a function draws them.")] = Kind.JSONL,
) -> None:
    """Write a commented template of a suite into ./tasks/NAME, ready to run."""
    from qtrap_agents.suites.template import write_template

    path = write_template(name, kind.value, TASKS)
    print(path)
    print(f"next: qtrap tasks validate {path}", file=sys.stderr)
