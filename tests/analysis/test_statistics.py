import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from qtrap_agents.analysis.statistics import Interval, holm, horizon, wilson


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert ends(wilson(successes, n)) == pytest.approx((low, high), abs=5e-5)


def test_wilson_without_data_says_nothing() -> None:
    assert ends(wilson(0, 0)) == (0.0, 1.0)


def test_wilson_at_another_confidence_is_narrower() -> None:
    narrow, wide = ends(wilson(5, 10, 0.5)), ends(wilson(5, 10, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, 0.9]) == pytest.approx((1.0, 1.0))
    assert holm([]) == ()


def test_horizon_of_noiseless_data_under_the_null_model() -> None:
    depths, n = [2, 8, 32], 10**6
    found = horizon(depths, [round(n * 0.98**depth) for depth in depths], [n] * 3)
    assert found.hop_success == pytest.approx(0.98, abs=1e-5)
    assert found.estimate == pytest.approx(math.log(0.5) / math.log(0.98), rel=1e-3)
    assert found.null_estimate == pytest.approx(found.estimate, rel=1e-3)
    assert found.shape == 1.0
    assert found.shape_p is not None
    assert found.shape_p > 0.5
    assert found.extrapolated
    assert found.success_at(8) == pytest.approx(0.98**8, abs=1e-4)


@pytest.mark.parametrize("shape", [0.6, 2.0])
def test_horizon_of_noiseless_data_with_another_shape(shape: float) -> None:
    depths, n = [2, 8, 32], 10**6
    found = horizon(depths, [round(n * 0.5 ** ((depth / 20) ** shape)) for depth in depths], [n] * 3)
    assert found.estimate == pytest.approx(20, rel=1e-2)
    assert found.shape == pytest.approx(shape, rel=1e-2)
    assert found.shape_p == pytest.approx(0, abs=1e-9)
    assert not found.extrapolated
    assert found.success_at(20) == pytest.approx(0.5, abs=5e-3)


def test_horizon_without_failures_is_a_lower_bound() -> None:
    found = horizon([2, 8, 32], [100] * 3, [100] * 3)
    low = found.interval.low
    assert (found.estimate, found.interval.high, found.hop_success, found.null_estimate) == (None, None, 1.0, None)
    assert low is not None
    assert 0.5 ** (4200 / low) == pytest.approx(0.05)  # the chance of 4,200 right hops in a row
    assert found.success_at(5) is None
    assert not found.extrapolated


def test_horizon_without_successes_is_an_upper_bound() -> None:
    found = horizon([2, 8], [0, 0], [10, 10])
    high = found.interval.high
    assert (found.estimate, found.interval.low, found.hop_success) == (None, None, 0.0)
    assert high is not None
    assert (1 - 0.5 ** (2 / high)) ** 10 * (1 - 0.5 ** (8 / high)) ** 10 == pytest.approx(0.05)


@pytest.mark.parametrize(("depths", "totals"), [([], []), ([2, 8], [0, 0])])
def test_horizon_without_data(depths: list[int], totals: list[int]) -> None:
    found = horizon(depths, totals, totals)
    assert (found.estimate, found.hop_success, ends_or_none(found.interval)) == (None, None, (None, None))


def ends_or_none(interval: Interval) -> tuple[float | None, float | None]:
    return interval.low, interval.high


@pytest.mark.parametrize("successes", [[50, 50, 50], [50, 60, 70], [0, 0, 1]])
def test_horizon_is_unknown_where_success_does_not_fall(successes: list[int]) -> None:
    found = horizon([2, 8, 32], successes, [100] * 3)
    assert (found.estimate, ends_or_none(found.interval)) == (None, (None, None))
    assert found.shape_p == pytest.approx(0, abs=1e-6)


def test_horizon_with_failures_at_one_depth_keeps_shape_one() -> None:
    found = horizon([2, 8, 32], [100, 100, 90], [100] * 3)
    assert (found.shape, found.shape_p) == (1.0, None)
    assert found.estimate == pytest.approx(found.null_estimate)


