"""Many jobs, a few of them at a time."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

Result = TypeVar("Result")
Argument = TypeVar("Argument")


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
