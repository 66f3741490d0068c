"""Answers are right or wrong, never something between and never an exception."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtrap_agents.scoring import score
from qtrap_agents.types import Task, Value


def task(answer: Value) -> Task:
    return Task(id="t", suite="x", question="q", answer=answer, depth=1)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (18, 18),
        (18, 18.0),
        (18, "18"),
        (1200, "1,200"),
        (18, " $18.00 "),
        (0.25, 0.25),
        (0.25, ".25"),
        (-3, "-3"),
        ("key cup", " KEY  cup "),
        ("Riku", "riku"),
        (1 / 3, 0.333333333),
        ("041", "041"),
    ],
)
def test_right_answers(gold: Value, answer: Value) -> None:
    assert score(answer, task(gold)) == 1.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (18, None),
        (18, 17),
        (18, "18 eggs"),
        (18, "9 * 2 = 18"),
        (18, ""),
        (18, "x"),
        (18, float("nan")),
        (18, float("inf")),
        ("key cup", "cup key"),
        ("riku", 3),
        (100_000_000, 100_000_001),
        ("3", 3),
    ],
)
def test_wrong_answers(gold: Value, answer: Value | None) -> None:
    assert score(answer, task(gold)) == 0.0


@given(st.integers() | st.floats() | st.text(), st.integers(-(10**20), 10**20) | st.text())
def test_any_answer_is_judged(answer: Value, gold: Value) -> None:
    assert score(answer, task(gold)) in (0.0, 1.0)
    assert score(gold, task(gold)) == 1.0
