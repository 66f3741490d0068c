"""Suite × workflow × arm → stored traces.

Arms run one after the other, each served by its own process; within an arm `concurrency` tasks are in flight. A trace
is stored as soon as its task ends, so whatever stops the run loses only the tasks in flight. Last comes the baseline once
more (A/A), its tasks in another order and another number of them in flight: the noise floor.
"""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from qtrap_agents.backends.factory import open_arm, resolve_backend, resolve_checkpoint
from qtrap_agents.backends.scripted import load_script
from qtrap_agents.concurrency import in_flight
from qtrap_agents.config import ArmConfig, RunConfig
from qtrap_agents.energy import Meter, open_meter
from qtrap_agents.environment import describe_environment
from qtrap_agents.errors import ConfigError, QtrapError, StoreError, SuiteError
from qtrap_agents.scoring import score
from qtrap_agents.store import ArmWriter, AttemptEvent, RunDirectory
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import Measurement, Task, Trace
from qtrap_agents.workflows.catalog import GraphFor, load_workflow
from qtrap_agents.workflows.drive import Course, drive
from qtrap_agents.workflows.hop import Context


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
    """Everything that must be right before the first arm starts."""

    config: RunConfig
    suites: Mapping[str, Suite]
    graph_for: GraphFor


def prepare(config: RunConfig) -> Plan:
    """Load suites, workflow, scripts and checkpoints, so that a mistake shows before anything is started.

    Raises:
        QtrapError: what is wrong, in one sentence.
    """
    suites = [load_suite(choice) for choice in config.suites]
    names = [suite.name for suite in suites]
    if len(set(names)) < len(names):
        raise ConfigError(f"suites are named twice: {', '.join(names)}; use each once")
    for arm in config.arms:
        check_arm(arm)
    return Plan(config, {suite.name: suite for suite in suites}, load_workflow(config.workflow))


def check_arm(arm: ArmConfig) -> None:
    """Look for what the arm names. Raises QtrapError where it is not there."""
    if resolve_backend(arm)[0] == "scripted":
        load_script(arm.name, arm.script or "")
    elif not arm.base_url:
        resolve_checkpoint(arm.checkpoint or "")


def start(plan: Plan, out: Path) -> RunDirectory:
    """Draw the tasks and create the run directory. Raises SuiteError where no task is left, StoreError."""
    config = plan.config
    drawn = [suite.tasks(config.depths, config.seeds, config.tasks_per_depth) for suite in plan.suites.values()]
    tasks = [task for suite in drawn for task in suite]
    if not tasks:
        raise SuiteError(f"no tasks: the suites {', '.join(plan.suites)} have none at depths {list(config.depths)}")
    return RunDirectory.create(out, config, tasks, describe_environment())


async def execute(run: RunDirectory, plan: Plan, progress: Progress) -> None:
    """Run every arm on every task that has no stored trace yet.

    Raises:
        ArmError: an arm cannot be served or died; the run can be resumed.
        StoreError: nothing more can be written; the run can be resumed.
    """
    tasks = list(run.tasks().values())
    stop_on_sigterm()
    for note in dict.fromkeys(note for arm in plan.config.arms if (note := resolve_backend(arm)[1])):
        progress.note(note)
    for arm in plan.config.served_arms:
        order = batches(plan.config, arm.name, tasks)
        with ArmWriter(run, arm.name) as writer:
            todo = Batches([task for task in order.tasks if task.id not in writer.done], order.concurrency)
            if todo.tasks:
                await _run_arm(run, plan, arm, writer, todo, progress)


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
    async with open_arm(arm, plan.config.engine, writer.path / "server.log") as backend:
        startup_s = time.perf_counter() - begun
        writer.identity(backend.identity)
        writer.event(AttemptEvent(attempt=writer.attempt, event="ready", at=time.time(), startup_s=startup_s))
        progress.ready(arm.name, startup_s, len(todo.tasks) + len(writer.done), len(writer.done))
        meter = open_meter(plan.config.energy, on_gpu=(backend.identity.device or "").startswith("cuda"))

        async def trace_of(task: Task) -> Trace:
            context = Context(backend=backend, suite=plan.suites[task.suite], sampling=plan.config.sampling)
            begun = time.perf_counter()
            course = await drive(plan.graph_for, task, context)
            return as_trace(run.id, plan.config, arm.name, writer.attempt, task, course, time.perf_counter() - begun)

        with _window(writer, meter):
            async with aclosing(in_flight(trace_of, todo.tasks, todo.concurrency)) as traces:
                async for trace in traces:
                    writer.trace(trace)
                    progress.advance(arm.name, trace.error is not None)


@contextmanager
def _window(writer: ArmWriter, meter: Meter) -> Iterator[None]:
    """Measure time and energy of a block and write them down, however it ends."""
    reason: Literal["finished", "interrupted", "failed"] = "interrupted"
    begun, joules = time.perf_counter(), meter.read_j()
    try:
        yield
        reason = "finished"
    except QtrapError:
        reason = "failed"
        raise
    finally:
        after = meter.read_j()
        energy = None if joules is None or after is None else after - joules
        wall = time.perf_counter() - begun
        end = AttemptEvent(
            attempt=writer.attempt,
            event="end",
            at=time.time(),
            reason=reason,
            wall_s=wall,
            energy_j=energy,
            meter=meter.name,
        )
        with suppress(StoreError) if reason == "failed" else nullcontext():
            writer.event(end)


def as_trace(run_id: str, config: RunConfig, arm: str, attempt: int, task: Task, course: Course, duration_s: float) -> Trace:
    """The record of a course, its answer judged."""
    return Trace(
        id=f"{run_id}/{arm}/{task.id}",
        run_id=run_id,
        task_id=task.id,
        suite=task.suite,
        depth=task.depth,
        seed=task.seed,
        workflow=config.workflow.name,
        arm=arm,
        attempt=attempt,
        hops=course.hops,
        answer=course.answer,
        score=None if course.error else score(course.answer, task),
        error=course.error,
        measurement=Measurement(duration_s=duration_s),
    )


def stop_on_sigterm() -> None:
    """Treat SIGTERM like Ctrl-C: arms are closed and what is stored stays."""
    current = asyncio.current_task()
    if current is not None:
        cancel: Callable[[], object] = current.cancel
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, cancel)
