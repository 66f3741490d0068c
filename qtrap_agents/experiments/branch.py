"""A recorded chain that goes on from a changed hop: the director of a replay, and how a replay is run.

The graph of the workflow runs with the recorded state: a hop that is asked in the recorded words is the recorded hop and
is never generated again, so upstream of a change nothing is re-rolled, and downstream of it only what the change reaches.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qtrap_agents.backends.base import Backend
from qtrap_agents.errors import CompletionError
from qtrap_agents.evidence import Change, Replay
from qtrap_agents.runner import Plan, as_trace
from qtrap_agents.types import Completion, Hop, Message, Premise, Sampling, Task, Trace, Value
from qtrap_agents.workflows.drive import drive
from qtrap_agents.workflows.foreign import ForeignApp
from qtrap_agents.workflows.hop import Answer, Context
from qtrap_agents.workflows.reading import read_steps, read_value


@dataclass(frozen=True)
class Known:
    """An answer that need not be generated: the words of the hop and what was answered to them."""

    messages: tuple[Message, ...]
    completion: Completion


class Branch:
    """The director of one replay.

    Args:
        backend: answers what nobody has answered yet.
        recorded: the hops of the chain that is branched.
        changes: what is different, by hop id.
        swapped: the answers of the hops that another arm answers, by hop id.
        known: further answers of the arm, by hop id.
        gold: values that repaired premises take, by premise id.
    """

    def __init__(
        self,
        backend: Backend,
        recorded: Iterable[Hop],
        changes: Iterable[Change],
        swapped: Mapping[str, Known],
        known: Mapping[str, Known],
        gold: Mapping[str, Value],
    ) -> None:
        self._backend = backend
        self._recorded = {hop.id: hop for hop in recorded}
        self._changes = {change.hop_id: change for change in changes}
        self._swapped, self._known, self._gold = swapped, known, gold
        self.generated = 0

    async def answer(self, hop_id: str, messages: tuple[Message, ...], sampling: Sampling) -> Answer:
        """The swapped, recorded or known answer, or a new one. Errors as in `Backend.complete`."""
        change = self._changes.get(hop_id)
        if change is not None and change.kind == "swap":
            answer = self._swapped[hop_id]
            if answer.messages != messages:
                raise CompletionError(f"hop '{hop_id}' is asked in other words than those that arm '{change.arm}' answered")
            return Answer(answer.completion, time.time(), arm=change.arm)
        if (hop := self._same(hop_id, messages)) is not None:
            return Answer(hop.completion, hop.started_at, hop.arm)
        started = time.time()
        if (known := self._known.get(hop_id)) is not None and known.messages == messages:
            return Answer(known.completion, started)
        self.generated += 1
        return Answer(await self._backend.complete(messages, sampling), started)

    def rewrite(self, hop: Hop) -> Hop:
        """The recorded hop itself where nothing changed before it; a repaired or spoilt premise where that is the change."""
        change = self._changes.get(hop.id)
        if change is None:
            return self._same(hop.id, hop.messages) or hop
        if change.kind == "swap" or not hop.premises:
            return hop
        wanted = change.premise or hop.premises[-1].id
        given = tuple(self._given(premise, change) if premise.id == wanted else premise for premise in hop.premises)
        return hop.model_copy(update={"premises": given, "replaced": hop.premises})

    def _given(self, premise: Premise, change: Change) -> Premise:
        value = self._gold[premise.id] if change.kind == "repair" else change.value
        return premise.model_copy(update={"value": value, "text": "" if value is None else str(value)})

    def _same(self, hop_id: str, messages: tuple[Message, ...]) -> Hop | None:
        hop = self._recorded.get(hop_id)
        return hop if hop is not None and hop.messages == messages else None


async def replay(
    plan: Plan,
    backend: Backend,
    task: Task,
    recorded: Trace,
    arm: str,
    changes: Sequence[Change],
    swapped: Mapping[str, Known] | None = None,
    known: Mapping[str, Known] | None = None,
    source: str | None = None,
) -> Replay:
    """Let a recorded chain go on from its changes, on `arm`, which `backend` serves.

    Raises:
        ArmDied: the arm is gone.
    """
    gold = {premise.id: premise.value for premise in task.premises}
    director = Branch(backend, recorded.hops, changes, swapped or {}, known or {}, gold)
    config = plan.config
    context = Context(backend, plan.suites[task.suite], config.sampling, director, config.limits)
    begun = time.perf_counter()
    course = await drive(plan.graph_for, task, context)
    trace = as_trace(recorded.run_id, config.workflow.name, arm, 1, task, course, time.perf_counter() - begun)
    result = Replay(
        task_id=task.id,
        seed=task.seed,
        source=source or recorded.arm,
        changes=tuple(changes),
        generated=director.generated,
        trace=trace,
    )
    return result.model_copy(update={"trace": trace.model_copy(update={"id": f"{trace.id}/{result.name}"})})


def premises_of(plan: Plan, task: Task, hop: Hop, completion: Completion) -> tuple[Premise, ...]:
    """What the same hop states with another completion: read as its node reads it, one value or a list of steps.

    Raises:
        ExtractionError: the extractor of an app of the user's own failed.
    """
    suite = plan.suites[task.suite]
    if completion.text == hop.completion.text:
        return hop.replaced or hop.premises
    if isinstance(plan.graph_for, ForeignApp):
        return plan.graph_for.read([hop.model_copy(update={"completion": completion})], task, suite)[0].premises
    if len(hop.premises) != 1:
        return tuple(read_steps(completion.text, suite, task))
    (premise,) = hop.premises
    return (premise.model_copy(update={"text": completion.text, "value": read_value(completion.text, suite)}),)
