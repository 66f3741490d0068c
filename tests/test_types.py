"""Hops and decisions in the order in which they were stated, and what counts as right."""

import pytest

from qtrap_agents.analysis.graph import judge, last_statements
from qtrap_agents.semantics import is_right
from qtrap_agents.types import Completion, Decision, GoldPremise, Hop, Measurement, Premise, Task, Trace, Value, in_order


def hop(name: str, value: Value | None) -> Hop:
    return Hop(id=name, node=name, completion=Completion(text=str(value)), premises=(Premise(id="s1", text="", value=value),))


def decision(name: str, after: int, value: Value | None) -> Decision:
    return Decision(id=name, node=name, after=after, premises=(Premise(id="s1", text="", value=value),))


def trace(hops: list[Hop], decisions: list[Decision]) -> Trace:
    measured = Measurement(duration_s=1.0)
    return Trace(
        id="t", run_id="r", task_id="t", suite="s", depth=1, seed=0, workflow="vote", arm="a", measurement=measured,
        hops=tuple(hops), decisions=tuple(decisions),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("after", "order"), [((), "abc"), ((3,), "abcx"), ((0,), "xabc"), ((2, 1), "aybxc"), ((2, 2), "abxyc"), ((9,), "abcx")]
)
def test_a_decision_stands_after_the_hops_that_it_was_made_of(after: tuple[int, ...], order: str) -> None:
    hops = [hop(name, 1) for name in "abc"]
    decisions = [decision(name, place, 2) for name, place in zip("xy", after, strict=False)]
    assert "".join(said.id for said in in_order(hops, decisions)) == order


def test_the_majority_counts_and_not_the_last_vote() -> None:
    found = last_statements(trace([hop("a", 1), hop("b", 1), hop("c", 7)], [decision("majority", 3, 1)]))
    assert (found["s1"].premise.value, found["s1"].hop_id) == (1, "majority")
    later = last_statements(trace([hop("a", 1), hop("b", 5)], [decision("majority", 1, 1)]))
    assert (later["s1"].premise.value, later["s1"].hop_id) == (5, "b")


@pytest.mark.parametrize(
    ("stated", "right"), [("nyc", True), ("new york city", True), ("boston", False), (None, False), (1, False)]
)
def test_an_alias_is_as_right_as_the_gold_value(stated: Value | None, right: bool) -> None:
    gold = GoldPremise(id="s1", text="", value="new york city", accept=("nyc",))
    task = Task(id="t", suite="s", question="?", answer="new york city", accept=("nyc",), premises=(gold,), depth=1)
    assert is_right(stated, gold) is right
    [judged] = judge(trace([hop("a", stated)], []), task)
    assert (judged.status == "match") is right
