"""Suite × workflow × arm → stored traces.

Arms run one after the other, each served by its own process; within an arm `concurrency` tasks are in flight. A trace
is stored as soon as its task ends, so whatever stops the run loses only the tasks in flight. Where energy is measured, arms
take turns A B C, C B A with half of the tasks each. Last comes the baseline once more (A/A), its tasks in another order and
another number of them in flight: the noise floor.
"""

import asyncio
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.factory import holds_to, open_arm, resolve_backend, resolve_checkpoint
from qtrap_agents.backends.launch import runs_on_gpu
from qtrap_agents.backends.planned import open_plan, parts_of
from qtrap_agents.backends.scripted import load_script
from qtrap_agents.concurrency import in_flight, rarely_collected
from qtrap_agents.config import ArmConfig, RunConfig
from qtrap_agents.energy import open_meter
from qtrap_agents.environment import describe_environment
from qtrap_agents.errors import ConfigError, QtrapError, SimulationError, StoreError, SuiteError, unknown
from qtrap_agents.measures import ServerStats
from qtrap_agents.plans import PrecisionPlan
from qtrap_agents.recorder import Recorder
from qtrap_agents.scoring import score
from qtrap_agents.store import ArmWriter, AttemptEvent, RunDirectory
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import ArmIdentity, Measurement, Message, Sampling, Task, Trace
from qtrap_agents.workflows.catalog import load_planned, load_workflow
from qtrap_agents.workflows.drive import Course, drive
from qtrap_agents.workflows.graphs import GraphFor
from qtrap_agents.workflows.hop import Context
from qtrap_agents.workflows.reading import value_form

PLANNED = "planned"
"""What the workflow of a precision plan is called in traces."""

KIND_TASKS = 200
"""Tasks that are looked at, at least, for the kinds of hops that a suite has."""

WARM_UP = (Message(role="user", content="1"),)
WARM_UP_ROUNDS, WARM_UP_TOKENS = 2, 16
COOL_DOWN_S, IDLE_S = 1.0, 3.0
"""Before an arm's window where energy is measured: the device comes to rest, then its idle power is taken."""


class Progress(Protocol):
    """What a run tells while it goes on."""

    def note(self, text: str) -> None:
        """One line worth knowing."""

    def starting(self, arm: str) -> None:
        """The arm is being started."""

    def ready(self, arm: str, startup_s: float, total: int, done: int) -> None:
        """The arm answers; `done` of its `total` tasks are stored already."""

    def advance(self, arm: str, failed: bool) -> None:
        """One more trace is stored; `failed` where it carries an error."""


@dataclass(frozen=True)
class Plan:
    """Everything that must be right before the first arm starts.

    `graph_for` gives the graph of a task on every arm but the one that carries out a precision plan, which has `planned`.
    """

    config: RunConfig
    suites: Mapping[str, Suite]
    graph_for: GraphFor
    planned: GraphFor | None = None

    def workflow_on(self, arm: ArmConfig) -> tuple[str, GraphFor]:
        """The name of the workflow of an arm, and the graphs of its tasks."""
        if self.planned is not None and arm.backend == "plan":
            return PLANNED, self.planned
        return self.config.workflow.name, self.graph_for


def prepare(config: RunConfig) -> Plan:
    """Load suites, workflow, scripts and checkpoints, so that a mistake shows before anything is started.

    Raises:
        QtrapError: what is wrong, in one sentence.
    """
    suites = [load_suite(choice) for choice in config.suites]
    names = [suite.name for suite in suites]
    if len(set(names)) < len(names):
        raise ConfigError(f"suites are named twice: {', '.join(names)}; use each once")
    for arm in _to_serve(config):
        check_arm(arm)
    planned = None
    if config.plan is not None:
        _check_plan(config, config.plan, suites)
        planned = load_planned(config.plan, config.limits)
    return Plan(config, {suite.name: suite for suite in suites}, load_workflow(config.workflow, config.limits), planned)


def _to_serve(config: RunConfig) -> tuple[ArmConfig, ...]:
    """All arms that processes are started for: those of the run, and in place of the plan the ones that it names."""
    parts = config.plan.arms if config.plan is not None else ()
    return (*(arm for arm in config.arms if arm.backend != "plan"), *parts)


def _check_plan(config: RunConfig, plan: PrecisionPlan, suites: Sequence[Suite]) -> None:
    """Raises SimulationError where the plan is for another suite, or has a rule for a kind that the suite does not have."""
    if [suite.name for suite in suites] != [plan.suite]:
        names = ", ".join(suite.name for suite in suites)
        raise SimulationError(
            f"the plan is for the suite '{plan.suite}', the run has {names}; run each suite with a plan of its own"
        )
    asked = [(number, kind) for number, rule in enumerate(plan.rules) for kind in rule.kinds]
    if not asked:
        return
    drawn = suites[0].tasks(config.depths, config.seeds, max(config.tasks_per_depth, KIND_TASKS))
    kinds = {premise.kind for task in drawn for premise in task.premises}
    for number, kind in asked:
        if kind not in kinds:
            raise SimulationError(f"field 'rules.{number}.kinds': {unknown('kind of hop', kind, kinds)}")


