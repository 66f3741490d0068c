"""The sustainability index: accuracy, time and energy of an arm as ratios to the baseline, and what weighing them can change.

The definition is ours (the normalisation of arXiv 2602.13595 is not public). Every index of the baseline is 1, higher is
better: TSI is the accuracy ratio, ESI the ratio of tasks per device-second, SSI baseline energy ÷ arm energy per task, and
SI = TSI^w₁ · ESI^w₂ · SSI^w₃. An ingredient that was not measured is None, and so is SI where its weight is not zero.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np

from qtrap_agents.analysis.bootstrap import Groups, bca
from qtrap_agents.analysis.effect import Paired
from qtrap_agents.analysis.statistics import Interval
from qtrap_agents.errors import ConfigError
from qtrap_agents.types import Record

Dimension = Literal["accuracy", "time", "energy"]
DIMENSIONS: tuple[Dimension, ...] = ("accuracy", "time", "energy")

GRID = 20
"""Steps from 0 to 1 of every weight on the grid of `weight_shares`: 231 choices of weights."""

ENOUGH = 20
"""Tasks that the baseline solved, from which on every resample has some of them."""


class Figure(Record):
    """A number with its 95 % interval; `interval` is None where nothing tells how far the number may be off."""

    value: float
    interval: Interval | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The interval with open ends at −∞ and ∞."""
        low, high = (self.interval.low, self.interval.high) if self.interval else (None, None)
        return -math.inf if low is None else low, math.inf if high is None else high


class Weights(NamedTuple):
    """Exponents of TSI, ESI and SSI; not negative, their sum is 1."""

    accuracy: float = 1 / 3
    time: float = 1 / 3
    energy: float = 1 / 3

    @classmethod
    def parse(cls, text: str) -> "Weights":
        """From `2,1,1`: accuracy, time, energy, scaled to a sum of 1. Raises ConfigError."""
        try:
            parts = [float(part) for part in text.split(",")]
        except ValueError:
            parts = []
        if len(parts) != 3 or not all(0 <= part < math.inf for part in parts) or not sum(parts):
            raise ConfigError(f"--weights {text}: give three numbers from 0 for accuracy, time and energy, such as 1,1,1")
        return cls(*(part / sum(parts) for part in parts))


EQUAL = Weights()
"""Each a third."""


class Indices(Record):
    """An arm relative to the baseline on the same tasks; None where an ingredient was not measured."""

    arm: str
    tsi: Figure | None = None
    esi: Figure | None = None
    ssi: Figure | None = None
    si: Figure | None = None

    def of(self, dimension: Dimension) -> Figure | None:
        """The index of a dimension."""
        return {"accuracy": self.tsi, "time": self.esi, "energy": self.ssi}[dimension]


class Dominance(Record):
    """`winner` is at least as good as `loser` in all `dimensions` and better in one: there no choice of weights turns them round.

    `dimensions` are those that were measured for both. `certain` is True where no interval leaves the order of one open.
    """

    winner: str
    loser: str
    dimensions: tuple[Dimension, ...]
    certain: bool


def indices(arm: str, tsi: Figure | None, esi: Figure | None, ssi: Figure | None, weights: Weights = EQUAL) -> Indices:
    """The three indices with SI. Its interval treats them as independent (MOVER on logarithms, Zou and Donner 2008)."""
    return Indices(arm=arm, tsi=tsi, esi=esi, ssi=ssi, si=_combined((tsi, esi, ssi), weights))


def baseline_indices(arm: str) -> Indices:
    """All 1, by definition."""
    one = Figure(value=1.0, interval=Interval(low=1.0, high=1.0))
    return Indices(arm=arm, tsi=one, esi=one, ssi=one, si=one)


def accuracy_ratio(paired: Paired) -> Figure | None:
    """TSI: success of the arm over success of the baseline on the tasks of both; None where the baseline solved none.

    The interval reaches over that of the verdict, divided by the baseline's success, and where every task was run once
    over the paired bootstrap of the ratio: each alone is too narrow, the one because it takes the baseline's success for
    known, the other where discordant pairs are rare.
    """
    counts = paired.counts
    solved = counts.both_right + counts.lost
    if not solved:
        return None
    scale = counts.n / solved
    low, high = paired.difference.low, paired.difference.high
    known = [Interval(low=0.0 if low is None else max(0.0, 1 + low * scale), high=None if high is None else 1 + high * scale)]
    if paired.tasks == counts.n and solved >= ENOUGH:
        cells = {(1, 1): counts.both_right, (0, 1): counts.lost, (1, 0): counts.gained, (0, 0): counts.both_wrong}
        drawn = bca(Groups.of({cell: number for cell, number in cells.items() if number}))
        known += [drawn] if drawn is not None else []
    return Figure(value=(counts.both_right + counts.gained) / solved, interval=_hull(known))


