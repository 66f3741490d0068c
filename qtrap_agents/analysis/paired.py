"""Two arms on the same tasks: what was lost and gained, the interval of the difference, and the verdict.

The unit that is drawn at random is the task. Where every task was run once, pairs are independent. Where runs with other
sampling seeds are compared together a task has several pairs, which resemble each other: it is a cluster, and everything
here is computed by cluster.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from scipy.optimize import brentq
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar

from qtrap_agents.analysis.bootstrap import RESAMPLES, Groups, bca
from qtrap_agents.analysis.statistics import Interval
from qtrap_agents.types import Record

Verdict = Literal["safe", "danger", "undecided"]
Unit = Literal["pairs", "tasks"]

METHODS = {
    "interval": "from the lower low end to the higher high end of the other two",
    "score": "score interval (Tango 1998) over the design effect (Rao and Scott 1992)",
    "bootstrap": f"BCa bootstrap, {RESAMPLES:,} resamples of tasks",
}
"""What the intervals of a `PairedDifference` are, by field."""


class PairedCounts(Record):
    """Pairs of answers by outcome. `lost`: only the baseline was right; `gained`: only the arm."""

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


class Cluster(NamedTuple):
    """The pairs of one task: how many were lost, gained, and how many there are."""

    lost: int
    gained: int
    pairs: int


class PairedSample(NamedTuple):
    """All pairs, together and by task; `clusters` maps the distinct clusters to the number of tasks that are alike."""

    counts: PairedCounts
    clusters: Mapping[Cluster, int]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, bool, bool]]) -> "PairedSample":
        """From the task, whether the baseline was right, and whether the arm was."""
        table: Counter[tuple[bool, bool]] = Counter()
        tasks: dict[str, Cluster] = {}
        for task, baseline, arm in pairs:
            table[baseline, arm] += 1
            lost, gained, known = tasks.get(task, (0, 0, 0))
            tasks[task] = Cluster(lost + (baseline and not arm), gained + (arm and not baseline), known + 1)
        return cls(_counts(table), Counter(tasks.values()))

    @classmethod
    def independent(cls, counts: PairedCounts) -> "PairedSample":
        """Every pair a task of its own."""
        concordant = counts.n - counts.lost - counts.gained
        clusters = {Cluster(1, 0, 1): counts.lost, Cluster(0, 1, 1): counts.gained, Cluster(0, 0, 1): concordant}
        return cls(counts, {cluster: number for cluster, number in clusters.items() if number})

    @property
    def tasks(self) -> int:
        """Number of clusters."""
        return sum(self.clusters.values())

    @property
    def repeated(self) -> bool:
        """True where a task has more than one pair."""
        return any(cluster.pairs > 1 for cluster in self.clusters)

    @property
    def design_effect(self) -> float:
        """How many dependent pairs weigh as much as one independent pair (Rao and Scott 1992, Biometrics 48:577).

        The variance of the difference between clusters over its variance between independent pairs, kept between 1 and
        the size of a cluster. Where no pair tells how alike those of one task are, they count as wholly alike.
        """
        n, tasks = self.counts.n, self.tasks
        largest = sum(number * cluster.pairs**2 for cluster, number in self.clusters.items()) / n if n else 1.0
        difference = (self.counts.gained - self.counts.lost) / n if n else 0.0
        independent = n * (self.counts.gained + self.counts.lost) - (self.counts.gained - self.counts.lost) ** 2
        if tasks < 2 or not independent:
            return largest
        deviations = (
            number * (cluster.gained - cluster.lost - cluster.pairs * difference) ** 2
            for cluster, number in self.clusters.items()
        )
        return min(largest, max(1.0, sum(deviations) * tasks / (tasks - 1) * n / independent))


class PairedDifference(Record):
    """The difference of success, arm minus baseline, with its intervals.

    `interval` is the one that verdicts are read from: it reaches from the lower low end to the higher high end of `score`
    and `bootstrap`. Each of the two alone errs on one side where discordant pairs are rare: over all outcomes of 50 to
    1,000 pairs, up to 5.2 % of score intervals lie wholly below the truth, and up to 36 % of bootstrap intervals wholly
    above it, where 2.5 % should; of those that reach over both, at most 2.6 % (`tests/benchmarks/statistics_check.py`).
    """

    interval: Interval
    score: Interval
    bootstrap: Interval | None
    design_effect: float


def paired_difference(sample: PairedSample, confidence: float = 0.95) -> PairedDifference:
    """The intervals of the paired difference; from −1 to 1 without pairs."""
    score, bootstrap = score_interval(sample, confidence), bootstrap_interval(sample, confidence)
    return PairedDifference(
        interval=_hull(score, bootstrap), score=score, bootstrap=bootstrap, design_effect=sample.design_effect
    )


def bootstrap_interval(sample: PairedSample, confidence: float = 0.95) -> Interval | None:
    """BCa over whole tasks; None where all tasks ended alike, which says nothing of how far they might have differed."""
    clusters: Counter[tuple[int, int]] = Counter()
    for cluster, number in sample.clusters.items():
        clusters[cluster.gained - cluster.lost, cluster.pairs] += number
    return bca(Groups.of(clusters), confidence) if len(clusters) > 1 else None


def score_interval(sample: PairedSample, confidence: float = 0.95) -> Interval:
    """Score interval of the paired difference (Tango 1998, Statistics in Medicine 17:891), over the design effect.

    It keeps a width where no pair is discordant, which a bootstrap of the same pairs does not: there its ends are
    ∓z²/(n+z²), where n is the number of tasks. Without pairs the ends are −1 and 1.
    """
    if sample.counts.n == 0:
        return Interval(low=-1.0, high=1.0, confidence=confidence)
    pairs = _effective(sample)
    z = float(norm.isf((1 - confidence) / 2))
    return Interval(low=_tango_root(pairs, z), high=_tango_root(pairs, -z), confidence=confidence)


def exact_mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p-value of McNemar's test from the discordant pairs; 1 where there are none."""
    if lost + gained == 0:
        return 1.0
    return float(mcnemar([[0, lost], [gained, 0]], exact=True).pvalue)


