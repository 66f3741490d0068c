"""One task through its graph: hops as they are made, and what stopped them."""

from collections.abc import AsyncIterator
from typing import NamedTuple

from langgraph.errors import GraphRecursionError

from qtrap_agents.errors import ArmDied, CompletionError, ConfigError
from qtrap_agents.types import Decision, Hop, Task, Value
from qtrap_agents.workflows.catalog import GraphFor
from qtrap_agents.workflows.hop import Context, State

SPARE_STEPS = 1000
"""Steps that a graph may take beyond one for each premise before LangGraph stops it."""


class Course(NamedTuple):
    """What a graph did with a task; `error` is why it did not come to its end."""

    hops: tuple[Hop, ...]
    answer: Value | None
    error: str | None
    decisions: tuple[Decision, ...] = ()


async def drive(graph_for: GraphFor, task: Task, context: Context) -> Course:
    """Run one task. A failed request, workflow or parser is an error of its course; hops before it are kept.

    Raises:
        ArmDied: the arm is gone.
        ConfigError: the user's graph does not keep to the form of a workflow.
    """
    hops: list[Hop] = []
    decisions: list[Decision] = []
    answer: Value | None = None
    error: str | None = None
    try:
        async for name, update in _updates(graph_for, task, context):
            if not isinstance(update, dict) or not all(isinstance(hop, Hop) for hop in update.get("hops", [])):
                raise ConfigError(f"node '{name}' of the workflow returned no state update; end it with `return await hop(…)`")
            hops.extend(update.get("hops", []))
            decisions.extend(update.get("decisions", []))
            answer = update.get("answer", answer)
    except (ArmDied, ConfigError):
        raise
    except GraphRecursionError:
        error = f"the workflow did not end within {_recursion_limit(task)} steps"
    except CompletionError as failure:
        error = str(failure)
    except Exception as failure:  # the user's own node: belongs on the trace, the other tasks go on
        error = f"{type(failure).__name__}: {failure}"
    return Course(tuple(hops), answer, error, tuple(decisions))


async def _updates(graph_for: GraphFor, task: Task, context: Context) -> AsyncIterator[tuple[str, object]]:
    """State updates as nodes finish, so that a later failure loses none of them."""
    state: State = {"task": task, "hops": [], "decisions": []}
    stream = graph_for(task).astream(
        state, context=context, stream_mode="updates", config={"recursion_limit": _recursion_limit(task)}
    )
    async for chunk in stream:
        for name, update in chunk.items():
            yield name, update


def _recursion_limit(task: Task) -> int:
    return len(task.premises) + SPARE_STEPS
