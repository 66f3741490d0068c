"""How fast stored runs are analysed, and in how much memory: `python tests/benchmarks/analysis_speed.py [--hops N …] [--json]`.

For each size a run of two arms is written (tasks of all procedural families, 8, 32 and 128 hops deep, one arm with a few
slips, one with many; prompts and completions of a few hundred characters) and compared by a fresh process. Time and
memory are those of `compare_runs`: reading, judging every premise and all statistics, without starting Python.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, ParamSpec, TypeVar

import psutil

from qtrap_agents.config import RunConfig, SuiteChoice
from qtrap_agents.environment import cpu_name
from qtrap_agents.report.comparison import compare_runs
from qtrap_agents.semantics import consequence, same_value
from qtrap_agents.store import ArmWriter, AttemptEvent, RunDirectory
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.types import Completion, GoldPremise, Hop, Measurement, Message, Premise, Task, Trace, Value

SIZES = (10_000, 100_000, 1_000_000)
SUITES = ("arith", "relate", "lookup", "track", "program")
DEPTHS = (8, 32, 128)
SLIPS = {"fp16": 0.0005, "awq": 0.01}
"""Arm -> probability that a hop with right parents states something wrong."""

THOUGHT = "First I look at what is known, then I do the step that is asked for and nothing else. " * 3
SYSTEM = "You are a careful assistant. Do one step at a time and end with the result on a line of its own."

P = ParamSpec("P")
T = TypeVar("T")


class Simulated(NamedTuple):
    """What an arm was made to do: the truth that an analysis has to find again."""

    hops: int
    slips: int
    correct: int


class Speed(NamedTuple):
    """One measurement: bytes of the run on disk, seconds, and bytes of memory before and at the peak of the analysis."""

    hops: int
    tasks: int
    stored_bytes: int
    seconds: float
    start_bytes: int
    peak_bytes: int

    @property
    def hops_per_s(self) -> float:
        """Stored hops of both arms per second."""
        return self.hops / self.seconds


def write_run(parent: Path, hops: int) -> tuple[Path, dict[str, Simulated]]:
    """A run with at least so many stored hops, both arms together: its directory, and the truth about each arm."""
    count = math.ceil(hops / len(SLIPS) / len(SUITES) / sum(DEPTHS))
    arms = [{"name": arm, "backend": "scripted", "script": "analysis_speed:nobody"} for arm in SLIPS]
    config = RunConfig.model_validate({"name": "speed", "suites": SUITES, "depths": DEPTHS, "arms": arms})
    run = RunDirectory.create(parent, config, draw(count), {})
    return run.path, {arm: write_arm(run, arm, run.task_index().values()) for arm in SLIPS}


def draw(count: int) -> Iterator[Task]:
    """So many tasks of each family and depth."""
    for name in SUITES:
        yield from load_suite(SuiteChoice(name=name)).tasks(DEPTHS, (0,), count)


def write_arm(run: RunDirectory, arm: str, tasks: Iterable[Task]) -> Simulated:
    """Simulate and store an arm."""
    rng, done = random.Random(arm), Simulated(0, 0, 0)
    with ArmWriter(run, arm) as writer:
        writer.event(AttemptEvent(attempt=1, event="ready", at=0.0, startup_s=1.0))
        for task in tasks:
            trace, slips = simulate(run, arm, task, rng)
            writer.trace(trace)
            done = Simulated(done.hops + len(trace.hops), done.slips + slips, done.correct + trace.correct)
        writer.event(AttemptEvent(attempt=1, event="end", at=9.0, reason="finished", wall_s=9.0))
    return done


def simulate(run: RunDirectory, arm: str, task: Task, rng: random.Random) -> tuple[Trace, int]:
    """A trace whose hops follow from what was stated before, but for slips; and the number of these."""
    stated: dict[str, Value | None] = {}
    wrong: set[str] = set()
    slips = 0
    for gold in task.premises:
        led_right = wrong.isdisjoint(gold.depends_on)
        if not led_right:
            value = consequence(gold, {parent: known for parent in gold.depends_on if (known := stated[parent]) is not None})
        else:
            value = slip(task, gold, rng) if rng.random() < SLIPS[arm] else gold.value
        stated[gold.id] = value
        if not same_value(value, gold.value):
            wrong.add(gold.id)
            slips += led_right
    trace = Trace(
        id=f"{run.id}/{arm}/{task.id}",
        run_id=run.id,
        task_id=task.id,
        suite=task.suite,
        depth=task.depth,
        seed=task.seed,
        workflow="chain",
        arm=arm,
        hops=tuple(hop(gold, stated[gold.id]) for gold in task.premises),
        answer=stated[task.premises[-1].id],
        score=float(task.premises[-1].id not in wrong),
        measurement=Measurement(duration_s=1.0),
    )
    return trace, slips


def slip(task: Task, gold: GoldPremise, rng: random.Random) -> Value:
    """A value that another step of the task takes, so that all later steps can go on from it."""
    others = sorted({premise.value for premise in task.premises if premise.value != gold.value}, key=str)
    return rng.choice(others) if others else gold.value


def hop(gold: GoldPremise, value: Value | None) -> Hop:
    """A hop of usual size."""
    text = f"{THOUGHT}{value}"
    return Hop(
        id=f"hop_{gold.id}",
        node=f"hop_{gold.id}",
        messages=(Message(role="system", content=SYSTEM), Message(role="user", content=gold.instruction)),
        completion=Completion(text=text, token_ids=tuple(range(60)), prompt_tokens=48, completion_tokens=60, latency_s=0.5),
        premises=(Premise(id=gold.id, text=text, value=value, depends_on=gold.depends_on),),
        started_at=1.0,
    )


def measure(path: Path) -> Speed:
    """Compare the arms of a run in this process, which has done nothing else before."""
    run, start = RunDirectory.open(path), peak_bytes()
    begun = time.perf_counter()
    report = compare_runs([run])
    seconds = time.perf_counter() - begun
    summaries = report.comparison.arms
    return Speed(
        hops=sum(summary.tokens.hops for summary in summaries),
        tasks=sum(summary.n for summary in summaries),
        stored_bytes=sum(file.stat().st_size for file in path.rglob("*.jsonl")),
        seconds=seconds,
        start_bytes=start,
        peak_bytes=peak_bytes(),
    )


def peak_bytes() -> int:
    """The most memory that this process ever held (on Linux, `ru_maxrss` would start at what its parent held)."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_new_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of this module in a fresh interpreter."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def benchmark(hops: int) -> Speed:
    """Write a run of that size, measure its analysis and remove it again."""
    with TemporaryDirectory() as folder:
        path, _ = in_new_process(write_run, Path(folder), hops)
        return in_new_process(measure, path)


