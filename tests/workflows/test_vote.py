"""`vote`: samples with seeds of their own, the majority, and what a tie does."""

from collections.abc import Sequence

import driven
import pytest
from driven import DIAMOND, LINE, OPEN, drew, right, run, values

from qtrap_agents.analysis.collapse import analyse
from qtrap_agents.config import SamplingConfig
from qtrap_agents.errors import CompletionError
from qtrap_agents.types import Completion, Hop, Message, Premise, Sampling, Value
from qtrap_agents.workflows.graphs import most_stated


def minority(messages: Sequence[Message], sampling: Sampling) -> str:
    """Two of five samples are one too high."""
    return str(int(right(messages, sampling)) + (drew(sampling) in (0, 3)))


def test_every_hop_is_drawn_k_times_and_the_majority_is_handed_on() -> None:
    course = run(LINE, minority, "vote", k=5)
    assert (course.error, course.answer, len(course.hops)) == (None, 5, 15)
    assert values(course) == {"s1": 3, "s2": 6, "s3": 5}
    assert [made.id for made in course.decisions] == ["hop_001.vote", "hop_002.vote", "hop_003.vote"]
    assert {hop.id for hop in course.hops if hop.id.startswith("hop_002")} == {f"hop_002.sample_{n}" for n in range(1, 6)}
    assert {hop.node for hop in course.hops} == {"sample"}
    assert {hop.messages[-1].content for hop in course.hops if hop.id.startswith("hop_003")} == {"s3 from 6 ="}


def test_samples_differ_in_their_seed_and_keep_it() -> None:
    course = run(LINE, minority, "vote", k=3, temperature=0.9, sampling=SamplingConfig(seed=4))
    first = [driven.hop(course, f"hop_001.sample_{number}").sampling for number in (1, 2, 3)]
    assert [(one.seed, one.temperature) for one in first if one] == [(4 + driven.STEP * n, 0.9) for n in range(3)]


def test_a_later_hop_comes_from_the_decision_and_that_from_its_samples() -> None:
    course = run(DIAMOND, right, "vote", k=3)
    assert driven.hop(course, "hop_003.sample_2").parents == ("hop_001.vote", "hop_002.vote")
    assert driven.decision(course, "hop_003.vote").parents == tuple(f"hop_003.sample_{n}" for n in (1, 2, 3))
    assert driven.decision(course, "hop_003.vote").premises[0].depends_on == ("s1", "s2")


def test_whole_chains_see_their_own_hops_only_and_one_stands_for_the_majority() -> None:
    def slipping(messages: Sequence[Message], sampling: Sampling) -> str:
        """The first chain starts wrong and goes on rightly from there."""
        off = drew(sampling) == 0 and messages[-1].content.startswith("s1 ")
        return str(int(right(messages, sampling)) + off)

    course = run(LINE, slipping, "vote", k=3, per="chain")
    assert driven.hop(course, "hop_003.chain_1").messages[-1].content == "s3 from 8 ="
    assert driven.hop(course, "hop_003.chain_2").parents == ("hop_002.chain_2",)
    (vote,) = course.decisions
    assert (vote.id, vote.parents) == ("hop_003.vote", ("hop_003.chain_1", "hop_003.chain_2", "hop_003.chain_3"))
    assert [(premise.id, premise.value) for premise in vote.premises] == [("s1", 3), ("s2", 6), ("s3", 5)]
    assert course.answer == 5
    facts = analyse(driven.trace_of(course, LINE, 1.0), LINE)
    assert (facts.match, facts.wrong, facts.unsupported) == (3, 0, 0)


def test_a_majority_in_error_is_judged_like_any_premise() -> None:
    course = run(LINE, lambda messages, sampling: str(int(right(messages, sampling)) + (drew(sampling) > 0)), "vote", k=3)
    facts = analyse(driven.trace_of(course, LINE, 0.0), LINE)
    assert (course.answer, facts.wrong, facts.own) == (9, 3, 1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([1, 2, 2], 2),
        ([1, 2, 2, 1], 1),
        ([2, 1, 1, 2], 2),
        ([None, None, 7], 7),
        ([None, None], None),
        ([0.5, 3, 0.5000000001], 0.5),
        (["a"], "a"),
    ],
)
def test_a_tie_goes_to_the_first_value_and_the_unreadable_have_no_vote(said: list[Value | None], expected: Value | None) -> None:
    hops = [
        Hop(id=f"h_{place}", node="sample", completion=Completion(text=""), premises=(Premise(id="s1", text="", value=value),))
        for place, value in enumerate(said)
    ]
    assert most_stated(hops).premises[-1].value == expected


def test_at_temperature_0_samples_are_alike_and_the_vote_is_the_chain() -> None:
    chain, vote = run(LINE, right, "chain"), run(LINE, right, "vote", k=3, temperature=0.0)
    assert vote.answer == chain.answer
    assert {hop.sampling.temperature for hop in vote.hops if hop.sampling} == {0.0}
    assert len(vote.hops) == 3 * len(chain.hops)


def test_a_task_without_gold_premises_is_asked_as_it_stands() -> None:
    course = run(OPEN, lambda messages, sampling: f"answer = {8 if drew(sampling) else 9}", "vote", k=3)
    assert (course.answer, values(course)) == (8, {"answer": 8})
    assert course.hops[0].messages[-1].content.startswith("the question\nWrite the answer")


def test_a_failed_sample_is_an_error_of_the_task_and_what_was_decided_stays() -> None:
    def failing(messages: Sequence[Message], sampling: Sampling) -> str:
        if messages[-1].content.startswith("s2 ") and drew(sampling) == 1:
            raise CompletionError("the context is full")
        return right(messages, sampling)

    course = run(LINE, failing, "vote", k=3)
    assert course.error == "the context is full"
    assert [made.id for made in course.decisions] == ["hop_001.vote"]
