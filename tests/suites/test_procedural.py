"""The five generated families: every task is sound, reproducible, and tells what follows from a wrong parent."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtrap_agents.premises import parse_value
from qtrap_agents.semantics import check_task, consequence
from qtrap_agents.suites import arith, lookup, program, relate, track
from qtrap_agents.types import Task, Value
from qtrap_agents.world import OBJECTS, RELATIONS, entities

FAMILIES: dict[str, Callable[[str, int, int, int, dict[str, Value]], Task]] = {
    "arith": arith.generate,
    "relate": relate.generate,
    "lookup": lookup.generate,
    "track": track.generate,
    "program": program.generate,
}
PARSERS = {"arith": "int", "relate": "word", "lookup": "word", "track": "words:6", "program": "int"}

family = st.sampled_from(sorted(FAMILIES))
depth = st.integers(1, 128)
seed = st.integers(0, 10**6)
index = st.integers(0, 10**6)


def draw(name: str, depth: int, seed: int = 0, index: int = 0) -> Task:
    return FAMILIES[name](name, depth, seed, index, {})


@given(family, depth, seed, index)
@settings(deadline=None, max_examples=150)
def test_every_task_is_sound(name: str, depth: int, seed: int, index: int) -> None:
    task = draw(name, depth, seed, index)
    assert check_task(task) == []
    assert len(task.premises) == task.depth == depth
    assert task.premises[-1].value == task.answer
    assert task == draw(name, depth, seed, index)
    assert Task.model_validate_json(task.model_dump_json()) == task


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("arith", {"plus", "minus", "times"}),
        ("program", {"plus", "minus", "times", "max", "min"}),
        ("track", {"swap", "rotate", "flip"}),
        ("lookup", {"lookup"}),
        ("relate", set(RELATIONS)),
    ],
)
def test_steps_are_of_kinds(name: str, kinds: set[str]) -> None:
    premises = draw(name, 600).premises
    assert {premise.kind for premise in premises} == kinds
    assert all(premise.kind in premise.instruction or name in ("arith", "lookup") for premise in premises)


@given(family, depth, seed)
@settings(deadline=None, max_examples=50)
def test_every_hop_is_told_its_parents_and_can_be_read_back(name: str, depth: int, seed: int) -> None:
    for premise in draw(name, depth, seed).premises:
        assert all(f"{{{parent}}}" in premise.instruction for parent in premise.depends_on)
        assert premise.instruction.startswith(f"{name}: ")
        assert premise.instruction.endswith(" =")
        assert parse_value(str(premise.value), PARSERS[name]) == premise.value


@pytest.mark.parametrize("name", FAMILIES)
def test_tasks_of_other_seeds_and_indices_differ(name: str) -> None:
    tasks = [draw(name, 8, seed, index) for seed in range(3) for index in range(20)]
    assert len({task.id for task in tasks}) == len({task.question for task in tasks}) == 60


@given(depth=st.integers(2, 64), seed=seed, wrong=st.integers(0, 999))
@settings(deadline=None, max_examples=50)
def test_a_wrong_number_goes_on_as_another_number(depth: int, seed: int, wrong: int) -> None:
    premise = draw("arith", depth, seed).premises[-1]
    parent = draw("arith", depth, seed).premises[-2]
    follows = consequence(premise, {parent.id: wrong})
    assert isinstance(follows, int)
    assert 0 <= follows < 1000
    assert (follows == premise.value) is (wrong == parent.value) or "*" in (premise.rule or "")
    assert consequence(premise, {parent.id: "riku"}) is None


@given(depth=st.integers(2, 32), seed=seed, data=st.data())
@settings(deadline=None, max_examples=50)
def test_a_wrong_key_leads_to_another_row(depth: int, seed: int, data: st.DataObject) -> None:
    task = draw("lookup", depth, seed)
    parent, premise = task.premises[-2:]
    names = sorted({word for word in premise.instruction.split() if word in entities()})
    wrong = data.draw(st.sampled_from(names))
    follows = consequence(premise, {parent.id: wrong})
    assert follows in names
    assert (follows == premise.value) is (wrong == parent.value)
    assert consequence(premise, {parent.id: "nobody"}) is None


@given(depth=st.integers(2, 64), seed=seed, data=st.data())
@settings(deadline=None, max_examples=50)
def test_a_wrong_row_is_moved_as_it_is(depth: int, seed: int, data: st.DataObject) -> None:
    parent, premise = draw("track", depth, seed).premises[-2:]
    wrong = " ".join(data.draw(st.permutations(str(parent.value).split())))
    follows = str(consequence(premise, {parent.id: wrong}))
    assert sorted(follows.split()) == sorted(wrong.split())
    assert (follows == premise.value) is (wrong == parent.value)


@given(depth=st.integers(2, 64), seed=seed, wrong=st.sampled_from(entities()))
@settings(deadline=None, max_examples=50)
def test_a_wrong_person_has_relations_too(depth: int, seed: int, wrong: str) -> None:
    parent, premise = draw("relate", depth, seed).premises[-2:]
    follows = consequence(premise, {parent.id: wrong})
    assert follows in entities()
    assert (follows == premise.value) is (wrong == parent.value)


@given(depth=st.integers(3, 64), seed=seed, data=st.data())
@settings(deadline=None, max_examples=50)
def test_program_lines_go_on_from_any_two_numbers(depth: int, seed: int, data: st.DataObject) -> None:
    premise = draw("program", depth, seed).premises[-1]
    wrong: dict[str, Value] = {parent: data.draw(st.integers(0, 99)) for parent in premise.depends_on}
    follows = consequence(premise, wrong)
    assert isinstance(follows, int)
    assert 0 <= follows < 100
    assert consequence(premise, dict.fromkeys(premise.depends_on[1:], 1)) is None


def test_programs_are_real_graphs() -> None:
    premises = draw("program", 64).premises
    children = [parent for premise in premises for parent in premise.depends_on]
    assert sum(len(premise.depends_on) == 2 for premise in premises) > 40
    assert max(children.count(premise.id) for premise in premises) > 1


def test_deep_programs_do_not_die_at_zero() -> None:
    late = [premise.value for index in range(50) for premise in draw("program", 128, index).premises[64:]]
    assert late.count(0) < 0.25 * len(late)
    assert len(set(late)) > 90


@pytest.mark.parametrize(
    ("name", "params", "hop"),
    [
        ("arith", {"modulus": 10}, r"\d [-+*] \d"),
        ("program", {"modulus": 10, "window": 1}, r"\d (plus|minus|times|max|min) \d"),
        ("lookup", {"rows": 2}, r"\w+ \w+ , \w+ \w+ ; \w+"),
        ("track", {"places": 2}, r"\w+ \w+ ; (flip|rotate 1|swap [12] [12])"),
        ("relate", {}, r"\w+ \w+"),
    ],
)
def test_parameters_and_the_form_of_the_first_hop(name: str, params: dict[str, Value], hop: str) -> None:
    task = FAMILIES[name](name, 4, 0, 0, params)
    assert check_task(task) == []
    assert re.fullmatch(f"{name}: {hop} =", task.premises[0].instruction)


def test_rows_hold_known_objects() -> None:
    assert set(str(draw("track", 1).answer).split()) < set(OBJECTS)
