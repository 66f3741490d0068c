"""Several running servers as one arm: who is asked, what happens when one dies, and which servers may stand together."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.backends.pool import PoolArm, Replica
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmDied, ArmError, CompletionError, TransientError
from qtrap_agents.measures import ServerStats
from qtrap_agents.types import ArmIdentity, Completion, Message, Sampling, Score

from .test_server import serving

ASK = (Message(role="user", content="1"),)
IDENTITY = ArmIdentity(backend="vllm", checkpoint="m")


class Server:
    """Answers with its name after it was let go, or raises what it was told to."""

    identity = IDENTITY

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self.asked = 0
        self.free = asyncio.Event()

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.asked += 1
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return Completion(text=self.name)

    async def score(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
        text = (await self.complete(messages, Sampling())).text
        return Score(prompt_tokens=0, prompt_checksum=text, tokens=(), pieces=())

    async def stats(self) -> ServerStats | None:
        return ServerStats(requests=self.asked, prompt_tokens=0, output_tokens=0)


def pool_of(*servers: Server) -> PoolArm:
    return PoolArm("p", [Replica(f"http://{server.name}", server) for server in servers], IDENTITY)


async def ask(pool: Backend, count: int) -> list[str | BaseException]:
    """What comes of so many requests at once: texts or errors."""
    answers = await asyncio.gather(*[pool.complete(ASK, Sampling()) for _ in range(count)], return_exceptions=True)
    return [answer if isinstance(answer, BaseException) else answer.text for answer in answers]


def go(work: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        return await work()

    return asyncio.run(run())


def test_the_least_busy_server_is_asked_and_equals_take_turns() -> None:
    async def work() -> tuple[list[str | BaseException], list[int]]:
        slow, fast, third = Server("slow"), Server("fast"), Server("third")
        fast.free.set()
        third.free.set()
        pool = pool_of(slow, fast, third)
        waiting = asyncio.create_task(pool.complete(ASK, Sampling()))
        await asyncio.sleep(0)
        later = [answer for _ in range(4) for answer in await ask(pool, 1)]
        slow.free.set()
        assert (await waiting).text == "slow"
        return later, [slow.asked, fast.asked, third.asked]

    later, asked = go(work)
    assert later == ["fast", "third", "fast", "third"], "the busy one is left alone, the two idle ones take turns"
    assert asked == [1, 2, 2]


def test_many_requests_are_spread_evenly() -> None:
    async def work() -> list[int]:
        servers = [Server("a"), Server("b"), Server("c")]
        waiting = asyncio.create_task(ask(pool_of(*servers), 9))
        await asyncio.sleep(0.01)
        asked = [server.asked for server in servers]
        for server in servers:
            server.free.set()
        await waiting
        return asked

    assert go(work) == [3, 3, 3]


def test_requests_of_a_server_that_dies_are_asked_again_of_another(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> tuple[list[str | BaseException], int, ServerStats | None, ServerStats | None]:
        dying, well = Server("dying", ArmDied("gone")), Server("well")
        pool = pool_of(dying, well)
        before = await pool.stats()
        first = asyncio.create_task(ask(pool, 6))
        await asyncio.sleep(0.01)
        dying.free.set()
        well.free.set()
        answers = await first + await ask(pool, 2)
        return answers, dying.asked, before, await pool.stats()

    with caplog.at_level(logging.WARNING):
        answers, asked, before, after = go(work)
    assert answers == ["well"] * 8
    assert asked == 3, "it got its share of the first six and nothing after it was left out"
    assert before == ServerStats(requests=0, prompt_tokens=0, output_tokens=0)
    assert after is None, "its counters died with it"
    assert [record.getMessage() for record in caplog.records] == ["arm p: goes on without http://dying, 1 left: gone"]


def test_the_arm_dies_with_its_last_server() -> None:
    async def work() -> tuple[list[str | BaseException], list[str | BaseException]]:
        servers = [Server(name, ArmDied(f"{name} is gone")) for name in "ab"]
        for server in servers:
            server.free.set()
        pool = pool_of(*servers)
        return await ask(pool, 1), await ask(pool, 1)

    (first,), (second,) = go(work)
    assert isinstance(first, TransientError), "asked twice already; a later request tells that nobody is left"
    assert isinstance(second, ArmDied)
    assert "none of its servers answers any more" in str(second)


def test_a_refused_request_is_not_asked_again_and_costs_no_server() -> None:
    async def work() -> tuple[list[str | BaseException], list[int], Score]:
        servers = [Server("a", CompletionError("too long")), Server("b")]
        for server in servers:
            server.free.set()
        pool = pool_of(*servers)
        found = [answer for _ in range(2) for answer in await ask(pool, 1)]
        servers[0].error = None
        return found, [server.asked for server in servers], await pool.score(ASK, (1,), 1)

    (refused, answered), asked, score = go(work)
    assert isinstance(refused, CompletionError)
    assert (str(refused), answered, asked, score.prompt_checksum) == ("too long", "b", [1, 1], "a")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def open_pool(stack: ExitStack, *answers: Mapping[str, Any], **fields: Any) -> tuple[ArmIdentity, list[str], list[str]]:
    """The identity of an arm of servers with these answers, what two requests got, and the addresses."""
    urls = [stack.enter_context(serving(dict(given))) for given in answers]

    async def run() -> tuple[ArmIdentity, list[str]]:
        async with open_arm(ArmConfig(name="p", base_urls=tuple(urls), **fields), EngineConfig(), Path("unused.log")) as arm:
            return arm.identity, [str(text) for text in await ask(arm, 2)]

    identity, texts = asyncio.run(run())
    return identity, texts, urls


def model(**fields: object) -> dict[str, Any]:
    return {"/v1/models": {"data": [{"id": "m"} | fields]}}


def test_servers_of_the_same_model_are_one_arm(stack: ExitStack) -> None:
    identity, texts, urls = open_pool(stack, model(max_model_len=64), model(max_model_len=64))
    assert texts == ["2", "2"]
    assert (identity.checkpoint, identity.backend) == ("m", "endpoint")
    assert (identity.quantisation, identity.bits, identity.kernels, identity.weight_bytes) == (None, None, {}, None)
    assert identity.verification is not None
    assert identity.verification.status == "unknown"
    assert all(url in identity.source for url in urls)
    assert "2 servers as one arm" in identity.notes[-1]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (model(max_model_len=128), r"differ in max model len \(128, 64\); servers of one arm must serve the same"),
        (model(max_model_len=64, root="elsewhere"), r"differ in checkpoint \(elsewhere, m\)"),
        (model(max_model_len=64) | {"/version": {"version": "9.9"}}, r"differ in engine \(vllm 9.9, None\)"),
        ({"/v1/models": {"data": [{"id": "n"}]}}, "serves n, not 'm'; correct 'model'"),
        ({"/v1/models": {"nothing": 1}}, "no OpenAI-compatible server answers at"),
    ],
)
def test_servers_that_differ_are_refused(stack: ExitStack, other: Mapping[str, Any], told: str) -> None:
    with pytest.raises(ArmError, match=told):
        open_pool(stack, model(max_model_len=64), other, model="m")


def test_the_key_of_an_endpoint_comes_from_the_environment(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of another place")
    monkeypatch.setenv("MY_KEY", "right")
    url = stack.enter_context(serving(model(), key="right"))

    def identity(**fields: Any) -> ArmIdentity:
        config = ArmConfig(name="u", base_url=url, **fields)
        assert "right" not in config.model_dump_json()

        async def run() -> ArmIdentity:
            async with open_arm(config, EngineConfig(), Path("unused.log")) as arm:
                assert await ask(arm, 1) == ["2"]
                return arm.identity

        return asyncio.run(run())

    assert "right" not in identity(api_key_env="MY_KEY").model_dump_json()
    with pytest.raises(ArmError, match=r"refuses our key \(401\); name the environment variable that holds the right one"):
        identity()
    with pytest.raises(ArmError, match="arm 'u': the environment variable NO_KEY is not set; export the key under it"):
        identity(api_key_env="NO_KEY")
