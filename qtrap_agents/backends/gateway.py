"""An OpenAI-compatible server in front of any arm: for an app that knows nothing but a `base_url`.

It listens on 127.0.0.1 in threads of this process and answers `/v1/chat/completions` (streamed or not) and `/v1/models` for
the jobs that are open: a job is one task on one arm, or whatever else asks for a while. A request names its job in a header
that the asking side sets (see `qtrap_agents.workflows.marks`); one without it belongs to the only open job, and where there
are several it is answered and counted on all of them as a stray. Every call is kept with its whole Completion under the id of
its response. HTTP is the standard library's: it installs everywhere, and an arm, not this, decides the speed.

    async with open_arm(arm, engine, log) as backend:
        with Gateway() as gateway, gateway.open(Job.of(backend, Sampling(max_tokens=64))) as job:
            ...  # any client at gateway.base_url, not in this thread; then job.calls
"""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote

from qtrap_agents.backends import openai_api
from qtrap_agents.backends.base import Backend, Relay
from qtrap_agents.backends.openai_api import ChatRequest, Refused
from qtrap_agents.errors import ArmDied, CompletionError, QtrapError, TransientError
from qtrap_agents.types import Completion, Message, Sampling

HOST = "127.0.0.1"
JOB_HEADER, PLACE_HEADER, BEGAN_HEADER = "x-qtrap-job", "x-qtrap-place", "x-qtrap-began"
RETRY_HEADER = "x-should-retry"
"""OpenAI's clients ask again after a 5xx unless this says otherwise."""

NO_TOOLS = "this arm knows no tools; serve it with 'transport: server' or name its 'base_url', or let the app ask without them"
TRANSIENT = "transient_error"
OVER = "the task of this call is over"
POLL_S = 0.05
"""How long `close` may take."""

LARGEST_BODY = 64 * 1024 * 1024


@dataclass
class Call:
    """One request. `place` says where in its job it was asked, None where that is not known; times as in `Hop`.

    `began` and `ended` are seconds on the clock of `time.perf_counter`. `arm` is set where another arm answered.
    """

    id: str
    place: str | None
    messages: tuple[Message, ...]
    sampling: Sampling
    started_at: float
    began: float
    ended: float = 0.0
    completion: Completion | None = None
    error: str | None = None
    arm: str | None = None


class Mark(NamedTuple):
    """What the asking side says of a request: its job, where in it, and when it was sent (`time.perf_counter`)."""

    job: str | None
    place: str | None
    began: float


