"""The child that serves a vLLM arm without HTTP: `python -m qtrap_agents.backends.engine_worker FD`.

JSON lines over the socket FD. First in: `{"arguments": {…}}`. First out: `{"ready": ModelFacts, "notes": […], "start_s": …}`.
Then in `{"id", "messages", "sampling"}`, `{"id", "messages", "token_ids", "top"}`, `{"id", "stats"}`, `{"id", "profile"}` or
`{"abort": id}`, and out, as they finish, `{"id", "completion"}`, `{"id", "score"}`, `{"id", "metrics"}`, `{"id", "kernels"}` or
`{"id", "error"}`; `{"alive": true}` at least every second while the engine steps. Requests are read between steps and join
the running batch.
"""

import json
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, NoReturn

from qtrap_agents.backends.chat import (
    GIVEN_UP,
    NO_SYSTEM_ROLE,
    NOT_FINITE,
    all_finite,
    checksum,
    has_system_role,
    prompt_ids,
    text_pieces,
    too_long,
)
from qtrap_agents.backends.guard import kill_own_group
from qtrap_agents.backends.inspector import combine
from qtrap_agents.concurrency import rarely_collected

HEARTBEAT_S = 1.0
BURST = 8
"""Where the engine computes in this process, a burst of requests is spread over so many steps: what is in flight is not held up,
and chains that would all be answered in the same step drift apart, so that their client works while the engine does."""

Line = dict[str, Any]
Entry = tuple[list[int], list[float]]
"""One place of a text: token ids and their log-probabilities."""


