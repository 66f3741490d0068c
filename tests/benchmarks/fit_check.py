"""Do the intervals of `qtrap fit` hold the truth? `python tests/benchmarks/fit_check.py [--experiments N] [--json]`.

Slips of one arm are drawn from known rates and fitted as `qtrap fit` fits them, the choice of terms by tests included. For every
family the 95 % interval of its own rate is held against the truth: `low` and `high` are intervals that lie wholly below or above
it, the rest cover. `kept` are the experiments in which a term entered that the truth does not have (`false`) or that it has
(`true`). Partial pooling trades a little bias of single families for less error over all of them, so coverage is nominal over
families that vary as the prior says, and may be off for one that lies far from its fellows.

- alike: all families have one rate.
- spread: rates over two orders of magnitude.
- kinds: the kinds within a family differ.
- wrong: slips are ten times as frequent on wrong parents (whose term is in every model, and counts where the tests ask for it).
- rare: three slips are to be expected in a family; rare spread: a quarter to eight of them.
- none: no slip at all; the interval should reach to some slips per hops and not to many.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

from qtrap_agents.simulation.counts import Cell
from qtrap_agents.simulation.model import Slips
from qtrap_agents.simulation.selection import select
from qtrap_agents.simulation.slips import TERMS, Counts, design_rows, fit_slips, group_of, terms_of

KINDS = ("a", "b", "c")
DRAWS = 1000


class Scenario(NamedTuple):
    """An arm: the own rate of every family, hops for each family, logits that kinds lie apart, logit more on wrong parents."""

    name: str
    rates: tuple[float, ...]
    hops: int = 2400
    kinds: float = 0.0
    wrong: float = 0.0

    @property
    def true_terms(self) -> set[str]:
        """What slips depend on beside the family."""
        return ({"kind"} if self.kinds else set()) | ({"wrong_parents"} if self.wrong else set())

    def own(self, family: int) -> float:
        """The true rate of slips on right parents, over all kinds."""
        return float(np.mean([self.rate(family, kind, False) for kind in range(len(KINDS))]))

    def rate(self, family: int, kind: int, wrong: bool) -> float:
        """The true rate of one cell."""
        return (
            float(expit(logit(self.rates[family]) + self.kinds * (kind - 1) + self.wrong * wrong)) if self.rates[family] else 0.0
        )


SCENARIOS = (
    Scenario("alike", (0.02,) * 6),
    Scenario("spread", (0.002, 0.005, 0.02, 0.05, 0.1, 0.3)),
    Scenario("kinds", (0.01, 0.02, 0.03, 0.05, 0.1, 0.2), kinds=1.0),
    Scenario("wrong", (0.01, 0.02, 0.03, 0.05, 0.1, 0.2), wrong=math.log(10)),
    Scenario("rare", (0.00125,) * 6),
    Scenario("one rare", (0.0003, 0.05, 0.05, 0.05, 0.05, 0.05), hops=10_000),
    Scenario("rare spread", (0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032)),
    Scenario("none", (0.0,) * 6),
    Scenario("none alone", (0.0,)),
    Scenario("one family", (0.01,)),
)


class Result(NamedTuple):
    """What became of a scenario: intervals below and above the truth, all intervals, their widest end in slips, terms kept."""

    scenario: Scenario
    experiments: int
    low: int
    high: int
    intervals: int
    reach: tuple[float, float]
    kept: dict[str, int]

    @property
    def covered(self) -> float:
        """Share of the intervals that hold the truth."""
        return 1 - (self.low + self.high) / self.intervals

    @property
    def false_terms(self) -> int:
        """Terms that entered without reason."""
        return sum(count for term, count in self.kept.items() if term not in self.scenario.true_terms)


def check(scenario: Scenario, experiments: int, seed: int = 0) -> Result:
    """Draw and fit; the same arguments give the same result."""
    rng = np.random.default_rng([seed, *map(ord, scenario.name)])
    sides: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    reaches: list[float] = []
    for _ in range(experiments):
        counts = draw(scenario, rng)
        chosen = select(counts, TERMS)
        kept.update(chosen.terms)
        fitted = fit_slips(counts, {*chosen.terms, "wrong_parents"})
        for family, (low, high) in enumerate(own_intervals(fitted, counts, len(scenario.rates), rng)):
            truth = scenario.own(family)
            sides["low" if high < truth else "high" if low > truth and truth else "covers"] += 1
            reaches.append(high * scenario.hops)
    total = experiments * len(scenario.rates)
    return Result(scenario, experiments, sides["low"], sides["high"], total, (min(reaches), max(reaches)), dict(kept))


def draw(scenario: Scenario, rng: np.random.Generator) -> Counts:
    """One experiment: a quarter of the hops on wrong parents, positions 1 to 4."""
    counts: dict[Cell, tuple[float, float]] = {}
    for family in range(len(scenario.rates)):
        for kind, name in enumerate(KINDS):
            for position in range(1, 5):
                for wrong in (0, 1):
                    hops = scenario.hops // 12 if not wrong else scenario.hops // 48
                    slips = rng.binomial(hops, scenario.rate(family, kind, bool(wrong)))
                    counts[Cell(f"f{family}", name, 0.0, position, 1, wrong, wrong)] = (float(slips), float(hops))
    return counts


def own_intervals(fitted: Slips, counts: Counts, families: int, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """The 95 % interval of every family's own rate."""
    coefficients = rng.multivariate_normal(np.array(fitted.mean), np.array(fitted.covariance), size=DRAWS, method="eigh")
    terms = terms_of(fitted)
    for family in range(families):
        cells = [cell for cell in counts if cell.family == f"f{family}" and not cell.wrong]
        rates = expit(design_rows([group_of(cell, terms) for cell in cells], fitted) @ coefficients.T)
        hops = np.array([counts[cell][1] for cell in cells])
        low, high = np.quantile(hops / hops.sum() @ rates, [0.025, 0.975])
        yield float(low), float(high)


def table(results: Sequence[Result]) -> Iterator[str]:
    """Lines of the table."""
    yield f"{'scenario':12}{'families':>9}{'hops':>8}{'low %':>8}{'high %':>8}{'covers %':>10}{'high end × hops':>18}  terms kept"
    for found in results:
        scenario = found.scenario
        kept = ", ".join(f"{term} {count}" for term, count in sorted(found.kept.items())) or "–"
        yield (
            f"{scenario.name:12}{len(scenario.rates):9}{scenario.hops:8,}{100 * found.low / found.intervals:8.1f}"
            f"{100 * found.high / found.intervals:8.1f}{100 * found.covered:10.1f}"
            f"{found.reach[0]:9.1f} to {found.reach[1]:5.0f}  {kept}"
        )


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """All counts."""
    return [
        found._asdict() | {"scenario": found.scenario._asdict(), "covered": found.covered, "false_terms": found.false_terms}
        for found in results
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Coverage of the intervals of fitted slip rates on simulated arms.")
    parser.add_argument("--experiments", type=int, default=200, help="experiments in each scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON instead of a table")
    arguments = parser.parse_args()
    results = [check(scenario, arguments.experiments, arguments.seed) for scenario in SCENARIOS]
    print(json.dumps(as_json(results), indent=1) if arguments.json else "\n".join(table(results)))


if __name__ == "__main__":
    main()