@dataclass
class Job:
    """Whose calls belong together.

    `answer` gives the completion of a call in `loop`, the event loop that the arm lives in, and `relay` answers whole requests
    with tools where the arm has a server of its own. `sampling` is used where a request does not say, `model` is the name in
    responses. `place` tells where an unmarked request comes from. `on_death` is called, in `loop`, when the arm dies.
    `strays` counts requests that may or may not belong to this job.
    """

    answer: Callable[[Call], Awaitable[Completion]]
    relay: Relay | None
    model: str
    sampling: Sampling
    loop: asyncio.AbstractEventLoop
    place: Callable[[], str | None] = lambda: None
    on_death: Callable[[ArmDied], None] = lambda death: None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    calls: list[Call] = field(default_factory=list)
    strays: int = 0
    pending: set["Future[Any]"] = field(default_factory=set)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, backend: Backend, sampling: Sampling) -> "Job":
        """All calls to an arm that lives in the running event loop."""
        relay = backend if isinstance(backend, Relay) else None

        async def answer(call: Call) -> Completion:
            return await backend.complete(call.messages, call.sampling)

        return cls(answer, relay, backend.identity.checkpoint, sampling, asyncio.get_running_loop())

    def handle(self, body: bytes, mark: "Mark") -> tuple[dict[str, Any], ChatRequest]:
        """The response to a request, and the request; from any thread but the one of `loop`.

        Raises:
            Refused: it asks for what the gateway does not do, the arm could not answer, or the job was closed meanwhile.
        """
        call = Call(f"chatcmpl-{uuid.uuid4().hex}", mark.place, (), self.sampling, time.time(), mark.began)
        self.calls.append(call)
        try:
            request = openai_api.read_request(body)
            call.messages = openai_api.messages_of(request)
            call.sampling = openai_api.sampling_of(request, self.sampling)
            return self._wait(self._complete(call, request, body)), request
        except (QtrapError, Refused) as error:
            call.error = str(error)
            if isinstance(error, ArmDied):
                self.loop.call_soon_threadsafe(self.on_death, error)
            raise error if isinstance(error, Refused) else refusal(error) from error
        finally:
            call.ended = time.perf_counter()

    def _wait(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """What comes of it in the loop of the backend."""
        with self.lock:  # or the loop could run the work, and close this job, before the work is known as pending
            if self.closed:
                work.close()
                raise Refused(503, OVER, "server_error")
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
            self.pending.add(future)
        try:
            return future.result()
        except CancelledError:
            raise Refused(503, OVER, "server_error") from None
        finally:
            self.pending.discard(future)

    def close(self) -> None:
        """Cancel what is in flight, and answer nothing more."""
        with self.lock:
            self.closed = True
            for future in tuple(self.pending):
                future.cancel()

    async def _complete(self, call: Call, request: ChatRequest, body: bytes) -> dict[str, Any]:
        message = None
        if not request.needs_server:
            call.completion = await self.answer(call)
        elif self.relay is None:
            raise Refused(400, NO_TOOLS)
        else:
            call.completion, message = await self.relay.relay(openai_api.relayed(json.loads(body), call.sampling))
        return openai_api.response(call.id, self.model, call.completion, message)


def refusal(error: QtrapError) -> Refused:
    """An error of a backend as a status: 400 for a refused prompt, 503 for what may pass and for an arm that is gone."""
    if isinstance(error, ArmDied):
        return Refused(503, str(error), "server_error")
    if isinstance(error, TransientError):
        return Refused(503, str(error), TRANSIENT)
    return Refused(400 if isinstance(error, CompletionError) else 500, str(error))


class Gateway:
    """The server. It has its address from the start and answers while it is open; use as a context manager or `close` it."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._server = _Server((HOST, 0), _Handler, self)
        threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="qtrap-gateway", daemon=True).start()

    @property
    def netloc(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, int(self._server.server_address[1])

    @property
    def base_url(self) -> str:
        """What a client takes as its `base_url`."""
        return f"http://{HOST}:{self.netloc[1]}/v1"

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def open(self, job: Job) -> Iterator[Job]:
        """Answer the requests of a job in this block; what is in flight at its end is cancelled."""
        self._jobs[job.token] = job
        try:
            yield job
        finally:
            del self._jobs[job.token]
            job.close()

    def open_jobs(self) -> Sequence[Job]:
        """The jobs that are open now."""
        return tuple(self._jobs.values())

    def find(self, mark: Mark) -> tuple[Job, Mark]:
        """The job of a request, and its mark as far as it is known.

        Raises:
            Refused: its job is over, or none is open.
        """
        if mark.job is not None:
            if mark.job not in self._jobs:
                raise Refused(503, OVER, "server_error")
            return self._jobs[mark.job], mark
        jobs = self.open_jobs()
        if not jobs:
            raise Refused(503, "no task is running: the gateway answers while one does", "server_error")
        if len(jobs) == 1:
            return jobs[0], mark._replace(place=jobs[0].place())
        for job in jobs:
            job.strays += 1
        return _stand_in(jobs[0]), mark


def _stand_in(job: Job) -> Job:
    """Answers like the job and keeps nothing in it."""
    return Job(job.answer, job.relay, job.model, job.sampling, job.loop)


class _Server(ThreadingHTTPServer):
    """Each connection has a thread: an app waits in as many as it likes."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], gateway: Gateway) -> None:
        super().__init__(address, handler)
        self.gateway = gateway

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle is no error of ours; `_Handler` answers all others."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        """The models."""
        self._reply(self._models)

    def do_POST(self) -> None:
        """A chat completion."""
        self._reply(self._chat)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the trace tells what was asked."""

    def _reply(self, make: Callable[[], tuple[str, bytes]]) -> None:
        try:
            kind, content = make()
            self._send(200, kind, content)
        except Refused as refused:
            self._fail(refused)
        except Exception as error:
            self._fail(Refused(500, f"the gateway failed: {type(error).__name__}: {error}", "server_error"))
            raise

    def _fail(self, refused: Refused) -> None:
        again = str(refused.kind == TRANSIENT).lower()
        self._send(refused.status, "application/json", _json(openai_api.error_body(refused)), {RETRY_HEADER: again})

    def _send(self, status: int, kind: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _models(self) -> tuple[str, bytes]:
        path = self.path.partition("?")[0].rstrip("/")
        if path != "/v1/models" and not path.startswith("/v1/models/"):
            raise Refused(404, f"no {path} here: the gateway answers /v1/chat/completions and /v1/models")
        jobs = self.server.gateway.open_jobs()
        listed = openai_api.models(jobs[0].model if jobs else "qtrap")
        return "application/json", _json(listed if path == "/v1/models" else listed["data"][0])

    def _chat(self) -> tuple[str, bytes]:
        body = self._body()
        path = self.path.partition("?")[0].rstrip("/")
        if path != "/v1/chat/completions":
            raise Refused(404, f"no {path} here: the gateway answers /v1/chat/completions and /v1/models")
        job, mark = self.server.gateway.find(self._mark())
        answered, request = job.handle(body, mark)
        if not request.stream:
            return "application/json", _json(answered)
        usage = request.stream_options is not None and request.stream_options.include_usage
        return "text/event-stream", "".join(openai_api.events(answered, usage)).encode()

    def _mark(self) -> Mark:
        place, began = self.headers.get(PLACE_HEADER), self.headers.get(BEGAN_HEADER)
        now = time.perf_counter() if began is None else float(began)
        return Mark(self.headers.get(JOB_HEADER), None if place is None else unquote(place), now)

    def _body(self) -> bytes:
        """The body. One of unknown or absurd length is refused, and the connection with it."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_BODY:
            self.close_connection = True
            raise Refused(411, f"a request needs a Content-Length of up to {LARGEST_BODY:,} bytes")
        return self.rfile.read(int(length))


def _json(content: object) -> bytes:
    return json.dumps(content).encode()
