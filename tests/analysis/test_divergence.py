"""Two readings of one text: what counts as a tiny error, and where it stands."""

import math

import forced
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.conftest import make_task, make_trace
from qtrap_agents.analysis.divergence import diverge, kl_bound, premises_at
from qtrap_agents.types import Completion, GoldPremise, Hop, Premise, TokenLogprob, Trace

VOCABULARY = 12

distributions = st.lists(st.floats(1e-4, 1.0), min_size=VOCABULARY, max_size=VOCABULARY).map(
    lambda weights: [weight / sum(weights) for weight in weights]
)


def token(distribution: list[float], token_id: int, top: int) -> TokenLogprob:
    ranked = sorted(range(VOCABULARY), key=lambda index: -distribution[index])[:top]
    logprobs = [math.log(probability) for probability in distribution]
    return TokenLogprob(token_id=token_id, logprob=logprobs[token_id], top=tuple((index, logprobs[index]) for index in ranked))


def divergence(ours: list[float], theirs: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(ours, theirs, strict=True))


@given(distributions, distributions, st.integers(0, VOCABULARY - 1), st.integers(1, VOCABULARY))
def test_the_bound_lies_between_zero_and_the_divergence(ours: list[float], theirs: list[float], token_id: int, top: int) -> None:
    bound = kl_bound(token(ours, token_id, top), token(theirs, token_id, top))
    assert 0 <= bound <= divergence(ours, theirs) + 1e-5


@given(distributions, st.integers(0, VOCABULARY - 1), st.integers(1, VOCABULARY))
def test_equal_distributions_do_not_diverge(ours: list[float], token_id: int, top: int) -> None:
    assert kl_bound(token(ours, token_id, top), token(ours, token_id, top)) == 0


@given(distributions, distributions)
def test_the_bound_is_the_divergence_where_everything_is_listed(ours: list[float], theirs: list[float]) -> None:
    bound = kl_bound(token(ours, 0, VOCABULARY), token(theirs, 0, VOCABULARY))
    assert bound == pytest.approx(divergence(ours, theirs), abs=2e-5)


@given(distributions, distributions, st.integers(1, VOCABULARY - 1))
def test_more_of_the_lists_never_tells_less(ours: list[float], theirs: list[float], top: int) -> None:
    short, long = (kl_bound(token(ours, 0, length), token(theirs, 0, length)) for length in (top, VOCABULARY))
    assert short <= long + 1e-5


def test_a_token_that_became_impossible() -> None:
    """All mass moves to a token that the other list does not know: the rest is bounded, not infinite."""
    ours = TokenLogprob(token_id=1, logprob=0.0, top=((1, 0.0),))
    theirs = TokenLogprob(token_id=1, logprob=-30.0, top=((2, 0.0),))
    assert kl_bound(ours, theirs) == pytest.approx(30, abs=0.1)


@pytest.mark.parametrize(
    ("pieces", "premises", "found"),
    [
        ([" 1", "68", ""], [(" 168", 168)], "aaa"),
        ([" ", "1", "68", ""], [(" 168", 168)], "-aaa"),
        (["-", "4", "1", " apples", "."], [("-41 apples.", -41)], "aaa--"),
        (["s1", " = ", "4", "\n", "s2", " = ", "5", ""], [("s1 = 4", 4), ("s2 = 5", 5)], "--a---bb"),
        (["s1 = 4", "\n", "s1 = 5", "1"], [("s1 = 51", 51)], "--aa"),
        (["s1 = 4", "1", "\n", "s1 = 4", "\n"], [("s1 = 4", 4)], "---a-"),
        (["key", " map", " pen", ""], [("key map pen", "key map pen")], "aaaa"),
        (["The ", "Mentor", " is ", "Ri", "ku", "."], [("The Mentor is Riku.", "riku")], "---aa-"),
        (["a", "b", ";"], [("a b;", "a b")], "---"),
        (["4", "", "1"], [("41", 41)], "aaa"),
        (["no", " idea"], [("no idea", None)], "--"),
        (["4", "1"], [("", 41)], "--"),
        ([], [("", None)], ""),
    ],
)
def test_tokens_of_a_value(pieces: list[str], premises: list[tuple[str, int | str | None]], found: str) -> None:
    text = "".join(pieces)
    stated = [Premise(id=name, text=said, value=value) for name, (said, value) in zip("ab", premises, strict=False)]
    assert "".join(name or "-" for name in premises_at(pieces, text, stated)) == found


