"""The baseline's own text under two arms, position by position: where the tiny errors are (teacher forcing).

Both arms read the same token ids after the same prompt, so positions are aligned by token ids and never by strings. A hop
whose prompt or text the two tokenizers cut differently has no common positions and is set aside.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from qtrap_agents.evidence import TraceScore
from qtrap_agents.premises import value_span
from qtrap_agents.types import Completion, Premise, Score, TokenLogprob, Trace, Value

Aside = Literal["not scored", "other tokens", "other text"]
"""Why a hop has no positions: no scores of both arms, unlike tokenizers, or scores of another text than the stored one."""

_LEAST_REST = 1e-6
"""Probability below which what is left beside the known tokens is rounding of the log-probabilities."""


class Difference(NamedTuple):
    """One position of the baseline's text as another scoring reads it.

    `flip`: its most probable token, `top_id` with `top_logprob`, is not the baseline's. `drop` is how much log-probability
    the baseline's token loses, `kl` the bound of `kl_bound`, both in nats.
    """

    flip: bool
    drop: float
    kl: float
    top_id: int
    top_logprob: float


class HopDivergence(NamedTuple):
    """One hop of the baseline; all tuples but `flips` have one entry for each of its tokens.

    `premises` names the premise in whose value a token stands. `self_flips` are the tokens that are not even the
    baseline's own first choice when it reads its text again. `floor` is that reading against a second one of the same
    arm, `arm` against the other arm. Each is None where it cannot be had; `aside` says why for `arm`. `flips` are the
    positions, from 0, where the other arm's first choice is another token.
    """

    hop_id: str
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...] = ()
    premises: tuple[str | None, ...] = ()
    self_flips: tuple[bool, ...] | None = None
    floor: tuple[Difference, ...] | None = None
    arm: tuple[Difference, ...] | None = None
    aside: Aside | None = None
    flips: tuple[int, ...] = ()


def diverge(trace: Trace, base: TraceScore | None, again: TraceScore | None, arm: TraceScore | None) -> tuple[HopDivergence, ...]:
    """Every hop of a trace of the baseline.

    Args:
        base: the trace as the baseline reads it.
        again: the same a second time, in another batch: the noise floor.
        arm: the trace as the other arm reads it.
    """
    scores = [_by_hop(score, trace.arm) for score in (base, again, arm)]
    return tuple(_hop(hop.id, hop.completion, hop.premises, *(by_hop.get(hop.id) for by_hop in scores)) for hop in trace.hops)


def differences(base: Score, other: Score) -> tuple[Difference, ...] | None:
    """Two readings of one text, position by position; None where prompt or text are cut into other tokens."""
    if base.prompt_checksum != other.prompt_checksum or base.pieces != other.pieces:
        return None
    pairs = list(zip(base.tokens, other.tokens, strict=True))
    if any(ours.token_id != theirs.token_id for ours, theirs in pairs):
        return None
    return tuple(difference(ours, theirs) for ours, theirs in pairs)


def difference(base: TokenLogprob, other: TokenLogprob) -> Difference:
    """One position; a scoring that lists no alternatives knows the given token only and never flips."""
    top_id, top_logprob = other.top[0] if other.top else (other.token_id, other.logprob)
    return Difference(top_id != base.token_id, base.logprob - other.logprob, kl_bound(base, other), top_id, top_logprob)


def kl_bound(base: TokenLogprob, other: TokenLogprob) -> float:
    """A lower bound, in nats, of the Kullback-Leibler divergence of `other` from `base`, from their top lists.

    Both distributions are coarsened to the tokens that are in both lists and one class for all others. Coarsening never
    raises the divergence (data-processing inequality; Cover and Thomas, Elements of Information Theory, 2.8), so the true
    one is at least this, to the 1e-6 below which a rest cannot be told from rounding.
    """
    if base.top == other.top and base.logprob == other.logprob:
        return 0.0
    ours, theirs = _known(base), _known(other)
    bound, our_rest, their_rest = 0.0, 1.0, 1.0
    for token_id in ours.keys() & theirs.keys():
        probability = math.exp(ours[token_id])
        our_rest -= probability
        their_rest -= math.exp(theirs[token_id])
        bound += probability * (ours[token_id] - theirs[token_id])
    our_rest, their_rest = max(our_rest, _LEAST_REST), max(their_rest, _LEAST_REST)
    return max(0.0, bound + our_rest * math.log(our_rest / their_rest))


def premises_at(pieces: Sequence[str], text: str, premises: Sequence[Premise]) -> tuple[str | None, ...]:
    """For each piece of a completion the id of the premise in whose value it stands, whole or in part.

    The token that ends the text right after a value belongs to it: another one there would go on writing the value.
    """
    shift = "".join(pieces).find(text)
    spans = [(premise.id, span) for premise in premises if (span := _span(text, premise)) is not None] if shift >= 0 else []
    found: list[str | None] = []
    start = -max(shift, 0)
    for piece in pieces:
        end = start + len(piece)
        found.append(next((name for name, span in spans if _touches(start, end, span, len(text))), None))
        start = end
    return tuple(found)


def _touches(start: int, end: int, span: tuple[int, int], length: int) -> bool:
    if start == span[1] and start >= length:
        return True
    return start < span[1] and (end > span[0] if end > start else start >= span[0])


def _span(text: str, premise: Premise) -> tuple[int, int] | None:
    """Where the value of a premise stands in the completion of its hop."""
    if premise.value is None or not premise.text:
        return None
    start = 0 if premise.text == text else _last_start(premise.text, text)
    inner = None if start is None else _span_in_statement(premise.text, premise.value)
    return None if start is None or inner is None else (start + inner[0], start + inner[1])


@lru_cache(maxsize=4096)
def _span_in_statement(statement: str, value: Value) -> tuple[int, int] | None:
    spans = (value_span(statement, value, parser) for parser in _parsers(value))
    return next((span for span in spans if span is not None), None)


def _last_start(statement: str, text: str) -> int | None:
    """Where a statement stands last, other than as the beginning of a longer one."""
    starts = [match.start() for match in re.finditer(rf"{re.escape(statement)}(?!\w)", text)]
    return starts[-1] if starts else None


def _parsers(value: Value) -> tuple[str, ...]:
    """The parsers that can have read it, most likely first: a trace does not say which one its suite used."""
    if not isinstance(value, str):
        return ("number",)
    words = len(value.split())
    return ("word" if words == 1 else f"words:{words}", "text", "phrase", "boolean")


def _hop(
    hop_id: str,
    completion: Completion,
    premises: Sequence[Premise],
    base: Score | None,
    again: Score | None,
    arm: Score | None,
) -> HopDivergence:
    token_ids = completion.token_ids
    if base is None:
        return HopDivergence(hop_id, token_ids, aside="not scored")
    if _ids(base) != token_ids:
        return HopDivergence(hop_id, token_ids, aside="other text")
    compared = differences(base, arm) if arm else None
    return HopDivergence(
        hop_id,
        token_ids,
        pieces=base.pieces,
        premises=premises_at(base.pieces, completion.text, premises),
        self_flips=tuple(bool(token.top) and token.top[0][0] != token.token_id for token in base.tokens),
        floor=differences(base, again) if again else None,
        arm=compared,
        aside="not scored" if arm is None else "other tokens" if compared is None else None,
        flips=tuple(index for index, found in enumerate(compared or ()) if found.flip),
    )


def _by_hop(score: TraceScore | None, source: str) -> dict[str, Score]:
    if score is None or score.source != source:
        return {}
    return {hop.hop_id: hop.score for hop in score.hops if hop.score is not None}


def _ids(score: Score) -> tuple[int, ...]:
    return tuple(token.token_id for token in score.tokens)


def _known(token: TokenLogprob) -> dict[int, float]:
    known = dict(token.top)
    known[token.token_id] = token.logprob
    return known
