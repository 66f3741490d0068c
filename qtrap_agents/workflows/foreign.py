"""A LangGraph app that was not written for us, run as it is: its model calls become hops, its graph their parents.

The app's OpenAI-compatible client asks a gateway (`qtrap_agents.backends.gateway`) in front of the arm. Requests carry marks of
the task and the node that they come from (`marks`), callbacks and a checkpointer of ours tell which node wrote what
(`witness`), `lineage` makes parents of it, and `made` makes hops.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel

from qtrap_agents.backends.base import Relay
from qtrap_agents.backends.gateway import Call, Job
from qtrap_agents.errors import ArmDied, ConfigError, ExtractionError, QtrapError, TransientError
from qtrap_agents.extraction import extract, extract_all
from qtrap_agents.premises import parse_value
from qtrap_agents.suites.catalog import Suite
from qtrap_agents.types import Completion, Hop, Premise, Task, Value
from qtrap_agents.workflows.aside import app_loop, attached, gateway
from qtrap_agents.workflows.hop import Context
from qtrap_agents.workflows.lineage import Lineage
from qtrap_agents.workflows.made import hop_ids, hops, made, node_name
from qtrap_agents.workflows.marks import JOB
from qtrap_agents.workflows.witness import Ledger, Witness, text_of

QUESTION_FIELDS = ("messages", "question", "input", "query", "task", "topic")

MAX_TOKENS = 512
"""Of an answer where neither the request nor `sampling.max_tokens` says."""

TIME_LIMIT_S = 900.0
"""For one task where the run sets no `limits.task_timeout_s`: an app may hang where no request does."""

NOT_REPLACED = "premises cannot be replaced inside an app of one's own, which hands on text; swap whole hops instead"

App = Pregel[Any, Any, Any, Any]


class Outcome(NamedTuple):
    """What an app did with a task, as a course begins."""

    hops: tuple[Hop, ...]
    answer: Value | None
    error: str | None


@dataclass(frozen=True)
class Hooks:
    """What the user gives beside the app: the input of a task, the answer in the final state, how premises are read.

    `extractor` is `prose`, `steps` (see `extraction`) or a function of a text and its task, and of its `hop` where it takes
    one, that returns premises.
    """

    input: Callable[[Task], Any] | None = None
    answer: Callable[[Any], Any] | None = None
    extractor: Callable[..., Any] | str | None = None


class Stopped(Exception):
    """Why an app gave no answer that counts, in one sentence."""


class ForeignApp:
    """An app of the user's with what is needed to run it on a task. Called with a task, as other workflows are, it is its graph.

    Raises:
        ConfigError: its input has no field for the question, and `hooks.input` is not given.
    """

    def __init__(self, name: str, app: App, hooks: Hooks) -> None:
        self.name, self.app, self.hooks = name, app, hooks
        self._field = None if hooks.input else _question_field(name, app)

    def __call__(self, task: Task) -> Any:
        """The graph, the same for every task."""
        return self.app

    def input_of(self, task: Task) -> Any:
        """What the app is invoked with."""
        if self.hooks.input is not None:
            return self.hooks.input(task)
        return {self._field: [HumanMessage(task.question)] if self._field == "messages" else task.question}

    async def run(self, task: Task, context: Context) -> Outcome:
        """Run one task on the arm. Whatever the app does wrong is the error of the outcome; the hops before it are kept.

        Raises:
            ArmDied: the arm is gone.
        """
        return await _Invocation(self, task, context).run()

    def read(self, hops: Sequence[Hop], task: Task, suite: Suite) -> tuple[Hop, ...]:
        """The hops with the premises that they state, by the extractor of the app, else of the suite, else from prose.

        Raises:
            ExtractionError: the user's extractor failed.
        """
        chosen = self.hooks.extractor or (suite.spec.extractor if ":" in suite.spec.extractor else "prose")
        if callable(chosen):
            stated = [_by_user(chosen, hop, task) for hop in hops]
        elif chosen == "prose":
            texts = [_statement(hop) for hop in hops]
            found = extract_all(texts, task, suite.parser)
            stated = [_in_its_words(alignment.premises, hop) for alignment, hop in zip(found, hops, strict=True)]
        else:
            read_so = suite.model_copy(update={"spec": suite.spec.model_copy(update={"extractor": chosen})})
            stated = [extract(hop.completion.text, task, read_so).premises for hop in hops]
        return tuple(hop.model_copy(update={"premises": premises}) for hop, premises in zip(hops, stated, strict=True))

    def answer(self, state: Any, suite: Suite) -> Value | None:
        """The answer in the final state; None where it cannot be read.

        Raises:
            Stopped: there is none.
        """
        try:
            found = self.hooks.answer(state) if self.hooks.answer else _usual_answer(state)
        except Exception as error:  # the user's own function: belongs on the trace
            raise Stopped(f"the answer could not be taken: {type(error).__name__}: {error}") from error
        if found is None:
            raise Stopped("the app ended without an 'answer' or an AI message in its state; add 'answer: module:function'")
        if isinstance(found, BaseMessage):
            found = text_of(found)
        if isinstance(found, bool):
            found = str(found).lower()
        if isinstance(found, int | float):
            return found
        return parse_value(str(found), suite.parser)


def _statement(hop: Hop) -> str:
    """What a hop wrote; after a prompt that ends in an open equation, such as `41 + 73 =`, together with its left side."""
    asked = hop.messages[-1].content.rstrip().rpartition("\n")[2] if hop.messages else ""
    return f"{asked} {hop.completion.text.strip()}" if asked.endswith("=") else hop.completion.text


def _in_its_words(premises: Sequence[Premise], hop: Hop) -> tuple[Premise, ...]:
    """The premises without what was asked: their text stands in what the hop wrote."""
    said = hop.completion.text
    return tuple(one if one.text in said else one.model_copy(update={"text": said.strip()}) for one in premises)


def _by_user(extractor: Callable[..., Any], hop: Hop, task: Task) -> tuple[Premise, ...]:
    """What the user's extractor finds; it is given the hop where it takes one of that name."""
    name = getattr(extractor, "__qualname__", repr(extractor))
    more = {"hop": hop} if "hop" in inspect.signature(extractor).parameters else {}
    try:
        found = tuple(extractor(hop.completion.text, task, **more))
    except Exception as error:  # the user's own code: belongs on the trace
        raise ExtractionError(f"extractor '{name}' raised {type(error).__name__}: {error}") from error
    for premise in found:
        if not isinstance(premise, Premise):
            raise ExtractionError(f"extractor '{name}' returned {type(premise).__name__}; it must return Premise records")
    return found


