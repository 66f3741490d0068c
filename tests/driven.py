"""Single tasks through real graphs on scripted arms."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.config import Limits, SamplingConfig, SuiteChoice, WorkflowChoice
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import Decision, GoldPremise, Hop, Measurement, Message, Sampling, Task, Trace, Value, in_order
from qtrap_agents.workflows.catalog import load_workflow
from qtrap_agents.workflows.drive import Course, drive
from qtrap_agents.workflows.hop import Context

Script = Callable[[Sequence[Message], Sampling], Any]

ARITH = load_suite(SuiteChoice(name="arith"))
STEP = 1_000_003
"""Between the seeds of two draws."""


def gold(name: str, value: Value, depends_on: Sequence[str] = (), rule: str | None = None, kind: str = "") -> GoldPremise:
    """A premise whose instruction names it and its parents: `s2 from {s1} =`."""
    given = " and ".join(f"{{{parent}}}" for parent in depends_on) or "nothing"
    return GoldPremise(
        id=name,
        text=f"{name} = {value}",
        value=value,
        depends_on=tuple(depends_on),
        rule=rule,
        instruction=f"{name} from {given} =",
        kind=kind,
    )


def task_of(*premises: GoldPremise, **fields: Any) -> Task:
    """A task whose last premise is its answer."""
    known = {"id": "t", "suite": "arith", "question": "the question", "depth": max(1, len(premises)), "premises": premises}
    return Task.model_validate({"answer": premises[-1].value if premises else 8, **known, **fields})


LINE = task_of(gold("s1", 3), gold("s2", 6, ["s1"], "s1 * 2"), gold("s3", 5, ["s2"], "s2 - 1"))
DIAMOND = task_of(gold("s1", 1), gold("s2", 2), gold("s3", 3, ["s1", "s2"], "s1 + s2"), gold("s4", 4, ["s3"], "s3 + 1"))
OPEN = task_of()


def right(messages: Sequence[Message], sampling: Sampling) -> str:
    """Follows the rules of LINE and DIAMOND from what the prompt shows."""
    prompt = messages[-1].content
    name, given = re.findall(r"(s\d) from (.*) =", prompt)[-1]
    numbers = [int(found) for found in re.findall(r"-?\d+", given)]
    if not numbers:
        return {"s1": "3", "s2": "2"}[name]
    if len(numbers) == 2:
        return str(sum(numbers))
    return str(numbers[0] * 2 if name == "s2" else numbers[0] - 1 if name == "s3" else numbers[0] + 1)


def drew(sampling: Sampling) -> int:
    """Which of several draws of one hop this is, from 0."""
    return sampling.seed // STEP


def run(
    task: Task,
    script: Script,
    workflow: str,
    *,
    limits: Limits | None = None,
    suite: Suite = ARITH,
    sampling: SamplingConfig | None = None,
    **params: Any,
) -> Course:
    """What the workflow made of the task."""
    limits = limits or Limits()
    graph_for = load_workflow(WorkflowChoice(name=workflow, params=params), limits)
    context = Context(ScriptedArm("test", script), suite, sampling or SamplingConfig(), limits=limits)
    return asyncio.run(drive(graph_for, task, context))


def trace_of(course: Course, task: Task, score: float | None = None) -> Trace:
    """The same as a stored trace."""
    return Trace(
        id="r/a/t", run_id="r", task_id=task.id, suite=task.suite, depth=task.depth, seed=0, workflow="w", arm="a",
        hops=course.hops, decisions=course.decisions, answer=course.answer, score=score, error=course.error,
        measurement=Measurement(duration_s=1.0),
    )  # fmt: skip


def values(course: Course) -> dict[str, Value | None]:
    """Premise id -> what was stated last."""
    return {premise.id: premise.value for said in in_order(course.hops, course.decisions) for premise in said.premises}


def hop(course: Course, name: str) -> Hop:
    """The hop of that id."""
    return {made.id: made for made in course.hops}[name]


def decision(course: Course, name: str) -> Decision:
    """The decision of that id."""
    return {made.id: made for made in course.decisions}[name]
