"""Given texts under real arms: what an arm said itself, what another arm says of it, and what cannot be read."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.chat import NOT_FINITE
from qtrap_agents.errors import CompletionError
from qtrap_agents.types import Completion, Message, Sampling, Score

from .conftest import ENGINE, EOS, POISON, Arms, answers, arm_of, question, scores

TOLERANCE, RELATIVE = 1e-3, 1e-4
"""Of log-probabilities in float32: kernels differ by CPU and batch, and unlikely tokens carry the rounding of large logits."""
KINDS = ["hf", pytest.param("engine", marks=pytest.mark.vllm)]
CACHING = ENGINE.model_copy(update={"prefix_caching": True})


def own_text(arms: Arms, arm: Backend, count: int = 40) -> list[Completion]:
    return arms.run(answers(arm, count, Sampling(max_tokens=20, logprobs=4)))


def same(found: Sequence[Score], expected: Sequence[Score]) -> None:
    """Two readings of the same texts, up to rounding."""
    for one, other in zip(found, expected, strict=True):
        assert (one.prompt_tokens, one.prompt_checksum, one.pieces) == (other.prompt_tokens, other.prompt_checksum, other.pieces)
        for ours, theirs in zip(one.tokens, other.tokens, strict=True):
            assert ours.token_id == theirs.token_id
            assert ours.logprob == pytest.approx(theirs.logprob, abs=TOLERANCE)
            assert [value for _, value in ours.top] == pytest.approx(
                [value for _, value in theirs.top], abs=TOLERANCE, rel=RELATIVE
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["fp16", "reference"])
def test_an_arm_finds_its_own_text_most_probable(arms: Arms, checkpoints: dict[str, Path], weights: str, kind: str) -> None:
    known = {**checkpoints, "reference": Path("reference:small/fp16")}
    arm = arms.open(arm_of(known, weights, kind))
    said = own_text(arms, arm)
    for completion, score in zip(said, arms.run(scores(arm, said)), strict=True):
        assert score.prompt_tokens == completion.prompt_tokens
        assert "".join(score.pieces) == completion.text
        assert score.pieces[-1] == ""
        assert tuple(token.token_id for token in score.tokens) == (*completion.token_ids, EOS)
        for place, token in zip(completion.logprobs or (), score.tokens, strict=False):
            assert token.top[0] == (token.token_id, token.logprob)
            assert token.logprob == pytest.approx(place.logprob, abs=TOLERANCE)
            assert [value for _, value in token.top] == pytest.approx(
                [value for _, value in place.top], abs=TOLERANCE, rel=RELATIVE
            )


@pytest.mark.vllm
@pytest.mark.parametrize("weights", ["fp16", "sym", "asym"])
def test_engine_reads_as_transformers_does(arms: Arms, checkpoints: dict[str, Path], weights: str) -> None:
    reference = arms.open(arm_of(checkpoints, weights, "hf"))
    said = own_text(arms, arms.open(arm_of(checkpoints, "fp16", "hf")))
    same(arms.run(scores(arms.open(arm_of(checkpoints, weights, "engine")), said)), arms.run(scores(reference, said)))


@pytest.mark.vllm
def test_server_reads_as_the_engine_does(arms: Arms, checkpoints: dict[str, Path]) -> None:
    engine, server = (arms.open(arm_of(checkpoints, "sym", kind)) for kind in ("engine", "server"))
    said = own_text(arms, engine, 8)
    same(arms.run(scores(server, said)), arms.run(scores(engine, said)))


def test_another_arm_would_have_said_something_else(arms: Arms, checkpoints: dict[str, Path]) -> None:
    said = own_text(arms, arms.open(arm_of(checkpoints, "fp16", "hf")))
    read = arms.run(scores(arms.open(arm_of(checkpoints, "sym", "hf")), said))
    flips = [token.top[0][0] != token.token_id for score in read for token in score.tokens[:-1]]
    assert 0.02 < sum(flips) / len(flips) < 0.9


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ("fp16", "hf"),
        pytest.param("fp16", "engine", marks=pytest.mark.vllm),
        pytest.param("sym", "overlapped", marks=pytest.mark.vllm),
    ],
)
def test_scores_and_completions_share_an_arm(arms: Arms, checkpoints: dict[str, Path], weights: str, kind: str) -> None:
    arm = arms.open(arm_of(checkpoints, weights, kind))
    said = own_text(arms, arm, 100)

    async def both() -> tuple[list[Score], list[Completion]]:
        return await asyncio.gather(scores(arm, said), answers(arm, 100, Sampling(max_tokens=20)))

    read, again = arms.run(both())
    assert [completion.token_ids for completion in again] == [completion.token_ids for completion in said]
    same(read, arms.run(scores(arm, said)))


@pytest.mark.parametrize("kind", [*KINDS, pytest.param("server", marks=pytest.mark.vllm)])
def test_no_tokens_are_read_at_once_and_no_alternatives_may_be_asked_for(
    arms: Arms, checkpoints: dict[str, Path], kind: str
) -> None:
    arm = arms.open(arm_of(checkpoints, "sym", kind))
    nothing, plain, one = (arms.run(arm.score(question(1), text, top)) for text, top in (((), 4), ((7, 8), 0), ((7, 8), 1)))
    assert (nothing.tokens, nothing.pieces) == ((), ())
    assert (nothing.prompt_tokens, nothing.prompt_checksum) == (plain.prompt_tokens, plain.prompt_checksum)
    assert [(token.token_id, token.top) for token in plain.tokens] == [(7, ()), (8, ())]
    assert [token.logprob for token in plain.tokens] == pytest.approx([token.logprob for token in one.tokens], abs=TOLERANCE)
    assert all(len(token.top) == 1 and token.top[0][1] >= token.logprob for token in one.tokens)


@pytest.mark.parametrize(
    ("kind", "text", "top", "told"),
    [
        ("hf", (7,) * 250, 4, r"prompt and given text have \d+ \+ 250 tokens, the model takes 256"),
        ("hf", (7, 384), 4, "token id 384 is out of the model's vocabulary of 384"),
        ("hf", (-1,), 4, "token id -1 is out of"),
        pytest.param("engine", (7,) * 250, 4, "maximum context length is 256 tokens", marks=pytest.mark.vllm),
        pytest.param("engine", (7, 384), 4, "Token id 384 is out of vocabulary", marks=pytest.mark.vllm),
        pytest.param("engine", (-1,), 4, "Token id -1 is out of vocabulary", marks=pytest.mark.vllm),
        pytest.param("engine", (7,), 21, "greater than max allowed: 20", marks=pytest.mark.vllm),
        pytest.param("server", (7,) * 250, 4, "the prompt is longer than the context: .*256 tokens", marks=pytest.mark.vllm),
        pytest.param("server", (7,), 21, "greater than max allowed: 20", marks=pytest.mark.vllm),
    ],
)
def test_what_cannot_be_read_fails_alone(
    arms: Arms, checkpoints: dict[str, Path], kind: str, text: tuple[int, ...], top: int, told: str
) -> None:
    arm = arms.open(arm_of(checkpoints, "sym", kind))

    async def both() -> tuple[Score | BaseException, Score | BaseException]:
        asked = (arm.score(question(1), text, top), arm.score(question(2), (7, 8), 2))
        return await asyncio.gather(*asked, return_exceptions=True)

    refused, read = arms.run(both())
    assert isinstance(refused, CompletionError)
    assert re.search(told, str(refused))
    assert isinstance(read, Score)
    assert len(read.tokens) == 2


@pytest.mark.vllm
def test_the_prefix_cache_is_not_read(arms: Arms, checkpoints: dict[str, Path]) -> None:
    """Places found in the cache would have no log-probabilities: a second reading is as good as the first."""
    arm = arms.open(arm_of(checkpoints, "poisoned", "engine"), CACHING)
    text, other = tuple(range(6, 206)), tuple(range(205, 5, -1))
    unpoisoned = [tuple(token for token in ids if token != POISON) for ids in (text, other, text)]
    first, _, second = [arms.run(arm.score(question(1), ids, 4)) for ids in unpoisoned]
    same([second], [first])


@pytest.mark.parametrize("kind", KINDS)
def test_logits_that_break_in_mid_run_are_errors(arms: Arms, checkpoints: dict[str, Path], kind: str) -> None:
    """Healthy requests beside and after broken ones are never answered wrongly.

    On a CPU vLLM may fail some of them too: its attention multiplies what a broken request left in a cache block by zero,
    and zero times NaN is NaN.
    """
    arm = arms.open(arm_of(checkpoints, "poisoned", kind), CACHING)
    expected = arms.run(poisoned(arms.open(arm_of(checkpoints, "poisoned", "hf"))))[3:]
    for _ in range(3):
        found = arms.run(poisoned(arm))
        broken, healthy = found[:3], found[3:]
        assert [(type(error), str(error)) for error in broken] == [(CompletionError, NOT_FINITE)] * 3
        answered = [(one, right) for one, right in zip(healthy, expected, strict=True) if isinstance(one, Completion)]
        assert all(isinstance(right, Completion) and one.token_ids == right.token_ids for one, right in answered)
        assert len(answered) > 20
        assert kind == "engine" or len(answered) == sum(isinstance(right, Completion) for right in expected)


async def poisoned(arm: Backend) -> list[Completion | Score | BaseException]:
    """Three requests that cannot be answered, and with them 40 that can, unless the model itself says the poisonous word."""
    chat, sampling = (Message(role="user", content="relate: 1 ="),), Sampling(max_tokens=12)
    broken = (arm.complete(chat, sampling), arm.score(chat, (7, 8), 4), arm.score(question(1), (7, POISON, 8), 4))
    healthy = [arm.complete(question(number), sampling) for number in range(40)]
    return list(await asyncio.gather(*broken, *healthy, return_exceptions=True))
