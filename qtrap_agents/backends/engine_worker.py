"""The child that serves a vLLM arm without HTTP: `python -m qtrap_agents.backends.engine_worker FD`.

JSON lines over the socket FD. First in: `{"arguments": {…}}`. First out: `{"ready": ModelFacts, "notes": […], "start_s": …}`.
Then in `{"id", "messages", "sampling"}`, `{"id", "messages", "token_ids", "top"}`, `{"id", "stats"}`, `{"id", "profile"}` or
`{"abort": id}`, and out, as they finish, `{"id", "completion"}`, `{"id", "score"}`, `{"id", "metrics"}`, `{"id", "kernels"}` or
`{"id", "error"}`; `{"alive": true}` at least every second while the engine steps.

On a CPU the engine's core computes in this process, and requests are read between its steps. On a GPU it has a process of its
own (`VLLM_ENABLE_V1_MULTIPROCESSING=1`): requests are passed on the moment they arrive, so that the GPU never waits for us.
"""

import asyncio
import json
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

from qtrap_agents.backends.engine_desk import Desk, Line, Request
from qtrap_agents.backends.guard import kill_own_group
from qtrap_agents.backends.inspector import combine
from qtrap_agents.concurrency import rarely_collected

HEARTBEAT_S = 1.0
BURST = 8
"""Where the engine computes in this process, a burst of requests is spread over so many steps: what is in flight is not held up,
and chains that would all be answered in the same step drift apart, so that their client works while the engine does."""


class Channel:
    """The socket to the parent: a thread reads into a queue, and ends this process group when the parent is gone."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._inbox: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._sent_at = time.monotonic()
        self.on_arrival: Callable[[], object] = lambda: None
        """Called by the thread when a line has come."""
        threading.Thread(target=self._read, daemon=True).start()

    def receive(self, wait: bool, limit: int = sys.maxsize) -> Iterator[Line]:
        """What has arrived, at most `limit` lines; with `wait`, at least one."""
        if wait:
            yield self._inbox.get()
            limit -= 1
        while limit > 0 and not self._inbox.empty():
            yield self._inbox.get()
            limit -= 1

    def send(self, lines: list[Line]) -> None:
        """Write the lines in one go."""
        self._socket.sendall("".join(json.dumps(line) + "\n" for line in lines).encode())
        self._sent_at = time.monotonic()

    def beat(self) -> None:
        """The engine has made a step: say so, unless something was sent a moment ago."""
        if time.monotonic() - self._sent_at > HEARTBEAT_S:
            self.send([{"alive": True}])

    def _read(self) -> None:
        """A killed parent may leave answers unread, then the socket is reset, or half a line behind."""
        with suppress(ConnectionError, ValueError), self._socket.makefile("rb") as stream:
            for line in stream:
                self._inbox.put(json.loads(line))
                self.on_arrival()
        kill_own_group()


class Stepped:
    """vLLM's engine in this process, stepped by hand, with its server's defaults (above all, how many tokens share a step)."""

    def __init__(self, arguments: Line) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        chosen = EngineArgs(**engine_fields(arguments))
        self._engine = LLMEngine.from_engine_args(chosen, usage_context=UsageContext.OPENAI_API_SERVER)
        self._desk = Desk(self._engine.get_tokenizer(), int(self._engine.model_config.max_model_len))
        self._at_once = max(1, arguments["max_num_seqs"] // BURST)
        self._given: dict[str, int] = {}

    def facts(self) -> Line:
        """What every worker of the engine holds, put together, and what a user should know."""
        return {"ready": combine(self._engine.collective_rpc("qtrap_facts")), "notes": self._desk.notes()}

    def serve(self, channel: Channel) -> NoReturn:
        """Answer until the parent closes the socket."""
        while True:
            lines = channel.receive(not self._busy, self._at_once)
            answers = [out for line in lines for out in self._take(line)]
            if self._busy:
                answers += self._step()
            if answers:
                channel.send(answers)
            else:
                channel.beat()

    @property
    def _busy(self) -> bool:
        """True while a request is unfinished."""
        return bool(self._engine.has_unfinished_requests())

    def _take(self, line: Line) -> list[Line]:
        """Queue a request or abort one; an answer at once where the engine refuses it or has nothing to do."""
        if "abort" in line:
            self._given.pop(str(line["abort"]), None)
            self._engine.abort_request([str(line["abort"])])
            return []
        if "stats" in line:
            return [{"id": line["id"], "metrics": metrics()}]
        if "profile" in line:
            return [self._profile(line)]
        request = self._desk.read(line)
        if not isinstance(request, Request):
            return [request]
        try:
            self._engine.add_request(request.id, request.prompt, request.parameters)
        except Exception as error:
            return [request.refused(error)]
        self._given[request.id] = request.given
        return []

    def _step(self) -> list[Line]:
        """One step of the engine; lines for what finished."""
        finished = [output for output in self._engine.step() if output.finished]
        return [self._desk.answer(output, self._given.pop(output.request_id, 0)) for output in finished]

    def _profile(self, line: Line) -> Line:
        """Every worker of the engine profiles; the times are those of the first."""
        try:
            return kernels(line, self._engine.collective_rpc(f"qtrap_{line['profile']}_profile"))
        except Exception as error:
            return no_profile(line, error)


class Overlapped:
    """vLLM's asynchronous engine: its core computes in a process of its own and hears of a request while it steps."""

    def __init__(self, arguments: Line, channel: Channel) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        chosen = AsyncEngineArgs(**engine_fields(arguments))
        pulse = pulse_of(channel)
        self._engine = AsyncLLM.from_engine_args(chosen, usage_context=UsageContext.OPENAI_API_SERVER, stat_loggers=[pulse])
        self._desk = Desk(self._engine.get_tokenizer(), int(self._engine.model_config.max_model_len))
        self._channel = channel
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def facts(self) -> Line:
        """As of `Stepped`."""
        return {"ready": combine(await self._engine.collective_rpc("qtrap_facts")), "notes": self._desk.notes()}

    async def serve(self) -> NoReturn:
        """Answer until the parent closes the socket."""
        arrived, loop = asyncio.Event(), asyncio.get_running_loop()
        self._channel.on_arrival = lambda: loop.call_soon_threadsafe(arrived.set)
        arrived.set()
        while True:
            await arrived.wait()
            arrived.clear()
            for line in self._channel.receive(wait=False):
                self._take(line)

    def _take(self, line: Line) -> None:
        """Begin to answer a line, or stop doing so."""
        if "abort" in line:
            if task := self._tasks.pop(line["abort"], None):
                task.cancel()
            return
        task = self._tasks[line["id"]] = asyncio.create_task(self._answer(line))
        task.add_done_callback(lambda done: self._end(line["id"], done))

    async def _answer(self, line: Line) -> None:
        self._channel.send([await self._answered(line)])

    async def _answered(self, line: Line) -> Line:
        if "stats" in line:
            return {"id": line["id"], "metrics": metrics()}
        if "profile" in line:
            return await self._profile(line)
        request = self._desk.read(line)
        return await self._generate(request) if isinstance(request, Request) else request

    async def _generate(self, request: Request) -> Line:
        """The engine's one and only output of a request. Raises EngineDeadError."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs = [item async for item in self._engine.generate(request.prompt, request.parameters, request.id)]
        except EngineDeadError:
            raise
        except Exception as error:
            return request.refused(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        return self._desk.answer(outputs[-1], request.given)

    async def _profile(self, line: Line) -> Line:
        """As of `Stepped`."""
        try:
            return kernels(line, await self._engine.collective_rpc(f"qtrap_{line['profile']}_profile"))
        except Exception as error:
            return no_profile(line, error)

    def _end(self, number: int, task: asyncio.Task[None]) -> None:
        """What an answer cannot tell is the end of this process: the engine's death."""
        self._tasks.pop(number, None)
        if not task.cancelled() and (error := task.exception()):
            die(error)