def _question_field(name: str, app: App) -> str:
    """The field of the input that takes the question. Raises ConfigError where there is none."""
    fields = tuple(app.builder.schemas[app.builder.input_schema]) if isinstance(app, CompiledStateGraph) else ()
    for known in QUESTION_FIELDS:
        if known in fields:
            return known
    raise ConfigError(
        f"workflow '{name}': its input has no field for the question (fields: {', '.join(fields) or 'none'}); "
        "add 'input: module:function', which makes the input from a task"
    )


def _usual_answer(state: Any) -> Any:
    """The field `answer`, else the last AI message; a result that is no state is the answer itself."""
    if not isinstance(state, Mapping):
        return state
    if state.get("answer") is not None:
        return state["answer"]
    messages = state.get("messages")
    said = [message for message in messages if _is_answer(message)] if isinstance(messages, list | tuple) else []
    return _content(said[-1]) if said else None


def _is_answer(message: Any) -> bool:
    if isinstance(message, Mapping):
        return message.get("role") in ("assistant", "ai") and bool(message.get("content"))
    return isinstance(message, AIMessage) and bool(text_of(message))


def _content(message: Any) -> str:
    return str(message["content"]) if isinstance(message, Mapping) else text_of(message)


class _Invocation:
    """An app at work on one task."""

    def __init__(self, app: ForeignApp, task: Task, context: Context) -> None:
        self._app, self._task, self._context = app, task, context
        self._lineage = Lineage()
        self._witness = Witness(self._lineage)
        self._state: Any = None
        self._death: asyncio.Future[ArmDied] = asyncio.get_running_loop().create_future()
        backend = context.backend
        self._job = Job(
            answer=self._answered,
            relay=backend if isinstance(backend, Relay) and context.director is None else None,
            model=backend.identity.checkpoint,
            sampling=context.sampling.sampling(MAX_TOKENS, task.seed),
            loop=asyncio.get_running_loop(),
            place=self._witness.only_place,
            on_death=lambda death: None if self._death.done() else self._death.set_result(death),
        )

    async def run(self) -> Outcome:
        """All of it."""
        with attached(), gateway().open(self._job):
            work = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._invoke(), app_loop()))
            error = await self._end(work)
        found = hops(made(self._job.calls, self._witness.seen), self._lineage)
        try:
            found = self._app.read(found, self._task, self._context.suite)
            if error is None:
                self._check(found)
                return Outcome(found, self._app.answer(self._state, self._context.suite), None)
        except (Stopped, ExtractionError) as reason:
            error = error or str(reason)
        return Outcome(found, None, error)

    async def _end(self, work: "asyncio.Future[None]") -> str | None:
        """Wait for the app; what stopped it. Raises ArmDied."""
        limit = self._context.limits.task_timeout_s or TIME_LIMIT_S
        try:
            both: set[asyncio.Future[Any]] = {work, self._death}
            await asyncio.wait(both, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if self._death.done():
                raise self._death.result()
            if not work.done():
                return f"the task took longer than {limit:g} s (limits.task_timeout_s)"
            return self._why(work.exception())
        finally:
            work.cancel()

    def _why(self, error: BaseException | None) -> str | None:
        """An exception of the app in words; one that comes from the gateway in the gateway's."""
        if error is None:
            return None
        if isinstance(error, Stopped | QtrapError):
            return str(error)
        if isinstance(error, GraphRecursionError):
            return f"the app did not end within {self._steps:,} steps (limits.steps); end its loop or raise the limit"
        last = next((call.error for call in reversed(self._job.calls) if call.error is not None), None)
        if last is not None and last in str(error) and (failed := self._failed()):
            return failed
        return f"{type(error).__name__}: {error}"

    @property
    def _steps(self) -> int:
        return self._context.limits.steps_for(len(self._task.premises))

    async def _invoke(self) -> None:
        """The app itself, in its own event loop."""
        JOB.set(self._job.token)
        app = self._app.app
        inner = InMemorySaver(serde=app.checkpointer.serde) if isinstance(app.checkpointer, BaseCheckpointSaver) else None
        config: RunnableConfig = {
            "configurable": {"thread_id": self._job.token},
            "callbacks": [self._witness],
            "recursion_limit": self._steps,
        }
        traced = app.copy({"checkpointer": Ledger(self._lineage, inner)})
        async for mode, chunk in traced.astream(self._app.input_of(self._task), config, stream_mode=["updates", "values"]):
            if "__interrupt__" in chunk:
                raise Stopped("the app stopped to ask a person (interrupt); only apps that go on by themselves can be measured")
            if mode == "values":
                self._state = chunk

    async def _answered(self, call: Call) -> Completion:
        """The arm's answer to a call; in a replay the director's."""
        limit = self._context.limits.hop_timeout_s
        try:
            async with asyncio.timeout(limit):
                return await self._asked(call)
        except TimeoutError:
            raise TransientError(f"a call had no answer within {limit:g} s (limits.hop_timeout_s); raise it") from None

    async def _asked(self, call: Call) -> Completion:
        director = self._context.director
        if director is None:
            return await self._context.backend.complete(call.messages, call.sampling)
        before = sorted((one for one in self._job.calls if one.error is None), key=lambda one: one.began)
        names = dict(zip((one.id for one in before), hop_ids([one.place for one in before], self._lineage), strict=True))
        answer = await director.answer(names[call.id], call.messages, call.sampling)
        call.arm, call.started_at = answer.arm, answer.started_at
        return answer.completion

    def _failed(self) -> str | None:
        """The first call that failed and was not answered when it was made again."""
        answered = {(call.place, call.messages) for call in self._job.calls if call.completion is not None}
        for call in self._job.calls:
            if call.error is not None and (call.place, call.messages) not in answered:
                return f"a model call of node '{node_name(call.place)}' failed: {call.error}"
        return None

    def _check(self, found: Sequence[Hop]) -> None:
        """Raises Stopped where the outcome of an app that came to its end cannot be used."""
        if self._job.strays:
            raise Stopped(
                f"{self._job.strays} model calls could not be attributed to a task: they came from a thread or client that does "
                "not carry its context; run this app with 'concurrency: 1'"
            )
        if failed := self._failed():
            raise Stopped(failed)
        if not found:
            raise Stopped("the app made no model call")
        if not self._job.calls:
            raise Stopped("no model call of the app reached the arm; let its client read OPENAI_BASE_URL")
        director = self._context.director
        if director is not None and any(director.rewrite(hop).replaced for hop in found):
            raise Stopped(NOT_REPLACED)
