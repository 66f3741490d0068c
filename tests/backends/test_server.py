"""Servers that are not vLLM's: they complete, and what they lack for scores is said in one sentence."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qtrap_agents.backends.factory import open_arm
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmError, CompletionError
from qtrap_agents.types import Message, Sampling, Score

ASK = (Message(role="user", content="1"),)
CHAT = {"choices": [{"message": {"content": "2"}, "finish_reason": "stop"}]}
COMMON = {"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": CHAT}


class Handler(BaseHTTPRequestHandler):
    """Answers every path with the same JSON, whatever is asked."""

    answers: ClassVar[dict[str, Any]] = {}
    key: ClassVar[str | None] = None

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        known = self.path in self.answers
        status = 200 if known else 404
        if self.key is not None and self.headers.get("Authorization") != f"Bearer {self.key}":
            known, status = False, 401
        body = json.dumps(self.answers[self.path] if known else {"error": "no such path"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on stderr."""


@contextmanager
def serving(answers: dict[str, Any], key: str | None = None) -> Iterator[str]:
    """A server with these answers, for those who have the key; the URL of its API."""
    handler = type("Answering", (Handler,), {"answers": COMMON | answers, "key": key})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def score(url: str) -> Score:
    async def run() -> Score:
        async with open_arm(ArmConfig(name="foreign", base_url=url), EngineConfig(), Path("unused.log")) as arm:
            assert (await arm.complete(ASK, Sampling())).text == "2"
            return await arm.score(ASK, (5,), 1)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"/tokenize": {"tokens": [1, 2]}},
        {"/tokenize": {"ids": [1, 2]}},
        {"/tokenize": {"tokens": [1, 2]}, "/v1/completions": {"choices": [{"text": "2"}]}},
        {"/tokenize": {"tokens": [1, 2]}, "/v1/completions": {"choices": [{"text": "2", "prompt_logprobs": None}]}},
        {"/tokenize": {"tokens": [1, 2]}, "/v1/completions": {"choices": []}},
    ],
)
def test_a_server_without_log_probabilities_of_prompts(answers: dict[str, Any]) -> None:
    told = r"arm 'foreign': the server at http://127.0.0.1:\d+/v1/ gives no log-probabilities of prompts; use vLLM's server"
    with serving(answers) as url, pytest.raises(ArmError, match=told):
        score(url)


def test_given_tokens_with_their_alternatives_by_rank() -> None:
    places = [None, {"2": {"logprob": -9.0, "rank": 1}}, {"5": {"logprob": -3.0, "rank": 7}, "8": {"logprob": -0.1, "rank": 1}}]
    answers = {
        "/tokenize": {"tokens": [1, 2]},
        "/detokenize": {"prompt": ""},
        "/v1/completions": {"choices": [{"text": "", "prompt_logprobs": places}]},
    }
    with serving(answers) as url:
        found = score(url)
    assert [(token.token_id, token.logprob, token.top) for token in found.tokens] == [(5, -3.0, ((8, -0.1),))]
    assert (found.prompt_tokens, found.pieces) == (2, ("",))


def test_a_server_that_answers_fewer_places_than_tokens_is_an_error() -> None:
    answers = {"/tokenize": {"tokens": [1, 2]}, "/v1/completions": {"choices": [{"text": "", "prompt_logprobs": [None]}]}}
    with serving(answers) as url, pytest.raises((ArmError, CompletionError), match="log-probabilities of prompts"):
        score(url)