def inverse(ratio: Figure | None, longer: float = 1.0) -> Figure | None:
    """1 ÷ (ratio · longer): from time or energy per token to tasks per unit, for an arm that writes `longer` times the tokens.

    `longer` is taken as known. None stays None.
    """
    if ratio is None or not ratio.value * longer:
        return None
    low, high = ratio.ends
    interval = Interval(low=1 / (high * longer) if high < math.inf else None, high=1 / (low * longer) if low > 0 else None)
    return Figure(value=1 / (ratio.value * longer), interval=interval if ratio.interval else None)


def dominances(arms: Sequence[Indices]) -> tuple[Dominance, ...]:
    """Every ordered pair of arms of which one dominates the other in at least two dimensions that were measured for both."""
    return tuple(found for winner, loser in permutations(arms, 2) if (found := _dominance(winner, loser)) is not None)


def dominant(arms: Sequence[Indices], found: Iterable[Dominance]) -> str | None:
    """The arm that dominates every other one in all three dimensions, so that SI ranks it first whatever the weights."""
    wins = [dominance.winner for dominance in found if len(dominance.dimensions) == len(DIMENSIONS)]
    return next((arm.arm for arm in arms if len(arms) > 1 and wins.count(arm.arm) == len(arms) - 1), None)


def weight_shares(arms: Sequence[Indices]) -> dict[str, float] | None:
    """Share of the weight simplex, on a grid, on which each arm has the highest SI; arms that are level share a point.

    Arms of which an ingredient is missing take no part; None where fewer than two are left.
    """
    known = {arm.arm: values for arm in arms if (values := _values(arm)) is not None}
    if len(known) < 2:
        return None
    grid = np.array([(i, j, GRID - i - j) for i in range(GRID + 1) for j in range(GRID + 1 - i)]) / GRID
    logs = grid @ np.log(np.maximum(np.array(list(known.values())), 1e-12)).T
    best = np.isclose(logs, logs.max(axis=1, keepdims=True), rtol=0, atol=1e-12)
    shares = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return {arm: float(share) for arm, share in zip(known, shares, strict=True)}


def _combined(parts: Sequence[Figure | None], weights: Weights) -> Figure | None:
    weighted = [(part, weight) for part, weight in zip(parts, weights, strict=True) if weight]
    known = [(part, weight) for part, weight in weighted if part is not None]
    if len(known) < len(weighted):
        return None
    value = math.prod(part.value**weight for part, weight in known)
    if not value or any(part.interval is None for part, _ in known):
        return Figure(value=value)
    below = math.hypot(*(weight * _log_ratio(part.value, part.ends[0]) for part, weight in known))
    above = math.hypot(*(weight * _log_ratio(part.ends[1], part.value) for part, weight in known))
    high = value * math.exp(above) if above < math.inf else None
    return Figure(value=value, interval=Interval(low=value * math.exp(-below), high=high))


def _log_ratio(larger: float, smaller: float) -> float:
    return math.inf if smaller <= 0 else math.log(larger / smaller)


def _hull(intervals: Sequence[Interval]) -> Interval:
    lows, highs = [found.low for found in intervals], [found.high for found in intervals]
    return Interval(
        low=None if None in lows else min(low for low in lows if low is not None),
        high=None if None in highs else max(high for high in highs if high is not None),
    )


def _values(arm: Indices) -> tuple[float, ...] | None:
    values = tuple(figure.value for dimension in DIMENSIONS if (figure := arm.of(dimension)) is not None)
    return values if len(values) == len(DIMENSIONS) else None


def _dominance(winner: Indices, loser: Indices) -> Dominance | None:
    pairs = {name: (ours, theirs) for name in DIMENSIONS if (ours := winner.of(name)) and (theirs := loser.of(name))}
    if len(pairs) < 2 or any(ours.value < theirs.value for ours, theirs in pairs.values()):
        return None
    if all(ours.value == theirs.value for ours, theirs in pairs.values()):
        return None
    certain = all(ours.ends[0] >= theirs.ends[1] for ours, theirs in pairs.values())
    return Dominance(winner=winner.arm, loser=loser.arm, dimensions=tuple(pairs), certain=certain)