@pytest.mark.parametrize("failures", [1, 2, 20])
def test_horizon_with_few_failures_reaches_to_the_mid_p_ends(failures: int) -> None:
    low, high = ends(horizon([8], [60 - failures], [60]).interval)
    few, many = (1 - 0.5 ** (8 / end) for end in (high, low))  # the share of failing chains at either end
    below = binom.cdf(failures, 60, many) - binom.pmf(failures, 60, many) / 2
    above = binom.sf(failures, 60, few) + binom.pmf(failures, 60, few) / 2
    assert below <= 0.025 + 1e-6
    assert above <= 0.025 + 1e-6


def test_horizon_ends_of_few_failures_count_chains_of_all_depths() -> None:
    alone, beside = (horizon(depths, [100] * (len(depths) - 1) + [99], [100] * len(depths)) for depths in ([32], [2, 8, 32]))
    assert ends(beside.interval)[0] > ends(alone.interval)[0]


def test_horizon_of_one_depth_is_the_transformed_proportion() -> None:
    found = horizon([8], [80], [100])
    assert found.hop_success == pytest.approx(0.8 ** (1 / 8), abs=1e-6)


@given(seed=st.integers(0, 10_000))
def test_horizon_interval_holds_its_estimate(seed: int) -> None:
    rng = random.Random(seed)
    depths = sorted(rng.sample(range(1, 129), rng.randint(1, 4)))
    totals = [rng.randint(0, 40) for _ in depths]
    rate = rng.random()
    found = horizon(depths, [binom_draw(rng, n, rate**depth) for n, depth in zip(totals, depths, strict=True)], totals)
    low, high = ends_or_none(found.interval)
    if found.estimate is not None:
        assert low is None or low <= found.estimate * (1 + 1e-6)
        assert high is None or high >= found.estimate * (1 - 1e-6)


def binom_draw(rng: random.Random, n: int, p: float) -> int:
    return sum(rng.random() < p for _ in range(n))


def test_horizon_interval_agrees_with_a_grid_over_both_parameters() -> None:
    depths, right, n = np.array([2, 8, 32]), np.array([97, 80, 20]), 100
    h50, shape = np.meshgrid(np.geomspace(5, 60, 1200), np.geomspace(0.2, 5, 600), indexing="ij")
    success = 0.5 ** ((depths / h50[..., None]) ** shape[..., None])
    profile = np.asarray(binom.logpmf(right, n, success)).sum(axis=-1).max(axis=1)
    inside = h50[:, 0][profile > profile.max() - 3.841459 / 2]
    assert ends(horizon([2, 8, 32], [97, 80, 20], [n] * 3).interval) == pytest.approx((inside[0], inside[-1]), rel=5e-3)


@pytest.mark.parametrize(("h50", "shape"), [(20, 1.0), (100, 1.0), (20, 1.4), (100, 0.7)])
def test_horizon_interval_covers_the_truth(h50: float, shape: float) -> None:
    rng, depths = np.random.default_rng(7), [2, 8, 32]
    covered = 0
    for _ in range(40):
        right = [int(rng.binomial(100, 0.5 ** ((depth / h50) ** shape))) for depth in depths]
        interval = horizon(depths, right, [100] * 3).interval
        covered += (interval.low or 0) <= h50 <= (interval.high or math.inf)
    assert covered >= 34  # a true 95 % interval falls short of this once in 300 runs


def test_horizon_narrows_with_more_tasks() -> None:
    widths = []
    for n in (50, 200, 800):
        low, high = ends(horizon([2, 8, 32], [n * 48 // 50, n * 40 // 50, n * 20 // 50], [n] * 3).interval)
        widths.append(math.log(high / low))
    assert all(later < 0.6 * earlier for earlier, later in pairwise(widths))


def test_horizon_pools_entries_of_one_depth() -> None:
    split = horizon([2, 8, 8, 32], [98, 40, 45, 60], [100, 50, 50, 100])
    whole = horizon([2, 8, 32], [98, 85, 60], [100, 100, 100])
    assert split.estimate == pytest.approx(whole.estimate)
    assert ends(split.interval) == pytest.approx(ends(whole.interval), rel=1e-4)


@pytest.mark.parametrize(
    ("depths", "successes", "totals", "message"),
    [
        ([2], [1, 2], [2, 2], "same length"),
        ([0], [1], [2], "1 or more"),
        ([2], [3], [2], "between 0 and"),
        ([2], [-1], [2], "between 0 and"),
    ],
)
def test_horizon_refuses_impossible_counts(depths: list[int], successes: list[int], totals: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        horizon(depths, successes, totals)
