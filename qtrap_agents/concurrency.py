"""Many jobs, a few of them at a time, in a process that seldom stops to collect garbage."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

Result = TypeVar("Result")
Argument = TypeVar("Argument")

YOUNG = 100_000
"""Objects between two collections; Python's own default is 700, and graphs make thousands of them a hop."""


def rarely_collected() -> None:
    """Take everything that lives now out of garbage collection for good, and collect the rest more seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 50, 50)


async def in_flight(
    work: Callable[[Argument], Awaitable[Result]], arguments: Iterable[Argument], limit: int
) -> AsyncGenerator[Result, None]:
    """Results in the order in which jobs end, at most `limit` of them running; arguments are taken as they are needed.

    The first job that raises ends it, and so does closing the generator: jobs that still run are cancelled and waited for.
    """
    waiting = iter(arguments)
    running: set[asyncio.Future[Result]] = set()
    done: set[asyncio.Future[Result]] = set()

    def launch() -> None:
        for argument in waiting:
            running.add(asyncio.ensure_future(work(argument)))
            return

    try:
        for _ in range(limit):
            launch()
        while running:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running -= done
            for _ in done:
                launch()
            for finished in done:
                yield finished.result()
    finally:
        for unfinished in running:
            unfinished.cancel()
        await asyncio.gather(*running, *done, return_exceptions=True)
