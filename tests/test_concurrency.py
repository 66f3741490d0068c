import asyncio
from contextlib import aclosing

import pytest

from qtrap_agents.concurrency import in_flight


def test_at_most_so_many_at_a_time_and_all_results() -> None:
    running = most = 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (number % 3))
        running -= 1
        return number

    async def collect() -> list[int]:
        return [result async for result in in_flight(work, range(20), 4)]

    assert sorted(asyncio.run(collect())) == list(range(20))
    assert most == 4


def test_several_jobs_that_fail_at_once_leave_no_exception_behind() -> None:
    """An exception that nobody looks at is reported when it is collected as garbage, in the middle of something else."""
    left_behind: list[dict[str, object]] = []

    async def fail(number: int) -> int:
        raise ValueError(number)

    async def collect() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: left_behind.append(context))
        async with aclosing(in_flight(fail, range(8), 4)) as results:
            async for _ in results:
                pass

    with pytest.raises(ValueError, match=r"\d"):
        asyncio.run(collect())
    assert left_behind == []
