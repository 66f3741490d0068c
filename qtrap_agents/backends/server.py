"""vLLM over HTTP: its OpenAI-compatible server as a child of ours, or one that already runs (`base_url`)."""

import asyncio
import http.client
import json
import logging
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from qtrap_agents.backends.chat import without_system_role
from qtrap_agents.backends.endpoint import Dialect, patiently, read_response, refused, request_fields, simpler
from qtrap_agents.backends.identity import identify
from qtrap_agents.backends.inspector import combine
from qtrap_agents.backends.launch import Launch, engine_arguments, environment, kv_cache_dtype, vllm_version
from qtrap_agents.backends.metrics import read_metrics
from qtrap_agents.backends.process import Child, owned_child
from qtrap_agents.backends.server_score import NoScores, Scorer
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmDied, ArmError, CompletionError, TransientError
from qtrap_agents.measures import ServerStats
from qtrap_agents.types import ArmIdentity, Completion, Message, Sampling, Score, TokenLogprob, Verification

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
POLL_S = 0.25
PROBE_TIMEOUT_S = 10.0
RETRIES = 2
REFUSING = (400, 422, 500, 501)
"""Statuses with which servers answer what they do not know."""
SERVER = "vllm.entrypoints.openai.api_server"


class ServerArm:
    """An OpenAI-compatible server that answers chat completions."""

    identity: ArmIdentity

    def __init__(
        self, name: str, base_url: str, model: str, timeout_s: float, child: Child | None = None, key: str | None = None
    ) -> None:
        import openai

        self.max_model_len: int | None = None
        self._name = name
        self._key = key
        self._model = model
        self._timeout_s = timeout_s
        self._child = child
        self._dialect = Dialect()
        self._scorer = Scorer(self._call)
        self.client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key or "none",
            max_retries=0,
            timeout=timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(timeout=timeout_s, trust_env=child is None),
        )

    def use_model(self, name: str) -> None:
        """Ask for this model from now on."""
        self._model = name

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer one chat request; any number may be in flight. Errors as in `Backend.complete`."""
        started = time.perf_counter()
        async with self._explained():
            response = await self._ask(messages, sampling)
        completion = as_completion(response, sampling.logprobs is not None and self._dialect.logprobs)
        return completion.model_copy(update={"latency_s": time.perf_counter() - started})

    async def relay(self, body: dict[str, Any]) -> tuple[Completion, dict[str, Any]]:
        """Answer a whole chat request, tools included. Errors as in `Backend.complete`."""
        started = time.perf_counter()
        left = {name: value for name, value in body.items() if name != "messages"}
        create = self.client.chat.completions.with_raw_response.create
        async with self._explained():
            raw = await patiently(partial(create, model=self._model, messages=body["messages"], extra_body=left))
        response = read_response(raw.content, raw.headers.get("content-type", ""))
        completion = as_completion(response, wants_logprobs=False)
        return completion.model_copy(update={"latency_s": time.perf_counter() - started}), response["choices"][0]["message"]

    async def score(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
        """The given text token by token; any number may be in flight. Errors as in `Backend.score`."""
        import openai

        async with self._explained():
            try:
                return await self._scorer.score(self._worded(messages), token_ids, top)
            except (NoScores, openai.NotFoundError) as error:
                raise ArmError(
                    f"arm '{self._name}': the server at {self.client.base_url} gives no log-probabilities of prompts; "
                    "use vLLM's server, or name a 'checkpoint'"
                ) from error

    async def stats(self) -> ServerStats | None:
        """What the server publishes under `/metrics`; None where that is not vLLM's page."""
        page = await fetch(f"{str(self.client.base_url).rstrip('/').removesuffix('/v1')}/metrics", key=self._key)
        return read_metrics(page) if page is not None else None

    @asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        """The client's errors as ours."""
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise TransientError(f"no answer within {self._timeout_s:g} s (engine.request_timeout_s)") from None
        except openai.APIConnectionError as error:
            raise await self._gone(error) from error
        except openai.APIStatusError as error:
            raise refused(self._name, error) from error

    async def _call(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Post to a path under `/v1`, or from the server's root with a leading slash; again where the connection broke."""
        url = f"{str(self.client.base_url).rstrip('/').removesuffix('/v1')}{path}" if path.startswith("/") else path
        client = self.client.with_options(max_retries=RETRIES)
        answer = await client.post(url, cast_to=object, body={"model": self._model, **fields})
        return answer if isinstance(answer, dict) else {}

    async def _ask(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        """The raw response, asked for in as much of the dialect as the server takes."""
        import openai

        while True:
            spoken = self._dialect
            try:
                return await patiently(partial(self._post, messages, sampling, spoken))
            except openai.APIStatusError as error:
                known = simpler(spoken, messages, sampling, str(error)) if error.status_code in REFUSING else None
                if known is None:
                    raise
                self._speak(spoken, known)

    def _speak(self, before: Dialect, now: Dialect) -> None:
        """Leave out from now on what the server refused, and say so once."""
        if self._dialect != before:
            return
        self._dialect = now
        notes = [note for note in now.notes if note not in before.notes]
        self.identity = self.identity.model_copy(update={"notes": (*self.identity.notes, *notes)})
        for note in notes:
            logger.warning("arm %s: %s", self._name, note)

    async def _post(self, messages: Sequence[Message], sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
        request = request_fields(self._model, messages, sampling, dialect)
        raw = await self.client.chat.completions.with_raw_response.create(**request)
        return read_response(raw.content, raw.headers.get("content-type", ""))

    def _worded(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The chat as the server takes it."""
        if self._dialect.system:
            return messages
        return [Message.model_validate(turn) for turn in without_system_role([item.model_dump() for item in messages])]

    async def _gone(self, error: Exception) -> ArmDied | CompletionError:
        """A child that has ended, or that refuses connections, is dead; so is a foreign server nobody answers for."""
        if self._child is None:
            if await fetch(f"{self.client.base_url}models", key=self._key) is not None:
                return TransientError(f"the connection to {self.client.base_url} broke: {error}")
            return ArmDied(f"arm '{self._name}': no server answers at {self.client.base_url}: start it again and resume")
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._child.process.wait()
        except TimeoutError:
            return TransientError(f"the connection to the server broke: {error}")
        return ArmDied(f"arm '{self._name}': the server died in mid-run; {self._child.last_words()}")


@asynccontextmanager
async def open_server(launch: Launch, log: Path) -> AsyncIterator[ServerArm]:
    """Start a server of our own on a free port (or the arm's), wait until it is healthy, end it on leaving.

    Raises:
        ArmError: the port is taken, or the server ended or was not healthy in time.
    """
    name, begun = launch.arm.name, time.monotonic()
    port = claim_port(name, launch.arm.port)
    ours, theirs = socket.socketpair()
    guard = [sys.executable, "-m", "qtrap_agents.backends.guard", "{fd}"]
    command = [*guard, sys.executable, "-m", SERVER, *server_flags(launch, port)]
    settings = environment(launch) | {"VLLM_SERVER_DEV_MODE": "1"}
    with ours:
        async with owned_child(command, settings, log, theirs) as child:
            timeout_s = launch.engine.request_timeout_s
            arm = ServerArm(name, f"http://{HOST}:{port}/v1", served_name(name), timeout_s, child)
            async with arm.client:
                await _healthy(port, child, launch)
                arm.identity = await _own_identity(port, launch)
                logger.info("arm %s: server ready after %.1f s", name, time.monotonic() - begun)
                yield arm


@asynccontextmanager
async def open_running_server(config: ArmConfig, engine: EngineConfig, url: str) -> AsyncIterator[ServerArm]:
    """Use the server at one of the arm's addresses; nothing is started and nothing is ended.

    Raises:
        ArmError: nobody answers there, it wants another key, or it does not serve the model that the arm names.
    """
    base_url, key = url.rstrip("/"), api_key(config)
    arm = ServerArm(config.name, base_url, config.model or "", engine.request_timeout_s, key=key)
    async with arm.client:
        arm.identity = await _foreign_identity(arm, config, base_url, key)
        yield arm


def api_key(config: ArmConfig) -> str | None:
    """The key for a running server, read from the environment and kept nowhere else. Raises ArmError where it is not set."""
    if config.api_key_env is None:
        return os.environ.get("OPENAI_API_KEY")
    key = os.environ.get(config.api_key_env)
    if not key:
        raise ArmError(f"arm '{config.name}': the environment variable {config.api_key_env} is not set; export the key under it")
    return key


def served_name(arm: str) -> str:
    """The model name that the server is asked for: stable in metric labels."""
    return f"qtrap-{arm}"


def claim_port(arm: str, port: int | None) -> int:
    """The arm's port after a look that it is free, or a free one.

    Raises:
        ArmError: the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            reason = error.strerror or str(error)
            raise ArmError(
                f"arm '{arm}': port {port} cannot be used ({reason}); choose another 'port' or leave it out"
            ) from error
        found: int = probe.getsockname()[1]
    return found


def server_flags(launch: Launch, port: int) -> list[str]:
    """The engine arguments as command-line flags, and where to listen."""
    flags = ["--host", HOST, "--port", str(port), "--served-model-name", served_name(launch.arm.name)]
    for name, value in engine_arguments(launch).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return [*flags, "--disable-uvicorn-access-log"]


def as_completion(response: Mapping[str, Any], wants_logprobs: bool) -> Completion:
    """A chat completion response, with vLLM's token ids where the server gives them."""
    choice, usage = response["choices"][0], response.get("usage") or {}
    entries = (choice.get("logprobs") or {}).get("content") or []
    return Completion(
        text=choice["message"].get("content") or "",
        token_ids=tuple(choice.get("token_ids") or ()),
        finish_reason=choice.get("finish_reason") or "stop",
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        logprobs=tuple(map(_token_logprob, entries)) if wants_logprobs else None,
    )


def _token_logprob(entry: Mapping[str, Any]) -> TokenLogprob:
    top = tuple((_token_id(item["token"]), item["logprob"]) for item in entry.get("top_logprobs") or ())
    return TokenLogprob(token_id=_token_id(entry["token"]), logprob=entry["logprob"], top=top)


def _token_id(token: str) -> int:
    """vLLM writes `token_id:123`; other servers write the text, which has no id to us."""
    number = token.removeprefix("token_id:")
    return int(number) if number != token and number.isdigit() else -1


async def _healthy(port: int, child: Child, launch: Launch) -> None:
    """Wait for `/health`."""
    name, limit = launch.arm.name, launch.engine.start_timeout_s
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if child.ended:
            raise ArmError(f"arm '{name}': the server ended at start; {child.last_words()}")
        if await fetch(f"http://{HOST}:{port}/health") is not None:
            return
        await asyncio.sleep(POLL_S)
    raise ArmError(f"arm '{name}': not ready after {limit:g} s (engine.start_timeout_s); {child.last_words()}")


async def _own_identity(port: int, launch: Launch) -> ArmIdentity:
    """Ask the workers through our inspector; a vLLM without that route leaves the engine's side unknown."""
    answer = await fetch(f"http://{HOST}:{port}/collective_rpc", {"method": "qtrap_facts"})
    facts = combine(json.loads(answer)["results"]) if answer else None
    return await asyncio.to_thread(
        identify,
        "vllm",
        launch.checkpoint,
        facts,
        engine=vllm_version(),
        kv_cache_dtype=kv_cache_dtype(launch),
        revision=launch.arm.revision,
    )


class Served(NamedTuple):
    """A model that a server lists: the checkpoint behind it, and how many tokens a request may have where it tells."""

    checkpoint: str
    max_model_len: int | None


async def _foreign_identity(arm: ServerArm, config: ArmConfig, base_url: str, key: str | None) -> ArmIdentity:
    """What a server we did not start tells about itself: its model, version and cache dtype; the rest is unknown."""
    served = await _models(config, base_url, key)
    model = config.model or next(iter(served), "")
    if model not in served:
        raise ArmError(f"arm '{config.name}': {base_url} serves {', '.join(served) or 'nothing'}, not '{model}'; correct 'model'")
    arm.use_model(model)
    arm.max_model_len = served[model].max_model_len
    root = base_url.removesuffix("/v1")
    version, metrics = await asyncio.gather(fetch(f"{root}/version", key=key), fetch(f"{root}/metrics", key=key))
    cache = re.search(r'cache_config_info\{.*?cache_dtype="([^"]+)"', metrics or "")
    number = re.search(r'"version"\s*:\s*"([^"]+)"', version or "")
    return ArmIdentity(
        backend="vllm" if number and "vllm:" in (metrics or "") else "endpoint",
        checkpoint=served[model].checkpoint,
        kv_cache_dtype=cache.group(1) if cache else None,
        engine=f"vllm {number.group(1)}" if number else None,
        source=f"{base_url}: /v1/models, /version, /metrics",
        notes=("a server that we did not start: quantisation, kernels, dtype and weight bytes are unknown",),
        verification=Verification(status="unknown", reason="a server that we did not start"),
    )


async def _models(config: ArmConfig, base_url: str, key: str | None) -> dict[str, Served]:
    """The models of a server, by the names that they are asked for."""
    try:
        answer = await asyncio.to_thread(_read, f"{base_url}/models", None, key)
        return {item["id"]: _served(item) for item in json.loads(answer)["data"]}
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in (401, 403):
            raise ArmError(_nobody(config, base_url)) from None
        raise ArmError(
            f"arm '{config.name}': {base_url} refuses our key ({error.code}); name the environment variable that holds "
            "the right one in 'api_key_env'"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException):
        raise ArmError(_nobody(config, base_url)) from None


def _served(item: Mapping[str, Any]) -> Served:
    length = item.get("max_model_len")
    return Served(item.get("root") or item["id"], length if isinstance(length, int) else None)


def _nobody(config: ArmConfig, base_url: str) -> str:
    return f"arm '{config.name}': no OpenAI-compatible server answers at {base_url}; start it or correct base_url"


async def fetch(url: str, body: dict[str, Any] | None = None, key: str | None = None) -> str | None:
    """The text at an address (POST where there is a body), None where it is not there or refuses."""
    try:
        return await asyncio.to_thread(_read, url, body, key)
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _read(url: str, body: dict[str, Any] | None, key: str | None) -> str:
    handlers = [urllib.request.ProxyHandler({})] if f"//{HOST}:" in url else []
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, {"Content-Type": "application/json"})
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.build_opener(*handlers).open(request, timeout=PROBE_TIMEOUT_S) as response:
        return str(response.read().decode(errors="replace"))
