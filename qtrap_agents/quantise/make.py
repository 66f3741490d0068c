"""From a checkpoint of 16 bits to a named arm of few: checked first, made in a child process, registered at the end."""

import asyncio
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from qtrap_agents import paths
from qtrap_agents.backends.checkpoint import (
    LINEAR,
    CheckpointFacts,
    read_config,
    read_facts,
    read_header,
    require_hub_model,
    resolve_checkpoint,
    weight_files,
)
from qtrap_agents.backends.process import Child
from qtrap_agents.config import ARM_NAME, ARMS, ArmConfig, arm_files
from qtrap_agents.errors import ArmError, ConfigError
from qtrap_agents.quantise.calibration import Row, calibration_rows
from qtrap_agents.quantise.child import follow
from qtrap_agents.quantise.environment import existing, versions
from qtrap_agents.quantise.worker import CONTAINER_BITS, MARK, WRONG, Job, Report
from qtrap_agents.types import Record, Value

WORKER = paths.PACKAGE / "quantise" / "worker.py"
BITS = {"gptq": (3, 4, 8), "awq": (3, 4), "rtn": (3, 4, 8)}
GROUP_SIZES = (-1, 32, 64, 128)
"""What the kernels of engines take; −1 is one scale for each row."""
LONGEST_TOKENS = 2048
RECIPE = "qtrap_recipe.json"
SPARE = 1.15
"""Scales and zero points beside packed weights."""
PART = re.compile(r"\((\d+)/(\d+)\): (?:Calibrating|Propagating)")


class Wanted(Record):
    """What `qtrap quantize` was asked for. `model` as in an arm's `checkpoint`; `calibration` are files or suites."""

    model: str
    revision: str | None = None
    method: Literal["gptq", "awq", "rtn"] = "gptq"
    bits: int = 4
    group_size: int = 128
    calibration: tuple[str, ...] = ()
    samples: int = Field(default=512, ge=1)
    out: Path
    name: str


class Made(Record):
    """A new arm and the file that names it."""

    arm: ArmConfig
    file: Path


