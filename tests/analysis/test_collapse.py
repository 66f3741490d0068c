import random
import time

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtrap_agents.analysis.collapse import Place, analyse
from qtrap_agents.suites import arith, program
from qtrap_agents.types import GoldPremise, Premise, Task

from .conftest import as_graph, gold_values, make_dag, make_hop, make_task, make_trace, random_dag, with_fault


def test_a_right_chain_has_nothing_to_report(diamond: Task) -> None:
    found = analyse(make_trace(diamond, gold_values(diamond)), diamond)
    assert (found.match, found.wrong, found.missing, found.first_error, found.collapse_hop) == (4, 0, 0, None, None)
    assert found.blast_radius is None
    assert found.amplification is None
    assert found.recovered == ()


def test_an_absorbed_error_is_recovered_and_no_collapse(diamond: Task) -> None:
    found = analyse(make_trace(diamond, {"a": 5, "b": 40, "c": 50, "d": 50}), diamond)
    assert found.first_error == Place(id="b", position=2)
    assert found.recovered == ("b",)
    assert found.collapse_hop is None
    assert (found.downstream, found.blast_radius, found.amplification) == (1, 0.0, 1.0)


def test_the_collapse_hop_comes_after_the_last_right_premise_on_the_way() -> None:
    task = make_dag([[], [0], [1], [2], [3]])
    found = analyse(make_trace(task, {"p0": 0, "p1": 9, "p2": 2, "p3": 9, "p4": 9}), task)
    assert found.first_error == Place(id="p1", position=2)
    assert found.collapse_hop == Place(id="p3", position=4)
    assert found.recovered == ("p1",)
    assert found.blast_radius == pytest.approx(2 / 3)


def test_right_premises_off_the_way_do_not_delay_the_collapse() -> None:
    task = make_dag([[], [0], [0], [1]])  # p2 is a dead end
    found = analyse(make_trace(task, {"p0": 0, "p1": 9, "p2": 2, "p3": 9}), task)
    assert found.collapse_hop == Place(id="p1", position=2)
    assert found.recovered == ()
    assert found.blast_radius == 1.0


def test_missing_premises_are_errors(diamond: Task) -> None:
    found = analyse(make_trace(diamond, {"a": 5, "b": 6}), diamond)
    assert (found.match, found.missing, found.own, found.origin_unknown) == (2, 2, 1, 1)
    assert found.first_error == found.collapse_hop == Place(id="c", position=3)
    assert (found.blast_radius, found.amplification) == (1.0, 0.0)


def test_no_collapse_without_a_wrong_answer(diamond: Task) -> None:
    values = {"a": 6, "b": 7, "c": 60, "d": 60}
    assert analyse(make_trace(diamond, values), diamond).collapse_hop == Place(id="a", position=1)
    assert analyse(make_trace(diamond, values, correct=True), diamond).collapse_hop is None
    unjudged = analyse(make_trace(diamond, values, error="timeout"), diamond)
    assert (unjudged.judged, unjudged.collapse_hop, unjudged.wrong) == (False, None, 4)


def test_a_wrong_answer_from_a_right_last_premise_is_no_collapse(diamond: Task) -> None:
    assert analyse(make_trace(diamond, gold_values(diamond), correct=False), diamond).collapse_hop is None


def test_a_task_without_gold_has_no_facts() -> None:
    task = make_task([])
    trace = make_trace(task, {}, correct=False).model_copy(
        update={"hops": (make_hop(0, Premise(id="x", text="x = 1", value=1)),)}
    )
    found = analyse(trace, task)
    assert (found.premises, found.unsupported, found.first_error, found.collapse_hop) == (0, 1, None, None)


@given(depth=st.integers(1, 30), seed=st.integers(0, 1000), data=st.data())
def test_one_fault_in_a_chain_spreads_over_all_the_rest(depth: int, seed: int, data: st.DataObject) -> None:
    task = arith.generate("arith", depth, seed, 0, {"modulus": 997})
    position = data.draw(st.integers(1, depth))
    wrong = (int(task.premises[position - 1].value) + data.draw(st.integers(1, 996))) % 997
    found = analyse(make_trace(task, with_fault(task, position, wrong)), task)
    place = Place(id=f"s{position}", position=position)
    assert (found.own, found.inherited, found.compounded, found.missing) == (1, depth - position, 0, 0)
    assert (found.first_error, found.collapse_hop, found.recovered) == (place, place, ())
    assert found.blast_radius == (1.0 if position < depth else None)
    assert found.amplification == depth - position + 1


def test_faults_die_in_some_programs_and_spread_in_others() -> None:
    died = spread = 0
    for index in range(100):
        task = program.generate("program", 12, 0, index, {})
        found = analyse(make_trace(task, with_fault(task, 3, (int(task.premises[2].value) + 37) % 100)), task)
        assert (found.own, found.compounded) == (1, 0)
        assert found.first_error == Place(id="s3", position=3)
        died += found.correct
        spread += found.collapse_hop is not None
        if found.correct:
            assert "s3" in found.recovered
    assert died > 10
    assert spread > 10
    assert died + spread == 100


@given(seed=st.integers(0, 100_000), size=st.integers(1, 9), answer_right=st.booleans())
def test_against_the_definitions_by_brute_force(seed: int, size: int, answer_right: bool) -> None:
    rng = random.Random(seed)
    parents = random_dag(rng, size)
    states = [rng.choice(["match", "wrong", "missing"]) for _ in range(size)]
    values = {f"p{i}": {"match": i, "wrong": i + 100, "missing": None}[state] for i, state in enumerate(states)}
    task, graph, answer = make_dag(parents), as_graph(parents), size - 1
    found = analyse(make_trace(task, values, correct=answer_right), task)

    on_way = {node for node in graph if nx.has_path(graph, node, answer)}
    errors = [i for i in range(size) if states[i] != "match"]
    below = nx.descendants(graph, errors[0]) if errors else set()
    hopeless = [k for k in sorted(on_way) if not answer_right and all(states[i] != "match" for i in on_way if i >= k)]
    recovered = [
        i for i in range(size) if states[i] == "wrong" and any(states[j] == "match" for j in nx.descendants(graph, i) & on_way)
    ]
    assert found.first_error == (Place(id=f"p{errors[0]}", position=errors[0] + 1) if errors else None)
    assert found.collapse_hop == (Place(id=f"p{hopeless[0]}", position=hopeless[0] + 1) if hopeless else None)
    assert list(found.recovered) == [f"p{i}" for i in recovered]
    assert found.blast_radius == (len(below & set(errors)) / len(below) if below else None)
    assert found.own == sum(all(states[p] == "match" for p in parents[i]) for i in errors)
    assert found.origin_unknown == len(errors) - found.own - found.compounded


def test_a_long_chain_takes_linear_time() -> None:
    size = 30_000
    premises = [GoldPremise(id="s0", text="", value=0)]
    premises += [
        GoldPremise(id=f"s{i}", text="", value=i % 997, depends_on=(f"s{i - 1}",), rule=f"(s{i - 1} + 1) % 997")
        for i in range(1, size)
    ]
    task = make_task(premises)
    trace = make_trace(task, {f"s{i}": (i if i < 27_000 else i + 5) % 997 for i in range(size)})
    started = time.process_time()
    found = analyse(trace, task)
    assert time.process_time() - started < 10  # measured 1 s; anything quadratic takes minutes
    assert (found.own, found.inherited, found.blast_radius) == (1, 2_999, 1.0)