def mcnemar_unit(sample: PairedSample) -> Unit:
    """What `paired_p` counts: pairs, or tasks where they have several."""
    return "tasks" if sample.repeated else "pairs"


def paired_p(sample: PairedSample) -> float:
    """Exact McNemar. Where tasks have several pairs, a task counts as lost where the arm solved it less often, else as gained.

    Pairs of one task are not independent, as the test needs them to be; tasks are.
    """
    lost = sum(number for cluster, number in sample.clusters.items() if cluster.lost > cluster.gained)
    gained = sum(number for cluster, number in sample.clusters.items() if cluster.gained > cluster.lost)
    return exact_mcnemar(lost, gained)


def verdict(difference: Interval, margin: float = 0.02) -> Verdict:
    """Non-inferiority: `safe` if the low end is above −margin, `danger` if the high end is below it."""
    if difference.low is not None and difference.low > -margin:
        return "safe"
    if difference.high is not None and difference.high < -margin:
        return "danger"
    return "undecided"


def further_tasks_needed(sample: PairedSample, margin: float = 0.02, confidence: float = 0.95, power: float = 0.8) -> int | None:
    """Tasks still to run until the verdict falls with probability `power`, if the observed rates are the true ones.

    The score of `score_interval` at −margin grows with the root of n at fixed rates, and has to reach the sum of
    the normal quantiles of interval and power. None where no number can be given: no pairs yet, or an observed
    difference of exactly −margin. The rates are themselves estimates: at small n this is an order of magnitude.
    """
    if sample.counts.n == 0:
        return None
    score = abs(_tango_score(_effective(sample), -margin))
    if score < 1e-6:
        return None
    target = float(norm.isf((1 - confidence) / 2) + norm.isf(1 - power))
    return max(1, math.ceil(sample.tasks * (target / score) ** 2) - sample.tasks)


class _Pairs(NamedTuple):
    """Numbers of independent pairs; fractions where they stand for dependent ones."""

    n: float
    lost: float
    gained: float


def _effective(sample: PairedSample) -> _Pairs:
    counts, share = sample.counts, 1 / sample.design_effect
    return _Pairs(counts.n * share, counts.lost * share, counts.gained * share)


def _counts(table: Mapping[tuple[bool, bool], int]) -> PairedCounts:
    return PairedCounts(
        both_right=table[True, True], lost=table[True, False], gained=table[False, True], both_wrong=table[False, False]
    )


def _hull(score: Interval, bootstrap: Interval | None) -> Interval:
    known = [interval for interval in (score, bootstrap) if interval is not None]
    lows, highs = (
        [found.low for found in known if found.low is not None],
        [found.high for found in known if found.high is not None],
    )
    return Interval(low=min(lows), high=max(highs), confidence=score.confidence)


def _tango_root(pairs: _Pairs, z: float) -> float:
    """The difference at which the score is z; −1 or 1 where even that end is not rejected."""
    edge = 1 - 1e-12
    low, high = _tango_score(pairs, -edge) - z, _tango_score(pairs, edge) - z
    if low <= 0 or high >= 0:
        return -1.0 if low <= 0 else 1.0
    return float(brentq(lambda delta: _tango_score(pairs, delta) - z, -edge, edge, xtol=1e-12))


def _tango_score(pairs: _Pairs, delta: float) -> float:
    """Standardised deviation of the observed from a supposed difference; falls with `delta`, grows as √n."""
    n, lost, gained = pairs
    linear = (2 * n - gained + lost) * delta - gained - lost
    root = math.sqrt(max(0.0, linear**2 + 8 * n * lost * delta * (1 - delta)))
    nuisance = (root - linear) / (4 * n)
    variance = n * (2 * nuisance + delta * (1 - delta))
    deviation = gained - lost - n * delta
    if variance > 0:
        return deviation / math.sqrt(variance)
    return math.copysign(math.inf, deviation) if deviation else 0.0
