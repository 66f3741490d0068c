import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replayed import FAMILIES, draw, follow

from qtrap_agents.analysis.faults import ALL_KINDS, possible
from qtrap_agents.evidence import FaultKind
from qtrap_agents.semantics import same_value
from qtrap_agents.types import GoldPremise, Task, Value

from .conftest import make_task


def fault(premise: GoldPremise, task: Task, kind: FaultKind, seed: int = 0) -> Value | None:
    return possible(premise, task, kind, random.Random(seed))


def lonely(value: Value, rule: str | None = None) -> Task:
    """A task of one premise."""
    return make_task([GoldPremise(id="s1", text="", value=value, rule=rule)])


def faults(value: Value, kind: FaultKind, rule: str | None = None) -> set[Value | None]:
    """Everything that a fault makes of the value."""
    task = lonely(value, rule)
    return {fault(task.premises[0], task, kind, seed) for seed in range(60)}


def test_off_by_one_goes_round_the_modulus() -> None:
    assert faults(41, "off-by-one") == {40, 42}
    assert faults(999, "off-by-one", "(500 + 499) % 1000") == {998, 0}
    assert faults(0, "off-by-one", "(500 + 500) % 1000") == {999, 1}


def test_another_right_value_is_no_fault() -> None:
    task = make_task([GoldPremise(id="s1", text="", value=41, accept=(42,))])
    assert {fault(task.premises[0], task, "off-by-one", seed) for seed in range(60)} == {40}


def test_values_stay_within_what_the_task_states() -> None:
    assert faults(0, "off-by-one") == {1}
    assert faults(-3, "off-by-one") == {-4, -2}
    task = make_task(
        [
            GoldPremise(id="s1", text="", value=99, rule="(50 + 49) % 100"),
            GoldPremise(id="s2", text="", value=99, depends_on=("s1",), rule="max(s1, 3)"),
        ]
    )
    assert {fault(task.premises[1], task, "off-by-one", seed) for seed in range(30)} == {98}


def test_a_digit_is_another() -> None:
    assert faults(7, "digit") == set(range(10)) - {7}
    found = faults(41, "digit")
    assert found <= {1, 11, 21, 31, 51, 61, 71, 81, 91, 40, 42, 43, 44, 45, 46, 47, 48, 49}
    assert len(found) > 10


def test_neighbouring_digits_change_places() -> None:
    assert faults(123, "swap") == {213, 132}
    assert faults(10, "swap") == {1}
    assert faults(77, "swap") == faults(7, "swap") == {None}


def test_words_of_a_row_change_places_or_stand_twice() -> None:
    assert faults("cup pen map", "swap") == {"pen cup map", "map pen cup", "cup map pen"}
    doubled = {str(value) for value in faults("cup pen map", "name")}
    assert doubled == {"pen pen map", "map pen map", "cup cup map", "cup map map", "cup pen cup", "cup pen pen"}


def test_a_name_is_another_that_the_task_uses() -> None:
    task = draw("lookup", 8)
    names = set(task.premises[0].rule.split("'")[1::2]) if task.premises[0].rule else set()
    assert {fault(task.premises[3], task, "name", seed) for seed in range(40)} <= names - {task.premises[3].value}
    relate = draw("relate", 8)
    stated = {premise.value for premise in relate.premises} | {relate.question.split()[1]}
    assert {fault(relate.premises[3], relate, "name", seed) for seed in range(40)} <= stated


@pytest.mark.parametrize(
    ("value", "kinds"),
    [(41, {"off-by-one", "digit", "swap"}), (4.5, set()), ("cup pen", {"name", "swap"}), ("cup", set())],
)
def test_kinds_that_do_not_fit_say_so(value: Value, kinds: set[str]) -> None:
    assert {kind for kind in ALL_KINDS if faults(value, kind) != {None}} == kinds


@given(
    family=st.sampled_from(FAMILIES),
    depth=st.integers(1, 12),
    position=st.integers(1, 12),
    kind=st.sampled_from(ALL_KINDS),
    seed=st.integers(0, 50),
)
def test_a_fault_differs_and_can_be_executed(family: str, depth: int, position: int, kind: FaultKind, seed: int) -> None:
    task = draw(family, depth)
    premise = task.premises[min(position, depth) - 1]
    wrong = fault(premise, task, kind, seed)
    assert wrong == fault(premise, task, kind, seed)
    if wrong is not None:
        assert kind != "drop"
        assert type(wrong) is type(premise.value)
        assert not same_value(wrong, premise.value)
        stated = follow(task, {premise.id: wrong})
        assert None not in stated.values()
        if family == "track" and kind == "swap":
            assert Counter(str(wrong).split()) == Counter(str(premise.value).split())


def test_every_family_takes_some_kind() -> None:
    for family in FAMILIES:
        task = draw(family, 6)
        assert any(fault(task.premises[2], task, kind) is not None for kind in ALL_KINDS)


def test_without_rules_any_other_value_will_do() -> None:
    task = make_task([GoldPremise(id="s1", text="", value=3), GoldPremise(id="s2", text="", value=4, depends_on=("s1",))])
    assert fault(task.premises[0], task, "off-by-one") in (2, 4)


def test_a_value_that_the_next_rule_cannot_take_is_left_out() -> None:
    task = make_task(
        [
            GoldPremise(id="s1", text="", value=2),
            GoldPremise(id="s2", text="", value=5, depends_on=("s1",), rule="5 / (s1 - 1)"),
        ]
    )
    assert {fault(task.premises[0], task, "off-by-one", seed) for seed in range(30)} == {3}
