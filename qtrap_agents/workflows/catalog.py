"""Workflows by name, or the user's own by `module:function`."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph

from qtrap_agents.config import WorkflowChoice
from qtrap_agents.errors import ConfigError, unknown
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
        compiled = _compiled(choice.name, _call(_imported(choice.name), choice))
        return lambda task: compiled
    if choice.name not in WORKFLOWS:
        raise ConfigError(f"{unknown('workflow', choice.name, WORKFLOWS)} Your own graph is given as module:function.")
    graph_for: GraphFor = _call(WORKFLOWS[choice.name], choice)
    return graph_for


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"workflow '{name}' cannot be imported: {error}; give it as module:function") from error
    if not callable(found):
        raise ConfigError(f"workflow '{name}' is not a function; it must return a LangGraph StateGraph")
    build: Callable[..., Any] = found
    return build


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
