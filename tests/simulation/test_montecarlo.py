"""The Monte Carlo held against exact probabilities, and against the analysis of real traces."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import modelled
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelled import arm, chain, model

from qtrap_agents.errors import SimulationError
from qtrap_agents.simulation.closed_form import Chain
from qtrap_agents.simulation.layout import Layout, Node
from qtrap_agents.simulation.model import Checking, HopCost, Rates, Repeats
from qtrap_agents.simulation.montecarlo import BLOCK, Tally, blocks_of, run_block, simulate, total
from qtrap_agents.simulation.program import compile_program, outline_of

INDEPENDENT = Repeats(correlation=0.0, agreement=0.0, hops=1)


def near(share: float, expected: float, n: int) -> bool:
    """Within four standard errors."""
    return abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / n) + 1e-12


def rates(own: float, wrong: float | None = None, mask: float = 0.0, luck: float = 0.0, **more: object) -> Rates:
    return model({"a": arm(own, wrong, **more)}, mask, luck).point()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "wrong", "mask", "luck"), [(0.02, 0.02, 0.0, 0.0), (0.05, 0.4, 0.1, 0.0), (0.1, 0.3, 0.2, 0.15), (0.3, 0.9, 0.0, 0.5)]
)
def test_a_chain_does_what_its_closed_form_says(own: float, wrong: float, mask: float, luck: float) -> None:
    n, depth = 400_000, 12
    found = simulate([chain(depth)], rates(own, wrong, mask, luck), "a", n, seed=1)
    exact = Chain(own, (1 - wrong) * mask + wrong * luck)
    assert near(found.success, exact.success(depth), n)
    for share, expected in zip(found.first_errors[1:] / n, exact.first_error(depth), strict=True):
        assert near(share, expected, n)
    assert found.wrong / n == pytest.approx(exact.wrong_premises(depth), rel=0.02)
    assert found.chains == n == found.first_errors.sum() == found.collapses.sum()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True), st.integers(0, 5))
def test_blocks_are_the_same_however_they_are_cut(cuts: list[int], seed: int) -> None:
    program, chains = compile_program(outline_of([chain(4)]), rates(0.2, 0.5, 0.1), "a"), 3 * BLOCK + 100
    whole = total(run_block(program, chains, seed, block) for block in blocks_of(chains))
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < 4), 4]
    parts = [total(run_block(program, chains, seed, block) for block in range(a, b)) for a, b in itertools.pairwise(edges)]
    assert same(total(parts), whole)


def same(first: Tally, second: Tally) -> bool:
    """Counts are equal; sums of floating-point numbers up to the order of their parts."""
    pairs: Iterable[tuple[Any, Any]] = zip(first, second, strict=True)
    return all(np.allclose(a, b, rtol=1e-12, atol=0, equal_nan=True) for a, b in pairs)


def test_a_seed_decides_everything() -> None:
    once, again, other = (simulate([chain(6)], rates(0.1), "a", 20_000, seed) for seed in (3, 3, 4))
    assert same(once, again)
    assert not same(once, other)


def test_votes_of_equal_draws_are_the_chain() -> None:
    """Nothing is known of repeated draws: they are taken as equal, and five calls buy nothing."""
    alone = simulate([chain(8)], rates(0.1), "a", 100_000, seed=2)
    voted = simulate([chain(8, op="vote", k=5)], rates(0.1), "a", 100_000, seed=2)
    assert near(voted.success, alone.success, 100_000)
    assert (alone.calls, voted.calls) == (800_000, 4_000_000)


def test_a_vote_of_one_is_a_draw_at_its_temperature() -> None:
    found = simulate([chain(3, op="vote", k=1)], rates(0.05, sampled=0.2, repeats=INDEPENDENT), "a", 200_000, seed=0)
    assert near(found.success, 0.8**3, 200_000)


@pytest.mark.parametrize(("agreement", "k"), [(1.0, 3), (1.0, 4), (1.0, 5), (0.0, 3), (0.0, 4)])
def test_independent_votes_are_a_majority(agreement: float, k: int) -> None:
    """Wrong draws agree always: the more frequent side wins and a tie is even. Never: two right draws win, or the first."""
    p, n = 0.3, 300_000
    repeats = Repeats(correlation=0.0, agreement=agreement, hops=1)
    found = simulate([chain(1, op="vote", k=k)], rates(0.05, sampled=p, repeats=repeats), "a", n, seed=5)
    exact = 0.0
    for right in range(k + 1):
        majority = 1.0 if 2 * right > k else 0.5 if 2 * right == k else 0.0
        wins = majority if agreement else 1.0 if right > 1 else right / k
        exact += math.comb(k, right) * (1 - p) ** right * p ** (k - right) * wins
    assert near(found.success, exact, n)


def test_draws_of_a_hop_hang_together_as_much_as_they_are_said_to() -> None:
    """Two draws and a unanimous vote: both wrong with probability p² + ρ p (1 − p), where they then agree."""
    p, rho, n = 0.2, 0.5, 400_000
    repeats = Repeats(correlation=rho, agreement=1.0, hops=1)
    found = simulate([chain(1, op="vote", k=2)], rates(0.05, sampled=p, repeats=repeats), "a", n, seed=6)
    both = p * p + rho * p * (1 - p)
    differ = 2 * (p - both)
    assert abs(found.success - (1 - both - differ / 2)) < 0.004


@pytest.mark.parametrize("revisions", [0, 1, 2])
def test_a_checker_that_recomputes_stops_at_a_value_drawn_twice(revisions: int) -> None:
    p, n = 0.3, 400_000
    repeats = Repeats(correlation=0.0, agreement=1.0, hops=1)
    layout = chain(1, op="verify", max_revisions=revisions)
    found = simulate([layout], rates(p, sampled=p, repeats=repeats), "a", n, seed=8)
    success, calls = exact_verify(p, revisions)
    assert near(found.success, success, n)
    assert found.calls / n == pytest.approx(calls, rel=0.005)


def exact_verify(p: float, revisions: int) -> tuple[float, float]:
    """Success and calls by enumeration of all draws, wrong ones all alike: as `workflows/verify_revise.py` does it."""
    success = calls = 0.0
    for draws in itertools.product((0, 1), repeat=2 * revisions + 2):
        weight = math.prod(p if wrong else 1 - p for wrong in draws)
        stands, asked = outcome(draws, revisions)
        success += weight * (stands == 0)
        calls += weight * asked
    return success, calls


def outcome(draws: tuple[int, ...], revisions: int) -> tuple[int, int]:
    seen: list[int] = []
    rest = iter(draws)
    for revision in range(revisions + 1):
        stands = next(rest)
        known, seen = stands in seen, [*seen, stands]
        if revision and known:
            return stands, len(seen)
        check = next(rest)
        seen.append(check)
        if check == stands:
            return stands, len(seen)
    return stands, len(seen)


def test_a_judge_sends_back_what_it_finds() -> None:
    n = 300_000
    layout = chain(1, op="judge", max_revisions=2, detection=1.0, false_alarm=0.0)
    found = simulate([layout], rates(0.3, sampled=0.4, repeats=INDEPENDENT), "a", n, seed=9)
    assert near(1 - found.success, 0.3 * 0.4 * 0.4, n)


def test_a_judge_without_known_worth_is_one_sentence() -> None:
    with pytest.raises(SimulationError, match="no checker was seen in the runs of arm 'a'; give its rates with --detection"):
        simulate([chain(1, op="judge")], rates(0.3), "a", 10, seed=0)
    fitted = Checking(detection=modelled.rate(1.0), false_alarm=modelled.rate(0.0))
    found = simulate([chain(1, op="judge")], rates(0.3, sampled=0.3, repeats=INDEPENDENT, checking=fitted), "a", 100_000, seed=0)
    assert near(1 - found.success, 0.3**3, 100_000)


def test_a_merge_is_wrong_where_a_parent_is() -> None:
    nodes = (Node(id="a", family="f"), Node(id="b", family="f"), Node(id="c", parents=("a", "b"), family="f", op="merge"))
    found = simulate([Layout(nodes=nodes)], rates(0.1), "a", 200_000, seed=1)
    assert near(found.success, 0.9**2, 200_000)
    assert found.calls == 400_000


def test_calls_that_fail_for_good_leave_no_answer() -> None:
    found = simulate([chain(2, failure=0.2, retries=1)], rates(0.1), "a", 200_000, seed=1)
    assert near(found.silent / found.chains, 1 - 0.96**2, 200_000)
    assert near(found.success, 0.9**2 * 0.96**2, 200_000)
    assert found.calls / found.chains == pytest.approx(2 * 1.2, rel=1e-4)


def test_arms_of_nodes_and_what_they_cost() -> None:
    cheap = HopCost(hops=1, prompt_tokens=5, completion_tokens=2, latency_s=1, energy_j=4)
    dear = HopCost(hops=1, prompt_tokens=9, completion_tokens=3, latency_s=2, energy_j=7)
    made = model({"a": arm(0.01, cost=cheap), "b": arm(0.5, cost=dear)})
    nodes = chain(2).nodes
    mixed = Layout(nodes=(nodes[0], nodes[1].model_copy(update={"arm": "b"})))
    found = simulate([mixed], made.point(), "a", 100_000, seed=0)
    assert near(found.success, 0.99 * 0.5, 100_000)
    assert (found.costs / found.chains).tolist() == pytest.approx([14.0, 5.0, 11.0])
    assert found.seconds / found.chains == pytest.approx(3.0)


def test_side_by_side_is_no_longer_than_its_longest_part() -> None:
    cost = HopCost(hops=1, prompt_tokens=1, completion_tokens=1, latency_s=2.0)
    nodes = (Node(id="a", family="f"), Node(id="b", family="f"), Node(id="c", parents=("a", "b"), family="f"))
    found = simulate([Layout(nodes=nodes)], rates(0.1, cost=cost), "a", 1_000, seed=0)
    assert found.seconds / found.chains == pytest.approx(4.0)
    assert math.isnan(found.costs[2])


def test_templates_of_other_depth_and_dependencies_take_turns() -> None:
    layouts = [chain(2), chain(6)]
    found = simulate(layouts, rates(0.1), "a", 200_000, seed=0)
    assert near(found.success, (0.9**2 + 0.9**6) / 2, 200_000)


def test_the_spread_of_an_error_is_that_of_the_graph() -> None:
    """The first premise is always wrong: it reaches two of three, of which the mask saves one half."""
    nodes = (
        Node(id="a", family="f"),
        Node(id="b", family="f", parents=("a",), arm="good"),
        Node(id="x", family="f", arm="good"),
        Node(id="c", family="f", parents=("x", "b"), arm="good"),
    )
    made = model({"a": arm(1 - 1e-12), "good": arm(1e-12)}, mask=0.5)
    found = simulate([Layout(nodes=nodes)], made.point(), "a", 100_000, seed=0)
    assert found.first_errors.tolist() == [0, 100_000, 0, 0, 0]
    assert found.blast / found.blasted == pytest.approx((0.5 + 0.25) / 2, abs=0.01)
    assert found.blasted == 100_000
    wrong_end = 1 - found.success
    assert near(wrong_end, 0.25, 100_000)
    assert near(found.collapses[4] / found.chains, 0.25, 100_000), "x is right and on the way, so the answer alone is collapsed"


def test_an_unknown_arm_or_family_is_one_sentence() -> None:
    with pytest.raises(SimulationError, match=r"unknown arm 'aq'.*fitted on a"):
        simulate([chain(1)], rates(0.1), "aq", 10, seed=0)
    with pytest.raises(SimulationError, match="unknown family 'g'"):
        simulate([chain(1, family="g")], rates(0.1), "a", 10, seed=0)
    with pytest.raises(SimulationError, match="no task to simulate"):
        simulate([], rates(0.1), "a", 10, seed=0)
