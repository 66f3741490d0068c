"""qtrap in a notebook: `import qtrap_agents as qtrap`, then the functions of this module.

A run is what `qtrap run` stores, so everything else of qtrap reads it. An arm is a checkpoint, the fields of an arm as in a
configuration file, or a Python function that answers (an importable one, or one of the notebook):

    >>> import qtrap_agents as qtrap
    >>> def good(messages, sampling):
    ...     a, sign, b = messages[-1].content.removeprefix("arith: ").removesuffix(" =").split()
    ...     return str({"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] % 1000)
    >>> def worse(messages, sampling):
    ...     return good(messages, sampling).replace("7", "1")

    >>> run = qtrap.run(suites=["arith"], arms={"fp16": good, "awq": worse}, depths=[8], tasks_per_depth=20, progress=False)
    >>> comparison = qtrap.compare(run)                               # shown as a table
    >>> [(arm.arm, arm.cells[0].correct) for arm in comparison.report.comparison.arms][0]
    ('fp16', 20)

    >>> wrong = next(trace for trace in run.traces("awq") if not trace.correct)
    >>> graph = qtrap.premise_graph(run, wrong.task_id, arm="awq")    # a networkx.DiGraph
    >>> {graph.nodes[premise]["origin"] for premise in graph if graph.nodes[premise]["status"] == "wrong"} >= {"own"}
    True

One's own compiled LangGraph app, unchanged. Its OpenAI client is led to the arm, whether it was made before or is made now:

    >>> from langgraph.graph import START, MessagesState, StateGraph
    >>> import openai
    >>> def node(state):
    ...     client = openai.OpenAI()
    ...     asked = [{"role": "user", "content": state["messages"][-1].content}]
    ...     answer = client.chat.completions.create(model="gpt-4o-mini", messages=asked)
    ...     return {"messages": [("ai", answer.choices[0].message.content)]}
    >>> graph = StateGraph(MessagesState)
    >>> _ = graph.add_node("solve", node).add_edge(START, "solve")
    >>> trace = qtrap.trace(graph.compile(), "arith: 41 + 73 =", arm=good)
    >>> trace.answer, [(hop.node, hop.completion.text) for hop in trace.hops]
    (114, [('solve', '114')])

The same app on whole suites is `qtrap.run(…, workflow=app)`. All functions may be called where an event loop runs already, as
it does in Jupyter: their own one is in a thread of its own. Expected failures are `QtrapError`s with one sentence.
"""

import asyncio
import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from qtrap_agents.analysis import graph as premises
from qtrap_agents.backends import factory
from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.config import ArmConfig, EngineConfig, Limits, RunConfig, SamplingConfig, SuiteChoice, WorkflowChoice, describe
from qtrap_agents.errors import ConfigError
from qtrap_agents.report import notebook
from qtrap_agents.report.comparison import compare_runs
from qtrap_agents.report.inspection import inspect_trace
from qtrap_agents.runner import Plan, as_trace, execute, prepare, start
from qtrap_agents.store import RunDirectory
from qtrap_agents.suites import catalog
from qtrap_agents.suites.catalog import Suite, SuiteSpec
from qtrap_agents.types import ArmIdentity, Completion, Message, Task, Trace, Value
from qtrap_agents.workflows.drive import drive
from qtrap_agents.workflows.foreign import Hooks
from qtrap_agents.workflows.hop import Context
from qtrap_agents.workflows.own import as_workflow

if TYPE_CHECKING:
    import networkx as nx

Result = TypeVar("Result")
ArmLike = str | Mapping[str, Any] | ArmConfig | Callable[..., Any]
"""A checkpoint, the fields of an arm, an arm, or a function of messages and sampling that answers."""

QUESTION = "question"
"""Suite and id of a question that was asked in words."""

NOTEBOOK = "notebook"
"""What stands for the run of a trace that belongs to none."""

CLOSING_S = 60.0
"""How long an interrupted call waits for arms to be closed."""


def load_suite(name: str, **params: Value) -> Suite:
    """A suite by name or path; `suite.tasks(depths, seeds, per_depth)` draws its tasks. Raises SuiteError, ConfigError."""
    return catalog.load_suite(SuiteChoice(name=name, params=params))


