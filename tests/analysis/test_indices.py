"""Indices, dominance and the simplex of weights, held against numbers that can be told by hand."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtrap_agents.analysis.effect import Paired, effects
from qtrap_agents.analysis.indices import (
    EQUAL,
    Figure,
    Indices,
    Weights,
    accuracy_ratio,
    baseline_indices,
    dominances,
    dominant,
    indices,
    inverse,
    weight_shares,
)
from qtrap_agents.analysis.paired import PairedCounts, PairedSample
from qtrap_agents.analysis.statistics import Interval
from qtrap_agents.errors import ConfigError

POSITIVE = st.floats(0.1, 10)


def paired(both_right: int, lost: int, gained: int, both_wrong: int) -> Paired:
    counts = PairedCounts(both_right=both_right, lost=lost, gained=gained, both_wrong=both_wrong)
    return effects({("awq", None): PairedSample.independent(counts)}, 0.02, {})["awq", None]


def known(value: float, low: float | None = None, high: float | None = None) -> Figure:
    return Figure(value=value, interval=Interval(low=low, high=high) if low is not None or high is not None else None)


def arm(name: str, *values: float | None) -> Indices:
    tsi, esi, ssi = (None if value is None else known(value) for value in values)
    return indices(name, tsi, esi, ssi)


def test_accuracy_ratio() -> None:
    found = accuracy_ratio(paired(60, 20, 5, 15))
    assert found is not None
    assert found.value == pytest.approx(65 / 80)
    low, high = found.ends
    assert 0.65 < low < 65 / 80 < high < 0.95


def test_accuracy_ratio_of_a_baseline_that_solves_nothing_is_not_known() -> None:
    assert accuracy_ratio(paired(0, 0, 5, 15)) is None


def test_accuracy_ratio_keeps_a_width_without_a_discordant_pair() -> None:
    found = accuracy_ratio(paired(100, 0, 0, 0))
    assert found is not None
    assert found.value == 1
    assert found.ends[0] < 0.98
    assert found.ends[1] > 1.02


def test_accuracy_ratio_of_few_solved_tasks_needs_no_resample_of_them() -> None:
    found = accuracy_ratio(paired(2, 1, 0, 97))
    assert found is not None
    assert found.ends[0] == 0


@settings(max_examples=12, deadline=None)
@given(st.tuples(*[st.integers(0, 40)] * 4).filter(lambda cells: cells[0] + cells[1] > 0))
def test_the_interval_holds_the_ratio(cells: tuple[int, int, int, int]) -> None:
    found = accuracy_ratio(paired(*cells))
    assert found is not None
    assert 0 <= found.ends[0] <= found.value + 1e-9
    assert found.value <= found.ends[1] + 1e-9


def test_inverse_turns_the_interval_round() -> None:
    assert inverse(known(0.5, 0.4, 0.8)) == known(2, 1.25, 2.5)
    assert inverse(known(0.5), longer=2) == known(1)
    assert inverse(known(0.5, 0.25, 1.0), longer=2) == known(1, 0.5, 2)
    assert inverse(known(0.5, 0.25, None), longer=2) == Figure(value=1, interval=Interval(low=None, high=2))
    assert inverse(None) is None


def test_si_is_the_weighted_geometric_mean() -> None:
    found = indices("awq", known(0.9), known(1.5), known(1.2), Weights(0.5, 0.25, 0.25)).si
    assert found is not None
    assert found.value == pytest.approx(0.9**0.5 * 1.5**0.25 * 1.2**0.25)
    assert found.interval is None


def test_si_interval_adds_the_widths_of_logarithms_in_squares() -> None:
    parts = [known(1.0, math.exp(-width), math.exp(width)) for width in (0.3, 0.4, 0.0)]
    found = indices("awq", parts[0], parts[1], parts[2]).si
    assert found is not None
    assert found.ends == pytest.approx((math.exp(-0.5 / 3), math.exp(0.5 / 3)))


def test_si_with_a_ratio_that_may_be_zero() -> None:
    found = indices("awq", known(0.5, 0.0, 1.0), known(1, 1, 1), known(1, 1, 1)).si
    assert found is not None
    assert found.ends[0] == 0


def test_si_is_none_where_an_ingredient_with_weight_is_missing() -> None:
    assert arm("awq", 0.9, 1.5, None).si is None
    without_energy = indices("awq", known(0.9), known(1.5), None, Weights(0.5, 0.5, 0.0)).si
    assert without_energy is not None
    assert without_energy.value == pytest.approx((0.9 * 1.5) ** 0.5)


def test_the_baseline_is_one_whatever_the_weights() -> None:
    base = baseline_indices("fp16")
    assert {figure.value for figure in (base.tsi, base.esi, base.ssi, base.si) if figure} == {1.0}


@pytest.mark.parametrize("text", ["", "1,1", "1,1,1,1", "a,b,c", "-1,1,1", "0,0,0", "nan,1,1", "inf,1,1"])
def test_weights_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="three numbers from 0"):
        Weights.parse(text)


def test_weights_are_scaled() -> None:
    assert Weights.parse("2, 1,1") == Weights(0.5, 0.25, 0.25)
    assert sum(EQUAL) == pytest.approx(1)


def test_dominance() -> None:
    arms = [baseline_indices("fp16"), arm("awq", 1.0, 1.2, 1.3), arm("gptq", 0.9, 1.4, 1.1)]
    (found,) = dominances(arms)
    assert (found.winner, found.loser, found.dimensions, found.certain) == ("awq", "fp16", ("accuracy", "time", "energy"), False)
    assert dominant(arms, [found]) is None
    assert dominant(arms[:2], [found]) == "awq"


def test_dominance_is_certain_where_no_interval_leaves_it_open() -> None:
    good = indices("awq", known(1.1, 1.05, 1.2), known(1.2, 1.1, 1.3), known(1.3, 1.2, 1.4))
    open_ = indices("gptq", known(1.1, 0.95, 1.2), known(1.2, 1.1, 1.3), known(1.3, 1.2, 1.4))
    found = {(one.winner, one.loser): one.certain for one in dominances([baseline_indices("fp16"), good, open_])}
    assert found == {("awq", "fp16"): True, ("gptq", "fp16"): False}
    better = indices("nf4", known(1.2, 1.1, 1.3), known(1.25, 1.2, 1.3), known(1.35, 1.3, 1.4))
    assert [one.certain for one in dominances([good, better])] == [False]


def test_equal_arms_and_one_dimension_alone_are_no_dominance() -> None:
    assert dominances([baseline_indices("fp16"), arm("awq", 1, 1, 1)]) == ()
    assert dominances([baseline_indices("fp16"), arm("awq", 0.5, None, None)]) == ()


def test_dominance_names_the_dimensions_that_are_known() -> None:
    (found,) = dominances([baseline_indices("fp16"), arm("awq", 0.9, 0.8, None)])
    assert (found.winner, found.dimensions) == ("fp16", ("accuracy", "time"))
    assert dominant([baseline_indices("fp16"), arm("awq", 0.9, 0.8, None)], [found]) is None


def test_shares_of_the_simplex() -> None:
    """Accuracy halves what energy doubles: each arm wins one side of the line where their weights are equal."""
    shares = weight_shares([baseline_indices("fp16"), arm("awq", 0.5, 1.0, 2.0)])
    assert shares == pytest.approx({"fp16": 0.5, "awq": 0.5})
    assert weight_shares([baseline_indices("fp16"), arm("awq", 0.5, None, 2.0)]) is None


@given(st.lists(st.tuples(POSITIVE, POSITIVE, POSITIVE), min_size=1, max_size=4))
def test_an_arm_that_is_dominated_wins_no_share(values: list[tuple[float, float, float]]) -> None:
    arms = [baseline_indices("fp16"), *(arm(f"a{index}", *known) for index, known in enumerate(values))]
    shares, found = weight_shares(arms), dominances(arms)
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)
    for one in found:
        pair = {each.arm: each for each in arms}
        better = [pair[one.winner].of(name) for name in one.dimensions]
        worse = [pair[one.loser].of(name) for name in one.dimensions]
        if all(left and right and left.value > right.value * 1.001 for left, right in zip(better, worse, strict=True)):
            assert shares[one.loser] == 0


@given(st.tuples(POSITIVE, POSITIVE, POSITIVE), st.tuples(POSITIVE, POSITIVE, POSITIVE))
def test_where_one_arm_dominates_no_choice_of_weights_changes_the_order(
    ours: tuple[float, float, float], extra: tuple[float, float, float]
) -> None:
    better = tuple(value * (1 + more) for value, more in zip(ours, extra, strict=True))
    for weights in itertools.product((0.0, 0.5, 1.0), repeat=3):
        if sum(weights):
            chosen = Weights(*(weight / sum(weights) for weight in weights))
            high, low = (indices("x", known(t), known(e), known(s), chosen).si for t, e, s in (better, ours))
            assert high is not None
            assert low is not None
            assert high.value > low.value
