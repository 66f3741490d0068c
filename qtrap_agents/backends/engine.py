"""The default vLLM transport: an engine in a child process of ours, fed over a socket, without HTTP."""

import asyncio
import itertools
import json
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from qtrap_agents.backends.identity import identify
from qtrap_agents.backends.launch import Launch, engine_arguments, engine_environment, kv_cache_dtype, vllm_version
from qtrap_agents.backends.metrics import read_metrics
from qtrap_agents.backends.process import Child, owned_child
from qtrap_agents.errors import ArmDied, ArmError, CompletionError, TransientError
from qtrap_agents.measures import KernelTime, ServerStats
from qtrap_agents.types import ArmIdentity, Completion, Message, Sampling, Score

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 2**26
EXIT_GRACE_S = 5.0

GROUP, TURNS = 8, 12
"""Answers are handed out so many at a time, with so many turns of the event loop in between: about what a chain takes to its
next request. Where a whole batch ends in one step, its next requests then leave as they are made; otherwise all would leave
once the last one is made, with the engine idle until then, step after step."""


class EngineArm:
    """Requests go out as JSON lines, answers come back by request id as they finish."""

    identity: ArmIdentity

    def __init__(
        self, name: str, child: Child, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float
    ) -> None:
        self._name = name
        self.child = child
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._outbox: list[dict[str, Any]] = []
        self._heard = time.monotonic()
        self._death: str | None = None

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer one chat request; any number may be in flight. Errors as in `Backend.complete`."""
        started = time.perf_counter()
        answer = await self._ask({"messages": _chat(messages), "sampling": sampling.model_dump()})
        return Completion.model_validate(answer["completion"] | {"latency_s": time.perf_counter() - started})

    async def score(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
        """The given text token by token; any number may be in flight. Errors as in `Backend.score`."""
        answer = await self._ask({"messages": _chat(messages), "token_ids": list(token_ids), "top": top})
        return Score.model_validate(answer["score"])

    async def stats(self) -> ServerStats | None:
        """What the engine in the child has counted since it was started."""
        answer = await self._ask({"stats": True})
        return read_metrics(answer["metrics"])

    async def start_profile(self) -> None:
        """Time the kernels of the engine's first worker from now on. Errors as in `Profiled`."""
        await self._ask({"profile": "start"})

    async def stop_profile(self) -> tuple[KernelTime, ...]:
        """Their times, longest first."""
        answer = await self._ask({"profile": "stop"})
        return tuple(KernelTime(name=name, calls=calls, time_s=time_s) for name, calls, time_s in answer["kernels"])

    async def _ask(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The answer line of a request; one that nobody waits for any more is aborted."""
        if self._death:
            raise ArmDied(self._death)
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self.post({"id": number, **wanted})
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError:
            raise self._late() from None
        finally:
            if self._waiting.pop(number, None):
                self.post({"abort": number})

    def post(self, line: dict[str, Any]) -> None:
        """Queue a line; all lines of one turn of the event loop leave in one write."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(line)

    async def first_line(self) -> dict[str, Any] | None:
        """The child's report that it is ready; None if it ended instead."""
        line = await self._reader.readline()
        return json.loads(line) if line else None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Deliver answers for as long as the block runs."""
        listener = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def _listen(self) -> None:
        """Hand out answers until the child is gone, then fail everything in flight."""
        with suppress(ConnectionError):
            answered = 0
            while line := await self._reader.readline():
                self._heard = time.monotonic()
                self._deliver(json.loads(line))
                answered += 1
                if answered % GROUP == 0:
                    await _turns(TURNS)
        await reap(self.child)
        self._die(f"arm '{self._name}': the engine died in mid-run; {self.child.last_words()}")

    def _deliver(self, line: dict[str, Any]) -> None:
        future = self._waiting.pop(line.get("id", -1), None)
        if future is None or future.done():
            return
        if "error" in line:
            future.set_exception(CompletionError(line["error"]))
        else:
            future.set_result(line)

    def _late(self) -> ArmDied | CompletionError:
        """A late answer from a talking engine is one failed request; a silent engine is dead."""
        if self._death:
            return ArmDied(self._death)
        if time.monotonic() - self._heard < self._timeout_s:
            return TransientError(f"no answer within {self._timeout_s:g} s (engine.request_timeout_s); raise it or ask for less")
        self._die(f"arm '{self._name}': the engine said nothing for {self._timeout_s:g} s; {self.child.last_words()}")
        return ArmDied(self._death)

    def _die(self, reason: str) -> None:
        self._death = self._death or reason
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ArmDied(self._death))
        self._waiting.clear()

    def _flush(self) -> None:
        lines, self._outbox = self._outbox, []
        if not self._death:
            self._writer.write("".join(json.dumps(line) + "\n" for line in lines).encode())


async def _turns(count: int) -> None:
    """Let the event loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


@asynccontextmanager
async def open_engine(launch: Launch, log: Path) -> AsyncIterator[EngineArm]:
    """Start the child, wait until it is ready, end it on leaving.

    Raises:
        ArmError: it ended or was not ready in time; names the cause or the last log lines.
    """
    name, begun = launch.arm.name, time.monotonic()
    command = [sys.executable, "-m", "qtrap_agents.backends.engine_worker", "{fd}"]
    async with connected(name, command, engine_environment(launch), log, launch.engine.request_timeout_s) as arm:
        arm.post({"arguments": engine_arguments(launch)})
        arm.identity = await _ready(arm, launch)
        logger.info("arm %s: engine ready after %.1f s", name, time.monotonic() - begun)
        async with arm.listening():
            yield arm


@asynccontextmanager
async def connected(
    name: str, command: Sequence[str], settings: Mapping[str, str], log: Path, timeout_s: float
) -> AsyncIterator[EngineArm]:
    """An arm whose child runs `command`, with `{fd}` its end of the socket; nothing was said yet, and nobody listens."""
    ours, theirs = socket.socketpair()
    async with owned_child(command, settings, log, theirs) as child:
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        async with _closing(writer):
            yield EngineArm(name, child, reader, writer, timeout_s)


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close the socket on leaving, whether or not the child still reads."""
    try:
        yield
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def reap(child: Child) -> None:
    """Wait briefly for a child that closed its socket, so that its exit status and last log lines are there."""
    with suppress(TimeoutError):
        async with asyncio.timeout(EXIT_GRACE_S):
            await child.process.wait()


async def _ready(arm: EngineArm, launch: Launch) -> ArmIdentity:
    name, child, limit = launch.arm.name, arm.child, launch.engine.start_timeout_s
    try:
        async with asyncio.timeout(limit):
            report = await arm.first_line()
    except TimeoutError:
        words = child.last_words()
        raise ArmError(f"arm '{name}': not ready after {limit:g} s (engine.start_timeout_s); {words}") from None
    if report is None:
        await reap(child)
        raise ArmError(f"arm '{name}': the engine ended at start; {child.last_words()}")
    return await asyncio.to_thread(
        identify,
        "vllm",
        launch.checkpoint,
        report["ready"],
        engine=vllm_version(),
        kv_cache_dtype=kv_cache_dtype(launch),
        revision=launch.arm.revision,
        notes=tuple(report["notes"]),
    )