def run(
    *,
    suites: Sequence[str | Mapping[str, Any]],
    arms: Mapping[str, ArmLike] | Sequence[str | Mapping[str, Any] | ArmConfig],
    workflow: Any = "chain",
    input: Callable[[Task], Any] | None = None,
    answer: Callable[[Any], Any] | None = None,
    extractor: Callable[..., Any] | str | None = None,
    progress: bool = True,
    **settings: Any,
) -> RunDirectory:
    """Run suites on arms and store the traces, as `qtrap run` does.

    Args:
        arms: what is compared, the baseline first: by name, or a list as in a configuration file.
        workflow: a name, `module:function`, a mapping with parameters, or a LangGraph app itself.
        input, answer, extractor: for an app itself (see `workflows.foreign.Hooks`).
        settings: all other fields of a run, such as `depths`, `tasks_per_depth`, `concurrency`, `sampling`, `limits`, `out`.

    Returns:
        The run directory; `run.traces(arm)` reads its traces.

    Raises:
        QtrapError: what is wrong, in one sentence; what is stored stays.
    """
    app = None if isinstance(workflow, str | Mapping) else workflow
    listed = [_arm(arm, name) for name, arm in arms.items()] if isinstance(arms, Mapping) else list(arms)
    named = workflow if app is None else f"__main__:{_name(app)}"
    config = _checked(RunConfig, {**settings, "suites": list(suites), "arms": listed, "workflow": named})
    plan = _plan(config, app, Hooks(input, answer, extractor))
    directory = start(plan, Path(config.out))
    with notebook.progress(progress) as shown:
        _wait(execute(directory, plan, shown))
    return directory


def open_run(path: str | Path) -> RunDirectory:
    """A stored run. Raises StoreError."""
    return RunDirectory.open(Path(path))


def compare(*runs: RunDirectory, baseline: str | None = None, margin: float = 0.02) -> notebook.Shown:
    """The arms of one or several runs compared, as `qtrap compare` prints it; the numbers are in its `report`.

    Raises:
        QtrapError: no such baseline, or nothing to compare.
    """
    return notebook.Shown(compare_runs(runs, baseline, margin))


def premise_graph(run: RunDirectory, task: str, arm: str | None = None) -> "nx.DiGraph[str]":
    """The premises of one trace, each judged, and what was derived from what (see `analysis.graph.premise_graph`).

    Raises:
        StoreError: no such trace.
    """
    view = inspect_trace(run, task, arm)
    return premises.premise_graph(view.trace, view.task)


@dataclass(frozen=True)
class Arm:
    """An arm that is being served."""

    name: str
    backend: Backend

    @property
    def identity(self) -> ArmIdentity:
        """What is really served."""
        return self.backend.identity

    def ask(self, prompt: str, system: str = "", **sampling: Any) -> Completion:
        """The answer to one user message. Raises CompletionError, ArmDied."""
        drawn = _checked(SamplingConfig, sampling).sampling(max_tokens=64, task_seed=0)
        before = (Message(role="system", content=system),) if system else ()
        return _wait(self.backend.complete((*before, Message(role="user", content=prompt)), drawn))


@contextmanager
def open_arm(arm: ArmLike, *, engine: Mapping[str, Any] | None = None, allow_unverified: bool = False) -> Iterator[Arm]:
    """Serve an arm for the length of the block. Raises ArmError, ConfigError."""
    if callable(arm):
        yield Arm(_name(arm), ScriptedArm(_name(arm), arm))
        return
    config = _checked(ArmConfig, _arm(arm, "arm"))
    with tempfile.TemporaryDirectory() as folder:
        holder = _Holder(config, _checked(EngineConfig, engine or {}), Path(folder) / "server.log", allow_unverified)
        try:
            yield Arm(config.name, _wait(holder.opened()))
        finally:
            _wait(holder.close())


