import random

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtrap_agents.analysis.graph import JudgedPremise, judge, last_statements, premise_graph, verdicts
from qtrap_agents.errors import SuiteError
from qtrap_agents.semantics import consequence, same_value
from qtrap_agents.suites import arith, program
from qtrap_agents.types import GoldPremise, Premise, Task, Value

from .conftest import gold_values, make_hop, make_task, make_trace, with_fault


def judged(task: Task, values: dict[str, Value | None]) -> dict[str, JudgedPremise]:
    return {premise.id: premise for premise in judge(make_trace(task, values), task)}


def judgements(task: Task, values: dict[str, Value | None]) -> list[tuple[str, str | None]]:
    return [(premise.status, premise.origin) for premise in judged(task, values).values()]


def test_right_premises_match_and_have_no_origin(diamond: Task) -> None:
    assert judgements(diamond, {**gold_values(diamond)}) == [("match", None)] * 4


def test_own_then_inherited(diamond: Task) -> None:
    assert judgements(diamond, {"a": 7, "b": 8, "c": 70, "d": 70}) == [
        ("wrong", "own"),
        ("wrong", "inherited"),
        ("wrong", "inherited"),
        ("wrong", "inherited"),
    ]


def test_a_wrong_step_from_wrong_parents_is_compounded(diamond: Task) -> None:
    assert judgements(diamond, {"a": 7, "b": 9, "c": 70, "d": 71})[1::2] == [("wrong", "compounded")] * 2


def test_an_error_that_the_rule_absorbs_leaves_a_match(diamond: Task) -> None:
    assert judgements(diamond, {"a": 5, "b": 40, "c": 50, "d": 50})[1:] == [
        ("wrong", "own"),
        ("match", None),
        ("match", None),
    ]


def test_a_wrong_step_after_an_absorbable_error_is_compounded_not_own(diamond: Task) -> None:
    assert judged(diamond, {"a": 5, "b": 40, "c": 50, "d": 49})["d"].origin == "compounded"


def test_missing_is_own_only_after_right_parents(diamond: Task) -> None:
    found = judged(diamond, {"a": 5, "b": None})
    assert (found["b"].status, found["b"].origin, found["b"].hop_id) == ("missing", "own", "h1")
    assert (found["c"].status, found["c"].origin, found["c"].hop_id) == ("missing", "own", None)
    assert (found["d"].status, found["d"].origin) == ("missing", None)


def test_a_wrong_premise_after_a_missing_parent_is_compounded(diamond: Task) -> None:
    assert judged(diamond, {"a": 5, "c": 50, "d": 51})["d"].origin == "compounded"


def test_a_rule_without_value_for_the_wrong_parents_makes_it_compounded() -> None:
    task = make_task(
        [
            GoldPremise(id="a", text="", value=2),
            GoldPremise(id="b", text="", value=5, depends_on=("a",), rule="10 / a"),
        ]
    )
    assert judgements(task, {"a": 0, "b": 1})[1] == ("wrong", "compounded")
    assert judgements(task, {"a": 4, "b": 2.5})[1] == ("wrong", "inherited")


def test_without_a_rule_the_origin_after_wrong_parents_is_unknown() -> None:
    task = make_task([GoldPremise(id="a", text="", value=2), GoldPremise(id="b", text="", value=5, depends_on=("a",))])
    assert judgements(task, {"a": 3, "b": 6}) == [("wrong", "own"), ("wrong", None)]
    assert judgements(task, {"a": 2, "b": 6}) == [("match", None), ("wrong", "own")]


def test_the_last_statement_counts(diamond: Task) -> None:
    trace = make_trace(diamond, gold_values(diamond))
    again = make_hop(9, Premise(id="a", text="a = 6", value=6), Premise(id="c", text="c = ?", value=None))
    found = {premise.id: premise for premise in judge(trace.model_copy(update={"hops": (*trace.hops, again)}), diamond)}
    assert (found["a"].stated, found["a"].text, found["a"].hop_id) == (6, "a = 6", "h9")
    assert found["c"].status == "missing"


@given(seed=st.integers(0, 10_000))
def test_verdicts_are_what_judge_tells_of_the_gold_premises(seed: int) -> None:
    rng = random.Random(seed)
    task = program.generate("program", 8, seed, 0, {})
    values = {premise.id: rng.choice([premise.value, 3, None]) for premise in task.premises if rng.random() < 0.9}
    trace = make_trace(task, {**values, "x": 1})
    found = [
        (verdict.gold.id, verdict.stated, verdict.status, verdict.origin) for verdict in verdicts(task, last_statements(trace))
    ]
    assert found == [(premise.id, premise.stated, premise.status, premise.origin) for premise in judge(trace, task)[:-1]]


