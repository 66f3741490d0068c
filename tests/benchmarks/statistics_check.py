"""Do the verdicts err as seldom as they claim? `python tests/benchmarks/statistics_check.py [--experiments N] [--json]`.

Experiments with a known truth are drawn and judged as `qtrap compare` judges a run. Every rate is in percent of the
experiments, with its Monte-Carlo standard error.

- A/A: the arm is no different from the baseline, so `danger` is wrong.
- boundary: the arm is worse by exactly the margin, so `safe` and `danger` are both wrong; nominally 2.5 % each.
- power: how often a verdict falls where it should.
- horizon: how often the interval of H50 holds the true one.
- exact: the first three without simulation, by adding up the probabilities of all outcomes of independent pairs.

Three ways to the interval of a difference are compared: the score interval, the bootstrap, and the wider end of both, which
is the one that verdicts are read from. `low` and `high` are intervals that lie wholly below or above the truth, the rest
cover it. Pairs of one task agree as in a mixture: with probability `alike` all of them end in the same way, else each in its own.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from qtrap_agents.analysis.paired import Cluster, PairedCounts, PairedSample, paired_difference, verdict
from qtrap_agents.analysis.statistics import Interval, horizon

MARGIN = 0.02
NOMINAL = 0.025
"""How often an interval may lie wholly on one side of the truth."""

COVERAGE = (0.93, 0.97)
METHODS = ("interval", "score", "bootstrap")
"""Fields of `PairedDifference`; verdicts are read from the first."""


class Pairs(NamedTuple):
    """An experiment on so many tasks with so many pairs each; `lost` and `gained` are shares of the pairs."""

    question: str
    tasks: int
    repeats: int
    lost: float
    gained: float
    alike: float = 0.0

    @property
    def truth(self) -> float:
        """The true difference of success."""
        return round(self.gained - self.lost, 12)


class Chains(NamedTuple):
    """An experiment on so many chains of each depth; a shape of 1 is a constant hop success."""

    depths: tuple[int, ...]
    chains: int
    h50: float
    shape: float = 1.0

    @property
    def hop_success(self) -> float | None:
        """The success of a hop, where it is constant."""
        return 0.5 ** (1 / self.h50) if self.shape == 1 else None


PAIRS = (
    Pairs("A/A", 100, 1, 0.01, 0.01),
    Pairs("A/A", 400, 1, 0.0025, 0.0025),
    Pairs("A/A", 400, 1, 0.03, 0.03),
    Pairs("A/A", 400, 1, 0.1, 0.1),
    Pairs("A/A", 2400, 1, 0.005, 0.005),
    Pairs("A/A", 100, 3, 0.03, 0.03, 0.4),
    Pairs("A/A", 400, 3, 0.005, 0.005, 0.4),
    Pairs("A/A", 400, 3, 0.03, 0.03, 0.0),
    Pairs("A/A", 400, 3, 0.03, 0.03, 0.4),
    Pairs("A/A", 400, 3, 0.03, 0.03, 1.0),
    Pairs("A/A", 1000, 3, 0.1, 0.1, 0.4),
    Pairs("boundary", 200, 1, 0.0225, 0.0025),
    Pairs("boundary", 400, 1, 0.0225, 0.0025),
    Pairs("boundary", 400, 1, 0.05, 0.03),
    Pairs("boundary", 1000, 1, 0.03, 0.01),
    Pairs("boundary", 2400, 1, 0.1, 0.08),
    Pairs("boundary", 100, 3, 0.05, 0.03, 0.4),
    Pairs("boundary", 400, 3, 0.0225, 0.0025, 0.4),
    Pairs("boundary", 400, 3, 0.05, 0.03, 1.0),
    Pairs("boundary", 1000, 3, 0.03, 0.01, 0.4),
    Pairs("power", 400, 1, 0.0025, 0.0025),
    Pairs("power", 1200, 1, 0.01, 0.01),
    Pairs("power", 1200, 1, 0.015, 0.005),
    Pairs("power", 400, 1, 0.06, 0.01),
    Pairs("power", 1200, 1, 0.05, 0.01),
    Pairs("power", 400, 3, 0.05, 0.01, 0.4),
)

EXACT = (
    Pairs("exact", 50, 1, 0.02, 0.0),
    Pairs("exact", 100, 1, 0.05, 0.03),
    Pairs("exact", 100, 1, 0.05, 0.05),
    Pairs("exact", 200, 1, 0.0225, 0.0025),
    Pairs("exact", 400, 1, 0.005, 0.005),
    Pairs("exact", 400, 1, 0.03, 0.01),
    Pairs("exact", 1000, 1, 0.02, 0.0),
)

CHAINS = (
    Chains((2, 8, 32), 100, 20),
    Chains((2, 8, 32), 100, 200),
    Chains((2, 8, 32), 100, 2000),
    Chains((2, 8, 32, 128), 40, 100),
    Chains((2, 8, 32, 128), 40, 1000),
    Chains((8,), 100, 30),
    Chains((2, 8, 32), 100, 20, 1.5),
    Chains((2, 8, 32, 128), 40, 100, 0.7),
)


class Sides(NamedTuple):
    """Probabilities of an interval wholly below and wholly above the truth."""

    low: float
    high: float


class Misses(NamedTuple):
    """Of so many experiments, the intervals wholly below and wholly above the truth."""

    experiments: int
    low: int
    high: int

    @property
    def covered(self) -> int:
        """Intervals that hold the truth."""
        return self.experiments - self.low - self.high


class PairsResult(NamedTuple):
    """What became of a scenario: verdicts, and misses of every method."""

    scenario: Pairs
    experiments: int
    verdicts: Mapping[str, int]
    misses: Mapping[str, Misses]

    @property
    def wrong(self) -> dict[str, int]:
        """Verdicts that the truth forbids, by verdict."""
        forbidden = {"safe"} if self.scenario.truth <= -MARGIN else set()
        forbidden |= {"danger"} if self.scenario.truth >= -MARGIN else set()
        return {word: self.verdicts[word] for word in sorted(forbidden)}


class ChainsResult(NamedTuple):
    """What became of a scenario: misses, and intervals with an open end."""

    scenario: Chains
    misses: Misses
    open_ended: int


def check_pairs(scenario: Pairs, experiments: int, seed: int = 0) -> PairsResult:
    """Draw and judge; the same arguments give the same result."""
    rng = np.random.default_rng([seed, *map(ord, repr(scenario))])
    verdicts: Counter[str] = Counter()
    sides: dict[str, Counter[str]] = {method: Counter() for method in METHODS}
    for _ in range(experiments):
        intervals = _judged(frozenset(draw(scenario, rng).items()))
        verdicts[verdict(intervals["interval"], MARGIN)] += 1
        for method, interval in intervals.items():
            sides[method][_side(interval, scenario.truth)] += 1
    misses = {method: Misses(experiments, side["low"], side["high"]) for method, side in sides.items()}
    return PairsResult(scenario, experiments, verdicts, misses)


def exact_sides(scenario: Pairs) -> dict[str, Sides]:
    """The same of every method by enumeration; pairs are independent. Outcomes rarer than 1e-7 are left out."""
    sides = {method: {"low": 0.0, "high": 0.0, "covers": 0.0} for method in METHODS}
    for lost, gained, probability in _outcomes(scenario):
        kinds = {Cluster(1, 0, 1): lost, Cluster(0, 1, 1): gained, Cluster(0, 0, 1): scenario.tasks - lost - gained}
        intervals = _judged(frozenset((kind, count) for kind, count in kinds.items() if count))
        for method, interval in intervals.items():
            sides[method][_side(interval, scenario.truth)] += probability
    return {method: Sides(side["low"], side["high"]) for method, side in sides.items()}


def _outcomes(scenario: Pairs) -> Iterator[tuple[int, int, float]]:
    """Lost and gained pairs with their probability."""
    discordant = scenario.lost + scenario.gained
    for number in range(int(binom.isf(1e-7, scenario.tasks, discordant)) + 1):
        for lost in range(number + 1):
            probability = binom.pmf(number, scenario.tasks, discordant) * binom.pmf(lost, number, scenario.lost / discordant)
            if probability > 1e-7:
                yield lost, number - lost, float(probability)


def check_chains(scenario: Chains, experiments: int, seed: int = 0) -> ChainsResult:
    """The same for the interval of H50."""
    rng = np.random.default_rng([seed, *map(ord, repr(scenario))])
    success = 0.5 ** ((np.array(scenario.depths) / scenario.h50) ** scenario.shape)
    sides: Counter[str] = Counter()
    open_ended = 0
    for right in rng.binomial(scenario.chains, success, size=(experiments, len(scenario.depths))):
        interval = _fitted(scenario.depths, scenario.chains, tuple(map(int, right)))
        sides[_side(interval, scenario.h50)] += 1
        open_ended += interval.low is None or interval.high is None
    return ChainsResult(scenario, Misses(experiments, sides["low"], sides["high"]), open_ended)


def draw(scenario: Pairs, rng: np.random.Generator) -> dict[Cluster, int]:
    """One experiment: tasks by what became of their pairs."""
    shares = [scenario.lost, scenario.gained, 1 - scenario.lost - scenario.gained]
    outcomes: NDArray[np.int64] = rng.choice(3, p=shares, size=(scenario.tasks, scenario.repeats))
    alike = rng.random(scenario.tasks) < scenario.alike
    outcomes[alike] = outcomes[alike, :1]
    lost, gained = (outcomes == 0).sum(axis=1), (outcomes == 1).sum(axis=1)
    kinds, counts = np.unique(lost * (scenario.repeats + 1) + gained, return_counts=True)
    return {
        Cluster(*divmod(int(kind), scenario.repeats + 1), scenario.repeats): int(count)
        for kind, count in zip(kinds, counts, strict=True)
    }


def above_nominal(count: int, experiments: int, nominal: float = NOMINAL) -> bool:
    """True where so many errors come less than once in a thousand times at the nominal rate."""
    return bool(binom.sf(count - 1, experiments, nominal) < 0.001)


@lru_cache(maxsize=100_000)
def _judged(clusters: frozenset[tuple[Cluster, int]]) -> Mapping[str, Interval]:
    """The interval of every method; a bootstrap that does not exist is the estimate alone, as other programs report it."""
    lost = sum(cluster.lost * number for cluster, number in clusters)
    gained = sum(cluster.gained * number for cluster, number in clusters)
    pairs = sum(cluster.pairs * number for cluster, number in clusters)
    counts = PairedCounts(both_right=pairs - lost - gained, lost=lost, gained=gained, both_wrong=0)
    found = paired_difference(PairedSample(counts, dict(clusters)))
    bootstrap = found.bootstrap or Interval(low=counts.difference, high=counts.difference)
    return {"interval": found.interval, "score": found.score, "bootstrap": bootstrap}


@lru_cache(maxsize=100_000)
def _fitted(depths: tuple[int, ...], chains: int, right: tuple[int, ...]) -> Interval:
    return horizon(depths, right, (chains,) * len(depths)).interval


def _side(interval: Interval, truth: float) -> str:
    """`low` where the whole interval lies below the truth, `high` where above; an open end reaches everywhere."""
    if (math.inf if interval.high is None else interval.high) < truth - 1e-12:
        return "low"
    return "high" if (-math.inf if interval.low is None else interval.low) > truth + 1e-12 else "covers"


def _rate(count: int, experiments: int) -> str:
    """`2.3 ±0.5`; the error of a count of 0 is that of half a count."""
    share = max(count, 0.5) / experiments
    error = math.sqrt(share * max(0.0, 1 - share) / experiments)
    return f"{100 * count / experiments:5.1f} ±{100 * error:.1f}"


def _marked(count: int, experiments: int) -> str:
    return _rate(count, experiments) + ("!" if above_nominal(count, experiments) else " ")


def _coverage(misses: Misses) -> str:
    share = misses.covered / misses.experiments
    mark = " " if COVERAGE[0] <= share <= COVERAGE[1] else "<" if share < COVERAGE[0] else ">"
    return _rate(misses.covered, misses.experiments) + mark


def pairs_table(results: Sequence[PairsResult]) -> Iterator[str]:
    """Lines of the table of differences."""
    yield (
        f"{'question':9}{'tasks':>6} {'×':>2}{'lost %':>8}{'gained %':>9}{'alike':>6}   {'safe':11}{'danger':13}"
        f"{'low':13}{'high':13}{'covers: used':14}{'score':13}{'bootstrap':12}"
    )
    for found in results:
        scenario, wrong, used = found.scenario, found.wrong, found.misses["interval"]
        verdicts = ((_marked if word in wrong else _rate)(found.verdicts[word], found.experiments) for word in ("safe", "danger"))
        cells = [*verdicts, *(_marked(count, found.experiments) for count in used[1:])]
        cells += [_coverage(found.misses[method]) for method in METHODS]
        yield (
            f"{scenario.question:9}{scenario.tasks:6,} {scenario.repeats:2}{100 * scenario.lost:8.2f}{100 * scenario.gained:9.2f}"
            f"{scenario.alike:6.1f}   " + "  ".join(f"{cell:11}" for cell in cells)
        )


def exact_table(results: Mapping[Pairs, Mapping[str, Sides]]) -> Iterator[str]:
    """Lines of the table of exact probabilities."""
    heading = f"{'pairs':>6}{'lost %':>8}{'gained %':>9}"
    yield heading + "".join(f"{f'{name}: low':>16}{'high':>7}" for name in ("used", "score", "bootstrap"))
    for scenario, sides in results.items():
        cells = (f"{100 * sides[method].low:16.2f}{100 * sides[method].high:7.2f}" for method in METHODS)
        yield f"{scenario.tasks:6,}{100 * scenario.lost:8.2f}{100 * scenario.gained:9.2f}" + "".join(cells)


def chains_table(results: Sequence[ChainsResult]) -> Iterator[str]:
    """Lines of the table of horizons."""
    heading = f"{'depths':16}{'chains':>7}{'H50':>7}{'shape':>7}{'p of a hop':>12}"
    yield f"{heading}   {'low':13}{'high':13}{'covers':13}{'open end %':>10}"
    for found in results:
        scenario, misses = found.scenario, found.misses
        p = scenario.hop_success
        depths = ", ".join(map(str, scenario.depths))
        cells = [*(_marked(count, misses.experiments) for count in misses[1:]), _coverage(misses)]
        yield (
            f"{depths:16}{scenario.chains:7}{scenario.h50:7g}{scenario.shape:7g}{'–' if p is None else f'{p:.5f}':>12}   "
            + "  ".join(f"{cell:11}" for cell in cells)
            + f"{100 * found.open_ended / misses.experiments:10.1f}"
        )


def as_json(
    pairs: Sequence[PairsResult], chains: Sequence[ChainsResult], exact: Mapping[Pairs, Mapping[str, Sides]]
) -> dict[str, Any]:
    """All counts and exact probabilities."""
    return {
        "margin": MARGIN,
        "exact": [
            {"scenario": scenario._asdict(), "sides": {method: side._asdict() for method, side in sides.items()}}
            for scenario, sides in exact.items()
        ],
        "pairs": [
            {
                "scenario": found.scenario._asdict() | {"difference": found.scenario.truth},
                "experiments": found.experiments,
                "verdicts": dict(found.verdicts),
                "wrong": found.wrong,
                "misses": {method: misses._asdict() | {"covered": misses.covered} for method, misses in found.misses.items()},
            }
            for found in pairs
        ],
        "chains": [
            {
                "scenario": found.scenario._asdict() | {"hop_success": found.scenario.hop_success},
                **found.misses._asdict(),
                "covered": found.misses.covered,
                "open_ended": found.open_ended,
            }
            for found in chains
        ],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Error rates of verdicts and coverage of intervals on simulated experiments.")
    parser.add_argument("--experiments", type=int, default=1000, help="experiments in each scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON instead of tables")
    arguments = parser.parse_args()
    pairs = [check_pairs(scenario, arguments.experiments, arguments.seed) for scenario in PAIRS]
    chains = [check_chains(scenario, arguments.experiments, arguments.seed) for scenario in CHAINS]
    exact = {scenario: exact_sides(scenario) for scenario in EXACT}
    if arguments.json:
        print(json.dumps(as_json(pairs, chains, exact), indent=1))
        return
    print(f"Differences, margin {100 * MARGIN:g} points, {arguments.experiments:,} experiments a line, % ± Monte-Carlo error")
    print("", *pairs_table(pairs), "", sep="\n")
    print("Intervals wholly below or above the truth, by enumeration of all outcomes, %", "", *exact_table(exact), "", sep="\n")
    print("Horizons, % ± Monte-Carlo error", "", *chains_table(chains), "", sep="\n")
    print("!  above the nominal 2.5 % (less than one chance in 1,000);  < >  coverage below 93 or above 97 %")


if __name__ == "__main__":
    main()