async def quantise(wanted: Wanted, python: Path, tell: Callable[[str], None]) -> Made:
    """Quantise with the interpreter that has llm-compressor, and register the result as `configs/arms/<name>.yaml`.

    The checkpoint is written to `<out>.partial` and renamed when it is whole; whatever stops this leaves nothing there.

    Raises:
        ConfigError, ArmError, SuiteError: what is wrong, in one sentence.
    """
    source = check(wanted)
    found = versions(python)
    rows = await calibration_rows(wanted.calibration, wanted.samples) if wanted.method != "rtn" else []
    partial, log = wanted.out.with_name(f"{wanted.out.name}.partial"), wanted.out.with_name(f"{wanted.out.name}.log")
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    tell(f"{wanted.model} with llm-compressor {found['llmcompressor']} (log: {log})")
    try:
        report = await _work(wanted, source, python, rows, partial, log, tell)
        facts = _checked(partial, wanted)
        recipe = _recipe(wanted, source, report, facts)
        (partial / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        partial.rename(wanted.out)
        log.unlink(missing_ok=True)
    except asyncio.CancelledError:
        log.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _register(wanted, recipe)


def check(wanted: Wanted) -> Path | str:
    """The model as a directory or hub id, after everything was looked at that can be before hours of work.

    Raises:
        ConfigError, ArmError: what is wrong.
    """
    if wanted.bits not in BITS[wanted.method]:
        known = " or ".join(map(str, BITS[wanted.method]))
        raise ConfigError(f"--bits {wanted.bits}: {wanted.method} makes {known} bits that engines can serve")
    if wanted.group_size not in GROUP_SIZES:
        raise ConfigError(
            f"--group-size {wanted.group_size}: engines take {', '.join(map(str, GROUP_SIZES))} (-1: a scale per row)"
        )
    if wanted.method != "rtn" and not wanted.calibration:
        raise ConfigError(f"{wanted.method} needs --calibration: a text or jsonl file, or a suite such as arith (rtn needs none)")
    _check_place(wanted)
    source = resolve_checkpoint(wanted.model)
    if isinstance(source, str):
        require_hub_model(source, wanted.revision)
        return source
    if wanted.revision is not None:
        raise ConfigError(f"--revision belongs to a hub id, {source} is a directory; leave it out")
    _check_layers(source, wanted)
    return source


def _check_place(wanted: Wanted) -> None:
    """Nothing may be written over: neither a checkpoint nor a named arm."""
    if not re.fullmatch(ARM_NAME, wanted.name):
        raise ConfigError(f"--name {wanted.name}: must be letters, digits, dots, underscores and hyphens")
    if wanted.out.exists():
        raise ConfigError(f"--out {wanted.out}: is there already; remove it or choose another folder")
    if (ARMS / f"{wanted.name}.yaml").exists() or wanted.name in arm_files():
        raise ConfigError(f"--name {wanted.name}: there is an arm of that name ({ARMS}); choose another or remove it")


def _check_layers(source: Path, wanted: Wanted) -> None:
    """Layers that can be cut into groups, weights that are not packed yet, room for the result."""
    if read_config(source).get("quantization_config"):
        raise ConfigError(f"{wanted.model}: is quantised already; name the 16-bit checkpoint that it was made from")
    tensors = [tensor for file in weight_files(source) for tensor in read_header(file)]
    layers = [tensor for tensor in tensors if LINEAR.search(tensor.name)]
    for layer in layers:
        if wanted.group_size > 0 and layer.shape[-1] % wanted.group_size:
            raise ConfigError(
                f"--group-size {wanted.group_size}: does not divide the {layer.shape[-1]} inputs of {layer.name} in {source}; "
                f"choose one of {', '.join(str(size) for size in GROUP_SIZES if size < 0 or not layer.shape[-1] % size)}"
            )
    packed = sum(layer.nbytes for layer in layers)
    needed = sum(tensor.nbytes for tensor in tensors) - packed + int(packed * CONTAINER_BITS[wanted.bits] / 16 * SPARE)
    free = shutil.disk_usage(existing(wanted.out.parent)).free
    if free < needed:
        raise ConfigError(
            f"--out {wanted.out}: needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are free; free some, or choose a folder "
            "on another disk"
        )


async def _work(
    wanted: Wanted, source: Path | str, python: Path, rows: list[Row], out: Path, log: Path, tell: Callable[[str], None]
) -> Report:
    """Let the child do it. Raises ArmError."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, report, texts = (Path(folder) / name for name in ("job.json", "report.json", "calibration.jsonl"))
        texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        job = Job(
            model=str(source.absolute() if isinstance(source, Path) else source),
            revision=wanted.revision,
            out=str(out.absolute()),
            method=wanted.method,
            bits=wanted.bits,
            group_size=wanted.group_size,
            calibration=str(texts) if rows else None,
            max_length=LONGEST_TOKENS,
            report=str(report),
        )
        job_file.write_text(json.dumps(job), encoding="utf-8")
        child = await follow([str(python.absolute()), "-I", str(WORKER), str(job_file)], log, _shown, tell)
        if child.process.returncode != 0 or not report.is_file():
            raise ArmError(f"{wanted.model} was not quantised: {_why(child)}")
        done: Report = json.loads(report.read_text(encoding="utf-8"))
    return done


def _shown(line: str) -> str | None:
    if line.startswith(MARK):
        return line.removeprefix(MARK).strip()
    part = PART.search(line)
    return f"calibrating part {part[1]} of {part[2]}" if part else None


def _why(child: Child) -> str:
    """The worker's own sentence, or the last words of its log."""
    for line in child.log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(WRONG):
            return line.removeprefix(WRONG).strip()
    if child.process.returncode == 137:
        return f"the process was killed, most likely for want of memory; last log lines ({child.log})"
    return child.last_words()


def _checked(path: Path, wanted: Wanted) -> CheckpointFacts:
    """What the new files say. Raises ArmError where they are not what was wanted."""
    facts = read_facts(path)
    group = wanted.group_size if wanted.group_size > 0 else None
    if not facts.packed_tensors or facts.bits != CONTAINER_BITS[wanted.bits] or (facts.group_size or None) != group:
        raise ArmError(
            f"{wanted.model} was not quantised as wanted: {facts.packed_tensors} packed tensors of {facts.bits} bits in groups "
            f"of {facts.group_size}; report this with the log"
        )
    return facts


def _recipe(wanted: Wanted, source: Path | str, report: Report, facts: CheckpointFacts) -> dict[str, Value]:
    """How the checkpoint was made, flat, so that it can stand in an arm."""
    recipe: dict[str, Value] = {
        "model": wanted.model,
        "method": wanted.method,
        "bits": wanted.bits,
        "container_bits": CONTAINER_BITS[wanted.bits],
        "group_size": wanted.group_size,
        "calibration": ", ".join(wanted.calibration) if report["texts"] else "none",
        "samples": report["texts"],
        "tokens": report["tokens"],
        "checksum": facts.checksum,
    }
    if isinstance(source, Path):
        recipe["model_checksum"] = read_facts(source).checksum
    if wanted.revision is not None:
        recipe["revision"] = wanted.revision
    return recipe | report["versions"]


def _register(wanted: Wanted, recipe: Mapping[str, Value]) -> Made:
    """Write the arm down under its name, its checkpoint relative where it lies beneath the working directory."""
    place = wanted.out.absolute()
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    arm = ArmConfig(name=wanted.name, checkpoint=str(shown), recipe=dict(recipe))
    file = ARMS / f"{wanted.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    data = arm.model_dump(include={"name", "checkpoint", "recipe"})
    file.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return Made(arm=arm, file=file)
