"""The same token work for every arm: prompts of a given number of tokens, answers of a given number of tokens."""

import random
from collections.abc import Sequence
from contextlib import aclosing
from string import ascii_lowercase
from typing import NamedTuple

from qtrap_agents.backends.base import Backend
from qtrap_agents.concurrency import in_flight
from qtrap_agents.errors import ArmError, CompletionError
from qtrap_agents.types import Completion, Message, Sampling

WORD = 3
PROBES = 12


class Prompts(NamedTuple):
    """Makes prompts of `words` random words; `tokens` is what the arm's tokenizer makes of them, chat template included."""

    words: int
    tokens: int

    def prompt(self, rng: random.Random) -> tuple[Message, ...]:
        """One prompt, different from the others, so that no cache helps."""
        return (Message(role="user", content=text(self.words, rng)),)


def text(words: int, rng: random.Random) -> str:
    """Random words of three letters."""
    return " ".join("".join(rng.choices(ascii_lowercase, k=WORD)) for _ in range(words))


async def fit_prompts(backend: Backend, tokens: int) -> Prompts:
    """Find how many words give a prompt of about so many tokens under the arm's tokenizer and template.

    Raises:
        ArmError: not even one word fits, or the arm does not tell the length of prompts.
    """
    low, high, best = 0, tokens, Prompts(0, 0)
    for _ in range(PROBES):
        words = (low + high + 1) // 2
        found = await _length(backend, words)
        if abs(found - tokens) < abs(best.tokens - tokens):
            best = Prompts(words, found)
        low, high = (words, high) if found <= tokens else (low, words - 1)
        if low >= high:
            break
    if best.tokens <= 0:
        raise ArmError("the arm does not tell how many tokens a prompt has; bench it through vLLM or transformers")
    return best


async def _length(backend: Backend, words: int) -> int:
    """Tokens of a prompt of so many words; one beyond the context counts as endless."""
    try:
        completion = await backend.complete(Prompts(words, 0).prompt(random.Random(words)), Sampling(max_tokens=1))
    except CompletionError:
        return 2**31
    return completion.prompt_tokens


async def fire(
    backend: Backend, prompts: Prompts, new_tokens: int, requests: int, concurrency: int, seed: int | str
) -> list[Completion | CompletionError]:
    """Ask `requests` different prompts, `concurrency` of them in flight; every answer has `new_tokens` tokens.

    The same seed makes the same prompts for every arm. Errors of single requests are among the results.

    Raises:
        ArmDied: the arm is gone.
    """
    rng = random.Random(seed)
    asked = [prompts.prompt(rng) for _ in range(requests)]
    sampling = Sampling(max_tokens=new_tokens, ignore_eos=True)

    async def answer(messages: Sequence[Message]) -> Completion | CompletionError:
        try:
            return await backend.complete(messages, sampling)
        except CompletionError as error:
            return error

    async with aclosing(in_flight(answer, asked, concurrency)) as answers:
        return [found async for found in answers]
