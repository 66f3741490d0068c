"""Teacher forcing without a model: tokens are characters, and an arm scores a text by what it would have written itself.

Arms of this module (`script: forced:steady`) answer like those of `scripts` and can score.
"""

import math
from collections.abc import Callable, Sequence

import scripts

from qtrap_agents.errors import ArmError, CompletionError
from qtrap_agents.evidence import HopScore, TraceScore
from qtrap_agents.types import Completion, Message, Sampling, Score, TokenLogprob, Trace

END = 0
SURE, SECOND = math.log(0.9), math.log(0.05)
OTHER = 1_000


def token_ids(text: str) -> tuple[int, ...]:
    """One for each character, and one that ends the text."""
    return (*map(ord, text), END)


def pieces(ids: Sequence[int]) -> tuple[str, ...]:
    """Their texts."""
    return tuple("" if number == END else chr(number) for number in ids)


def score(ids: Sequence[int], own: str, checksum: str = "same") -> Score:
    """A text under an arm that would write `own`: it is surprised once, where the texts part, and goes along then."""
    wanted = token_ids(own)
    parts = next((index for index, number in enumerate(ids) if index >= len(wanted) or number != wanted[index]), len(ids))
    tokens = [
        TokenLogprob(token_id=number, logprob=SECOND, top=((wanted[index], SURE), (number, SECOND)))
        if index == parts
        else TokenLogprob(token_id=number, logprob=SURE, top=((number, SURE), (OTHER, SECOND)))
        for index, number in enumerate(ids)
    ]
    return Score(prompt_tokens=3, prompt_checksum=checksum, tokens=tuple(tokens), pieces=pieces(ids))


def read(trace: Trace, answers: Callable[[int, str], str] = lambda hop, text: text, checksum: str = "same") -> TraceScore:
    """A trace under an arm that answers hop `hop` (from 1) with `answers(hop, text)`, given the text of the trace."""
    scores = (
        HopScore(hop_id=hop.id, score=score(hop.completion.token_ids, answers(number, hop.completion.text), checksum))
        for number, hop in enumerate(trace.hops, start=1)
    )
    return TraceScore(task_id=trace.task_id, seed=trace.seed, source=trace.arm, hops=tuple(scores))


class Arm:
    """Answers by a function of `scripts` and counts what it is asked to score."""

    def __init__(self, answer: Callable[[Sequence[Message], Sampling], str], checksum: str = "same") -> None:
        self._answer, self._checksum = answer, checksum
        self.scored = 0

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        text = self._answer(messages, sampling)
        return Completion(text=text, token_ids=token_ids(text), prompt_tokens=3, completion_tokens=len(text) + 1)

    def score(self, messages: Sequence[Message], ids: Sequence[int], top: int) -> Score:
        """What `Backend.score` gives."""
        self.scored += 1
        return score(ids, self._answer(messages, Sampling()), self._checksum)


class Picky(Arm):
    """Refuses to score unlucky prompts."""

    def score(self, messages: Sequence[Message], ids: Sequence[int], top: int) -> Score:
        if scripts.unlucky(messages):
            raise CompletionError("the context is full")
        return super().score(messages, ids, top)


class Absent(Arm):
    """Cannot score at all."""

    def score(self, messages: Sequence[Message], ids: Sequence[int], top: int) -> Score:
        raise ArmError("arm 'absent': the server gives no log-probabilities of prompts")


steady, shaky = Arm(scripts.solve), Arm(scripts.noisy)
foreign, picky, absent = Arm(scripts.noisy, "other"), Picky(scripts.noisy), Absent(scripts.noisy)
ARMS = {"steady": steady, "shaky": shaky, "foreign": foreign, "picky": picky, "absent": absent}


def arms(*names: str) -> list[dict[str, str]]:
    """Their configuration."""
    return [{"name": name, "backend": "scripted", "script": f"forced:{name}"} for name in names]
