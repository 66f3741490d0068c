"""What OpenAI-compatible endpoints differ in, and how they fail: each failure becomes one sentence.

An endpoint that refuses what not all of them know (vLLM's own fields, a JSON schema, log-probabilities, a system message) is
asked again without it, and from then on. One that is busy is asked again a few times, as late as it wants to be.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from qtrap_agents.backends.chat import GIVEN_UP, NO_SYSTEM_ROLE, NOT_FINITE, TOO_LONG, without_system_role
from qtrap_agents.errors import ArmDied, CompletionError, TransientError
from qtrap_agents.types import Message, Sampling

if TYPE_CHECKING:
    import openai

VLLM_FIELDS = ("return_token_ids", "return_tokens_as_token_ids")
OVERLOADED = (429, 503)
WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before an overloaded endpoint is asked again, where it does not say itself how long to wait."""
LONGEST_WAIT_S = 60.0
LOST = {
    401: "does not take our key; name the variable with the right one in 'api_key_env'",
    402: "wants to be paid first; top up the account",
    404: "knows no such path or model; correct 'base_url' or 'model'",
}
"""Statuses that every further request would get too."""

_BROKEN_LOGITS = re.compile(r"not JSON compliant|\bnan\b|Out of range float", re.IGNORECASE)
_CONTEXT = re.compile(r"context.?length|maximum context|context window|too many tokens|prompt is too long", re.IGNORECASE)
_SHOWN = 300

Result = TypeVar("Result")


class Dialect(NamedTuple):
    """What an endpoint takes. A part that it refused once is False."""

    extras: bool = True
    schema: bool = True
    logprobs: bool = True
    system: bool = True

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it."""
        lacks = {
            "schema": "the server takes no JSON schema: answers are asked for as JSON, not held to it",
            "logprobs": "the server gives no log-probabilities",
            "system": NO_SYSTEM_ROLE,
        }
        return tuple(words for part, words in lacks.items() if not getattr(self, part))


_REFUSALS = {
    "extras": re.compile("|".join(VLLM_FIELDS)),
    "schema": re.compile(r"response_format|json_schema|schema|structured|guided|grammar", re.IGNORECASE),
    "logprobs": re.compile(r"logprobs", re.IGNORECASE),
    "system": re.compile(r"system|roles must alternate", re.IGNORECASE),
}


def simpler(dialect: Dialect, messages: Sequence[Message], sampling: Sampling, refusal: str) -> Dialect | None:
    """The dialect without the part of this request that the refusal names; None where it names none."""
    used = {
        "extras": dialect.extras,
        "schema": dialect.schema and sampling.json_schema is not None,
        "logprobs": dialect.logprobs and sampling.logprobs is not None,
        "system": dialect.system and messages[0].role == "system",
    }
    part = next((part for part, named in _REFUSALS.items() if used[part] and named.search(refusal)), None)
    return None if part is None else dialect._replace(**{part: False})


def request_fields(model: str, messages: Sequence[Message], sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """The arguments of OpenAI's client for one chat request."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    extras: dict[str, Any] = dict.fromkeys(VLLM_FIELDS, True) if dialect.extras else {}
    request: dict[str, Any] = {
        "model": model,
        "messages": chat if dialect.system else without_system_role(chat),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "extra_body": extras | ({"ignore_eos": True} if sampling.ignore_eos else {}),
    }
    if sampling.temperature > 0:
        request["seed"] = sampling.seed
    if sampling.stop:
        request["stop"] = list(sampling.stop)
    if sampling.logprobs is not None and dialect.logprobs:
        request |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    if sampling.json_schema is not None and dialect.schema:
        schema = {"name": "answer", "schema": json.loads(sampling.json_schema), "strict": True}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    return request


def read_response(content: bytes, kind: str = "") -> dict[str, Any]:
    """The fields of an answer with a message in it.

    Args:
        kind: the Content-Type of the answer.

    Raises:
        CompletionError: it is empty, HTML, not whole JSON, or holds no message.
    """
    text = content.decode(errors="replace").strip()
    if not text:
        raise TransientError("the server answered with nothing at all")
    if "html" in kind or text[:1] == "<":
        raise CompletionError(f"the server answered with HTML, not JSON: {_title(text)}; correct 'base_url'")
    try:
        response = json.loads(text)
    except ValueError:
        raise TransientError(
            f"the server's answer is not whole JSON: {len(content):,} bytes that end in {text[-40:]!r}"
        ) from None
    return _with_message(response)


def _with_message(response: Any) -> dict[str, Any]:
    error = response.get("error") if isinstance(response, dict) else None
    if error:
        raise CompletionError(f"the server answered with an error: {_told(error)}")
    try:
        choice = response["choices"][0]
        text, finished = choice["message"].get("content"), choice.get("finish_reason")
        generated = (response.get("usage") or {}).get("completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CompletionError(f"the server's answer holds no message: {json.dumps(response)[:_SHOWN]}") from None
    if finished == "error":
        raise CompletionError(GIVEN_UP)
    if not text and not generated and finished != "length":
        raise CompletionError(f"the server generated nothing: empty text, no tokens, finish_reason {finished!r}")
    return dict(response)


def _title(page: str) -> str:
    found = re.search(r"<title>([^<]*)", page[:10_000], re.IGNORECASE)
    return " ".join((found[1] if found else page).split())[:80]


def _told(error: object) -> str:
    message = error.get("message") if isinstance(error, Mapping) else error
    return " ".join(str(message).split())[:_SHOWN]


def refused(arm: str, error: "openai.APIStatusError") -> CompletionError | ArmDied:
    """What an HTTP status means for a request, or for the whole arm."""
    status, text = error.status_code, _words(error)
    if status in LOST:
        return ArmDied(f"arm '{arm}': the server {LOST[status]} ({status}: {text})")
    if _BROKEN_LOGITS.search(text):
        return CompletionError(NOT_FINITE)
    if status in (400, 413, 422) and _CONTEXT.search(text):
        return CompletionError(f"{TOO_LONG}: {text}")
    if status in OVERLOADED:
        return TransientError(f"the server was overloaded each time it was asked ({status}): {text}")
    if status >= 500:
        return TransientError(f"the server failed ({status}): {text}")
    failure = TransientError if status in (408, 409, 425) else CompletionError
    return failure(f"the server refused the request ({status}): {text}")


def _words(error: "openai.APIStatusError") -> str:
    """What the server said, on one line; of a page, its title."""
    text = str(error.response.text).strip()
    if text[:1] == "<":
        return _title(text)
    body = error.body
    return _told(body if isinstance(body, Mapping) and "message" in body else text or f"status {error.status_code}")


async def patiently(ask: Callable[[], Awaitable[Result]]) -> Result:
    """Ask, and ask again while the endpoint is overloaded (429, 503), for as long as it says or with growing pauses.

    Raises whatever `ask` raises last.
    """
    import openai

    for pause in WAITS_S:
        try:
            return await ask()
        except openai.APIStatusError as error:
            wait = wanted_wait_s(error.response.headers.get("retry-after")) if error.status_code in OVERLOADED else None
            if error.status_code not in OVERLOADED or (wait or 0.0) > LONGEST_WAIT_S:
                raise
        await asyncio.sleep(pause * random.uniform(0.75, 1.25) if wait is None else wait)
    return await ask()


def wanted_wait_s(header: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for, given as a number or a date; None where it gives none."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
