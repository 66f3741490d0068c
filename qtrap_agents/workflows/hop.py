"""The node helper: one model call that states premises.

A node of your own graph needs three lines:

    async def first_step(state: State, runtime: Runtime[Context]) -> Update:
        return await hop(state, runtime, premise="s1")

`hop` writes the prompt (or takes yours), asks the arm, reads the premise and returns the state update. Steps of one
graph may run in parallel: every hop names its parents.
"""

import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, TypedDict

from langgraph.runtime import Runtime

from qtrap_agents.backends.base import Backend
from qtrap_agents.config import SamplingConfig
from qtrap_agents.premises import parse_value
from qtrap_agents.suites.catalog import Suite
from qtrap_agents.types import Completion, Decision, GoldPremise, Hop, Message, Premise, Sampling, Task, Value, in_order

LONGEST_UNREADABLE = 200
"""Characters of a completion without a value that are handed on to the next hops."""


def _latest(_: Value | None, new: Value | None) -> Value | None:
    return new


class State(TypedDict, total=False):
    """State of a workflow: the task, hops and decisions so far (appended), and the answer (the latest statement wins)."""

    task: Task
    hops: Annotated[list[Hop], operator.add]
    decisions: Annotated[list[Decision], operator.add]
    answer: Annotated[Value | None, _latest]


class Update(TypedDict):
    """What a node returns."""

    hops: list[Hop]
    answer: Value | None


class Director(Protocol):
    """Takes part in every hop of a replay: hands out recorded answers, and changes what later hops are given."""

    async def answer(self, hop_id: str, messages: tuple[Message, ...], sampling: Sampling) -> "Answer":
        """The answer of a hop, recorded or generated. Errors as in `Backend.complete`."""

    def rewrite(self, hop: Hop) -> Hop:
        """The hop as the state keeps it and later hops see it."""


@dataclass(frozen=True)
class Answer:
    """An answer with the time it was asked for (Unix, seconds); `arm` is set where not the arm of the trace gave it."""

    completion: Completion
    started_at: float
    arm: str | None = None


@dataclass(frozen=True)
class Context:
    """What every node of a run shares: the arm, the suite of the task, the sampling of the run; a replay has a director."""

    backend: Backend
    suite: Suite
    sampling: SamplingConfig
    director: Director | None = None


async def hop(
    state: State, runtime: Runtime[Context], premise: str, *, prompt: str | None = None, node: str | None = None
) -> Update:
    """Ask the arm for one premise of the task.

    Args:
        premise: id of the gold premise that this step states, or a new id for a step that gold does not know.
        prompt: the user message; by default the gold instruction with the stated values of its parents filled in.
        node: name in the trace; by default the premise id.

    Returns:
        The state update: the hop, and its value as the answer so far.

    Raises:
        CompletionError: the request failed. ArmDied: the arm is gone.
    """
    task, stated = state["task"], statements(state)
    gold = next((gold for gold in task.premises if gold.id == premise), None)
    depends_on = gold.depends_on if gold else tuple(stated)
    suite = runtime.context.suite
    text = prompt if prompt is not None else instruction(task, gold, stated, suite.spec.show_question)
    asked = await ask(state, runtime, text, suite.spec.max_tokens, node or premise)
    said = asked.answer.completion.text
    premises = (Premise(id=premise, text=said, value=parse_value(said, suite.parser), depends_on=depends_on),)
    return record(state, runtime, asked, premises, depends_on)


@dataclass(frozen=True)
class Asked:
    """A request with its answer, and the hop that it belongs to."""

    hop_id: str
    node: str
    messages: tuple[Message, ...]
    answer: Answer


async def ask(state: State, runtime: Runtime[Context], prompt: str, max_tokens: int, node: str) -> Asked:
    """Send one user message, after the system message of the suite if it has one."""
    context = runtime.context
    system = context.suite.system
    messages = (*((Message(role="system", content=system),) if system else ()), Message(role="user", content=prompt))
    repeats = sum(1 for earlier in state["hops"] if earlier.node == node)
    hop_id = f"{node}.{repeats + 1}" if repeats else node
    sampling = context.sampling.sampling(max_tokens, state["task"].seed)
    if context.director is not None:
        return Asked(hop_id, node, messages, await context.director.answer(hop_id, messages, sampling))
    started = time.time()
    return Asked(hop_id, node, messages, Answer(await context.backend.complete(messages, sampling), started))


def record(
    state: State, runtime: Runtime[Context], asked: Asked, premises: Sequence[Premise], depends_on: Sequence[str]
) -> Update:
    """The state update of a hop that stated these premises; the last one is the answer so far."""
    done = Hop(
        id=asked.hop_id,
        node=asked.node,
        parents=_parents(state["hops"], depends_on),
        messages=asked.messages,
        completion=asked.answer.completion,
        premises=tuple(premises),
        started_at=asked.answer.started_at,
        arm=asked.answer.arm,
    )
    if runtime.context.director is not None:
        done = runtime.context.director.rewrite(done)
    return {"hops": [done], "answer": done.premises[-1].value if done.premises else None}


def statements(state: State) -> dict[str, Premise]:
    """The latest statement of every premise, by a hop or a decision."""
    said = in_order(state["hops"], state.get("decisions", []))
    return {premise.id: premise for statement in said for premise in statement.premises}


def instruction(task: Task, gold: GoldPremise | None, stated: Mapping[str, Premise], show_question: bool) -> str:
    """The user message of a step: its instruction with parents filled in; parents without a slot are listed first.

    With `show_question` the question of the task stands above them.
    """
    if gold is None:
        return task.question
    text = gold.instruction or f"State {gold.id}."
    known = []
    for parent in gold.depends_on:
        shown = _shown(stated.get(parent))
        if f"{{{parent}}}" in text:
            text = text.replace(f"{{{parent}}}", shown)
        else:
            known.append(f"{parent} = {shown}")
    lines = [task.question] if show_question else []
    if known:
        lines.append("Known: " + "; ".join(known))
    return "\n".join([*lines, text])


def _shown(premise: Premise | None) -> str:
    if premise is None:
        return "unknown"
    if premise.value is None:
        return " ".join(premise.text[:LONGEST_UNREADABLE].split()) or "unknown"
    return str(premise.value)


def _parents(hops: Sequence[Hop], depends_on: Sequence[str]) -> tuple[str, ...]:
    by_premise = {premise.id: hop.id for hop in hops for premise in hop.premises}
    return tuple(dict.fromkeys(by_premise[parent] for parent in depends_on if parent in by_premise))
