"""The paired bootstrap of a ratio of sums, BCa (Efron 1987, JASA 82:171), by whole clusters.

`scipy.stats.bootstrap` draws and leaves out one observation at a time, which takes time quadratic in their number. Few
clusters differ from each other here, so the draws are multinomial counts of the distinct ones, and clusters that are
alike share their jackknife value: the same numbers (a test holds the two against each other), whatever the number of clusters.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from qtrap_agents.analysis.statistics import Interval

RESAMPLES = 9_999

Floats = NDArray[np.float64]


class Groups(NamedTuple):
    """Distinct clusters in three arrays of one length: what one adds to the numerator, to the denominator, how many there are."""

    sums: Floats
    sizes: Floats
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, clusters: Mapping[tuple[int, int], int]) -> "Groups":
        """From (sum, size) -> number of clusters; sorted, so that equal contents give equal draws, the most frequent last."""
        known = sorted(clusters, key=lambda key: (clusters[key], key))
        sums, sizes = np.array(known, dtype=np.float64).reshape(-1, 2).T
        return cls(sums, sizes, np.array([clusters[key] for key in known], dtype=np.int64))

    @property
    def ratio(self) -> float:
        """The statistic: sum of the numerators over sum of the denominators."""
        return float(self.counts @ self.sums / (self.counts @ self.sizes))


def bca(groups: Groups, confidence: float = 0.95, seed: int = 0) -> Interval | None:
    """BCa interval of `groups.ratio`; None where the clusters do not differ in it, so that resampling shows no spread.

    The draws are repeatable: equal clusters give equal intervals.
    """
    if groups.counts.sum() < 2:
        return None
    leave_one_out = _jackknife(groups)
    influence = float(groups.counts @ leave_one_out) / groups.counts.sum() - leave_one_out
    if np.allclose(influence, 0, rtol=0, atol=1e-15):
        return None
    drawn = resample(groups, seed)
    acceleration = (groups.counts @ influence**3) / (6 * (groups.counts @ influence**2) ** 1.5)
    below = (np.count_nonzero(drawn < groups.ratio) + np.count_nonzero(drawn <= groups.ratio)) / (2 * drawn.size)
    shifted = ndtri(below) + ndtri(np.array([1 - confidence, 1 + confidence]) / 2)
    low, high = np.quantile(drawn, ndtr(ndtri(below) + shifted / (1 - acceleration * shifted)))
    return Interval(low=float(low), high=float(high), confidence=confidence)


def resample(groups: Groups, seed: int = 0) -> Floats:
    """The bootstrap distribution of `groups.ratio`, `RESAMPLES` values."""
    total = int(groups.counts.sum())
    drawn = np.random.default_rng(seed).multinomial(total, groups.counts / total, size=RESAMPLES)
    ratios: Floats = (drawn @ groups.sums) / (drawn @ groups.sizes)
    return ratios


def _jackknife(groups: Groups) -> Floats:
    """The ratio without one cluster of each group."""
    values: Floats = (groups.counts @ groups.sums - groups.sums) / (groups.counts @ groups.sizes - groups.sizes)
    return values
