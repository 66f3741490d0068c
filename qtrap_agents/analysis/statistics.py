"""The statistics behind a verdict, over scipy and statsmodels: counts in, intervals and p-values out."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import chi2, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from qtrap_agents.types import Record

Verdict = Literal["safe", "danger", "undecided"]

_LN2 = math.log(2)
_SHAPES = (0.1, 10.0)
_FAR = math.log(1e6)


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


def exact_mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p-value of McNemar's test from the discordant pairs; 1 where there are none."""
    if lost + gained == 0:
        return 1.0
    return float(mcnemar([[0, lost], [gained, 0]], exact=True).pvalue)


def holm(pvalues: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted for the family-wise error of all of them (Holm 1979), in the order given."""
    if not pvalues:
        return ()
    return tuple(float(p) for p in multipletests(pvalues, method="holm")[1])


class PairedCounts(Record):
    """Tasks that two arms both answered, by outcome. `lost`: only the baseline was right; `gained`: only the arm."""

    both_right: int
    lost: int
    gained: int
    both_wrong: int

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.both_right + self.lost + self.gained + self.both_wrong

    @property
    def difference(self) -> float | None:
        """Success of the arm minus success of the baseline; None without pairs."""
        return (self.gained - self.lost) / self.n if self.n else None


def paired_difference(counts: PairedCounts, confidence: float = 0.95) -> Interval:
    """Score interval of the paired difference, arm minus baseline (Tango 1998, Statistics in Medicine 17:891).

    The interval keeps a width where no pair is discordant, which a bootstrap of the same pairs does not: there its
    ends are ∓z²/(n+z²). Without pairs the ends are −1 and 1.
    """
    if counts.n == 0:
        return Interval(low=-1.0, high=1.0, confidence=confidence)
    z = float(norm.isf((1 - confidence) / 2))
    ends = [_tango_root(counts, z), _tango_root(counts, -z)]
    return Interval(low=ends[0], high=ends[1], confidence=confidence)


def _tango_root(counts: PairedCounts, z: float) -> float:
    """The difference at which the score is z; −1 or 1 where even that end is not rejected."""
    edge = 1 - 1e-12
    low, high = _tango_score(counts, -edge) - z, _tango_score(counts, edge) - z
    if low <= 0 or high >= 0:
        return -1.0 if low <= 0 else 1.0
    return float(brentq(lambda delta: _tango_score(counts, delta) - z, -edge, edge, xtol=1e-12))


def _tango_score(counts: PairedCounts, delta: float) -> float:
    """Standardised deviation of the observed from a supposed difference; falls with `delta`, grows as √n."""
    n, lost, gained = counts.n, counts.lost, counts.gained
    linear = (2 * n - gained + lost) * delta - gained - lost
    root = math.sqrt(max(0.0, linear**2 + 8 * n * lost * delta * (1 - delta)))
    nuisance = (root - linear) / (4 * n)
    variance = n * (2 * nuisance + delta * (1 - delta))
    deviation = gained - lost - n * delta
    if variance > 0:
        return deviation / math.sqrt(variance)
    return math.copysign(math.inf, deviation) if deviation else 0.0


def verdict(difference: Interval, margin: float = 0.02) -> Verdict:
    """Non-inferiority: `safe` if the low end is above −margin, `danger` if the high end is below it."""
    if difference.low is not None and difference.low > -margin:
        return "safe"
    if difference.high is not None and difference.high < -margin:
        return "danger"
    return "undecided"


def further_tasks_needed(counts: PairedCounts, margin: float = 0.02, confidence: float = 0.95, power: float = 0.8) -> int | None:
    """Paired tasks still to run until the verdict falls with probability `power`, if the observed rates are the true ones.

    The score of `paired_difference` at −margin grows with the root of n at fixed rates, and has to reach the sum of
    the normal quantiles of interval and power. 0 where the verdict has fallen; None where no number can be given: no
    pairs yet, or an observed difference of exactly −margin. The rates are themselves estimates: at small n this is an
    order of magnitude.
    """
    if counts.n == 0:
        return None
    if verdict(paired_difference(counts, confidence), margin) != "undecided":
        return 0
    score = abs(_tango_score(counts, -margin))
    if score < 1e-6:
        return None
    target = float(norm.isf((1 - confidence) / 2) + norm.isf(1 - power))
    return math.ceil(counts.n * (target / score) ** 2) - counts.n


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
    lies inside the interval either way. Otherwise the shape is 1 throughout. An end of the interval further than a
    factor of a million from the depths tried is None.

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
        return _Fit(math.exp(peak), _profile_interval(null, peak, cells.range, confidence), hop_success)
    free_peak = _peak(free, *cells.range)
    shape = _best_shape(cells, free_peak)
    shape_p = float(chi2.sf(max(0.0, 2 * (free(free_peak) - null(peak))), 1))
    interval = _profile_interval(free, free_peak, cells.range, confidence)
    if shape_p >= 1 - confidence:
        return _Fit(math.exp(peak), interval, hop_success, 1.0, shape_p)
    if shape < 1.01 * _SHAPES[0] or free_peak < cells.range[0] + 0.01 or free_peak > cells.range[1] - 0.01:
        return _Fit(None, Interval(low=None, high=None, confidence=confidence), hop_success, shape, shape_p)
    return _Fit(math.exp(free_peak), interval, hop_success, shape, shape_p)


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
