"""Proportions, several tests at once, and the horizon, over scipy and statsmodels: counts in, intervals and p-values out."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, chi2
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from qtrap_agents.types import Record

_LN2 = math.log(2)
_SHAPES = (0.1, 10.0)
_FAR = math.log(1e6)
_FEW = 20


class Interval(Record):
    """A confidence interval; an end that the data do not bound is None."""

    low: float | None
    high: float | None
    confidence: float = 0.95


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927); [0, 1] where n is 0."""
    if n == 0:
        return Interval(low=0.0, high=1.0, confidence=confidence)
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return Interval(low=float(low), high=float(high), confidence=confidence)


def holm(pvalues: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted for the family-wise error of all of them (Holm 1979), in the order given."""
    if not pvalues:
        return ()
    return tuple(float(p) for p in multipletests(pvalues, method="holm")[1])


class Horizon(Record):
    """Success against depth, and the depth in hops at which it falls to one half (H50).

    Model: success(d) = exp(−ln 2 · (d / H50)^shape), a Weibull survival curve; shape 1 is the null model of a constant
    hop success p. `estimate` is None where no finite depth fits: with no failure at all `interval` has only a low end
    (H50 lies beyond what was tried), with no success only a high end, both one-sided bounds under the null model;
    where success does not fall with depth the interval has no ends. `shape_p` is the likelihood-ratio p-value of the
    shape against 1, None where failures at fewer than two depths leave it open. `hop_success` is p of the null model,
    None without data.
    """

    depths: tuple[int, ...]
    successes: tuple[int, ...]
    totals: tuple[int, ...]
    estimate: float | None
    interval: Interval
    shape: float = 1.0
    shape_p: float | None = None
    hop_success: float | None = None

    @property
    def null_estimate(self) -> float | None:
        """H50 of the null model, ln 0.5 / ln p; None where p is unknown, 0 or 1."""
        if self.hop_success is None or not 0 < self.hop_success < 1:
            return None
        return -_LN2 / math.log(self.hop_success)

    @property
    def extrapolated(self) -> bool:
        """True where the estimate lies outside the depths that were tried."""
        return self.estimate is not None and not min(self.depths) <= self.estimate <= max(self.depths)

    def success_at(self, depth: float) -> float | None:
        """The fitted success at a depth; None where nothing could be fitted."""
        return None if self.estimate is None else math.exp(-_LN2 * (depth / self.estimate) ** self.shape)


def horizon(depths: Sequence[int], successes: Sequence[int], totals: Sequence[int], confidence: float = 0.95) -> Horizon:
    """Fit H50 by binomial maximum likelihood; its interval is the profile likelihood's, on log H50.

    The three sequences run in parallel, one entry per group of tasks; a depth may occur several times. Where at least
    two depths have failures the interval is profiled over the shape too (0.1 to 10), because a horizon beyond the
    depths tried hangs on it; the estimate keeps shape 1 unless the likelihood ratio rejects it at 1 − confidence, and
    lies inside the interval either way. Otherwise the shape is 1 throughout, and up to 20 failures the interval reaches at
    least to the mid-P ends of their number: with one or two the profile alone errs on one side in up to 7 % of experiments
    (`tests/benchmarks/statistics_check.py`). An end further than a factor of a million from the depths tried is None.

    ln(−ln success) is linear in ln depth, so the likelihood is concave in intercept and slope and the profile of
    log H50 has one peak: the search needs no start values.

    Raises:
        ValueError: lengths differ, a depth is below 1, or a count of successes is not within its total.
    """
    if not len(depths) == len(successes) == len(totals):
        raise ValueError("depths, successes and totals must have the same length")
    if any(depth < 1 for depth in depths):
        raise ValueError("depths must be 1 or more")
    if any(not 0 <= right <= total for right, total in zip(successes, totals, strict=True)):
        raise ValueError("successes must lie between 0 and their totals")
    right = np.asarray(successes, dtype=np.float64)
    cells = _Cells(np.asarray(depths, dtype=np.float64), right, np.asarray(totals, dtype=np.float64) - right)
    fit = _fit(cells, confidence) if right.any() and cells.failures.any() else _one_sided(cells, confidence)
    return Horizon(depths=tuple(depths), successes=tuple(successes), totals=tuple(totals), **fit._asdict())


class _Cells(NamedTuple):
    """What the likelihood needs: three arrays of one length."""

    depths: NDArray[np.float64]
    successes: NDArray[np.float64]
    failures: NDArray[np.float64]

    @property
    def range(self) -> tuple[float, float]:
        """The ends of the search, as log H50."""
        return math.log(self.depths.min()) - _FAR, math.log(self.depths.max()) + _FAR


class _Fit(NamedTuple):
    estimate: float | None
    interval: Interval
    hop_success: float | None
    shape: float = 1.0
    shape_p: float | None = None


def _one_sided(cells: _Cells, confidence: float) -> _Fit:
    """No failure or no success: the H50 at which that has probability 1 − confidence under the null model."""
    bound, right = None, bool(cells.successes.any())
    if right:
        bound = _LN2 * float(cells.successes @ cells.depths) / -math.log(1 - confidence)
    elif cells.failures.any():
        target = math.log(1 - confidence)
        bound = math.exp(brentq(lambda log_h50: _log_likelihood(cells, log_h50, 1.0) - target, *cells.range))
    interval = Interval(low=bound if right else None, high=None if right else bound, confidence=confidence)
    return _Fit(None, interval, None if bound is None else float(right))


def _fit(cells: _Cells, confidence: float) -> _Fit:
    def null(log_h50: float) -> float:
        return _log_likelihood(cells, log_h50, 1.0)

    def free(log_h50: float) -> float:
        return _log_likelihood(cells, log_h50, _best_shape(cells, log_h50))

    peak = _peak(null, *cells.range)
    hop_success = math.exp(-_LN2 / math.exp(peak))
    if len(set(cells.depths[cells.failures > 0])) < 2:
        return _Fit(math.exp(peak), _null_interval(cells, peak, confidence), hop_success)
    free_peak = _peak(free, *cells.range)
    shape = _best_shape(cells, free_peak)
    shape_p = float(chi2.sf(max(0.0, 2 * (free(free_peak) - null(peak))), 1))
    interval = _profile_interval(free, free_peak, cells.range, confidence)
    if shape_p >= 1 - confidence:
        return _Fit(math.exp(peak), interval, hop_success, 1.0, shape_p)
    if shape < 1.01 * _SHAPES[0] or free_peak < cells.range[0] + 0.01 or free_peak > cells.range[1] - 0.01:
        return _Fit(None, Interval(low=None, high=None, confidence=confidence), hop_success, shape, shape_p)
    return _Fit(math.exp(free_peak), interval, hop_success, shape, shape_p)


def _null_interval(cells: _Cells, peak: float, confidence: float) -> Interval:
    """The interval with the shape fixed at 1."""
    profile = _profile_interval(lambda log_h50: _log_likelihood(cells, log_h50, 1.0), peak, cells.range, confidence)
    if cells.failures.sum() > _FEW:
        return profile
    low, high = (_mid_p_end(cells, target) for target in ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(
        low=None if low is None or profile.low is None else min(low, profile.low),
        high=None if high is None or profile.high is None else max(high, profile.high),
        confidence=confidence,
    )


def _mid_p_end(cells: _Cells, target: float) -> float | None:
    """The H50 at which fewer failures, and half of as many, have probability `target`; that grows with H50."""

    def excess(log_h50: float) -> float:
        return _mid_p(cells, log_h50) - target

    near, far = cells.range
    return math.exp(brentq(excess, near, far)) if excess(near) < 0 < excess(far) else None


def _mid_p(cells: _Cells, log_h50: float) -> float:
    """Of the sum of one binomial number of failures for each entry, under the null model."""
    counts = np.arange(int(cells.failures.sum()) + 1)
    failing = -np.expm1(-_LN2 * cells.depths / math.exp(log_h50))
    mass = np.ones(1)
    for total, share in zip(cells.successes + cells.failures, failing, strict=True):
        mass = np.convolve(mass, binom.pmf(counts, total, share))[: counts.size]
    return float(mass[:-1].sum() + mass[-1] / 2)


def _log_likelihood(cells: _Cells, log_h50: float, shape: float) -> float:
    hazard = _LN2 * np.exp(np.clip(shape * (np.log(cells.depths) - log_h50), -500, 500))
    return float(cells.failures @ np.log(-np.expm1(-hazard)) - cells.successes @ hazard)


def _best_shape(cells: _Cells, log_h50: float) -> float:
    low, high = map(math.log, _SHAPES)
    return math.exp(_peak(lambda log_shape: _log_likelihood(cells, log_h50, math.exp(log_shape)), low, high))


def _peak(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one peak is largest."""
    best = minimize_scalar(lambda x: -function(x), bounds=(low, high), method="bounded", options={"xatol": 1e-7})
    return float(best.x)


def _profile_interval(profile: Callable[[float], float], peak: float, ends: tuple[float, float], confidence: float) -> Interval:
    """Where twice the log-likelihood has fallen by the chi-square quantile on either side of the peak."""
    floor = profile(peak) - float(chi2.ppf(confidence, 1)) / 2
    low, high = (None if profile(end) > floor else math.exp(brentq(lambda x: profile(x) - floor, end, peak)) for end in ends)
    return Interval(low=low, high=high, confidence=confidence)