def check_arm(arm: ArmConfig) -> None:
    """Look for what the arm names. Raises QtrapError where it is not there."""
    if resolve_backend(arm)[0] == "scripted":
        load_script(arm.name, arm.script or "")
    elif not arm.urls:
        resolve_checkpoint(arm.checkpoint or "")


def start(plan: Plan, out: Path) -> RunDirectory:
    """Draw the tasks and create the run directory. Raises SuiteError where no task is left, StoreError."""
    config = plan.config
    drawn = [suite.tasks(config.depths, config.seeds, config.tasks_per_depth) for suite in plan.suites.values()]
    tasks = [task for suite in drawn for task in suite]
    if not tasks:
        raise SuiteError(f"no tasks: the suites {', '.join(plan.suites)} have none at depths {list(config.depths)}")
    return RunDirectory.create(out, config, tasks, describe_environment())


def left_out(plan: Plan) -> list[str]:
    """One line for each suite of which rows could not be used, with their number and the reasons. Raises SuiteError."""
    return [note for suite in plan.suites.values() if (note := suite.note())]


async def execute(run: RunDirectory, plan: Plan, progress: Progress, retry_errors: bool = False) -> None:
    """Run every arm on every task that has no stored trace yet; with `retry_errors` also on those that ended in an error.

    Raises:
        ArmError: an arm cannot be served or died; the run can be resumed.
        StoreError: nothing more can be written; the run can be resumed.
    """
    tasks = list(run.tasks().values())
    stop_on_sigterm()
    rarely_collected()
    for note in dict.fromkeys(note for arm in _to_serve(plan.config) if (note := resolve_backend(arm)[1])):
        progress.note(note)
    for arm, order in legs(plan.config, tasks, turns=_turns(plan.config)):
        with ArmWriter(run, arm.name, retry_errors) as writer:
            todo = Batches([task for task in order.tasks if task.id not in writer.done], order.concurrency)
            if todo.tasks:
                await _run_arm(run, plan, arm, writer, todo, progress)


def _turns(config: RunConfig) -> bool:
    """Whether arms take turns: as configured, else where energy is measured."""
    if config.order != "auto":
        return config.order == "abba"
    return len(config.arms) > 1 and open_meter(config.energy, on_gpu=runs_on_gpu()).reason is None


def legs(config: RunConfig, tasks: Sequence[Task], turns: bool) -> "Iterator[tuple[ArmConfig, Batches]]":
    """What is served one after the other: each arm with all its tasks, or in turns with half of them, then with all, backwards.

    Whatever is stored already is left out by the caller, so the second leg of an arm is what the first one left. The arm
    in the middle keeps its engine. Last comes the second serving of the baseline.
    """
    arms = list(config.arms)
    if turns and len(arms) > 1:
        half = every_other(tasks)
        yield from ((arm, batches(config, arm.name, half)) for arm in arms[:-1])
        arms.reverse()
    again = [arm for arm in config.served_arms if arm.name == config.again_arm]
    yield from ((arm, batches(config, arm.name, tasks)) for arm in (*arms, *again))


def every_other(tasks: Sequence[Task]) -> Sequence[Task]:
    """Half of the tasks, alike in suite, depth and seed to the other half."""
    return tasks[::2]


class Batches(NamedTuple):
    """Tasks in the order in which they are begun, and how many of them are in flight: what shares a batch follows from it."""

    tasks: Sequence[Task]
    concurrency: int


