"""The search for plans against looking through all of them."""

import itertools
from collections.abc import Iterator

import mixtures
import pytest

from qtrap_agents.simulation import planner
from qtrap_agents.simulation.planner import Assignment, Option, Problem, best_within, cheapest, classes, options_of, sweep

KINDS = ("plus", "times", "plus", "times")
PRICES = {"good": 4.0, "fair": 2.0, "poor": 1.0}


def three(mask: float = 0.0) -> Problem:
    arms = {
        "good": mixtures.arm({"plus": 0.001, "times": 0.002}),
        "fair": mixtures.arm({"plus": 0.02, "times": 0.08}),
        "poor": mixtures.arm({"plus": 0.05, "times": 0.3}),
    }
    return mixtures.problem(mixtures.model(arms, mask=mask), KINDS, PRICES)


def everything(problem: Problem) -> Iterator[Assignment]:
    for chosen in itertools.product(problem.options, repeat=len(problem.cells)):
        yield dict(zip(problem.cells, chosen, strict=True))


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9, 0.97])
@pytest.mark.parametrize("mask", [0.0, 0.4])
def test_no_assignment_reaches_the_target_for_less(target: float, mask: float) -> None:
    problem = three(mask)
    found = cheapest(problem, target)
    assert found is not None
    least = min(problem.cost(plan) for plan in everything(problem) if problem.success(plan) >= target)
    assert problem.success(found) >= target
    assert problem.cost(found) == pytest.approx(least)


@pytest.mark.parametrize("budget", [4.0, 7.0, 9.0, 13.0])
def test_no_assignment_of_that_cost_is_better(budget: float) -> None:
    problem = three()
    found = best_within(problem, budget)
    assert found is not None
    best = max(problem.success(plan) for plan in everything(problem) if problem.cost(plan) <= budget)
    assert problem.cost(found) <= budget
    assert problem.success(found) == pytest.approx(best, abs=0.002)


@pytest.mark.parametrize("target", [0.7, 0.9, 0.97])
def test_the_sweep_comes_close_to_the_optimum(target: float, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = three()
    least = min(problem.cost(plan) for plan in everything(problem) if problem.success(plan) >= target)
    monkeypatch.setattr(planner, "ENUMERATED", 0)
    found = cheapest(problem, target)
    assert found is not None
    assert problem.success(found) >= target
    assert least <= problem.cost(found) <= least + 1.0


def test_what_is_out_of_reach_is_none() -> None:
    problem = three()
    assert cheapest(problem, 0.9999) is None
    assert best_within(problem, 3.9) is None


def test_the_sweep_gets_dearer_and_safer() -> None:
    problem = three(0.2)
    plans = sweep(problem, classes(problem))
    for before, after in itertools.pairwise(plans):
        assert problem.cost(after) > problem.cost(before)
        assert problem.estimate(after) > problem.estimate(before)
    assert plans[0] == problem.all_on(Option("poor"))
    assert plans[-1] == problem.all_on(Option("good"))


def test_the_sum_of_losses_is_near_the_simulator() -> None:
    problem = three(0.3)
    for plan in itertools.islice(everything(problem), 0, None, 7):
        assert problem.estimate(plan) == pytest.approx(problem.success(plan), abs=0.05)


def test_masks_move_the_good_arm_to_the_end() -> None:
    """Where errors die out on the way, the last hops need care and the first do not."""
    arms = {"good": mixtures.arm({"k": 0.001}), "poor": mixtures.arm({"k": 0.1})}
    problem = mixtures.problem(mixtures.model(arms, mask=0.6), ["k"] * 4, {"good": 2.0, "poor": 1.0})
    found = best_within(problem, 6.0)
    assert found is not None
    assert [found["k", position].arm for position in range(1, 5)] == ["poor", "poor", "good", "good"]


def test_a_long_chain_has_ranges_of_positions() -> None:
    arms = {"good": mixtures.arm({"a": 0.0005, "b": 0.0005}), "poor": mixtures.arm({"a": 0.004, "b": 0.02})}
    problem = mixtures.problem(mixtures.model(arms), ["a", "b"] * 12, {"good": 3.0, "poor": 1.0})
    found = cheapest(problem, 0.93)
    assert found is not None
    assert problem.success(found) >= 0.93
    assert problem.cost(found) < problem.cost(problem.all_on(Option("good")))
    assert {found["b", position].arm for position in range(2, 25, 2)} == {"good"}


@pytest.mark.parametrize("option", [Option("poor", 5), Option("poor", verify=True)])
def test_votes_and_checkers_are_taken_where_they_pay(option: Option) -> None:
    poor = mixtures.arm({"k": 0.1}, repeats=mixtures.drawn_again())
    fitted = mixtures.model({"good": mixtures.arm({"k": 0.001}), "poor": poor})
    prices = {"good": 50.0, "poor": 1.0}
    problem = mixtures.problem(fitted, ["k"] * 3, prices, [Option("good"), Option("poor"), option])
    found = cheapest(problem, 0.9)
    assert found is not None
    assert option in found.values()
    assert problem.cost(found) < 50
    assert problem.calls(found) > 3


def test_all_ways_to_answer() -> None:
    assert options_of(["a", "b"], [3], verify=True) == (
        Option("a"), Option("b"), Option("a", 3), Option("b", 3), Option("a", verify=True), Option("b", verify=True),
    )  # fmt: skip
    assert options_of(["a"], [], verify=False) == (Option("a"),)