def test_tokens_beyond_the_text_and_texts_that_are_not_there() -> None:
    stated = [Premise(id="a", text="41", value=41)]
    assert premises_at(["41", "</s>"], "41", stated) == ("a", "a")
    assert premises_at(["\n", "41"], "41", stated) == (None, "a")
    assert premises_at(["4", "2"], "41", stated) == (None, None)


def baseline(text: str = "41") -> Trace:
    """One hop."""
    completion = Completion(text=text, token_ids=forced.token_ids(text))
    hop = Hop(id="h1", node="h1", completion=completion, premises=(Premise(id="s1", text=text, value=41),))
    task = make_task([GoldPremise(id="s1", text="", value=41)])
    return make_trace(task, {}, arm="fp16", correct=True).model_copy(update={"hops": (hop,)})


def test_flips_and_losses_of_a_hop() -> None:
    trace = baseline()
    (hop,) = diverge(trace, forced.read(trace), forced.read(trace), forced.read(trace, lambda *_: "47"))
    assert (hop.aside, hop.flips, hop.premises) == (None, (1,), ("s1", "s1", "s1"))
    assert hop.arm is not None
    assert [difference.flip for difference in hop.arm] == [False, True, False]
    assert [difference.drop for difference in hop.arm] == pytest.approx([0, forced.SURE - forced.SECOND, 0])
    assert hop.arm[1].kl == pytest.approx(0.9 * math.log(0.9 / 0.05) + 0.1 * math.log(0.1 / 0.95))
    assert (hop.arm[1].top_id, hop.arm[1].top_logprob) == (ord("7"), forced.SURE)
    assert hop.floor == tuple(difference._replace(flip=False, drop=0.0, kl=0.0) for difference in hop.floor or ())
    assert hop.self_flips == (False, False, False)


def test_a_baseline_that_would_not_say_it_again() -> None:
    trace = baseline()
    (hop,) = diverge(trace, forced.read(trace, lambda *_: "51"), forced.read(trace, lambda *_: "51"), None)
    assert hop.self_flips == (True, False, False)
    assert [difference.flip for difference in hop.floor or ()] == [True, False, False]
    assert (hop.arm, hop.aside, hop.flips) == (None, "not scored", ())


def test_hops_that_cannot_be_aligned_are_set_aside() -> None:
    trace, other = baseline(), baseline("411")
    reading = forced.read(trace)
    (prompt,) = diverge(trace, reading, reading, forced.read(trace, checksum="other"))
    (text,) = diverge(trace, forced.read(other), None, reading)
    (arm,) = diverge(trace, reading, None, forced.read(other))
    (source,) = diverge(trace, reading.model_copy(update={"source": "gptq"}), None, reading)
    (nothing,) = diverge(trace, None, None, reading)
    asides = [hop.aside for hop in (prompt, text, arm, source, nothing)]
    assert asides == ["other tokens", "other text", "other tokens", "not scored", "not scored"]
    assert prompt.floor is not None
    assert all(hop.arm is None and not hop.flips for hop in (prompt, text, arm, source, nothing))


def test_pieces_that_differ_are_another_tokenizer() -> None:
    trace = baseline()
    reading = forced.read(trace)
    (only,) = reading.hops
    assert only.score is not None
    moved = only.model_copy(update={"score": only.score.model_copy(update={"pieces": ("", "41", "")})})
    (hop,) = diverge(trace, reading, reading, reading.model_copy(update={"hops": (moved,)}))
    assert hop.aside == "other tokens"
