"""Workflows by name, or the user's own by `module:function`."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import RetryPolicy
from pydantic import ConfigDict, ValidationError, create_model

from qtrap_agents.config import Limits, WorkflowChoice
from qtrap_agents.errors import ConfigError, TransientError, unknown
from qtrap_agents.plans import PrecisionPlan
from qtrap_agents.types import Record, Value
from qtrap_agents.workflows import chain, cot, debate, map_reduce, plan_execute, planned, react, verify_revise, vote
from qtrap_agents.workflows.foreign import ForeignApp
from qtrap_agents.workflows.graphs import Graph, GraphFor
from qtrap_agents.workflows.own import load_own

WORKFLOWS: dict[str, Callable[..., GraphFor]] = {
    "chain": chain.build,
    "cot": cot.build,
    "plan_execute": plan_execute.build,
    "verify_revise": verify_revise.build,
    "vote": vote.build,
    "map_reduce": map_reduce.build,
    "react": react.build,
    "debate": debate.build,
}


class Parameter(NamedTuple):
    """A parameter of a workflow: its default, and what it may be, in words."""

    name: str
    default: Value
    range: str


def load_workflow(choice: WorkflowChoice, limits: Limits | None = None) -> GraphFor:
    """The graph of every task, which asks again after passing failures as often as the limits say.

    A name gives a built-in workflow. `module:function` is called with the parameters and returns a `StateGraph` over `State`
    and `Context`, compiled or not, or any other LangGraph app (see `foreign`); such an app may also be named itself.

    Raises:
        ConfigError: no such workflow, parameter or function, a value out of its range, or the function returned something else.
    """
    retries = (limits or Limits()).retries
    if ":" in choice.name:
        own = load_own(choice)
        if isinstance(own, ForeignApp):
            return own
        again = _retrying(_compiled(choice.name, own), retries)
        return lambda task: again
    if choice.name not in WORKFLOWS:
        raise ConfigError(f"{unknown('workflow', choice.name, WORKFLOWS)} Your own graph is given as module:function.")
    build = WORKFLOWS[choice.name]
    graph_for = build(**_checked(choice.name, build, choice.params))
    return lambda task: _retrying(graph_for(task), retries)


def load_planned(plan: PrecisionPlan, limits: Limits | None = None) -> GraphFor:
    """The graph of every task on the arm of a plan, which asks again after passing failures as often as the limits say."""
    retries = (limits or Limits()).retries
    graph_for = planned.build(plan)
    return lambda task: _retrying(graph_for(task), retries)


def parameters(name: str) -> tuple[Parameter, ...]:
    """The parameters of a built-in workflow."""
    schema = _schema(WORKFLOWS[name])
    described = schema.model_json_schema()["properties"]
    return tuple(Parameter(field, info.get_default(), _range(described[field])) for field, info in schema.model_fields.items())


def _range(described: Mapping[str, Any]) -> str:
    """`1 to 99`, or the words that are allowed."""
    if "enum" in described:
        return " or ".join(described["enum"])
    low, high = described.get("minimum"), described.get("maximum")
    return f"{low} to {high}" if low is not None and high is not None else str(described.get("type", ""))


@cache
def _schema(build: Callable[..., GraphFor]) -> type[Record]:
    """The parameters of a workflow as a record, from the signature of its function."""
    fields: dict[str, Any] = {
        name: (parameter.annotation, parameter.default) for name, parameter in inspect.signature(build).parameters.items()
    }
    return create_model("Parameters", __base__=_Strict, **fields)


class _Strict(Record):
    """Takes no text for a number."""

    model_config = ConfigDict(strict=True)


def _checked(name: str, build: Callable[..., GraphFor], params: Mapping[str, Value]) -> dict[str, Any]:
    """Every parameter of the workflow with its value. Raises ConfigError."""
    schema = _schema(build)
    for given in params:
        if given not in schema.model_fields:
            raise ConfigError(f"workflow '{name}': {unknown('parameter', given, schema.model_fields)}")
    try:
        return dict(schema.model_validate(dict(params)))
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise ConfigError(
            f"workflow '{name}': parameter '{field}' must be {_words(name, field)}, not {first['input']!r}"
        ) from error


def _words(name: str, field: str) -> str:
    return next(parameter.range for parameter in parameters(name) if parameter.name == field)


def _compiled(name: str, graph: object) -> Graph:
    if isinstance(graph, StateGraph):
        return _compile(name, graph)
    if isinstance(graph, CompiledStateGraph):
        return graph
    raise ConfigError(f"workflow '{name}' returned {type(graph).__name__}; it must return a LangGraph StateGraph")


def _compile(name: str, graph: StateGraph[Any, Any, Any, Any]) -> Graph:
    try:
        return graph.compile()
    except ValueError as error:
        raise ConfigError(f"workflow '{name}' is no graph that can run: {' '.join(str(error).split())}") from error


@cache
def _retrying(graph: Graph, retries: int) -> Graph:
    """The graph with LangGraph's own retries for failures that may pass; its nodes may have policies of their own."""
    if not retries:
        return graph
    policy = RetryPolicy(max_attempts=retries + 1, retry_on=TransientError)
    return graph.copy(update={"retry_policy": (*graph.retry_policy, policy)})