def trace(
    app: Any,
    task: Task | str,
    arm: Arm | ArmLike,
    *,
    suite: Suite | None = None,
    parser: str = "number",
    input: Callable[[Task], Any] | None = None,
    answer: Callable[[Any], Any] | None = None,
    extractor: Callable[..., Any] | str | None = None,
    sampling: Mapping[str, Any] | None = None,
    limits: Mapping[str, Any] | None = None,
) -> Trace:
    """Run a LangGraph app on one task and trace it: every model call a hop, with its parents and what it states.

    Args:
        task: a task, or a question in words, whose answer is not judged.
        arm: one that is open, or anything that `open_arm` takes.
        suite: the suite of the task: how its values are read. Without one, `parser` says it.
        input, answer, extractor: see `workflows.foreign.Hooks`.

    Raises:
        QtrapError: the arm cannot be served, or the app cannot be given a question. What the app does wrong is the error of
            the trace.
    """
    if not isinstance(arm, Arm):
        with open_arm(arm) as opened:
            return trace(
                app, task, opened, suite=suite, parser=parser, input=input, answer=answer, extractor=extractor,
                sampling=sampling, limits=limits,
            )  # fmt: skip
    asked = Task(id=QUESTION, suite=QUESTION, question=task, answer="", depth=1) if isinstance(task, str) else task
    context = Context(
        backend=arm.backend,
        suite=suite or _any_suite(asked.suite, parser),
        sampling=_checked(SamplingConfig, sampling or {}),
        limits=_checked(Limits, limits or {}),
    )
    begun = time.perf_counter()
    course = _wait(drive(as_workflow(_name(app), app, Hooks(input, answer, extractor)), asked, context))
    made = as_trace(NOTEBOOK, _name(app), arm.name, 1, asked, course, time.perf_counter() - begun)
    return made if asked is task else made.model_copy(update={"score": None})


def _plan(config: RunConfig, app: Any, hooks: Hooks) -> Plan:
    """Everything loaded; an app itself in the place of the workflow that its name would load."""
    if app is None:
        return prepare(config)
    workflow = as_workflow(config.workflow.name, app, hooks)
    plan = prepare(config.model_copy(update={"workflow": WorkflowChoice()}))
    return dataclasses.replace(plan, config=config, graph_for=workflow)


def _arm(arm: ArmLike, name: str) -> dict[str, Any]:
    """The fields of an arm."""
    if isinstance(arm, str):
        return {"name": name, "checkpoint": arm}
    if callable(arm):
        return {"name": name, "backend": "scripted", "script": f"{arm.__module__}:{arm.__qualname__}"}
    return {"name": name, **(arm.model_dump() if isinstance(arm, ArmConfig) else arm)}


def _name(thing: Any) -> str:
    return str(getattr(thing, "__name__", None) or getattr(thing, "name", None) or type(thing).__name__)


def _any_suite(name: str, parser: str) -> Suite:
    spec = {"name": name, "title": name, "skill": "any", "kind": "jsonl", "path": "none", "parser": parser}
    return Suite(spec=_checked(SuiteSpec, spec), source=Path())


def _checked(model: type[Any], fields: Mapping[str, Any]) -> Any:
    """The record. Raises ConfigError."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise ConfigError(describe(error, f"{model.__name__}", model, {})) from error


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of this module, in a thread that ends with the process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="qtrap-api", daemon=True).start()
    return loop


def _wait(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work in that loop; interrupted, it is cancelled and its arms are closed first."""
    ended = threading.Event()

    async def to_its_end() -> Result:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(to_its_end(), _loop())
    try:
        return future.result()
    except BaseException:
        if future.cancel():
            ended.wait(CLOSING_S)
        raise


class _Holder:
    """Keeps an arm open in one asyncio task, where it is also closed."""

    def __init__(self, config: ArmConfig, engine: EngineConfig, log: Path, allow_unverified: bool) -> None:
        self._open = partial(factory.open_arm, config, engine, log, allow_unverified)
        self._task: asyncio.Task[None] | None = None

    async def opened(self) -> Backend:
        """Open it."""
        self._leave = asyncio.Event()
        backend: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(backend))
        either: set[asyncio.Future[Any]] = {self._task, backend}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not backend.done():
            await self._task
        return backend.result()

    async def _hold(self, backend: "asyncio.Future[Backend]") -> None:
        async with self._open() as opened:
            backend.set_result(opened)
            await self._leave.wait()

    async def close(self) -> None:
        """Close it, where it was opened."""
        if self._task is not None and not self._task.done():
            self._leave.set()
            await self._task
