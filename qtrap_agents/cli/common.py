"""What all verbs share: options, printing, and a run of something long that may be interrupted."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qtrap_agents.errors import ConfigError, QtrapError
from qtrap_agents.types import Value

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunPath = Annotated[Path, typer.Argument(help="Run directory.")]
AllowUnverified = Annotated[
    bool, typer.Option("--allow-unverified", help="Go on with an arm that does not hold what its checkpoint claims.")
]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only this task (repeatable).")]


def console() -> Console:
    """Stdout; 120 columns where it is no terminal, so that a pipe does not squeeze tables."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def show(as_json: bool, data: object, render: Callable[[Console], None]) -> None:
    if as_json:
        print_json(data)
    else:
        render(console())


def print_json(data: object) -> None:
    print(json.dumps(data, indent=1, ensure_ascii=False))


def to_the_end(work: Coroutine[Any, Any, object], hint: str) -> None:
    """Run something that can be interrupted and gone on with; `hint` says how."""
    try:
        asyncio.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"qtrap: interrupted; {hint}", file=sys.stderr)
        raise SystemExit(130) from None
    except QtrapError as error:
        raise type(error)(f"{str(error).rstrip('.')}; {hint}") from error


def parameter(text: str) -> tuple[str, Value]:
    """`rows=8` as a name and a value: a number where it is one, else text. Raises ConfigError."""
    name, equals, written = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"--param '{text}': give it as NAME=VALUE, such as --param rows=8")
    try:
        value = json.loads(written)
    except ValueError:
        return name, written
    return name, value if isinstance(value, int | float) and not isinstance(value, bool) else written
