"""Several running servers as one arm: each request goes to the one that has the fewest of ours to answer."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from qtrap_agents.backends.base import Backend, Relay
from qtrap_agents.backends.server import ServerArm, open_running_server
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmDied, ArmError, TransientError
from qtrap_agents.measures import ServerStats, together
from qtrap_agents.types import ArmIdentity, Completion, Message, Sampling, Score

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Replica:
    """A server of a pool, and how many of our requests it has not answered yet."""

    def __init__(self, url: str, arm: Backend) -> None:
        self.url = url
        self.arm = arm
        self.outstanding = 0


class PoolArm:
    """Replicas of one model. One that dies is left out from then on; the arm dies with the last one.

    Requests that a dying replica had are asked again once, of another one.
    """

    def __init__(self, name: str, replicas: Sequence[Replica], identity: ArmIdentity) -> None:
        self._identity = identity
        self._name = name
        self._waiting = list(replicas)
        self._lost = False

    @property
    def identity(self) -> ArmIdentity:
        """What every replica tells, and what some were found not to take since."""
        notes = (note for replica in self._waiting for note in replica.arm.identity.notes)
        return self._identity.model_copy(update={"notes": tuple(dict.fromkeys((*self._identity.notes, *notes)))})

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer one chat request; any number may be in flight. Errors as in `Backend.complete`."""
        return await self._send(lambda arm: arm.complete(messages, sampling))

    async def relay(self, body: dict[str, Any]) -> tuple[Completion, dict[str, Any]]:
        """Answer a whole chat request, tools included. Errors as in `Backend.complete`."""
        return await self._send(partial(_relay, body))

    async def score(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
        """The given text token by token; any number may be in flight. Errors as in `Backend.score`."""
        return await self._send(lambda arm: arm.score(messages, token_ids, top))

    async def stats(self) -> ServerStats | None:
        """What all replicas have counted together; None where one does not tell, or took its counters with it when it died."""
        return None if self._lost else together([await replica.arm.stats() for replica in self._waiting])

    async def _send(self, ask: Callable[[Backend], Awaitable[Result]]) -> Result:
        replica = self._next()
        try:
            return await _counted(replica, ask)
        except ArmDied as error:
            self._leave_out(replica, error)
        replica = self._next()
        try:
            return await _counted(replica, ask)
        except ArmDied as error:
            self._leave_out(replica, error)
            raise TransientError(f"two servers died while they had this request, the second at {replica.url}") from error

    def _next(self) -> Replica:
        """The replica with the fewest outstanding requests; of equals the one whose last turn is longest ago."""
        if not self._waiting:
            raise ArmDied(f"arm '{self._name}': none of its servers answers any more; start them again and resume")
        chosen = min(self._waiting, key=lambda replica: replica.outstanding)
        self._waiting.remove(chosen)
        self._waiting.append(chosen)
        return chosen

    def _leave_out(self, replica: Replica, error: ArmDied) -> None:
        if replica in self._waiting:
            self._waiting.remove(replica)
            self._lost = True
            logger.warning("arm %s: goes on without %s, %d left: %s", self._name, replica.url, len(self._waiting), error)


async def _relay(body: dict[str, Any], arm: Backend) -> tuple[Completion, dict[str, Any]]:
    assert isinstance(arm, Relay)
    return await arm.relay(body)


async def _counted(replica: Replica, ask: Callable[[Backend], Awaitable[Result]]) -> Result:
    replica.outstanding += 1
    try:
        return await ask(replica.arm)
    finally:
        replica.outstanding -= 1


@asynccontextmanager
async def open_pool(config: ArmConfig, engine: EngineConfig) -> AsyncIterator[Backend]:
    """Use the running servers of the arm; of a single one, that server itself.

    Raises:
        ArmError: one does not answer or does not serve the arm's model, or they do not serve the same.
    """
    async with AsyncExitStack() as stack:
        arms = [await stack.enter_async_context(open_running_server(config, engine, url)) for url in config.urls]
        if len(arms) == 1:
            yield arms[0]
            return
        for url, arm in zip(config.urls[1:], arms[1:], strict=True):
            _require_same(config, arm, url, arms[0])
        replicas = [Replica(url, arm) for url, arm in zip(config.urls, arms, strict=True)]
        yield PoolArm(config.name, replicas, _identity(config, arms[0].identity))


def _identity(config: ArmConfig, first: ArmIdentity) -> ArmIdentity:
    """What every replica tells, and that there are several."""
    note = f"{len(config.urls)} servers as one arm, each request to the one with the fewest outstanding"
    source = f"{', '.join(config.urls)}: /v1/models, /version, /metrics"
    return first.model_copy(update={"source": source, "notes": (*first.notes, note)})


def _require_same(config: ArmConfig, arm: ServerArm, url: str, first: ServerArm) -> None:
    """Raises ArmError where a server differs from the first one in anything that it tells."""
    for field in ("checkpoint", "max_model_len", "backend", "engine", "kv_cache_dtype"):
        ours, theirs = (_told(server, field) for server in (arm, first))
        if ours != theirs:
            raise ArmError(
                f"arm '{config.name}': {url} and {config.urls[0]} differ in {field.replace('_', ' ')} ({ours}, {theirs}); "
                "servers of one arm must serve the same"
            )


def _told(server: ServerArm, field: str) -> object:
    return server.max_model_len if field == "max_model_len" else getattr(server.identity, field)