def test_unsupported_premises_come_last_with_their_stated_parents(diamond: Task) -> None:
    trace = make_trace(diamond, gold_values(diamond))
    extra = (
        Premise(id="x", text="x = 1", value=1, depends_on=("b", "b", "y", "x", "nowhere")),
        Premise(id="y", text="y = 2", value=2, depends_on=("x", "d")),
    )
    graph = premise_graph(trace.model_copy(update={"hops": (*trace.hops, make_hop(9, *extra))}), diamond)
    assert list(graph) == ["a", "b", "c", "d", "x", "y"]
    assert graph.nodes["x"]["status"] == "unsupported"
    assert set(graph.predecessors("x")) == {"b"}
    assert set(graph.predecessors("y")) == {"x", "d"}
    assert nx.is_directed_acyclic_graph(graph)


def test_a_repeated_unsupported_premise_takes_the_place_of_its_last_statement(diamond: Task) -> None:
    first = make_hop(8, Premise(id="x", text="x = 1", value=1), Premise(id="y", text="y = 2", value=2))
    again = make_hop(9, Premise(id="x", text="x = 3", value=3, depends_on=("y",)))
    trace = make_trace(diamond, gold_values(diamond))
    graph = premise_graph(trace.model_copy(update={"hops": (*trace.hops, first, again)}), diamond)
    assert list(graph)[4:] == ["y", "x"]
    assert graph.has_edge("y", "x")
    assert (graph.nodes["x"]["stated"], graph.nodes["x"]["hop_id"]) == (3, "h9")


def test_graph_attributes(diamond: Task) -> None:
    graph = premise_graph(make_trace(diamond, {"a": 5, "b": 7, "c": 50, "d": 50}), diamond)
    assert set(graph.edges) == {("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")}
    assert graph.nodes["b"] == {
        "status": "wrong", "origin": "own", "stated": 7, "gold": 6, "text": "b = 7", "hop_id": "h1",
    }  # fmt: skip
    assert graph.graph == {"trace": "toy-1/arm", "task": "toy-1", "arm": "arm", "workflow": "chain", "answer": 50}


def test_premises_out_of_order_are_an_error_of_the_suite() -> None:
    task = make_task([GoldPremise(id="b", text="", value=1, depends_on=("a",)), GoldPremise(id="a", text="", value=1)])
    with pytest.raises(SuiteError, match="premise 'b' depends on 'a'"):
        judge(make_trace(task, {}), task)


@given(depth=st.integers(1, 30), seed=st.integers(0, 1000), data=st.data())
def test_one_fault_in_a_chain_is_one_own_error_and_the_rest_inherited(depth: int, seed: int, data: st.DataObject) -> None:
    task = arith.generate("arith", depth, seed, 0, {"modulus": 997})  # prime: no step can absorb an error
    position = data.draw(st.integers(1, depth))
    shift = data.draw(st.integers(1, 996))
    wrong = (int(task.premises[position - 1].value) + shift) % 997
    found = judgements(task, {**with_fault(task, position, wrong)})
    expected = [("match", None)] * (position - 1) + [("wrong", "own")] + [("wrong", "inherited")] * (depth - position)
    assert found == expected


@given(seed=st.integers(0, 10_000))
def test_origins_agree_with_their_definition_for_random_statements(seed: int) -> None:
    rng = random.Random(seed)
    task = program.generate("program", 15, seed, 0, {})
    stated: dict[str, Value | None] = {}
    for premise in task.premises:
        faithful = consequence(premise, {parent: stated[parent] or 0 for parent in premise.depends_on})
        stated[premise.id] = rng.choice([faithful, faithful, faithful, premise.value, rng.randrange(100), None])
    found = judged(task, stated)
    for premise in task.premises:
        parents = {parent: stated[parent] for parent in premise.depends_on}
        value, origin = stated[premise.id], found[premise.id].origin
        parents_right = all(same_value(parents[parent], task.premise(parent).value) for parent in parents)
        right = same_value(value, premise.value)
        known = {parent: known for parent, known in parents.items() if known is not None}
        follows = same_value(value, consequence(premise, known))
        assert (origin == "own") == (not right and parents_right)
        assert (origin == "inherited") == (not right and not parents_right and follows)
        assert (origin == "compounded") == (not right and value is not None and not parents_right and not follows)
