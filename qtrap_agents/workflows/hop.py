"""The node helper: one model call that states premises.

A node of your own graph needs three lines:

    async def first_step(state: State, runtime: Runtime[Context]) -> Update:
        return await hop(state, runtime, premise="s1")

`hop` writes the prompt (or takes yours), asks the arm, reads the premise and returns the state update. Steps of one
graph may run in parallel: every hop names its parents.
"""

import asyncio
import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, TypedDict

from langgraph.runtime import Runtime

from qtrap_agents.backends.base import Backend
from qtrap_agents.config import Limits, SamplingConfig
from qtrap_agents.errors import TransientError
from qtrap_agents.suites.catalog import Suite
from qtrap_agents.types import Completion, Decision, GoldPremise, Hop, Message, Premise, Sampling, Task, Value, in_order
from qtrap_agents.workflows.reading import Form, answer_tokens, messages_of, read_value, value_form

LONGEST_UNREADABLE = 200
"""Characters of a completion without a value that are handed on to the next hops."""


NO_LIMITS = Limits()

SEED_STEP = 1_000_003
"""What lies between the seeds of two draws of one hop: more than between the seeds of two runs or tasks."""


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
    """What every node of a run shares: the arm, the suite of the task, the sampling of the run; a replay has a director.

    `arm` names who answers where that is not the arm of the trace, see `planned`.
    """

    backend: Backend
    suite: Suite
    sampling: SamplingConfig
    director: Director | None = None
    limits: Limits = NO_LIMITS
    arm: str | None = None


@dataclass(frozen=True)
class Draw:
    """How a hop is drawn where not as the run says: temperature, tokens, which of several draws (from 0), further stop texts."""

    temperature: float | None = None
    max_tokens: int | None = None
    number: int = 0
    stop: tuple[str, ...] = ()

    def applied(self, sampling: Sampling) -> Sampling:
        """The sampling of the hop; every number gives another seed."""
        return sampling.model_copy(
            update={
                "temperature": sampling.temperature if self.temperature is None else self.temperature,
                "max_tokens": self.max_tokens or sampling.max_tokens,
                "seed": sampling.seed + SEED_STEP * self.number,
                "stop": (*sampling.stop, *self.stop),
            }
        )


async def hop(
    state: State,
    runtime: Runtime[Context],
    premise: str,
    *,
    prompt: str | None = None,
    node: str | None = None,
    hop_id: str | None = None,
    draw: Draw | None = None,
    given: Sequence[str] | None = None,
) -> Update:
    """Ask the arm for one premise of the task.

    Args:
        premise: id of the gold premise that this step states, or a new id for a step that gold does not know.
        prompt: the user message; by default the gold instruction with the stated values of its parents filled in.
        node: name in the trace; by default the premise id.
        hop_id: id of the hop, needed where several hops of a node are asked at once; by default the node, numbered.
        draw: how the hop is drawn where not as the run says.
        given: ids of the premises that your prompt shows; by default those that gold derives it from, or all.

    Returns:
        The state update: the hop, and its value as the answer so far.

    Raises:
        CompletionError: the request failed. ArmDied: the arm is gone.
    """
    task, stated = state["task"], statements(state)
    gold = next((gold for gold in task.premises if gold.id == premise), None)
    depends_on = tuple(given) if given is not None else gold.depends_on if gold else tuple(stated)
    suite = runtime.context.suite
    text = prompt if prompt is not None else instruction(task, gold, stated, suite.spec.show_question)
    form = value_form(suite)
    asked = await ask(state, runtime, text, answer_tokens(suite, form), node or premise, hop_id=hop_id, draw=draw, form=form)
    said = asked.answer.completion.text
    premises = (Premise(id=premise, text=said, value=read_value(said, suite), depends_on=depends_on),)
    return record(state, runtime, asked, premises, depends_on)


@dataclass(frozen=True)
class Asked:
    """A request with its answer, and the hop that it belongs to."""

    hop_id: str
    node: str
    messages: tuple[Message, ...]
    answer: Answer
    sampling: Sampling | None = None


async def ask(
    state: State,
    runtime: Runtime[Context],
    prompt: str,
    max_tokens: int,
    node: str,
    *,
    hop_id: str | None = None,
    draw: Draw | None = None,
    form: Form | None = None,
) -> Asked:
    """Send one user message, after the system message and the examples of the suite if it has any (see `messages_of`).

    With a `form` the prompt tells how to write the answer, and generation is held to its schema.
    """
    context = runtime.context
    messages = messages_of(context.suite, prompt, form, node)
    hop_id = hop_id or _numbered(node, state["hops"])
    sampling = usual = context.sampling.sampling(max_tokens, state["task"].seed)
    if form is not None:
        sampling = sampling.model_copy(update={"json_schema": form.schema})
    if draw is not None:
        sampling = draw.applied(sampling)
    answer = await _answered(context, hop_id, messages, sampling)
    return Asked(hop_id, node, messages, answer, sampling if sampling is not usual else None)


def _numbered(node: str, hops: Sequence[Hop]) -> str:
    repeats = sum(1 for earlier in hops if earlier.node == node)
    return f"{node}.{repeats + 1}" if repeats else node


async def _answered(context: Context, hop_id: str, messages: tuple[Message, ...], sampling: Sampling) -> Answer:
    """The answer, waited for as long as the limits of the run allow."""
    limit = context.limits.hop_timeout_s
    if limit is None:
        return await _answer(context, hop_id, messages, sampling)
    try:
        async with asyncio.timeout(limit):
            return await _answer(context, hop_id, messages, sampling)
    except TimeoutError:
        raise TransientError(f"hop '{hop_id}' had no answer within {limit:g} s (limits.hop_timeout_s); raise it") from None


async def _answer(context: Context, hop_id: str, messages: tuple[Message, ...], sampling: Sampling) -> Answer:
    if context.director is not None:
        return await context.director.answer(hop_id, messages, sampling)
    started = time.time()
    return Answer(await context.backend.complete(messages, sampling), started, context.arm)


def record(
    state: State,
    runtime: Runtime[Context],
    asked: Asked,
    premises: Sequence[Premise],
    depends_on: Sequence[str],
    parents: Sequence[str] | None = None,
) -> Update:
    """The state update of a hop that stated these premises; the last one is the answer so far.

    Its parents are those that last stated what it depends on, unless `parents` names others.
    """
    done = Hop(
        id=asked.hop_id,
        node=asked.node,
        parents=_parents(state, depends_on) if parents is None else tuple(parents),
        messages=asked.messages,
        completion=asked.answer.completion,
        premises=tuple(premises),
        started_at=asked.answer.started_at,
        arm=asked.answer.arm,
        sampling=asked.sampling,
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


def _parents(state: State, depends_on: Sequence[str]) -> tuple[str, ...]:
    said = in_order(state["hops"], state.get("decisions", []))
    by_premise = {premise.id: statement.id for statement in said for premise in statement.premises}
    return tuple(dict.fromkeys(by_premise[parent] for parent in depends_on if parent in by_premise))
