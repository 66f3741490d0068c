"""Calls and their results: gold is what the tools give, and a wrong argument is told from a wrong result."""

from collections.abc import Mapping, Sequence

import driven
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtrap_agents import tools
from qtrap_agents.analysis.graph import judge
from qtrap_agents.config import SuiteChoice
from qtrap_agents.errors import SuiteError
from qtrap_agents.premises import parse_value
from qtrap_agents.semantics import check_task, consequence, is_right
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.suites.tool_use import generate
from qtrap_agents.tools import BUILT_IN, parse_call
from qtrap_agents.types import GoldPremise, Message, Sampling, Task, Value

depth = st.integers(1, 96)
seed = st.integers(0, 10**6)
NUMBER: st.SearchStrategy[Value] = st.integers(0, 19)


def draw(depth: int, seed: int = 0, index: int = 0, **params: Value) -> Task:
    return generate("tool_use", depth, seed, index, params)


def made(text: str, task: Task) -> Value:
    """What the tools of a task give for a call, as a model would write it."""
    call = parse_call(text, task.tools)
    assert call is not None
    return tools.call(task.tools, *call)


def pairs(task: Task) -> list[tuple[GoldPremise, GoldPremise]]:
    """Calls with their results."""
    premises = task.premises[task.depth % 2 :]
    return list(zip(premises[::2], premises[1::2], strict=True))


@given(depth, seed, st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_gold_is_what_the_tools_give(depth: int, seed: int, index: int) -> None:
    task = draw(depth, seed, index)
    assert check_task(task) == []
    assert tools.check_tools(task.tools) == []
    assert len(task.premises) == task.depth == depth
    for call, result in pairs(task):
        assert made(str(call.value), task) == result.value
        assert result.depends_on == (call.id,)
        assert call.kind == f"call_{result.kind}"
        for other in call.accept:
            assert made(str(other), task) == result.value
    assert task == draw(depth, seed, index)
    assert Task.model_validate_json(task.model_dump_json()) == task


@given(depth, seed)
@settings(deadline=None, max_examples=25)
def test_every_hop_is_told_its_parents_and_can_be_read_back(depth: int, seed: int) -> None:
    for premise in draw(depth, seed).premises:
        assert all(f"{{{parent}}}" in premise.instruction for parent in premise.depends_on)
        assert all(parse_value(str(value), "any") == value for value in (premise.value, *premise.accept))


@given(depth=st.integers(2, 64).map(lambda half: 2 * half), seed=seed)
@settings(deadline=None, max_examples=25)
def test_every_call_takes_the_last_result(depth: int, seed: int) -> None:
    task = draw(depth, seed)
    for before, call in zip(task.premises[1::2], task.premises[2::2], strict=False):
        assert before.id in call.depends_on


@given(depth=st.integers(2, 32).map(lambda half: 2 * half), seed=seed, data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_wrong_result_leads_to_another_call_and_on_to_what_that_gives(depth: int, seed: int, data: st.DataObject) -> None:
    task = draw(depth, seed)
    call, result = data.draw(st.sampled_from(pairs(task)[1:]))
    rows = sorted({key.split("/")[0] for key in task.tools["table"]})
    wrong: dict[str, Value] = {
        parent: data.draw(NUMBER if isinstance(task.premise(parent).value, int) else st.sampled_from(rows))
        for parent in call.depends_on
    }
    written = consequence(call, wrong)
    assert isinstance(written, str)
    assert parse_value(written, "any") == written
    assert consequence(result, {call.id: written}) == made(written, task)


def test_a_call_that_no_tool_understands_has_no_consequence() -> None:
    task = draw(32)
    results = {result.kind: (call, result) for call, result in pairs(task)}
    assert set(results) == set(BUILT_IN)
    for call, result in results.values():
        assert consequence(result, {call.id: "table(moon, price)"}) is None
        assert consequence(result, {call.id: 7}) is None


def followed(task: Task, fault: Mapping[str, Value]) -> list[tuple[str, str | None]]:
    """Status and origin of every premise of a `chain` that states `fault` and goes on rightly from what it stated."""
    stated: dict[str, Value] = {}
    for premise in task.premises:
        follows = consequence(premise, {parent: stated[parent] for parent in premise.depends_on})
        stated[premise.id] = fault.get(premise.id, premise.value if follows is None else follows)
    texts = iter(stated.values())

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        return str(next(texts))

    course = driven.run(task, answer, "chain", suite=load_suite(SuiteChoice(name="tool_use")))
    return [(premise.status, premise.origin) for premise in judge(driven.trace_of(course, task, 0.0), task)]


def test_a_wrong_argument_is_told_from_a_wrong_result() -> None:
    task = next(task for index in range(50) if "+" in str(pairs(task := draw(6, index=index))[1][0].value))
    call, result = pairs(task)[1]
    wrong_call, wrong_result = str(call.value).replace("+", "+1+"), (int(result.value) + 1) % 20
    assert made(wrong_call, task) == wrong_result
    assert followed(task, {}) == [("match", None)] * 6
    assert followed(task, {call.id: wrong_call})[:4] == [("match", None)] * 2 + [("wrong", "own"), ("wrong", "inherited")]
    assert followed(task, {result.id: wrong_result})[:5] == [("match", None)] * 3 + [("wrong", "own"), ("wrong", "inherited")]


def test_a_sum_may_be_written_the_other_way_round() -> None:
    calls = [call for call, _ in pairs(draw(64)) if "+" in str(call.value)]
    first, second = str(calls[0].value).removeprefix("calculator((").removesuffix(")%20)").split("+")
    assert is_right(parse_value(f"calculator(({second} + {first}) % 20)", "any"), calls[0])
    assert not is_right(parse_value(f"calculator(({second} - {first}) % 20)", "any"), calls[0])


def test_odd_depths_begin_with_a_result() -> None:
    task = draw(1)
    assert task.premises[0].kind == "table"
    assert task.premises[0].depends_on == ()
    assert made(task.premises[0].instruction.split(" ; ")[-1].removesuffix(" ="), task) == task.answer


def test_tasks_are_real_graphs_and_stay_alive() -> None:
    premises = [premise for index in range(12) for premise in draw(96, index=index).premises]
    assert sum(len(premise.depends_on) == 2 for premise in premises) > 0.1 * len(premises)
    late = [premise.value for index in range(12) for premise in draw(96, index=index).premises[49::2]]
    assert max(late.count(value) for value in set(late)) < 0.2 * len(late)


def test_the_question_shows_what_the_tools_hold_or_leaves_it_to_them() -> None:
    shown, hidden = draw(8), draw(8, shown="tools")
    assert shown.premises == hidden.premises
    assert shown.question.startswith(f"{hidden.question}\ntable: ")
    assert all(f"{key.replace('/', ' ')} {value}" in shown.question for key, value in shown.tools["table"].items())


def test_the_shipped_suite() -> None:
    suite = load_suite(SuiteChoice(name="tool_use"))
    drawn = list(suite.tasks([1, 8], [0, 1], 3))
    assert len({task.question for task in drawn}) == 12
    assert "modulus" not in suite.system
    assert "% 20" in suite.system
    for params, message in (
        ({"shown": "never"}, "'shown' must be"),
        ({"rows": 17}, "Sample larger"),
        ({"modulus": 1}, "empty range"),
    ):
        with pytest.raises(SuiteError, match=message):
            list(load_suite(SuiteChoice(name="tool_use", params=dict(params))).tasks([8], [0], 3))
