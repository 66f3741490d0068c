"""Endpoints that misbehave, over real HTTP: every failure is one sentence on one trace, or stops the arm before it begins."""

import asyncio
import json
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
import scripts

from qtrap_agents.backends import endpoint
from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.factory import holds_to, open_arm
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmDied, ArmError, CompletionError, QtrapError, TransientError
from qtrap_agents.report.comparison import compare_runs, comparison_json
from qtrap_agents.runner import execute, prepare
from qtrap_agents.types import Completion, Message, Sampling

T = TypeVar("T")
SYSTEM = Message(role="system", content="All numbers are modulo 1000.")
ASK = (SYSTEM, Message(role="user", content="arith: 1 + 1 ="))
LACKING = "the server takes no JSON schema: answers are asked for as JSON, not held to it"
SCHEMA = '{"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]}'


class Reply(NamedTuple):
    """What the server answers. `cut` leaves so many of the promised bytes out, `wait_s` comes before it."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    cut: int = 0
    wait_s: float = 0.0


Answer = Callable[[dict[str, Any]], Reply]


def said(text: str | None, finish_reason: str = "stop", tokens: int = 1) -> Reply:
    """A proper chat completion."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return Reply(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}}).encode())


def refusal(status: int, message: str, **headers: str) -> Reply:
    """An error as OpenAI writes it."""
    return Reply(json.dumps({"error": {"message": message, "type": "error"}}).encode(), status, tuple(headers.items()))


def is_canary(request: dict[str, Any]) -> bool:
    """The first request of every arm."""
    return bool(request["messages"][-1]["content"].endswith("1"))


class Http(ThreadingHTTPServer):
    """Takes many connections at once."""

    request_queue_size = 64


