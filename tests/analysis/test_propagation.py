import random

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replayed import chain, draw, injected, replay

from qtrap_agents.analysis.funnel import Share
from qtrap_agents.analysis.propagation import PropagationAccumulator, Spread, faulty_premise, observe, pooled
from qtrap_agents.evidence import Change
from qtrap_agents.types import GoldPremise, Task

from .conftest import as_graph, make_dag, make_task, random_dag


def spread(task: Task, position: int, value: int) -> Spread:
    seen = observe(task, injected(task, position, value))
    assert seen is not None
    return seen.spread


def test_a_fault_in_a_line_spoils_all_the_rest() -> None:
    task = draw("arith", 8)
    wrong = (int(task.premises[2].value) + 1) % 1000
    seen = observe(task, injected(task, 3, wrong))
    assert seen is not None
    if not seen.spread.recovered:
        assert seen.reached == tuple((distance, True) for distance in range(1, 6))
        assert (seen.spread.inherited, seen.spread.downstream.n, seen.spread.amplification) == (5, 5, 6.0)
        assert (seen.spread.faults, seen.spread.changed, seen.spread.on_way, seen.spread.recovery.count) == (1, 1, 1, 0)


def test_a_fault_dies_where_a_rule_does_not_need_it(diamond: Task) -> None:
    seen = observe(diamond, injected(diamond, 2, 40))
    assert seen is not None
    assert seen.reached == ((1, False),)
    assert seen.spread.recovery == Share(count=1, n=1)
    assert seen.spread.premise_recovery == Share(count=1, n=1)
    assert (seen.spread.changed, seen.spread.hit, seen.spread.amplification) == (0, Share(count=0, n=1), 1.0)


def test_a_fault_takes_every_path(diamond: Task) -> None:
    seen = observe(diamond, injected(diamond, 1, 6))
    assert seen is not None
    assert seen.reached == ((1, True), (1, True), (2, True))
    assert (seen.spread.inherited, seen.spread.recovery, seen.spread.amplification) == (3, Share(count=0, n=1), 4.0)


def test_a_wrong_answer_cannot_recover(diamond: Task) -> None:
    found = spread(diamond, 4, 51)
    assert (found.faults, found.changed, found.on_way, found.downstream.n) == (1, 1, 0, 0)
    assert found.recovery.share is None
    assert found.amplification == 1.0


def test_a_fault_off_the_way_is_no_recovery() -> None:
    task = make_dag([[], [0], [0]])
    assert spread(task, 2, 9).on_way == 0


def test_origins_of_downstream_errors(diamond: Task) -> None:
    """b is not even the consequence of a, c is missing, d is wrong after both."""
    made = injected(diamond, 1, 6)
    trace = chain(diamond, {"a": 6, "b": 9, "c": None, "d": 7})
    seen = observe(diamond, made.model_copy(update={"trace": trace}))
    assert seen is not None
    assert (seen.spread.compounded, seen.spread.missing, seen.spread.inherited) == (2, 1, 0)


def test_a_task_without_rules_has_unknown_origins() -> None:
    task = make_dag([[], [0], [1]])
    made = injected(task, 1, 7)
    trace = chain(task, {"p0": 7, "p1": 8, "p2": 9})
    seen = observe(task, made.model_copy(update={"trace": trace}))
    assert seen is not None
    assert (seen.spread.unknown, seen.spread.hit) == (2, Share(count=2, n=2))


def test_a_chain_without_an_answer_counts_apart(diamond: Task) -> None:
    seen = observe(diamond, injected(diamond, 1, 6, error="timeout"))
    assert seen is not None
    assert (seen.spread.unjudged, seen.spread.faults, seen.reached) == (1, 0, ())


def test_a_fault_in_a_premise_without_gold_cannot_be_placed(diamond: Task) -> None:
    made = replay(injected(diamond, 1, 6).trace, "fp16", Change(kind="inject", hop_id="hop_001", premise="x", value=1))
    assert observe(diamond, made) is None
    seen = PropagationAccumulator()
    assert not seen.add(diamond, made)
    assert seen.propagation().total.spread == Spread()


def test_the_last_premise_of_the_hop_is_meant_by_default(diamond: Task) -> None:
    made = replay(injected(diamond, 2, 6).trace, "fp16", Change(kind="inject", hop_id="hop_002", value=6))
    assert faulty_premise(made) == "b"
    assert faulty_premise(replay(made.trace, "fp16", Change(kind="inject", hop_id="hop_009"))) is None


@given(seed=st.integers(0, 10_000), size=st.integers(2, 25), data=st.data())
def test_distances_are_shortest_paths(seed: int, size: int, data: st.DataObject) -> None:
    parents = random_dag(random.Random(seed), size)
    start = data.draw(st.integers(0, size - 1))
    seen = observe(make_dag(parents), injected(make_dag(parents), start + 1, -1))
    expected = nx.single_source_shortest_path_length(as_graph(parents), start)
    assert seen is not None
    assert sorted(distance for distance, _ in seen.reached) == sorted(distance for distance in expected.values() if distance)


def test_groups_add_up(diamond: Task) -> None:
    seen = PropagationAccumulator()
    assert seen.add(diamond, injected(diamond, 1, 6, "off-by-one"))
    assert seen.add(diamond, injected(diamond, 2, 40, "digit"))
    task = draw("arith", 4)
    assert seen.add(task, injected(task, 4, 1, "digit"))
    found = seen.propagation()
    assert [(group.suite, group.spread.faults) for group in found.suites] == [("arith", 1), ("toy", 2)]
    assert [(group.fault, group.spread.faults) for group in found.faults] == [("digit", 2), ("off-by-one", 1)]
    assert [(group.suite, group.depth, group.fault) for group in found.cells] == [
        ("arith", 4, "digit"), ("toy", 4, "digit"), ("toy", 4, "off-by-one"),
    ]  # fmt: skip
    assert found.total.by_distance == {1: Share(count=2, n=3), 2: Share(count=1, n=1)}
    assert found.total.spread.amplification == pytest.approx((3 + 3) / 3)


def test_distances_are_pooled_in_doubling_ranges() -> None:
    found = pooled({distance: Share(count=1, n=2) for distance in (1, 2, 3, 4, 5, 8, 9, 16, 17)})
    assert {span: share.n for span, share in found.items()} == {
        (1, 1): 2,
        (2, 2): 2,
        (3, 4): 4,
        (5, 8): 4,
        (9, 16): 4,
        (17, 32): 2,
    }


def test_nothing_is_no_share() -> None:
    found = PropagationAccumulator().propagation().total
    assert (found.spread.amplification, found.spread.hit.share, found.by_distance) == (None, None, {})


def test_a_missing_premise_is_a_fault_like_any_other() -> None:
    task = make_task(
        [GoldPremise(id="a", text="", value=1), GoldPremise(id="b", text="", value=2, depends_on=("a",), rule="a + 1")]
    )
    seen = observe(task, injected(task, 1, None, "drop"))
    assert seen is not None
    assert (seen.spread.missing, seen.spread.changed, seen.reached) == (1, 1, ((1, True),))
