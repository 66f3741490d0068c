"""The user's own workflow by `module:name`: a graph that calls our `hop()`, or an app that knows nothing of us."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from qtrap_agents.config import WorkflowChoice
from qtrap_agents.errors import ConfigError
from qtrap_agents.plugins import import_function, import_object
from qtrap_agents.types import Value
from qtrap_agents.workflows.aside import attached
from qtrap_agents.workflows.foreign import App, ForeignApp, Hooks

EXTRACTORS = ("prose", "steps")
HOOKS = ("input", "answer", "extractor")
"""Parameters that are for us and not for the user's function, unless it takes one of that name."""


def load_own(choice: WorkflowChoice) -> object:
    """What the user's name stands for: an app as a `ForeignApp`, anything else as it came.

    The name is that of a graph, or of a function that is called with the parameters. The module is imported with
    OPENAI_BASE_URL leading to the gateway, so that a client made while it is imported asks the arm.

    Raises:
        ConfigError: no such name or parameter, or the app cannot be given a question.
    """
    with attached():
        found = import_object(choice.name, "workflow", ConfigError)
        hooks = dict(choice.params)
        if not isinstance(found, Pregel | StateGraph):
            build = import_function(choice.name, "workflow", ConfigError)
            hooks, params = _split(build, choice.params)
            _bind(choice.name, build, params)
            found = build(**params)
    if is_app(found):
        return ForeignApp(choice.name, _compiled(found), hooks_of(choice.name, hooks))
    if hooks:
        raise ConfigError(f"workflow '{choice.name}' does not take these parameters: {', '.join(hooks)}")
    return found


def as_workflow(name: str, graph: object, hooks: Hooks) -> Any:
    """A graph, compiled or not, as what `drive` runs. Raises ConfigError where it is none."""
    if not isinstance(graph, Pregel | StateGraph):
        raise ConfigError(f"'{name}' is {type(graph).__name__}; give a LangGraph app")
    compiled = _compiled(graph)
    return ForeignApp(name, compiled, hooks) if is_app(graph) else lambda task: compiled


def is_app(graph: object) -> bool:
    """Whether it is a graph whose state is not that of our workflows."""
    return isinstance(graph, Pregel | StateGraph) and not {"task", "hops"} <= set(graph.channels)


def _compiled(graph: Any) -> App:
    compiled: App = graph.compile() if isinstance(graph, StateGraph) else graph
    return compiled


def hooks_of(name: str, params: Mapping[str, Value]) -> Hooks:
    """The user's functions by `module:function`. Raises ConfigError."""
    for given in params:
        if given not in HOOKS:
            raise ConfigError(f"workflow '{name}' does not take the parameter '{given}'; an app takes {', '.join(HOOKS)}")
    named = {hook: str(value) for hook, value in params.items() if ":" in str(value) or hook != "extractor"}
    found = {hook: import_function(value, f"workflow '{name}': {hook}", ConfigError) for hook, value in named.items()}
    extractor = found.get("extractor") or params.get("extractor")
    if isinstance(extractor, Value) and extractor not in EXTRACTORS:
        raise ConfigError(f"workflow '{name}': no extractor '{extractor}'; give {', '.join(EXTRACTORS)} or module:function")
    return Hooks(found.get("input"), found.get("answer"), extractor)


def _split(build: Callable[..., Any], params: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
    """Parameters for us, and those of the function."""
    ours = [name for name in HOOKS if name in params and name not in inspect.signature(build).parameters]
    return {name: params[name] for name in ours}, {name: value for name, value in params.items() if name not in ours}


def _bind(name: str, build: Callable[..., Any], params: Mapping[str, Value]) -> None:
    try:
        inspect.signature(build).bind(**params)
    except TypeError as error:
        raise ConfigError(f"workflow '{name}' does not take these parameters: {error}") from error
