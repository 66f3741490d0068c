"""Hops that could not be read: which are counted, and of how many."""

from qtrap_agents.analysis.readings import Readings, readings
from qtrap_agents.types import Completion, Hop, Premise, Value


def hop(*values: Value | None, cut: bool = False) -> Hop:
    """A hop that states these values."""
    premises = tuple(Premise(id=f"s{number}", text="", value=value) for number, value in enumerate(values, start=1))
    return Hop(id="h", node="h", completion=Completion(text="", finish_reason="length" if cut else "stop"), premises=premises)


def test_a_hop_without_a_value_is_counted_and_whether_it_was_cut_off() -> None:
    found = readings([hop(1), hop(None), hop(None, cut=True), hop(2, cut=True)])
    assert found == Readings(hops=4, unparsed=2, cut_off=1)
    assert found.share == 0.5


def test_one_of_several_premises_without_a_value_is_enough() -> None:
    assert readings([hop(1, None, 3)]) == Readings(hops=1, unparsed=1)


def test_a_hop_that_states_nothing_by_design_does_not_count() -> None:
    assert readings([hop(), hop(1), hop(None)]) == Readings(hops=2, unparsed=1)


def test_where_no_hop_states_anything_all_of_them_were_to() -> None:
    assert readings([hop(cut=True)]) == Readings(hops=1, unparsed=1, cut_off=1)


def test_no_hops_have_no_share() -> None:
    assert readings([]).share is None
    assert Readings(hops=3, unparsed=1) + Readings(hops=1, unparsed=1, cut_off=1) == Readings(hops=4, unparsed=2, cut_off=1)
