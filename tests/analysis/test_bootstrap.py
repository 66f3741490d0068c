"""The interval by groups of clusters is scipy's, on the same draws; scipy itself would take minutes for 10⁴ clusters."""

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap

from qtrap_agents.analysis.bootstrap import RESAMPLES, Groups, bca, resample

Floats = NDArray[np.float64]


def ratio(sums: Floats, sizes: Floats, axis: int = -1) -> Floats:
    found: Floats = sums.sum(axis) / sizes.sum(axis)
    return found


def clusters(n: int, seed: int, discordant: float) -> tuple[list[int], list[int]]:
    """Sums and sizes of clusters with one to three pairs."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, n)
    sums = [int(rng.integers(-size, size + 1)) if rng.random() < discordant else 0 for size in sizes]
    return sums, sizes.tolist()


@pytest.mark.parametrize(("n", "discordant"), [(5, 0.9), (30, 0.4), (300, 0.4), (300, 0.03)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_scipy_gives_the_same_interval_for_the_same_draws(n: int, discordant: float, confidence: float) -> None:
    sums, sizes = clusters(n, n, discordant)
    groups = Groups.of(Counter(zip(sums, sizes, strict=True)))
    data = np.array(sums, float), np.array(sizes, float)
    drawn = bootstrap(data, ratio, paired=True, vectorized=True, method="percentile", n_resamples=2)
    theirs = bootstrap(
        data,
        ratio,
        paired=True,
        vectorized=True,
        method="BCa",
        confidence_level=confidence,
        n_resamples=0,
        bootstrap_result=replace(drawn, bootstrap_distribution=resample(groups)),
    ).confidence_interval
    ours = bca(groups, confidence)
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert groups.ratio == pytest.approx(sum(sums) / sum(sizes))


def test_draws_have_the_distribution_of_scipys() -> None:
    sums, sizes = clusters(60, 1, 0.4)
    ours = resample(Groups.of(Counter(zip(sums, sizes, strict=True))))
    theirs = bootstrap(
        (np.array(sums, float), np.array(sizes, float)), ratio, paired=True, vectorized=True, n_resamples=RESAMPLES, rng=2
    ).bootstrap_distribution
    quantiles = [0.025, 0.25, 0.5, 0.75, 0.975]
    assert np.quantile(ours, quantiles) == pytest.approx(np.quantile(theirs, quantiles), abs=0.02 * float(np.ptp(theirs)))
    assert ours.std() == pytest.approx(theirs.std(), rel=0.04)


@pytest.mark.parametrize("only", [{(0, 1): 40}, {(-1, 1): 5}, {(0, 3): 7, (0, 1): 3}, {(1, 2): 1}])
def test_clusters_that_do_not_differ_have_no_bootstrap_interval(only: dict[tuple[int, int], int]) -> None:
    assert bca(Groups.of(only)) is None


def test_one_cluster_of_each_kind_can_be_resampled() -> None:
    found = bca(Groups.of({(0, 1): 1, (1, 1): 1}))
    assert found is not None
    assert (found.low, found.high) == (0.0, 1.0)


def test_equal_clusters_give_equal_intervals_whatever_their_order() -> None:
    forward = {(-1, 1): 9, (1, 1): 4, (0, 1): 100, (2, 3): 4}
    backward = dict(reversed(forward.items()))
    assert bca(Groups.of(forward)) == bca(Groups.of(backward))


def test_time_does_not_grow_with_the_number_of_clusters() -> None:
    begun = time.perf_counter()
    assert bca(Groups.of({(-1, 1): 3_000, (1, 1): 2_000, (0, 1): 95_000})) is not None
    assert time.perf_counter() - begun < 1
