"""`qtrap bench` and `qtrap profile`: what serving costs, arm against arm, for the same token work, and where the time goes."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.cli.common import AllowUnverified, AsJson, show, to_the_end
from qtrap_agents.config import BenchConfig, arm_by_name, describe, load_yaml
from qtrap_agents.errors import ConfigError

ShapeName = Annotated[
    str | None, typer.Option("--shape", help="Random weights of this shape, such as qwen2.5-7b, or of a config.json.")
]
BenchFile = Annotated[Path | None, typer.Argument(help="YAML file of the bench; not needed with --shape, --resume or --show.")]
Weights = Annotated[Path | None, typer.Option("--weights", help="Folder in which random weights are kept.")]
Concurrency = Annotated[list[int] | None, typer.Option("--concurrency", help="Requests in flight (repeatable).", min=1)]
PromptTokens = Annotated[list[int] | None, typer.Option("--prompt-tokens", help="Tokens of a prompt (repeatable).", min=1)]
NewTokens = Annotated[int | None, typer.Option("--new-tokens", help="Tokens of an answer.", min=2)]
Repeats = Annotated[int | None, typer.Option("--repeats", help="Windows of each arm at each place.", min=1)]
ArmNames = Annotated[list[str] | None, typer.Option("--arm", help="Only these arms of the file, or named ones (repeatable).")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the bench directory.")]


def bench(
    config: BenchFile = None,
    shape: ShapeName = None,
    arm: ArmNames = None,
    concurrency: Concurrency = None,
    prompt_tokens: PromptTokens = None,
    new_tokens: NewTokens = None,
    repeats: Repeats = None,
    window: Annotated[float | None, typer.Option("--window", help="Seconds that a window lasts on the baseline.")] = None,
    weights: Weights = None,
    allow_unverified: AllowUnverified = False,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(help="Bench directory to finish.")] = None,
    stored: Annotated[Path | None, typer.Option("--show", help="Bench directory to show; nothing is measured.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure time and energy of the same token work on every arm, over concurrencies, arms in turns."""
    from qtrap_agents.report import bench as report
    from qtrap_agents.report import bench_view

    changes = {
        "concurrency": concurrency, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats,
        "window_s": window, "out": str(out) if out else None,
    }  # fmt: skip
    directory = (
        BenchDirectory.open(stored)
        if stored
        else _measured("bench", config, shape, arm, changes, resume, weights, allow_unverified)
    )
    found = report.bench_report(directory)
    show(as_json, report.bench_json(found), lambda console: bench_view.render_bench(found, console))
    if not stored:
        print(f"stored: {directory.path}", file=sys.stderr)


def profile(
    config: BenchFile = None,
    shape: ShapeName = None,
    arm: ArmNames = None,
    concurrency: Concurrency = None,
    prompt_tokens: PromptTokens = None,
    new_tokens: NewTokens = None,
    repeats: Repeats = None,
    kernels: Annotated[bool, typer.Option("--kernels", help="Also name the longest kernels.")] = False,
    weights: Weights = None,
    allow_unverified: AllowUnverified = False,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(help="Profile directory to finish.")] = None,
    stored: Annotated[Path | None, typer.Option("--show", help="Profile directory to show; nothing is measured.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show where the time goes, kernel by kernel, for prefill and decode: products, dequantisation, attention, other."""
    from qtrap_agents.report import profile as report
    from qtrap_agents.report import profile_view

    changes = {
        "concurrency": concurrency, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats,
        "out": str(out) if out else None,
    }  # fmt: skip
    directory = (
        BenchDirectory.open(stored)
        if stored
        else _measured("profile", config, shape, arm, changes, resume, weights, allow_unverified)
    )
    found = report.profile_report(directory)
    show(as_json, report.profile_json(found), lambda console: profile_view.render_profile(found, console, kernels))
    if not stored:
        print(f"stored: {directory.path}", file=sys.stderr)


def _measured(
    verb: Literal["bench", "profile"],
    file: Path | None,
    shape: str | None,
    arms: list[str] | None,
    changes: Mapping[str, Any],
    resume: Path | None,
    weights: Path | None,
    allow_unverified: bool,
) -> BenchDirectory:
    """Begin or go on with a bench or a profile."""
    from qtrap_agents.experiments.bench import checkpoints, create_bench, prepare_bench, run_bench
    from qtrap_agents.experiments.profile import as_profile, run_profile
    from qtrap_agents.report.progress import RunProgress

    if resume is not None:
        if file is not None or shape is not None or arms or any(value is not None for value in changes.values()):
            raise ConfigError(f"--resume finishes a {verb} as it was started and takes no other settings; start a new one")
        directory = BenchDirectory.open(resume)
    else:
        wanted = prepare_bench(bench_config(file, shape, arms, changes))
        directory = create_bench(as_profile(wanted) if verb == "profile" else wanted)
    hint = f"stored so far: {directory.path}; go on with `qtrap {verb} --resume {directory.path}`"
    execute = run_profile if verb == "profile" else run_bench
    with RunProgress(Console(stderr=True)) as progress, checkpoints(directory, weights, progress) as ready:
        to_the_end(execute(directory, ready, progress, allow_unverified), hint)
    return directory


def bench_config(file: Path | None, shape: str | None, arms: list[str] | None, changes: Mapping[str, Any]) -> BenchConfig:
    """The configuration of a file or of a shape, with the options of the command line.

    Raises:
        ConfigError: neither is given, or a value is wrong.
    """
    from qtrap_agents.experiments.bench import shape_config

    if file is None and shape is None:
        raise ConfigError("give a configuration file, such as configs/bench.yaml, or --shape qwen2.5-7b, or --resume DIR")
    config = load_yaml(file, BenchConfig) if file is not None else shape_config(shape or "")
    data = config.model_dump() | {name: value for name, value in changes.items() if value is not None}
    if shape is not None:
        data["shape"] = shape
    if arms:
        data["arms"] = [arm_by_name(name, config.arms).model_dump() for name in arms]
        data["baseline"] = config.baseline if config.baseline in arms else None
    try:
        return BenchConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error, "command line", BenchConfig, {})) from error