def pulse_of(channel: Channel) -> type:
    """One of vLLM's loggers of statistics, that counts nothing: it hears of every step."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Pulse(StatLoggerBase):  # type: ignore[misc]
        def __init__(self, vllm_config: object, engine_index: int = 0) -> None:
            """Nothing is kept."""

        def record(self, *args: object, **kwargs: object) -> None:
            channel.beat()

        def log_engine_initialized(self) -> None:
            """Nothing to tell."""

    return Pulse


def engine_fields(arguments: Line) -> Line:
    """The fields of vLLM's EngineArgs from their JSON."""
    from vllm.config import StructuredOutputsConfig

    return arguments | {"structured_outputs_config": StructuredOutputsConfig(**arguments["structured_outputs_config"])}


def kernels(line: Line, of_workers: list[Any]) -> Line:
    """The answer to a request to profile: the times of the engine's first worker."""
    return {"id": line["id"], "kernels": of_workers[0]}


def no_profile(line: Line, error: Exception) -> Line:
    """The answer where that failed."""
    return {"id": line["id"], "error": f"the engine cannot be profiled: {error}"}


def metrics() -> str:
    """Everything that vLLM counts in this process, as Prometheus would read it."""
    from prometheus_client import generate_latest

    page: bytes = generate_latest()
    return page.decode()


def serve_stepped(channel: Channel, arguments: Line, started: float) -> NoReturn:
    """Start the engine in this process, report it and serve."""
    engine = Stepped(arguments)
    rarely_collected()
    channel.send([engine.facts() | {"start_s": time.monotonic() - started}])
    engine.serve(channel)


async def serve_overlapped(channel: Channel, arguments: Line, started: float) -> NoReturn:
    """Start the engine with its core elsewhere, report it and serve."""
    engine = Overlapped(arguments, channel)
    rarely_collected()
    channel.send([await engine.facts() | {"start_s": time.monotonic() - started}])
    await engine.serve()


def die(error: BaseException) -> NoReturn:
    """End this process, with the reason in its log."""
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


def main() -> NoReturn:
    """Start the engine that the first line describes, report it and serve. An error ends the process: its log tells."""
    started = time.monotonic()
    try:
        channel = Channel(int(sys.argv[1]))
        arguments = next(channel.receive(wait=True, limit=1))["arguments"]
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "1":
            asyncio.run(serve_overlapped(channel, arguments, started))
        serve_stepped(channel, arguments, started)
    except BaseException as error:
        die(error)


if __name__ == "__main__":
    main()
