"""What a request to vLLM's engine is made of and what becomes of its result: lines in, lines out, wherever it computes."""

import json
from functools import lru_cache
from typing import Any, NamedTuple

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

Line = dict[str, Any]
Entry = tuple[list[int], list[float]]
"""One place of a text: token ids and their log-probabilities."""


class Request(NamedTuple):
    """A line ready for the engine. The last `given` tokens of the prompt are a text to be scored; 0 asks for a completion."""

    id: str
    prompt: dict[str, list[int]]
    parameters: Any
    given: int

    def refused(self, error: Exception) -> Line:
        """The answer where the engine does not take it."""
        return refusal(int(self.id), error)


def refusal(number: int, error: Exception) -> Line:
    """The answer to a line that is no request or that the engine does not take."""
    return {"id": number, "error": f"the engine refused the request: {error}"}


class Desk:
    """Between lines and a model with this tokenizer that reads `context` tokens."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self._tokenizer = tokenizer
        self._context = context

    def notes(self) -> list[str]:
        """What a user should know of the chat template."""
        return [] if has_system_role(self._tokenizer) else [NO_SYSTEM_ROLE]

    def read(self, line: Line) -> Request | Line:
        """The request of a line, or its answer where there is nothing for the engine to do."""
        try:
            prompt = prompt_ids(self._tokenizer, line["messages"])
            return self._to_score(line, prompt) if "token_ids" in line else self._to_complete(line, prompt)
        except Exception as error:
            return refusal(line["id"], error)

    def answer(self, output: Any, given: int) -> Line:
        """A completion, a score, or an error where logits that count were not finite."""
        return {"id": int(output.request_id), **(self._score(output, given) if given else _completion(output))}

    def _to_complete(self, line: Line, prompt: list[int]) -> Request | Line:
        if len(prompt) >= self._context:
            return {"id": line["id"], "error": too_long(len(prompt), self._context)}
        parameters = sampling_parameters(json.dumps(line["sampling"]))
        return Request(str(line["id"]), {"prompt_token_ids": prompt}, parameters, 0)

    def _to_score(self, line: Line, prompt: list[int]) -> Request | Line:
        """The given text goes in as part of the prompt; one token more is generated, because vLLM asks for one."""
        token_ids = line["token_ids"]
        if not token_ids:
            return {"id": line["id"], "score": score(self._tokenizer, prompt, [], [])}
        given = {"prompt_token_ids": prompt + token_ids}
        return Request(str(line["id"]), given, scoring_parameters(line["top"]), len(token_ids))

    def _score(self, output: Any, given: int) -> Line:
        entries = ranked(output.prompt_logprobs, given)
        if not all_finite(value for _, values in entries for value in values):
            return {"error": NOT_FINITE}
        return {"score": score(self._tokenizer, output.prompt_token_ids[:-given], output.prompt_token_ids[-given:], entries)}


def _completion(output: Any) -> Line:
    problem = _problem(output)
    return {"error": problem} if problem else {"completion": completion(output)}


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
