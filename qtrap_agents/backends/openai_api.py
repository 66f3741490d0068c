"""The chat completions API as a server speaks it: requests in, responses and errors out. Source: OpenAI's API reference.

What a backend cannot do is refused by name (`Refused`), never left out in silence. `model` is taken as it comes: an app asks
for the model that it was written for and is answered by the arm.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qtrap_agents.types import Completion, Message, Sampling

Roles = Literal["system", "user", "assistant"]
ROLES: dict[str, Roles] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_LIMITS = ("max_tokens", "max_completion_tokens")


class Refused(Exception):
    """A request that is not answered: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str, kind: str = "invalid_request_error") -> None:
        super().__init__(sentence)
        self.status, self.kind = status, kind


class _Loose(BaseModel):
    """Fields that nobody declared are passed over: clients send many that change no answer."""

    model_config = ConfigDict(extra="ignore")


class _Part(_Loose):
    type: str
    text: str = ""


class _ChatMessage(_Loose):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Schema(_Loose):
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class _ResponseFormat(_Loose):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _StreamOptions(_Loose):
    include_usage: bool = False


class ChatRequest(_Loose):
    """The fields of a request that decide its answer."""

    messages: list[_ChatMessage] = Field(min_length=1)
    model: str = ""
    stream: bool = False
    stream_options: _StreamOptions | None = None
    n: int | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    response_format: _ResponseFormat | None = None
    logprobs: bool | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[dict[str, Any]] | None = None
    functions: list[dict[str, Any]] | None = None

    @property
    def needs_server(self) -> bool:
        """Tools in the request or in the conversation: only a server with a tool parser can answer."""
        spoken = any(message.role in ("tool", "function") or message.tool_calls for message in self.messages)
        return bool(self.tools or self.functions or spoken)


def read_request(body: bytes) -> ChatRequest:
    """The request in a body.

    Raises:
        Refused: it is no JSON, a field is wrong, or it asks for something that the gateway does not do.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise Refused(400, f"field '{place}': {first['msg']}") from error
    refused = {
        "n": (request.n or 1) != 1,
        "logprobs": bool(request.logprobs),
        "frequency_penalty": bool(request.frequency_penalty),
        "presence_penalty": bool(request.presence_penalty),
        "logit_bias": bool(request.logit_bias),
    }
    for name, given in refused.items():
        if given:
            raise Refused(400, f"field '{name}': the gateway gives one plain answer a request; leave '{name}' out")
    return request


def messages_of(request: ChatRequest) -> tuple[Message, ...]:
    """The conversation in the words of a `Backend`: `developer` is `system`, text parts are joined, tool turns are user turns.

    Raises:
        Refused: a part is no text.
    """
    return tuple(_message(message) for message in request.messages)


def _message(message: _ChatMessage) -> Message:
    text = message.content if isinstance(message.content, str) else "".join(map(_text, message.content or ()))
    if message.tool_calls:
        calls = "\n".join(json.dumps(call.get("function", call), ensure_ascii=False) for call in message.tool_calls)
        text = f"{text}\n{calls}".strip()
    return Message(role=ROLES.get(message.role, "user"), content=text)


def _text(part: _Part) -> str:
    if part.type not in ("text", "input_text"):
        raise Refused(400, f"a message has a part of type '{part.type}'; arms read text only")
    return part.text


def sampling_of(request: ChatRequest, default: Sampling) -> Sampling:
    """How the answer is drawn: the fields of the request, and the default where it is silent."""
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    asked: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_completion_tokens or request.max_tokens,
        "seed": request.seed,
        "stop": stop or None,
        "json_schema": _json_schema(request.response_format),
    }
    return default.model_copy(update={name: value for name, value in asked.items() if value is not None})


def _json_schema(wanted: _ResponseFormat | None) -> str | None:
    if wanted is None or wanted.type == "text":
        return None
    schema = wanted.json_schema.schema_ if wanted.json_schema else {}
    return json.dumps(schema or {"type": "object"})


def relayed(body: Mapping[str, Any], sampling: Sampling) -> dict[str, Any]:
    """A request for another server: as it was, with the sampling spelt out, without what belongs to this connection."""
    left = {name: value for name, value in body.items() if name not in ("model", "stream", "stream_options", *_LIMITS)}
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}
    return {**left, **drawn, **({"seed": sampling.seed} if sampling.temperature > 0 else {})}


def response(call_id: str, model: str, completion: Completion, message: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A chat completion; `message` replaces the assistant's message where a server wrote one with tool calls."""
    said = dict(message) if message else {"role": "assistant", "content": completion.text, "refusal": None}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": completion.finish_reason}
    return {**_head(call_id, "chat.completion", model), "choices": [choice], "usage": _usage(completion)}


def events(answered: Mapping[str, Any], with_usage: bool) -> Iterator[str]:
    """The same as server-sent events: the whole text in one piece, its end, the usage where it was asked for."""
    head = _head(answered["id"], "chat.completion.chunk", answered["model"])
    choice = answered["choices"][0]
    delta = dict(choice["message"])
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    pieces: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}]},
    ]
    if with_usage:
        pieces.append({"choices": [], "usage": answered["usage"]})
    for piece in pieces:
        yield f"data: {json.dumps({**head, **piece})}\n\n"
    yield "data: [DONE]\n\n"


def models(name: str) -> dict[str, Any]:
    """The list of models: the arm."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "qtrap"}]}


def error_body(refused: Refused) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": str(refused), "type": refused.kind, "param": None, "code": None}}


def _head(call_id: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": call_id, "object": kind, "created": int(time.time()), "model": model}


def _usage(completion: Completion) -> dict[str, int]:
    prompt, generated = completion.prompt_tokens, completion.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
