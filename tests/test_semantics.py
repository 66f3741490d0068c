"""Rules are executed exactly, and contradictions of a task are found."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtrap_agents.semantics import FUNCTIONS, RuleError, check_task, consequence, execute, normalise, same_value
from qtrap_agents.types import GoldPremise, Task, Value
from qtrap_agents.world import RELATIONS, entities, relation_table

WORDS = st.lists(st.sampled_from(["key", "cup", "pen", "map"]), min_size=2, max_size=6).map(" ".join)


def chain(*premises: GoldPremise, answer: Value = 18) -> Task:
    return Task(id="t", suite="x", question="q", answer=answer, premises=premises, depth=len(premises))


FIRST = GoldPremise(id="s1", text="", value=9, rule="16 - 3 - 4")
SECOND = GoldPremise(id="s2", text="", value=18, depends_on=("s1",), rule="s1 * 2")


@pytest.mark.parametrize(
    ("raw", "value"),
    [(True, 1), (41, 41), (41.0, 41), (-0.0, 0), (0.1 + 0.2, 0.3), ("  Key \n CUP ", "key cup"), (1e20, 10**20)],
)
def test_normal_form(raw: object, value: Value) -> None:
    assert normalise(raw) == value
    assert type(normalise(raw)) is type(value)


@pytest.mark.parametrize("raw", [float("nan"), float("inf"), 1e305, 10**400, None, [1], b"x"])
def test_what_has_no_normal_form(raw: object) -> None:
    with pytest.raises(RuleError):
        normalise(raw)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False, max_value=1e299, min_value=-1e299) | st.text())
def test_normal_form_is_stable(raw: Value) -> None:
    once = normalise(raw)
    assert normalise(once) == once
    assert same_value(once, once)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (41, 41, True),
        (1_000_000_000, 1_000_000_001, False),
        (0.333333333, 1 / 3, True),
        (2.5, 2.6, False),
        (3, 3.0000000001, True),
        (3, "3", False),
        ("3", 3.5, False),
        (None, None, False),
        (None, 0, False),
        (10**299, 0.5, False),
    ],
)
def test_equality_of_values(left: Value | None, right: Value | None, equal: bool) -> None:
    assert same_value(left, right) is equal
    assert same_value(right, left) is equal


@pytest.mark.parametrize(
    ("rule", "parents", "value"),
    [
        ("(s1 + 417) % 1000", {"s1": 938}, 355),
        ("max(s1, s2)", {"s1": 3, "s2": 8}, 8),
        ("{'bako': 'riku'}[s1]", {"s1": "bako"}, "riku"),
        ("swap(s1, 1, 3)", {"s1": "key cup pen"}, "pen cup key"),
        ("rotate(s1, 1)", {"s1": "key cup pen"}, "cup pen key"),
        ("flip(s1)", {"s1": "key cup pen"}, "pen cup key"),
        ("s1 / 4", {"s1": 54}, 13.5),
        ("ceil(s1 / 8)", {"s1": 54}, 7),
        ("2 ** 1000 % 7", {}, 2),
        ("text('table(', s1, ', price)')", {"s1": "pen"}, "table(pen, price)"),
        ("text('calculator((', s1, '+', s2, ')%20)')", {"s1": 7, "s2": 1.5}, "calculator((7+1.5)%20)"),
        ("argument(s1)", {"s1": "store(k (1))"}, "k (1)"),
        ("s2 + calculate(argument(s1)) + s2", {"s1": "calculator((12+9)%20)", "s2": 100}, 201),
        ("len(s1) if 'e' in s1 else s1[::-1]", {"s1": "lantern"}, 7),
    ],
)
def test_execution(rule: str, parents: dict[str, Value], value: Value) -> None:
    assert execute(rule, parents) == value


def test_relations_are_looked_up_in_the_world() -> None:
    person, relation = entities()[5], RELATIONS[3]
    assert execute(f"related(s1, '{relation}')", {"s1": person}) == relation_table()[relation][person]


@pytest.mark.parametrize(
    "rule",
    [
        "s9 + 1",
        "s1 / 0",
        "s1 +",
        "{'a': 1}[s1]",
        "swap(s1, 1, 2)",
        "__import__('os')",
        "s1.real",
        "9 ** 9 ** 9",
        "[s1]",
        "",
        "calculate('s1')",
        "calculate('1' * 300)",
        "argument('s1')",
        "3999999 ** 3999999",
    ],
)
def test_what_has_no_value_raises_rule_error_and_has_no_consequence(rule: str) -> None:
    with pytest.raises(RuleError):
        execute(rule, {"s1": 4})
    assert consequence(GoldPremise(id="s2", text="", value=0, depends_on=("s1",), rule=rule), {"s1": 4}) is None


def test_nothing_is_left_over_from_the_rule_before() -> None:
    assert execute("s1 + s2", {"s1": 1, "s2": 2}) == 3
    with pytest.raises(RuleError, match="s2"):
        execute("s1 + s2", {"s1": 1})
    with pytest.raises(RuleError):
        execute("sum([k for k in [1, s1 / 0]])", {"s1": 1})
    with pytest.raises(RuleError, match="k"):
        execute("k", {"s1": 1})
    with pytest.raises(RuleError):
        execute("swap.real", {})


def test_threads_do_not_share_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both threads have their names set before either looks one up."""
    monkeypatch.setitem(FUNCTIONS, "meet", Barrier(2, timeout=60).wait)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda number: execute("0 * meet() + a", {"a": number}), (1, 2))) == [1, 2]


def test_consequence_follows_the_wrong_parent() -> None:
    assert consequence(SECOND, {"s1": 10}) == 20
    assert consequence(SECOND.model_copy(update={"rule": None}), {"s1": 10}) is None


@given(WORDS, st.integers(0, 6))
def test_moves_keep_the_words(row: str, places: int) -> None:
    for rule in ("flip(row)", f"rotate(row, {places})", "swap(row, 1, 2)"):
        assert sorted(str(execute(rule, {"row": row})).split()) == sorted(row.split())
    assert execute("flip(flip(row))", {"row": row}) == row


def test_a_sound_task_has_no_problems() -> None:
    assert check_task(chain(FIRST, SECOND)) == []


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (chain(SECOND), "depends on ['s1']"),
        (chain(FIRST.model_copy(update={"depends_on": ("s1",)}), SECOND), "depends on ['s1']"),
        (chain(FIRST, SECOND.model_copy(update={"value": 19}), answer=19), "the rule gives 18, the gold value is 19"),
        (chain(FIRST, SECOND.model_copy(update={"depends_on": ()})), "has no value"),
        (chain(FIRST, FIRST, SECOND), "used twice"),
        (chain(FIRST, SECOND, answer=17), "the last premise is 18, the answer is 17"),
    ],
)
def test_contradictions_are_named(task: Task, problem: str) -> None:
    assert any(problem in found for found in check_task(task))
