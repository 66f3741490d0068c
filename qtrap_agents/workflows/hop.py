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
from typing import Annotated, TypedDict

from langgraph.runtime import Runtime

from qtrap_agents.backends.base import Backend
from qtrap_agents.config import SamplingConfig
from qtrap_agents.premises import parse_value
from qtrap_agents.suites.catalog import Suite
from qtrap_agents.types import Completion, GoldPremise, Hop, Message, Premise, Task, Value

LONGEST_UNREADABLE = 200
"""Characters of a completion without a value that are handed on to the next hops."""


def _latest(_: Value | None, new: Value | None) -> Value | None:
    return new


class State(TypedDict, total=False):
    """State of a workflow: the task, the hops so far (appended), and the answer (the latest statement wins)."""

    task: Task
    hops: Annotated[list[Hop], operator.add]
    answer: Annotated[Value | None, _latest]


class Update(TypedDict):
    """What a node returns."""

    hops: list[Hop]
    answer: Value | None


@dataclass(frozen=True)
class Context:
    """What every node of a run shares: the arm, the suite of the task, and the sampling of the run."""

    backend: Backend
    suite: Suite
    sampling: SamplingConfig


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
    task, stated = state["task"], statements(state["hops"])
    gold = next((gold for gold in task.premises if gold.id == premise), None)
    depends_on = gold.depends_on if gold else tuple(stated)
    suite = runtime.context.suite
    text = prompt if prompt is not None else instruction(task, gold, stated, suite.spec.show_question)
    asked = await ask(state, runtime, text, suite.spec.max_tokens)
    value = parse_value(asked.completion.text, suite.parser)
    premises = (Premise(id=premise, text=asked.completion.text, value=value, depends_on=depends_on),)
    return record(state, asked, node or premise, premises, depends_on)


@dataclass(frozen=True)
class Asked:
    """A request with its answer; `started_at` is Unix time in seconds."""

    messages: tuple[Message, ...]
    completion: Completion
    started_at: float


async def ask(state: State, runtime: Runtime[Context], prompt: str, max_tokens: int) -> Asked:
    """Send one user message, after the system message of the suite if it has one."""
    context = runtime.context
    system = context.suite.system
    messages = (*((Message(role="system", content=system),) if system else ()), Message(role="user", content=prompt))
    started = time.time()
    sampling = context.sampling.sampling(max_tokens, state["task"].seed)
    return Asked(messages, await context.backend.complete(messages, sampling), started)


def record(state: State, asked: Asked, node: str, premises: Sequence[Premise], depends_on: Sequence[str]) -> Update:
    """The state update of a hop that stated these premises; the last one is the answer so far."""
    repeats = sum(1 for earlier in state["hops"] if earlier.node == node)
    done = Hop(
        id=f"{node}.{repeats + 1}" if repeats else node,
        node=node,
        parents=_parents(state["hops"], depends_on),
        messages=asked.messages,
        completion=asked.completion,
        premises=tuple(premises),
        started_at=asked.started_at,
    )
    return {"hops": [done], "answer": premises[-1].value if premises else None}


def statements(hops: Sequence[Hop]) -> dict[str, Premise]:
    """The latest statement of every premise."""
    return {premise.id: premise for hop in hops for premise in hop.premises}


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