def batches(config: RunConfig, arm: str, tasks: Sequence[Task]) -> Batches:
    """As the configuration says; for the second serving of the baseline, shuffled and with a quarter fewer at work.

    The quarter is taken of what can be at work at once. With a single task in flight it is two, so that the batches are
    other ones in any case. The order is always the same.
    """
    if arm != config.again_arm:
        return Batches(tasks, config.concurrency)
    at_once = min(config.concurrency, config.engine.max_num_seqs, len(tasks))
    fewer = at_once - max(1, at_once // 4)
    return Batches(random.Random(arm).sample(tasks, len(tasks)), fewer or 2)


async def _run_arm(run: RunDirectory, plan: Plan, arm: ArmConfig, writer: ArmWriter, todo: Batches, progress: Progress) -> None:
    writer.event(AttemptEvent(attempt=writer.attempt, event="start", at=time.time()))
    progress.starting(arm.name)
    begun = time.perf_counter()
    workflow, graph_for = plan.workflow_on(arm)
    async with _served(arm, plan.config, writer.path) as backend:
        startup_s = time.perf_counter() - begun
        writer.identity(await _identity(arm.name, backend, plan.suites.values(), progress))
        on_gpu = (backend.identity.device or "").startswith("cuda")

        async def trace_of(task: Task) -> Trace:
            config = plan.config
            context = Context(backend, plan.suites[task.suite], config.sampling, limits=config.limits)
            begun = time.perf_counter()
            course = await drive(graph_for, task, context)
            duration_s = time.perf_counter() - begun
            return as_trace(run.id, workflow, arm.name, writer.attempt, task, course, duration_s)

        with Recorder(open_meter(plan.config.energy, on_gpu), sink=writer.reading) as recorder:
            idle_w = await _settle(backend, recorder, todo.concurrency)
            progress.ready(arm.name, startup_s, len(todo.tasks) + len(writer.done), len(writer.done))
            jobs = in_flight(trace_of, todo.tasks, todo.concurrency)
            async with _window(writer, recorder, backend, startup_s, idle_w), aclosing(jobs) as traces:
                async for trace in traces:
                    writer.trace(trace)
                    progress.advance(arm.name, trace.error is not None)


def _served(arm: ArmConfig, config: RunConfig, folder: Path) -> AbstractAsyncContextManager[Backend]:
    """The arm, or all arms of the plan. Errors as of `open_arm`."""
    if config.plan is not None and arm.backend == "plan":
        return open_plan(config.plan, config.engine, folder, config.allow_unverified)
    return open_arm(arm, config.engine, folder / "server.log", config.allow_unverified)


async def _identity(arm: str, backend: Backend, suites: Iterable[Suite], progress: Progress) -> ArmIdentity:
    """What is served, and whether it holds to the JSON schema of the suites where they have one. Raises ArmError."""
    form = next((form for suite in suites if (form := value_form(suite))), None)
    if form is None or backend.identity.backend == "scripted":
        return backend.identity
    structured = all(
        [await holds_to(arm, part, form.schema) for part in parts_of(backend) if part.identity.backend != "scripted"]
    )
    if not structured:
        why = f"{backend.identity.backend} does not hold them to a schema"
        progress.note(f"{arm}: answers are asked for as JSON, but {why}: those that are no JSON count as missing")
    return backend.identity.model_copy(update={"structured": structured})


async def _settle(backend: Backend, recorder: Recorder, concurrency: int) -> float | None:
    """The idle power in watts after a warm-up nobody counts; where nothing is measured, None at once and no warm-up."""
    if not recorder.measures:
        return None
    for _ in range(WARM_UP_ROUNDS):
        for part in parts_of(backend):
            asked = (part.complete(WARM_UP, Sampling(max_tokens=WARM_UP_TOKENS)) for _ in range(concurrency))
            await asyncio.gather(*asked, return_exceptions=True)
    await asyncio.sleep(COOL_DOWN_S)
    return await recorder.idle_power_w(IDLE_S)


@asynccontextmanager
async def _window(
    writer: ArmWriter, recorder: Recorder, backend: Backend, startup_s: float, idle_w: float | None
) -> AsyncIterator[None]:
    """Measure time and energy of a block and write them down, however it ends."""
    reason: Literal["finished", "interrupted", "failed"] = "interrupted"
    before = await backend.stats()
    begun, begun_at = time.perf_counter(), time.time()
    ready = AttemptEvent(attempt=writer.attempt, event="ready", at=begun_at, startup_s=startup_s, idle_w=idle_w)
    writer.event(ready)
    try:
        yield
        reason = "finished"
    except QtrapError:
        reason = "failed"
        raise
    finally:
        wall = time.perf_counter() - begun
        end = AttemptEvent(
            attempt=writer.attempt,
            event="end",
            at=time.time(),
            reason=reason,
            wall_s=wall,
            energy_j=await recorder.energy_j(begun_at, begun_at + wall),
            meter=recorder.meter.name,
            tdp_w=recorder.meter.tdp_w,
            server=None if before is None or reason != "finished" else await _since(backend, before),
        )
        with suppress(StoreError) if reason == "failed" else nullcontext():
            writer.event(end)


async def _since(backend: Backend, before: ServerStats) -> ServerStats | None:
    after = await backend.stats()
    return None if after is None else after.since(before)


def as_trace(run_id: str, workflow: str, arm: str, attempt: int, task: Task, course: Course, duration_s: float) -> Trace:
    """The record of a course, its answer judged."""
    return Trace(
        id=f"{run_id}/{arm}/{task.id}",
        run_id=run_id,
        task_id=task.id,
        suite=task.suite,
        depth=task.depth,
        seed=task.seed,
        workflow=workflow,
        arm=arm,
        attempt=attempt,
        hops=course.hops,
        decisions=course.decisions,
        answer=course.answer,
        score=None if course.error else score(course.answer, task),
        error=course.error,
        measurement=Measurement(duration_s=duration_s),
    )


def stop_on_sigterm() -> None:
    """Treat SIGTERM like Ctrl-C: arms are closed and what is stored stays. Only the main thread can hear signals."""
    current = asyncio.current_task()
    if current is not None and threading.current_thread() is threading.main_thread():
        cancel: Callable[[], object] = current.cancel
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, cancel)
