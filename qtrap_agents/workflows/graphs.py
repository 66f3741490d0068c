"""What the workflows share: what a task asks them to state, and decisions without a model call."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from qtrap_agents.semantics import same_value
from qtrap_agents.suites.catalog import Suite
from qtrap_agents.types import Decision, Hop, Premise, Task, Value
from qtrap_agents.workflows import cot
from qtrap_agents.workflows.hop import State, statements

Graph = CompiledStateGraph[Any, Any, Any, Any]
GraphFor = Callable[[Task], Graph]

ANSWER = "answer"
"""Premise id of the answer to a task without gold premises."""


def goals(task: Task) -> tuple[str, ...]:
    """Ids of the premises that lead to the answer, in order; the last one is the answer."""
    return tuple(premise.id for premise in task.premises) or (ANSWER,)


def whole_question(task: Task, suite: Suite) -> str:
    """What a hop is asked that answers a task without gold premises: the question and, unless as JSON, how to answer it."""
    return task.question if suite.spec.output == "json" else cot.prompt(task)


def hop_name(index: int) -> str:
    """`hop_003` for the premise at index 2."""
    return f"hop_{index + 1:03d}"


def decide(state: State, name: str, node: str, parents: Iterable[str], premises: Sequence[Premise]) -> Decision:
    """A decision on the hops so far."""
    return Decision(id=name, node=node, parents=tuple(parents), premises=tuple(premises), after=len(state["hops"]))


def listed(state: State, names: Iterable[str]) -> str:
    """`s1 = 3; s2 = 6` for the premises among these that are stated; what was not readable is `unknown`."""
    stated = statements(state)
    known = (stated[name] for name in names if name in stated)
    return "; ".join(f"{premise.id} = {'unknown' if premise.value is None else premise.value}" for premise in known)


def most_stated(hops: Sequence[Hop]) -> Hop:
    """The first of the hops whose last premise has the value that most of them state.

    Equal counts go to the value that stands first; what could not be read has no vote, unless nothing could be.
    """
    counts: list[tuple[int, Hop]] = []
    for hop in hops:
        value = _value(hop)
        if value is not None and not any(same_value(value, _value(first)) for _, first in counts):
            counts.append((sum(same_value(value, _value(other)) for other in hops), hop))
    return max(counts, key=lambda counted: counted[0])[1] if counts else hops[0]


def _value(hop: Hop) -> Value | None:
    return hop.premises[-1].value if hop.premises else None
