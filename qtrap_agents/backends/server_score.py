"""Scores over HTTP, with what vLLM's server adds to OpenAI's: `/tokenize`, `/detokenize` and `prompt_logprobs`."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from qtrap_agents.backends.chat import HALF_CHARACTER, Ids, checksum, distinct, pieces, windows
from qtrap_agents.types import Message, Score, TokenLogprob

Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Posts fields to a path (under `/v1`, or from the root with a leading slash) and gives the fields of the answer."""


AT_ONCE = 64
"""Calls in flight; a score makes about two for each of its tokens."""


class NoScores(Exception):
    """The server does not know these endpoints or fields."""


class Scorer:
    """Reads given texts on one server."""

    def __init__(self, call: Call) -> None:
        self._post = call
        self._free = asyncio.Semaphore(AT_ONCE)
        self._special: dict[int, bool] = {}

    async def score(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
        """As in `Backend.score`. Raises NoScores and whatever the call raises."""
        prompt = await self._prompt(messages)
        places = await self._read(prompt, token_ids, top) if token_ids else []
        return Score(
            prompt_tokens=len(prompt),
            prompt_checksum=checksum(prompt),
            tokens=tuple(_place(token, known, top) for token, known in zip(token_ids, places, strict=True)),
            pieces=await self._pieces(prompt, token_ids),
        )

    async def _prompt(self, messages: Sequence[Message]) -> list[int]:
        chat = [{"role": message.role, "content": message.content} for message in messages]
        answer = await self._call("/tokenize", {"messages": chat, "add_generation_prompt": True})
        tokens: list[int] = _field(answer, "tokens")
        return tokens

    async def _read(self, prompt: list[int], token_ids: Sequence[int], top: int) -> list[Mapping[str, Any]]:
        """One entry a given token. A salt of its own keeps the request off the prefix cache."""
        wanted = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": top, "cache_salt": uuid.uuid4().hex}
        places = _field(await self._complete({"prompt": [*prompt, *token_ids], **wanted}), "prompt_logprobs")
        if len(places) != len(prompt) + len(token_ids):
            raise NoScores("prompt_logprobs")
        return list(places[len(prompt) :])

    async def _call(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        async with self._free:
            return await self._post(path, fields)

    async def _complete(self, fields: dict[str, Any]) -> Mapping[str, Any]:
        choice: Mapping[str, Any] = next(iter(_field(await self._call("completions", fields), "choices")), {})
        return choice

    async def _pieces(self, prompt: list[int], token_ids: Sequence[int]) -> tuple[str, ...]:
        pairs = list(windows(prompt, token_ids))
        needed, given = distinct(pairs), list(dict.fromkeys(token_ids))
        texts = await asyncio.gather(*map(self._text, needed))
        special = dict(zip(given, await asyncio.gather(*map(self._is_special, given)), strict=True))
        found = pieces(pairs, dict(zip(needed, texts, strict=True)))
        return tuple("" if special[token] else piece for token, piece in zip(token_ids, found, strict=True))

    async def _text(self, token_ids: Ids) -> str:
        answer = await self._call("/detokenize", {"tokens": token_ids})
        return str(_field(answer, "prompt"))

    async def _is_special(self, token: int) -> bool:
        """True for tokens that the server leaves out of a text: `/detokenize` names them, so it is made to say one."""
        if token not in self._special:
            wanted = {"prompt": [token], "max_tokens": 1, "temperature": 0, "allowed_token_ids": [token]}
            silent = not _field(await self._complete(wanted), "text")
            self._special[token] = silent and HALF_CHARACTER not in await self._text((token,))
        return self._special[token]


def _place(token: int, known: Mapping[str, Any], top: int) -> TokenLogprob:
    """vLLM lists the given token and the `top` most probable ones, with their ranks."""
    ranked = sorted(known.items(), key=lambda item: int(item[1]["rank"]))[:top]
    alternatives = tuple((int(other), float(value["logprob"])) for other, value in ranked)
    return TokenLogprob(token_id=token, logprob=known[str(token)]["logprob"], top=alternatives)


def _field(answer: Mapping[str, Any], name: str) -> Any:
    if answer.get(name) is None:
        raise NoScores(name)
    return answer[name]
