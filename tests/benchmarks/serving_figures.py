"""All serving figures of the README on one GPU, one JSON file each: python tests/benchmarks/serving_figures.py OUT

What is in OUT already is left out, so it goes on where it was stopped; a step that fails is told, and the others go on. The
bench of a shape serves FP16, AWQ and GPTQ at once on a GPU of 80 GB; of the 14B shape two at a time. About an hour on an H100.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
QTRAP = (sys.executable, "-m", "qtrap_agents")

SHAPES = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b", "qwen2.5-14b")
SMALL_BATCH = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b")
"""Of these bitsandbytes' NF4 is measured beside FP16 through transformers."""

IN_PAIRS = ("qwen2.5-14b",)
OVERHEAD = ((128, 128, 256), (32, 128, 512), (32, 160, 512))
"""New tokens of a hop, chains in flight and tasks: the engine takes 128 requests at once in all of them."""

REPEATS = ("--repeats", "3", "--window", "2")


class Step(NamedTuple):
    """One figure: what is run, and for which shape random weights are kept meanwhile. The last command prints the JSON."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    shape: str | None = None


def steps() -> Iterator[Step]:
    """Every figure; those of one shape follow each other, so that its weights are written once."""
    for shape in SHAPES:
        yield from _of_shape(shape)
    chains = ("run", "configs/reference.yaml", "--depth", "8", "--depth", "32", "--arm", "fp16", "--arm", "gptq", "--arm", "awq")
    for concurrency, limit in (("1", "5"), ("256", "100")):
        run = (*QTRAP, *chains, "--seed", "0", "--concurrency", concurrency, "--limit", limit)
        yield Step(f"reference-concurrency-{concurrency}", (run, (*QTRAP, "compare", "{last}", "--json")))


def _of_shape(shape: str) -> Iterator[Step]:
    named = ("--shape", shape, "--json")
    pairs = (("fp16", "awq"), ("fp16", "gptq")) if shape in IN_PAIRS else (("fp16", "awq", "gptq"),)
    for arms in pairs:
        chosen = tuple(word for arm in arms for word in ("--arm", arm))
        suffix = f"-{arms[-1]}" if shape in IN_PAIRS else ""
        yield Step(f"bench-{shape}{suffix}", ((*QTRAP, "bench", "configs/bench.yaml", *chosen, *REPEATS, *named),), shape)
    if shape in SMALL_BATCH:
        batches = ("--arm", "fp16", "--arm", "nf4", "--concurrency", "1", "--concurrency", "8", "--new-tokens", "32")
        command = (*QTRAP, "bench", "configs/bench-bitsandbytes.yaml", *batches, *REPEATS, *named)
        yield Step(f"bench-bitsandbytes-{shape}", (command,), shape)
    if shape == "qwen2.5-7b":
        yield Step(f"profile-{shape}", ((*QTRAP, "profile", "configs/profile.yaml", *named),), shape)
        yield from _overhead(shape)


def _overhead(shape: str) -> Iterator[Step]:
    """A run's own cost with vLLM's CUDA graphs, and for short hops with graphs for larger steps."""
    chains = ("--shape", shape, "--suite", "program", "--depth", "4", "--no-eager", "--memory", "0.42", "--repeats", "4")
    own = (sys.executable, str(HERE / "run_overhead.py"), "--json", *chains)
    wide = ("--engine-args", json.dumps({"max_cudagraph_capture_size": 2048}))
    for name, cases, further in (("hops", OVERHEAD, ()), ("graphs", OVERHEAD[1:], wide)):
        words = (word for case in cases for word in ("--case", *map(str, case)))
        yield Step(f"run-overhead-{shape}-{name}", ((*own, *words, *further),), shape)


def perform(step: Step, out: Path, scratch: Path) -> str | None:
    """Do a step and store its JSON, whole or not at all; returns why it failed."""
    weights = ("--weights", str(scratch / step.shape)) if step.shape else ()
    last = ""
    with (out / f"{step.name}.log").open("w") as log:
        for number, command in enumerate(step.commands):
            words = [word.replace("{last}", last) for word in command]
            extra = weights if number == 0 else ()
            folder = ("--out", str(scratch)) if number == 0 and "qtrap_agents" in words else ()
            done = subprocess.run([*words, *extra, *folder], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
            if done.returncode:
                return f"exit code {done.returncode}, see {log.name}"
            last = (done.stdout.strip().splitlines() or [""])[-1]
    part = out / f"{step.name}.part"
    part.write_text(done.stdout)
    part.replace(out / f"{step.name}.json")
    return None


def perform_all(chosen: Sequence[Step], out: Path, scratch: Path) -> int:
    """Every step without a figure yet; the number of those that failed."""
    failed = 0
    for number, step in enumerate(chosen):
        if not (out / f"{step.name}.json").is_file():
            begun = time.perf_counter()
            problem = perform(step, out, scratch)
            failed += problem is not None
            print(f"{step.name}: {problem or 'stored'} after {time.perf_counter() - begun:.0f} s", flush=True)
        if step.shape and step.shape not in {later.shape for later in chosen[number + 1 :]}:
            shutil.rmtree(scratch / step.shape, ignore_errors=True)
    return failed


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the JSON files")
    parser.add_argument("--only", action="append", default=[], help="steps whose names begin so (repeatable)")
    parser.add_argument("--list", action="store_true", help="name the steps and stop")
    options = parser.parse_args()
    chosen = [step for step in steps() if not options.only or step.name.startswith(tuple(options.only))]
    if options.list:
        print(*(step.name for step in chosen), sep="\n")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with TemporaryDirectory() as scratch:
        sys.exit(min(1, perform_all(chosen, options.out.absolute(), Path(scratch))))


if __name__ == "__main__":
    main()
