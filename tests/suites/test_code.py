"""Programs are traced as Python runs them, and every step tells what follows from wrong parents."""

import contextlib
import io
import random
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtrap_agents.config import SuiteChoice
from qtrap_agents.errors import SuiteError
from qtrap_agents.premises import parse_value
from qtrap_agents.semantics import check_task, consequence
from qtrap_agents.suites import code
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.suites.code import generate, program, trace
from qtrap_agents.types import Task, Value

depth = st.integers(1, 96)
seed = st.integers(0, 10**6)
NUMBER: st.SearchStrategy[Value] = st.integers(0, 99)
WORD: st.SearchStrategy[Value] = st.sampled_from(["pen", "oak", "zebra"])

SOURCE = """\
a = 3 * 4
w = 'lantern'[2:]
for i in range(1, 3):
    a += i
    if a % 2 == 0:
        b = a * i
    else:
        b = len(w)
w = w[b % len(w):] + w[:b % len(w)]"""


def draw(depth: int, seed: int = 0, index: int = 0, modulus: int = 100) -> Task:
    return generate("code_trace", depth, seed, index, {"modulus": modulus})


def source_of(task: Task) -> str:
    return task.question.split("\n\n")[1]


def assignments(source: str) -> list[Any]:
    """What Python's own tracing sees: the value of the assigned variable after every executed line with ` = ` or ` += `."""
    lines, values = source.split("\n"), list[Any]()
    space: dict[str, Any] = {}
    before: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != "traced":
            return None
        if event in ("line", "return"):
            if before:
                values.append(space[before.pop()])
            line = lines[frame.f_lineno - 1].strip()
            if event == "line" and not line.startswith(("for", "if", "else")):
                before.append(line.split()[0])
        return watch

    earlier = sys.gettrace()
    sys.settrace(watch)
    try:
        exec(compile(source, "traced", "exec"), space)
    finally:
        sys.settrace(earlier)
    return values


def printed(source: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, "hop", "exec"), {})
    return out.getvalue().strip()


@given(depth, seed, st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_gold_is_what_python_does(depth: int, seed: int, index: int) -> None:
    task = draw(depth, seed, index)
    assert [premise.value for premise in task.premises] == assignments(source_of(task))
    assert check_task(task) == []
    assert len(task.premises) == task.depth == depth
    assert task == draw(depth, seed, index)
    assert Task.model_validate_json(task.model_dump_json()) == task


@given(depth, seed)
@settings(deadline=None, max_examples=25)
def test_every_hop_is_a_program_that_prints_its_premise(depth: int, seed: int) -> None:
    task = draw(depth, seed)
    for premise in task.premises:
        hop = premise.instruction
        for parent in premise.depends_on:
            assert f"{{{parent}}}" in hop
            hop = hop.replace(f"{{{parent}}}", str(task.premise(parent).value))
        assert printed(hop) == str(premise.value)
        assert parse_value(printed(hop), "any") == premise.value


@given(depth=st.integers(2, 64), seed=seed, data=st.data())
@settings(deadline=None, max_examples=40)
def test_wrong_parents_go_on_as_python_would(depth: int, seed: int, data: st.DataObject) -> None:
    task = draw(depth, seed)
    premise = data.draw(st.sampled_from(task.premises[1:]))
    hop, wrong = premise.instruction, dict[str, Value]()
    for parent in premise.depends_on:
        number = isinstance(task.premise(parent).value, int)
        wrong[parent] = data.draw(NUMBER if number else WORD)
        hop = hop.replace(f"{{{parent}}}", str(wrong[parent]))
    assert str(consequence(premise, wrong)) == printed(hop)


@given(depth=st.integers(2, 96), seed=seed)
@settings(deadline=None, max_examples=25)
def test_every_step_reads_the_one_before_it(depth: int, seed: int) -> None:
    for before, premise in zip((task := draw(depth, seed)).premises, task.premises[1:], strict=False):
        assert before.id in premise.depends_on


def test_a_program_of_all_sorts() -> None:
    premises = [code.premise(number, step) for number, step in enumerate(trace(SOURCE), 1)]
    assert [(step.value, step.depends_on, step.rule, step.kind) for step in premises] == [
        (12, (), "3 * 4", "arithmetic"),
        ("ntern", (), "'lantern'[2:]", "word"),
        (13, ("s1",), "s1 + 1", "arithmetic"),
        (5, ("s2", "s3"), "s3 * 1 if s3 % 2 == 0 else len(s2)", "branch"),
        (15, ("s3",), "s3 + 2", "arithmetic"),
        (5, ("s2", "s5"), "s5 * 2 if s5 % 2 == 0 else len(s2)", "branch"),
        ("ntern", ("s2", "s6"), "s2[s6 % len(s2):] + s2[:s6 % len(s2)]", "word"),
    ]
    assert premises[4].instruction == "a = {s3}\ni = 2\na += i\nprint(a)"
    assert premises[6].instruction == "b = {s6}\nw = '{s2}'\nw = w[b % len(w):] + w[:b % len(w)]\nprint(w)"


@pytest.mark.parametrize("source", ["while a: a = 1", "a = b = 1", "if 1:\n a = 1\nelse:\n b = 2", "if 1:\n a = 1", "print(1)"])
def test_other_programs_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match="neither an assignment nor an 'if'"):
        list(trace(source))


def test_what_programs_are_made_of() -> None:
    text = "\n".join(program(random.Random(seed), 64, 100) for seed in range(6))
    for part in ("for i in range", "    if ", "else:", " += ", "len(", "[::-1]", "max(", " % 4]"):
        assert part in text
    kinds = {premise.kind for seed in range(6) for premise in draw(64, seed).premises}
    assert kinds == {"arithmetic", "branch", "choice", "index", "length", "word"}


def test_programs_are_real_graphs_and_do_not_die() -> None:
    premises = [premise for seed in range(8) for premise in draw(96, seed).premises]
    assert sum(len(premise.depends_on) >= 2 for premise in premises) > 0.3 * len(premises)
    late = [premise.value for seed in range(8) for premise in draw(128, seed).premises[64:]]
    assert len(set(late)) > 100
    assert max(late.count(value) for value in set(late)) < 0.05 * len(late)
    assert max(len(str(value)) for value in late) <= 8


def test_the_shipped_suite() -> None:
    suite = load_suite(SuiteChoice(name="code_trace"))
    tasks = list(suite.tasks([1, 8], [0, 1], 3))
    assert len({task.question for task in tasks}) == 12
    assert all(parse_value(str(premise.value), suite.parser) == premise.value for task in tasks for premise in task.premises)
    with pytest.raises(SuiteError, match="'modulus' must be 10 or more, not 3"):
        list(load_suite(SuiteChoice(name="code_trace", params={"modulus": 3})).tasks([4], [0], 1))
