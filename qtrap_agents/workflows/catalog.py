"""Workflows by name, or the user's own by `module:function`."""

import inspect
from collections.abc import Callable
from typing import Any

from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph

from qtrap_agents.config import WorkflowChoice
from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.plugins import import_function
from qtrap_agents.types import Task
from qtrap_agents.workflows import chain, cot

Graph = CompiledStateGraph[Any, Any, Any, Any]
GraphFor = Callable[[Task], Graph]

WORKFLOWS: dict[str, Callable[..., GraphFor]] = {"chain": chain.build, "cot": cot.build}


def load_workflow(choice: WorkflowChoice) -> GraphFor:
    """The graph of every task.

    A name gives a built-in workflow. `module:function` is called with the parameters and must return a `StateGraph`
    over `State` and `Context`, compiled or not.

    Raises:
        ConfigError: no such workflow, parameter or function, or the function returned something else.
    """
    if ":" in choice.name:
        compiled = _compiled(choice.name, _call(import_function(choice.name, "workflow", ConfigError), choice))
        return lambda task: compiled
    if choice.name not in WORKFLOWS:
        raise ConfigError(f"{unknown('workflow', choice.name, WORKFLOWS)} Your own graph is given as module:function.")
    graph_for: GraphFor = _call(WORKFLOWS[choice.name], choice)
    return graph_for


def _call(build: Callable[..., Any], choice: WorkflowChoice) -> Any:
    try:
        inspect.signature(build).bind(**choice.params)
    except TypeError as error:
        raise ConfigError(f"workflow '{choice.name}' does not take these parameters: {error}") from error
    return build(**choice.params)


def _compiled(name: str, graph: object) -> Graph:
    if isinstance(graph, StateGraph):
        return graph.compile()
    if isinstance(graph, CompiledStateGraph):
        return graph
    raise ConfigError(f"workflow '{name}' returned {type(graph).__name__}; it must return a LangGraph StateGraph")
