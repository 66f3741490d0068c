"""Who simulates: this process, processes beside it, or a Ray cluster. Results are the same to the last bit.

Jobs travel in batches, so that a model and its layouts travel once for many of them. A worker of Ray that is killed loses its
batch only: Ray gives it to another one.
"""

import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import get_context
from typing import Any

from qtrap_agents.errors import SimulationError, first_line
from qtrap_agents.simulation.forecast import Job, Work, here, perform
from qtrap_agents.simulation.montecarlo import Tally

LOCAL = "local"
"""Address that stands for a Ray cluster on this machine, started for the sweep and ended with it."""

EACH = 4
"""Batches for each worker: small enough that none is left alone at the end."""

REACHED_S = 5.0
"""Seconds in which a cluster must take a connection."""

RETRIES = 3
"""How often Ray does a batch again whose worker was lost."""


def work_for(workers: int, ray: str | None) -> AbstractContextManager[Work]:
    """Where jobs are done for the length of a `with` block.

    Args:
        workers: processes on this machine; 1 is this process.
        ray: address of a Ray cluster, or `local`; then `workers` is the size of the local one.

    Raises:
        SimulationError: Ray is not installed or cannot be reached, or a process ended while it worked.
    """
    if ray is not None:
        return on_ray(ray, workers)
    return nullcontext(here) if workers == 1 else on_processes(workers)


def perform_all(batch: Sequence[Job]) -> list[Tally]:
    """The jobs of a batch, one after the other."""
    return [perform(job) for job in batch]


def batches(jobs: Sequence[Job], workers: int) -> list[Sequence[Job]]:
    """Consecutive jobs, `EACH` batches for each worker."""
    size = max(1, -(-len(jobs) // (EACH * workers)))
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


@contextmanager
def on_processes(workers: int) -> Iterator[Work]:
    """Processes of this machine."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))

    def work(jobs: Sequence[Job]) -> Iterator[Tally]:
        try:
            for done in pool.map(perform_all, batches(jobs, workers)):
                yield from done
        except BrokenProcessPool as error:
            raise SimulationError("a worker process of the sweep was ended; run it again, with fewer --workers") from error

    try:
        yield work
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def on_ray(address: str, workers: int) -> Iterator[Work]:
    """A Ray cluster; the package must be installed on all its machines.

    Raises:
        SimulationError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _ray()
    _look_for(address)
    where: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address == LOCAL else {"address": address}
    try:
        ray.init(log_to_driver=False, logging_level="error", **where)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _nobody(address, error) from error
    remote = ray.remote(perform_all).options(max_retries=RETRIES, num_cpus=1)
    size = max(workers, int(ray.cluster_resources().get("CPU", 1)))

    def work(jobs: Sequence[Job]) -> Iterator[Tally]:
        waiting = [remote.remote(batch) for batch in batches(jobs, size)]
        try:
            for reference in waiting:
                yield from ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SimulationError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            raise SimulationError(
                f"--ray {address}: the cluster lost a batch {RETRIES + 1} times: {first_line(error)}"
            ) from error

    try:
        yield work
    finally:
        ray.shutdown()


def _look_for(address: str) -> None:
    """Ray itself would wait for minutes. Raises SimulationError where nothing listens at `host:port`."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), REACHED_S).close()
    except OSError as error:
        raise _nobody(address, error) from error


def _nobody(address: str, error: Exception) -> SimulationError:
    return SimulationError(f"--ray {address}: no cluster answers there ({first_line(error)}); `ray start --head` starts one")


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise SimulationError("--ray needs the package ray; `pip install 'qtrap-agents[ray]'` installs it") from error
    return ray
