"""`chain`: one model call per premise, in order. A hop sees its instruction and the premises it depends on.

Calls: one for every premise.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from qtrap_agents.types import Task
from qtrap_agents.workflows.hop import Context, State, Update, hop


def build() -> Callable[[Task], CompiledStateGraph[Any, Any, Any, Any]]:
    """A graph for every task; tasks with equally many premises share one compiled graph."""
    return lambda task: _chain(len(task.premises))


@cache
def _chain(length: int) -> CompiledStateGraph[Any, Any, Any, Any]:
    graph = StateGraph(State, context_schema=Context)
    names = [f"hop_{index:03d}" for index in range(1, length + 1)]
    for index, name in enumerate(names):
        graph.add_node(name, _step(index, name))
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph.compile(name=f"chain of {length}")


class _Step(Protocol):
    """A node as LangGraph types it."""

    async def __call__(self, state: State, *, runtime: Runtime[Context]) -> Update: ...


def _step(index: int, name: str) -> _Step:
    async def step(state: State, *, runtime: Runtime[Context]) -> Update:
        return await hop(state, runtime, state["task"].premises[index].id, node=name)

    return step