def hardware() -> str:
    """The machine in one line."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{cpu_name()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {sys.version.split()[0]}"


def print_table(speeds: Iterable[Speed]) -> None:
    """One line for each size as soon as it is measured."""
    print(f"{hardware()}, {time.strftime('%Y-%m-%d')}")
    print("      hops     tasks  stored, MiB   seconds    hops/s  peak, MiB  of it by the analysis")
    for speed in speeds:
        stored, peak, grown = (
            size / 2**20 for size in (speed.stored_bytes, speed.peak_bytes, speed.peak_bytes - speed.start_bytes)
        )
        figures = f"{speed.hops:>10,} {speed.tasks:>9,} {stored:>12,.0f} {speed.seconds:>9.2f} {speed.hops_per_s:>9,.0f}"
        print(f"{figures} {peak:>10,.0f} {grown:>22,.0f}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Speed and memory of `qtrap compare` on stored runs.")
    parser.add_argument("--hops", type=int, nargs="+", default=SIZES, help="stored hops, both arms together")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    speeds = map(benchmark, arguments.hops)
    if arguments.json:
        rows = [speed._asdict() | {"hops_per_s": speed.hops_per_s} for speed in speeds]
        print(json.dumps({"hardware": hardware(), "date": time.strftime("%Y-%m-%d"), "sizes": rows}, indent=1))
    else:
        print_table(speeds)


if __name__ == "__main__":
    main()