class Server:
    """Answers chat requests with a function, and keeps them."""

    def __init__(self, answer: Answer, url: str) -> None:
        self.answer, self.url = answer, url
        self.requests: list[dict[str, Any]] = []

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Requests after the first one of the arm."""
        return [request for request in self.requests if not is_canary(request)]


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """A server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(Reply(b'{"data": [{"id": "m"}]}', 200 if self.path == "/v1/models" else 404))

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(request)
            self._send(server.answer(request))

        def _send(self, reply: Reply) -> None:
            closing.wait(reply.wait_s)
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **dict(reply.headers)}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(reply.body) + reply.cut))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing on stderr."""

    closing = threading.Event()
    with Http(("127.0.0.1", 0), Handler) as http:
        server = Server(answer, f"http://127.0.0.1:{http.server_port}/v1")
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            closing.set()
            http.shutdown()
            thread.join()


def after_canary(answer: Answer) -> Answer:
    """The first request of the arm goes well."""
    return lambda request: said("2") if is_canary(request) else answer(request)


def using(server: Server, work: Callable[[Backend], Awaitable[T]], timeout_s: float = 30.0) -> T:
    """Open an arm on the server and do something with it."""

    async def run() -> T:
        config, engine = ArmConfig(name="far", base_url=server.url), EngineConfig(request_timeout_s=timeout_s)
        async with open_arm(config, engine, Path("unused.log")) as arm:
            return await work(arm)

    return asyncio.run(run())


def ask(server: Server, sampling: Sampling | None = None, timeout_s: float = 30.0) -> Completion:
    """One request."""
    return using(server, lambda arm: arm.complete(ASK, sampling or Sampling()), timeout_s)


PAGE = b"<!DOCTYPE html><html><head><title>Sign  in</title></head></html>"

BROKEN = {
    "html": (Reply(PAGE, headers=(("Content-Type", "text/html"),)), "answered with HTML, not JSON: Sign in; correct 'base_url'"),
    "half": (Reply(b'{"choices": [{"message": {"con'), r"answer is not whole JSON: 30 bytes that end in '.*\"con'"),
    "nothing": (Reply(b""), "the server answered with nothing at all"),
    "no choices": (Reply(b'{"choices": []}'), r"the server's answer holds no message: {\"choices\": \[\]}"),
    "a list": (Reply(b"[1, 2]"), r"holds no message: \[1, 2\]"),
    "an error": (Reply(b'{"error": {"message": "out of\\n memory"}}'), "answered with an error: out of memory"),
    "empty": (said("", "stop", 0), "the server generated nothing: empty text, no tokens, finish_reason 'stop'"),
    "no text": (said(None, "content_filter", 0), "generated nothing: .* finish_reason 'content_filter'"),
    "given up": (said("", "error", 1), "the engine gave up on the request"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_is_none_is_one_failed_request(name: str) -> None:
    reply, told = BROKEN[name]
    with serving(after_canary(lambda request: reply)) as server, pytest.raises(CompletionError, match=told) as caught:
        ask(server)
    assert "\n" not in str(caught.value)


def test_an_empty_text_that_the_model_generated_is_its_answer() -> None:
    with serving(after_canary(lambda request: said("", "stop", 1))) as server:
        assert ask(server).text == ""
    with serving(after_canary(lambda request: said(None, "length", 0))) as server:
        assert ask(server).finish_reason == "length"


def test_a_connection_that_breaks_in_the_middle_is_one_failed_request() -> None:
    reply = said("2")._replace(cut=10)
    with serving(after_canary(lambda request: reply)) as server, pytest.raises(TransientError, match="broke"):
        ask(server)


def test_an_answer_that_does_not_come_is_one_failed_request() -> None:
    reply = said("2")._replace(wait_s=60.0)
    told = r"no answer within 2 s \(engine\.request_timeout_s\)"
    with serving(after_canary(lambda request: reply)) as server, pytest.raises(TransientError, match=told):
        ask(server, timeout_s=2.0)


STATUSES = [
    (400, "bad temperature", CompletionError, r"the server refused the request \(400\): bad temperature"),
    (400, "This model's maximum context length is 9 tokens", CompletionError, "the prompt is longer than the context: This"),
    (403, "flagged", CompletionError, r"refused the request \(403\): flagged"),
    (408, "too slow", TransientError, r"refused the request \(408\): too slow"),
    (500, "CUDA error", TransientError, r"the server failed \(500\): CUDA error"),
    (401, "wrong key", ArmDied, r"arm 'far': the server does not take our key.*\(401: wrong key\)"),
    (402, "no credit", ArmDied, "wants to be paid first"),
    (404, "no model m", ArmDied, r"knows no such path or model; correct 'base_url' or 'model' \(404: no model m\)"),
]


@pytest.mark.parametrize(("status", "message", "kind", "told"), STATUSES)
def test_a_status_is_one_sentence(status: int, message: str, kind: type[QtrapError], told: str) -> None:
    with serving(after_canary(lambda request: refusal(status, message))) as server, pytest.raises(kind, match=told) as caught:
        ask(server)
    assert type(caught.value) is kind
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (refusal(401, "wrong key"), "does not take our key"),
        (refusal(404, "no model m"), "knows no such path or model"),
        (refusal(400, "no"), r"arm 'far': the first request failed: the server refused the request \(400\): no"),
        (Reply(PAGE), "arm 'far': the first request failed: the server answered with HTML"),
        (Reply(PAGE, 502), r"the first request failed: the server failed \(502\): Sign in"),
    ],
)
def test_an_endpoint_that_fails_at_once_is_no_arm(reply: Reply, told: str) -> None:
    with serving(lambda request: reply) as server, pytest.raises(ArmError, match=told):
        ask(server)


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_server_is_asked_again_when_it_says(status: int) -> None:
    replies = iter([refusal(status, "slow down", Retry_After="0")] * 3 + [said("2")])
    with serving(after_canary(lambda request: next(replies))) as server:
        assert ask(server).text == "2"
    assert len(server.asked) == 4


def test_an_overloaded_server_is_asked_again_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "WAITS_S", (0.01, 0.01))
    told = r"the server was overloaded each time it was asked \(429\): slow down"
    with serving(after_canary(lambda request: refusal(429, "slow down"))) as server, pytest.raises(TransientError, match=told):
        ask(server)
    assert len(server.asked) == 3


def test_nobody_waits_an_hour() -> None:
    reply = refusal(429, "quota", Retry_After="3600")
    with serving(after_canary(lambda request: reply)) as server, pytest.raises(TransientError, match="quota"):
        ask(server)
    assert len(server.asked) == 1


def test_how_long_a_server_wants_to_be_left_alone() -> None:
    assert endpoint.wanted_wait_s("1.5") == 1.5
    assert endpoint.wanted_wait_s(formatdate(time.time() - 60, usegmt=True)) == 0.0
    wait = endpoint.wanted_wait_s(formatdate(time.time() + 1000, usegmt=True))
    assert wait is not None
    assert 900 < wait <= 1000
    assert endpoint.wanted_wait_s("soon") is None
    assert endpoint.wanted_wait_s(None) is None


def picky(unknown: Callable[[dict[str, Any]], bool], message: str, status: int = 400) -> Answer:
    """Refuses requests with something in them that it does not know."""
    return lambda request: refusal(status, message) if unknown(request) else said('{"value": 2}')


def test_a_schema_is_sent_as_openai_wants_it() -> None:
    with serving(lambda request: said('{"value": 2}')) as server:
        ask(server, Sampling(json_schema=SCHEMA))
        assert using(server, lambda arm: holds_to("far", arm, SCHEMA))
    wanted = {"name": "answer", "schema": json.loads(SCHEMA), "strict": True}
    assert server.asked[0]["response_format"] == {"type": "json_schema", "json_schema": wanted}


def test_a_server_without_schemas_is_asked_without_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    async def work(arm: Backend) -> tuple[str, ...]:
        for _ in range(3):
            assert (await arm.complete(ASK, Sampling(json_schema=SCHEMA))).text == '{"value": 2}'
        return arm.identity.notes

    with serving(picky(lambda request: "response_format" in request, "Unknown parameter: response_format")) as server:
        notes = using(server, work)
    assert ["response_format" in request for request in server.asked] == [True, False, False, False]
    assert notes.count(LACKING) == 1
    assert caplog.text.count(LACKING) == 1


def test_servers_of_one_arm_tell_together_what_they_do_not_take() -> None:
    async def work(*urls: str) -> tuple[str, ...]:
        config = ArmConfig(name="far", base_urls=urls)
        async with open_arm(config, EngineConfig(), Path("unused.log")) as arm:
            assert arm.identity.notes.count(LACKING) == 0
            await asyncio.gather(*[arm.complete(ASK, Sampling(json_schema=SCHEMA)) for _ in range(4)])
            return arm.identity.notes

    without = picky(lambda request: "response_format" in request, "Unknown parameter: response_format")
    with serving(without) as first, serving(without) as second:
        assert asyncio.run(work(first.url, second.url)).count(LACKING) == 1


def test_many_requests_at_once_learn_the_dialect_together(caplog: pytest.LogCaptureFixture) -> None:
    async def work(arm: Backend) -> list[Completion]:
        return await asyncio.gather(*[arm.complete(ASK, Sampling(json_schema=SCHEMA, logprobs=1)) for _ in range(20)])

    unknown = picky(lambda request: "response_format" in request or "return_token_ids" in request, "return_token_ids, schema?")
    with serving(unknown) as server:
        assert len(using(server, work)) == 20
    assert caplog.text.count("takes no JSON schema") == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "System role not supported"), (500, "Conversation roles must alternate user/assistant/user/assistant/...")],
)
def test_a_template_without_a_system_role_gets_its_words_in_the_first_user_message(status: int, message: str) -> None:
    async def work(arm: Backend) -> tuple[str, ...]:
        await arm.complete(ASK, Sampling())
        return arm.identity.notes

    with serving(picky(lambda request: request["messages"][0]["role"] == "system", message, status)) as server:
        notes = using(server, work)
    (asked,) = server.asked
    assert asked["messages"] == [{"role": "user", "content": f"{SYSTEM.content}\n\n{ASK[1].content}"}]
    assert "the chat template has no system role: the system message heads the first user message" in notes


def test_a_server_without_log_probabilities_serves_all_the_same() -> None:
    with serving(picky(lambda request: "logprobs" in request, "logprobs is not supported", 422)) as server:
        assert ask(server, Sampling(logprobs=2)).logprobs is None


def test_tasks_that_ended_in_an_error_are_run_again_where_wanted(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        messages = [Message(role=turn["role"], content=turn["content"]) for turn in request["messages"]]
        if broken and scripts.unlucky(messages, 3):
            return refusal(500, "CUDA error")
        return said("2" if is_canary(request) else scripts.solve(messages, Sampling()))

    broken = True
    with serving(answer) as server:
        arm = {"name": "far", "base_url": server.url}
        run = scripts.go(scripts.config(arm, suites=["arith"], limits={"retries": 0}, energy="none"), tmp_path)
        failed = {trace.task_id for trace in run.traces("far") if trace.error is not None}
        broken = False
        plan, listener = prepare(run.config), scripts.Listener()
        asyncio.run(execute(run, plan, listener, retry_errors=True))
    assert failed
    assert listener.advanced == {"far": len(failed)}
    assert [trace.task_id for trace in run.traces("far") if trace.attempt == 2 and trace.correct and trace.task_id in failed]
    (found,) = comparison_json(compare_runs([run]))["arms"]
    assert (found["errors"], found["n"], found["success"]["success"]) == (0, len(run.tasks()), 1.0)


UNLUCKY = [refusal(500, "CUDA error"), Reply(PAGE), said("", "stop", 0), refusal(400, "maximum context length is 9 tokens")]


def test_a_run_goes_on_and_counts_its_errors_by_kind(tmp_path: Path) -> None:
    """One bad answer never ends a run, and what is stored is not asked again."""

    def answer(request: dict[str, Any]) -> Reply:
        messages = [Message(role=turn["role"], content=turn["content"]) for turn in request["messages"]]
        if not is_canary(request) and scripts.unlucky(messages, 3):
            return UNLUCKY[zlib.crc32(messages[-1].content.encode()) // 3 % len(UNLUCKY)]
        return said("2" if is_canary(request) else scripts.solve(messages, Sampling()))

    with serving(answer) as server:
        chosen = scripts.config(
            {"name": "far", "base_url": server.url}, suites=["arith"], tasks_per_depth=30, limits={"retries": 0}, energy="none"
        )
        run = scripts.go(chosen, tmp_path)
        before = len(server.requests)
        assert scripts.go_on(run).advanced == {}
        assert len(server.requests) == before
    traces = list(run.traces("far"))
    failed = [trace for trace in traces if trace.error is not None]
    assert 0 < len(failed) < len(traces)
    assert all(trace.score is None for trace in failed)
    (found,) = comparison_json(compare_runs([run]))["arms"]
    assert sum(found["error_kinds"].values()) == len(failed) == found["errors"]
    assert set(found["error_kinds"]) == {
        "the server failed (500)",
        "the server answered with HTML, not JSON",
        "the server generated nothing",
        "the prompt is longer than the context",
    }
