"""One arm served for one experiment: every pass appends to a journal of its own, so a killed one goes on where it stopped."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.concurrency import in_flight
from qtrap_agents.config import ArmConfig
from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.runner import Plan, Progress, prepare
from qtrap_agents.store import Journal, RunDirectory
from qtrap_agents.types import Record

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Bench:
    """A stored run with everything that is needed to serve its arms and run its tasks again."""

    run: RunDirectory
    plan: Plan
    progress: Progress

    @classmethod
    def set_up(cls, run: RunDirectory, progress: Progress) -> "Bench":
        """Load suites and workflow of the run as `qtrap run` does; an arm is looked for when it is served.

        Raises:
            QtrapError: a suite or the workflow is no longer there.
        """
        return cls(run, prepare(run.config.model_copy(update={"arms": ()})), progress)

    def arm(self, name: str) -> ArmConfig:
        """The configuration of an arm. Raises ConfigError."""
        arms = {arm.name: arm for arm in self.run.config.arms}
        if name not in arms:
            raise ConfigError(f"{self.run.path}: {unknown('arm', name, arms)}")
        return arms[name]

    async def serve(
        self,
        arm: str,
        title: str,
        journal: Path,
        jobs: Sequence[Job],
        work: Callable[[Backend, Job], Awaitable[Record]],
        concurrency: int | None = None,
    ) -> None:
        """Serve `arm` until all jobs are done; each result is one more line of `journal`. Without jobs nothing is started.

        Args:
            title: what the progress bar is called.
            concurrency: jobs in flight, by default as in the run.

        Raises:
            ArmError: the arm cannot be served or died; what is stored stays, and the next call does the rest.
            StoreError: nothing more can be written.
        """
        if jobs:
            with Journal(journal) as lines:
                await self.work_off(arm, title, journal.with_suffix(".log"), jobs, work, lines.append, concurrency)

    async def work_off(
        self,
        arm: str,
        title: str,
        log: Path,
        jobs: Sequence[Job],
        work: Callable[[Backend, Job], Awaitable[Result]],
        store: Callable[[Result], None],
        concurrency: int | None = None,
    ) -> None:
        """The same with results that `store` puts away."""
        self.progress.starting(title)
        begun = perf_counter()
        config = self.plan.config
        async with open_arm(self.arm(arm), config.engine, log, config.allow_unverified) as backend:
            self.progress.ready(title, perf_counter() - begun, len(jobs), 0)

            async def one(job: Job) -> Result:
                return await work(backend, job)

            async with aclosing(in_flight(one, jobs, concurrency or config.concurrency)) as results:
                async for result in results:
                    store(result)
                    self.progress.advance(title, failed=False)