class Channel:
    """The socket to the parent: a thread reads into a queue, and ends this process group when the parent is gone."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._inbox: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self.sent_at = time.monotonic()
        threading.Thread(target=self._read, daemon=True).start()

    def receive(self, wait: bool, limit: int) -> Iterator[Line]:
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
        self.sent_at = time.monotonic()

    def _read(self) -> None:
        """A killed parent may leave answers unread, then the socket is reset, or half a line behind."""
        with suppress(ConnectionError, ValueError), self._socket.makefile("rb") as stream:
            for line in stream:
                self._inbox.put(json.loads(line))
        kill_own_group()


class Worker:
    """vLLM's engine, stepped by hand, with the defaults of its server (how many tokens share a step, above all).

    On a CPU its core computes in this process; on a GPU in one of its own, so that the GPU never waits for us. `at_once` is how
    many lines are to be taken between two steps.
    """

    def __init__(self, arguments: Line) -> None:
        from vllm.config import StructuredOutputsConfig
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        structured = StructuredOutputsConfig(**arguments["structured_outputs_config"])
        chosen = EngineArgs(**arguments | {"structured_outputs_config": structured})
        self._engine = LLMEngine.from_engine_args(chosen, usage_context=UsageContext.OPENAI_API_SERVER)
        self._tokenizer = self._engine.get_tokenizer()
        self._context = int(self._engine.model_config.max_model_len)
        elsewhere = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "1"
        self.at_once = sys.maxsize if elsewhere else max(1, arguments["max_num_seqs"] // BURST)
        self._given: dict[str, int] = {}

    def facts(self) -> Line:
        """What every worker of the engine holds, put together."""
        return dict(combine(self._engine.collective_rpc("qtrap_facts")))

    def notes(self) -> list[str]:
        """What a user should know of the chat template."""
        return [] if has_system_role(self._tokenizer) else [NO_SYSTEM_ROLE]

    @property
    def busy(self) -> bool:
        """True while a request is unfinished."""
        return bool(self._engine.has_unfinished_requests())

    def take(self, line: Line) -> list[Line]:
        """Queue a request or abort one; an answer at once where the engine refuses it or has nothing to do."""
        if "abort" in line:
            self._given.pop(str(line["abort"]), None)
            self._engine.abort_request([str(line["abort"])])
            return []
        if "stats" in line:
            return [{"id": line["id"], "metrics": metrics()}]
        if "profile" in line:
            return [self._profile(line)]
        try:
            prompt = prompt_ids(self._tokenizer, line["messages"])
            return self._score(line, prompt) if "token_ids" in line else self._complete(line, prompt)
        except Exception as error:
            return [{"id": line["id"], "error": f"the engine refused the request: {error}"}]

    def step(self) -> list[Line]:
        """One step of the engine; lines for what finished."""
        return [{"id": int(output.request_id), **self._answer(output)} for output in self._engine.step() if output.finished]

    def _profile(self, line: Line) -> Line:
        """Every worker of the engine profiles; the times are those of the first."""
        try:
            kernels = self._engine.collective_rpc(f"qtrap_{line['profile']}_profile")[0]
        except Exception as error:
            return {"id": line["id"], "error": f"the engine cannot be profiled: {error}"}
        return {"id": line["id"], "kernels": kernels}

    def _complete(self, line: Line, prompt: list[int]) -> list[Line]:
        if len(prompt) >= self._context:
            return [{"id": line["id"], "error": too_long(len(prompt), self._context)}]
        parameters = sampling_parameters(json.dumps(line["sampling"]))
        self._engine.add_request(str(line["id"]), {"prompt_token_ids": prompt}, parameters)
        return []

    def _score(self, line: Line, prompt: list[int]) -> list[Line]:
        """The given text goes in as part of the prompt; one token more is generated, because vLLM asks for one."""
        token_ids = line["token_ids"]
        if not token_ids:
            return [{"id": line["id"], "score": score(self._tokenizer, prompt, [], [])}]
        number = str(line["id"])
        self._engine.add_request(number, {"prompt_token_ids": prompt + token_ids}, scoring_parameters(line["top"]))
        self._given[number] = len(token_ids)
        return []

    def _answer(self, output: Any) -> Line:
        """A completion, a score, or an error where logits that count were not finite."""
        given = self._given.pop(output.request_id, 0)
        if not given:
            problem = _problem(output)
            return {"error": problem} if problem else {"completion": completion(output)}
        entries = ranked(output.prompt_logprobs, given)
        if not all_finite(value for _, values in entries for value in values):
            return {"error": NOT_FINITE}
        return {"score": score(self._tokenizer, output.prompt_token_ids[:-given], output.prompt_token_ids[-given:], entries)}


def _problem(output: Any) -> str | None:
    """Why a finished request is no answer."""
    if getattr(output.metrics, "is_corrupted", False):
        return NOT_FINITE
    return GIVEN_UP if output.outputs[0].finish_reason == "error" else None


@lru_cache(maxsize=64)
def sampling_parameters(sampling: str) -> Any:
    """vLLM's SamplingParams for one of our `Sampling` records as JSON. Greedy requests need no generator of their own.

    Requests with equal records share it: vLLM adds nothing to it that depends on the request, and a deep copy for each takes as
    long as reading its prompt.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    wanted = json.loads(sampling)
    schema = wanted["json_schema"]
    parameters = SamplingParams(
        temperature=wanted["temperature"],
        top_p=wanted["top_p"],
        max_tokens=wanted["max_tokens"],
        seed=wanted["seed"] if wanted["temperature"] > 0 else None,
        stop=wanted["stop"] or None,
        ignore_eos=wanted["ignore_eos"],
        logprobs=wanted["logprobs"],
        structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    parameters.skip_clone = True
    return parameters


@lru_cache(maxsize=64)
def scoring_parameters(top: int) -> Any:
    """vLLM's SamplingParams for a score.

    With a prefix found in the cache vLLM would give no log-probabilities for it: the cache is not read.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=top,
        flat_logprobs=True,
        detokenize=False,
        skip_reading_prefix_cache=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def metrics() -> str:
    """Everything that vLLM counts in this process, as Prometheus would read it."""
    from prometheus_client import generate_latest

    page: bytes = generate_latest()
    return page.decode()


def completion(output: Any) -> Line:
    """The fields of a Completion from a finished RequestOutput."""
    result = output.outputs[0]
    return {
        "text": result.text,
        "token_ids": list(result.token_ids),
        "finish_reason": result.finish_reason or "abort",
        "prompt_tokens": len(output.prompt_token_ids),
        "completion_tokens": len(result.token_ids),
        "ttft_s": getattr(output.metrics, "first_token_latency", None) or None,
        "logprobs": token_logprobs(result.token_ids, result.logprobs),
    }


def score(tokenizer: Any, prompt: list[int], token_ids: list[int], entries: list[Entry]) -> Line:
    """The fields of a Score."""
    tokens = [
        {"token_id": ids[0], "logprob": values[0], "top": list(zip(ids[1:], values[1:], strict=True))} for ids, values in entries
    ]
    return {
        "prompt_tokens": len(prompt),
        "prompt_checksum": checksum(prompt),
        "tokens": tokens,
        "pieces": text_pieces(tokenizer, prompt, token_ids),
    }


def ranked(logprobs: Any, count: int) -> list[Entry]:
    """The last `count` places of vLLM's FlatLogprobs: the token that stands there first, then the alternatives by rank."""
    places = zip(logprobs.start_indices[-count:], logprobs.end_indices[-count:], strict=True)
    return [(logprobs.token_ids[begin:end], logprobs.logprobs[begin:end]) for begin, end in places]


def token_logprobs(token_ids: list[int], logprobs: Any) -> list[Line] | None:
    """One entry per generated token: its log-probability and the alternatives by rank."""
    if logprobs is None:
        return None
    entries = []
    for token, known in zip(token_ids, logprobs, strict=True):
        ranked = sorted(known.items(), key=lambda item: item[1].rank)
        top = [(alternative, value.logprob) for alternative, value in ranked]
        entries.append({"token_id": token, "logprob": known[token].logprob, "top": top})
    return entries


def serve(channel: Channel, worker: Worker) -> NoReturn:
    """Answer until the parent closes the socket."""
    while True:
        lines = channel.receive(not worker.busy, worker.at_once)
        answers = [out for line in lines for out in worker.take(line)]
        if worker.busy:
            answers += worker.step()
        if answers:
            channel.send(answers)
        elif time.monotonic() - channel.sent_at > HEARTBEAT_S:
            channel.send([{"alive": True}])


def main() -> NoReturn:
    """Start the engine that the first line describes, report it and serve. An error ends the process: its log tells."""
    started = time.monotonic()
    try:
        channel = Channel(int(sys.argv[1]))
        worker = Worker(next(channel.receive(wait=True, limit=1))["arguments"])
        rarely_collected()
        channel.send([{"ready": worker.facts(), "notes": worker.notes(), "start_s": time.monotonic() - started}])
        serve(channel, worker)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
