"""One task through its graph: hops as they are made, and what stopped them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

from langgraph.errors import GraphRecursionError, InvalidUpdateError

from qtrap_agents.errors import ArmDied, CompletionError, ConfigError, ExtractionError
from qtrap_agents.types import Decision, Hop, Task, Value
from qtrap_agents.workflows.foreign import ForeignApp
from qtrap_agents.workflows.graphs import GraphFor
from qtrap_agents.workflows.hop import Context, State


class Course(NamedTuple):
    """What a graph did with a task; `error` is why it did not come to its end."""

    hops: tuple[Hop, ...]
    answer: Value | None
    error: str | None
    decisions: tuple[Decision, ...] = ()


@dataclass
class _Course:
    """The same while it is made."""

    hops: list[Hop] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    answer: Value | None = None
    answered: bool = False
    ids: set[str] = field(default_factory=set)

    def add(self, name: str, update: object) -> None:
        """Take the state update of a node. Raises ConfigError where it is none, or has a hop of an id that stands already."""
        if not isinstance(update, dict) or not all(isinstance(hop, Hop) for hop in update.get("hops", [])):
            raise ConfigError(f"node '{name}' of the workflow returned no state update; end it with `return await hop(…)`")
        for hop in update.get("hops", []):
            if hop.id in self.ids:
                raise ConfigError(
                    f"node '{name}' of the workflow made two hops '{hop.id}'; give each a hop_id: `hop(…, hop_id=…)`"
                )
            self.ids.add(hop.id)
            self.hops.append(hop)
        self.decisions.extend(update.get("decisions", []))
        self.answered = self.answered or "answer" in update
        self.answer = update.get("answer", self.answer)

    def ended(self, error: str | None) -> Course:
        """What it came to."""
        return Course(tuple(self.hops), self.answer, error, tuple(self.decisions))


async def drive(graph_for: GraphFor, task: Task, context: Context) -> Course:
    """Run one task. A failed request, workflow or parser is an error of its course; hops before it are kept.

    Raises:
        ArmDied: the arm is gone.
        ConfigError: the user's graph does not keep to the form of a workflow.
    """
    if isinstance(graph_for, ForeignApp):
        return Course(*await graph_for.run(task, context))
    course, limits = _Course(), context.limits
    try:
        async with asyncio.timeout(limits.task_timeout_s) as clock:
            async for name, update in _updates(graph_for, task, context):
                course.add(name, update)
        error = None
    except (ArmDied, ConfigError):
        raise
    except GraphRecursionError:
        steps = limits.steps_for(len(task.premises))
        error = f"the workflow did not end within {steps:,} steps (limits.steps); end its loop or raise the limit"
    except InvalidUpdateError as failure:
        raise ConfigError(f"the workflow returned no state update: {_first_line(failure)}") from failure
    except ExtractionError as failure:
        course.hops.extend(failure.hops)
        error = str(failure)
    except CompletionError as failure:
        error = str(failure)
    except TimeoutError as failure:
        error = f"TimeoutError: {failure}"
        if clock.expired():
            error = f"the task took longer than {limits.task_timeout_s:g} s (limits.task_timeout_s)"
    except Exception as failure:  # the user's own node: belongs on the trace, the other tasks go on
        error = f"{type(failure).__name__}: {failure}"
    if error is None and not course.answered:
        error = "no node of the workflow gave an answer; let its last one end with `return await hop(…)`"
    return course.ended(error)


async def _updates(graph_for: GraphFor, task: Task, context: Context) -> AsyncIterator[tuple[str, object]]:
    """State updates as nodes finish, so that a later failure loses none of them."""
    state: State = {"task": task, "hops": [], "decisions": []}
    limit = context.limits.steps_for(len(task.premises)) + 1  # LangGraph looks for the end in one more round
    stream = graph_for(task).astream(state, context=context, stream_mode="updates", config={"recursion_limit": limit})
    async for chunk in stream:
        for name, update in chunk.items():
            yield name, update


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
