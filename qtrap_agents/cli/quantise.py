"""`qtrap quantize`: an arm of few bits from a checkpoint of one's own."""

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtrap_agents.cli.common import to_the_end
from qtrap_agents.errors import ConfigError

if TYPE_CHECKING:
    from qtrap_agents.quantise.make import Wanted

CHECKPOINTS = Path("checkpoints")


class Method(StrEnum):
    """How weights are rounded."""

    GPTQ = "gptq"
    AWQ = "awq"
    RTN = "rtn"


def quantize(
    model: Annotated[
        str | None,
        typer.Argument(help="16-bit checkpoint: a directory, a hub id or reference:small/fp16; not needed with --setup."),
    ] = None,
    method: Annotated[Method, typer.Option(help="GPTQ, AWQ, or rounding to nearest.")] = Method.GPTQ,
    bits: Annotated[int, typer.Option(help="3 (stored in 4), 4 or 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Weights that share a scale: 32, 64, 128, or -1 for a whole row.")] = 128,
    calibration: Annotated[
        list[str] | None, typer.Option(help="Text or jsonl file, or a suite, to calibrate on (repeatable: equal shares).")
    ] = None,
    samples: Annotated[int, typer.Option(help="Calibration texts.", min=1)] = 512,
    out: Annotated[Path | None, typer.Option(help="Directory of the new checkpoint; by default checkpoints/NAME.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new arm.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    python: Annotated[Path | None, typer.Option(help="Interpreter that has llm-compressor; by default one of ours.")] = None,
    setup: Annotated[bool, typer.Option("--setup", help="Make the environment of the quantiser and stop.")] = False,
) -> None:
    """Quantise a checkpoint with llm-compressor, in an environment of its own, and register it as a named arm."""
    from qtrap_agents.quantise.make import Wanted

    if setup:
        to_the_end(_set_up(), "the environment was not made")
        return
    if model is None:
        raise ConfigError("give a MODEL to quantise, such as reference:small/fp16, or --setup")
    called = name or f"{_stem(model)}-{method.value}{bits}"
    wanted = Wanted(
        model=model,
        revision=revision,
        method=method.value,
        bits=bits,
        group_size=group_size,
        calibration=tuple(calibration or ()),
        samples=samples,
        out=out or CHECKPOINTS / called,
        name=called,
    )
    to_the_end(_quantise(wanted, python), "nothing was written")


def _stem(model: str) -> str:
    """A name after the model: the last parts of its path, without what cannot stand in a name."""
    parts = re.split(r"[/:]", model.rstrip("/"))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts[1:] if parts[0] == "reference" else parts[-1:])).strip("-.").lower()


async def _set_up() -> None:
    from qtrap_agents.quantise.environment import make
    from qtrap_agents.runner import stop_on_sigterm

    stop_on_sigterm()
    print(await make(_tell))


async def _quantise(wanted: "Wanted", python: Path | None) -> None:
    from qtrap_agents.quantise.environment import make
    from qtrap_agents.quantise.make import check, quantise
    from qtrap_agents.runner import stop_on_sigterm

    stop_on_sigterm()
    check(wanted)
    made = await quantise(wanted, python or await make(_tell), _tell)
    print(made.file)
    _tell(f"next: qtrap run CONFIG --arm BASELINE --arm {made.arm.name}, or 'arms: [BASELINE, {made.arm.name}]' in CONFIG")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
