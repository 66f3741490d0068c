"""Workflows as a user writes them (`workflow: graphs:diamond`), right ones and wrong ones."""

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from qtrap_agents.workflows.hop import Context, State, Update, hop

NOT_A_FUNCTION = 3

Graph = StateGraph[State, Context, State, State]


async def left(state: State, runtime: Runtime[Context]) -> Update:
    """The three lines of the README."""
    return await hop(state, runtime, premise="s1")


async def right(state: State, runtime: Runtime[Context]) -> Update:
    return await hop(state, runtime, premise="s2")


async def merge(state: State, runtime: Runtime[Context]) -> Update:
    return await hop(state, runtime, premise="s3")


def diamond() -> Graph:
    """Two branches side by side and a node that joins them."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("left", left)
    graph.add_node("right", right)
    graph.add_node("merge", merge)
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    graph.add_edge(["left", "right"], "merge")
    graph.add_edge("merge", END)
    return graph


def asking(question: str, times: int = 1) -> Any:
    """A compiled graph that asks its own question so many times, as premises that gold does not know."""

    async def ask(state: State, runtime: Runtime[Context]) -> Update:
        return await hop(state, runtime, premise="guess", prompt=question, node="ask")

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", lambda state: END if len(state["hops"]) >= times else "ask")
    return graph.compile()


def endless() -> Graph:
    """A loop without a model call that never ends."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("spin", lambda state: {"hops": []})
    graph.add_edge(START, "spin")
    graph.add_edge("spin", "spin")
    return graph


def clumsy() -> Graph:
    """A right hop, then a node with a bug."""

    def trip(state: State) -> Update:
        raise KeyError(state["task"].suite)

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("left", left)
    graph.add_node("trip", trip)
    graph.add_edge(START, "left")
    graph.add_edge("left", "trip")
    return graph


def silent() -> Graph:
    """A node that returns something else than a state update."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("left", lambda state: {"hops": ["no hop"]})
    graph.add_edge(START, "left")
    return graph


def not_a_graph() -> str:
    """Something else than a graph."""
    return "left -> right"


def hopeless() -> Graph:
    """A function with a bug."""
    raise RuntimeError("the graph cannot be drawn")


def line() -> Graph:
    """The premises s1, s2 and s3, one after the other."""
    graph = StateGraph(State, context_schema=Context)
    for name, node in (("left", left), ("right", right), ("merge", merge)):
        graph.add_node(name, node)
    for before, after in ((START, "left"), ("left", "right"), ("right", "merge"), ("merge", END)):
        graph.add_edge(before, after)
    return graph


def compiled_line() -> Any:
    """The same, compiled."""
    return line().compile()


def mute() -> Graph:
    """A graph that comes to its end without an answer."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("think", lambda state: {"hops": []})
    graph.add_edge(START, "think")
    return graph


def stray() -> Graph:
    """A node that returns no state at all."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("left", lambda state: 3)
    graph.add_edge(START, "left")
    return graph


def torn() -> Graph:
    """A graph whose edge leads nowhere."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("left", left)
    graph.add_edge(START, "left")
    graph.add_edge("left", "right")
    return graph


def impatient() -> Graph:
    """A node with a timeout of its own."""

    def wait(state: State) -> Update:
        raise TimeoutError("the tool was slow")

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("wait", wait)
    graph.add_edge(START, "wait")
    return graph


def twins() -> Graph:
    """One node twice at once, without ids of their own."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("twin", left)
    graph.add_conditional_edges(START, lambda state: [Send("twin", state), Send("twin", state)], ["twin"])
    return graph
