"""What a fitted model says of the hops that it was fitted to: rates averaged over their kinds and places, with 95 % intervals.

Intervals are of the parameters: quantiles over draws from their posterior, always the same draws.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from qtrap_agents.simulation.counts import ArmCounts, Cell, Place
from qtrap_agents.simulation.masks import luck_keys, mask_keys
from qtrap_agents.simulation.model import BetaRate, ErrorModel, Floats, Slips
from qtrap_agents.simulation.slips import Counts, Group, design_rows, group_of, terms_of
from qtrap_agents.types import Record

DRAWS = 2000
"""Draws of all parameters behind an interval."""


class Estimate(Record):
    """A rate with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Floats) -> "Estimate":
        """Median and quantiles of draws from a posterior."""
        low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975])
        return cls(value=float(middle), low=float(low), high=float(high))


class Fates(Record):
    """A family on an arm, as the model has it: slips on right parents (`own`) and on wrong ones, and what becomes of a hop there.

    `slipped`, `recovered`, `inherited` and `compounded` are shares of the hops on wrong parents.
    """

    own: Estimate
    slipped: Estimate
    recovered: Estimate
    inherited: Estimate
    compounded: Estimate


class _Weighted(NamedTuple):
    groups: list[Group]
    weights: Floats


class Draws(NamedTuple):
    """[draw] the rates of `Fates`, one for each draw of all parameters."""

    own: Floats
    slipped: Floats
    recovered: Floats
    inherited: Floats
    compounded: Floats


def fates(model: ErrorModel, arm: str, family: str, cells: Counts, counts: ArmCounts, seed: int = 0) -> Fates:
    """The rates of one family with their intervals; arguments as of `draw_fates`."""
    drawn = draw_fates(model, arm, family, cells, counts, seed)
    return Fates(**{name: Estimate.of(draws) for name, draws in drawn._asdict().items()})


def draw_fates(model: ErrorModel, arm: str, family: str, cells: Counts, counts: ArmCounts, seed: int = 0) -> Draws:
    """The rates of one family: `own` over the hops of `cells`, the others over those on wrong parents of `counts`.

    Args:
        family: with its temperature where the model of the arm has a term for that.
        counts: where it has no hop on wrong parents, `cells` show what their kinds would be.
    """
    slips = model.arm(arm).slips
    terms = terms_of(slips)
    right = _weighted((group_of(cell, terms), hops) for cell, (_, hops) in cells.items() if not cell.wrong)
    own = _of(right, family)
    places = _places(family, cells, counts)
    wrong = _weighted((group_of(_cell(place, family), terms), float(number)) for place, number in places.items())
    rng = np.random.default_rng(seed)
    coefficients = _coefficients(slips, rng)
    slip = _rates(wrong.groups, slips, coefficients)
    masks = np.array([_draws(_known(model.masks, mask_keys(place)), rng) for place in places])
    luck = np.array([_draws(_known(model.luck, luck_keys(place)), rng) for place in places])
    means = wrong.weights / wrong.weights.sum()
    return Draws(
        own=own.weights / own.weights.sum() @ _rates(own.groups, slips, coefficients),
        slipped=means @ slip,
        recovered=means @ ((1 - slip) * masks + slip * luck),
        inherited=means @ ((1 - slip) * (1 - masks)),
        compounded=means @ (slip * (1 - luck)),
    )


def families_of(slips: Slips, cells: Iterable[Cell]) -> tuple[str, ...]:
    """Families as the model tells them apart, in order."""
    terms = terms_of(slips)
    return tuple(sorted({group_of(cell, terms).family for cell in cells}))


def _plain(family: str) -> str:
    return family.partition("@")[0]


def _weighted(pairs: Iterable[tuple[Group, float]]) -> _Weighted:
    listed = list(pairs)
    return _Weighted([group for group, _ in listed], np.array([weight for _, weight in listed]))


def _of(all_groups: _Weighted, family: str) -> _Weighted:
    """Groups of a family, each once."""
    sums: dict[Group, float] = {}
    for group, weight in zip(all_groups.groups, all_groups.weights.tolist(), strict=True):
        if group.family == family:
            sums[group] = sums.get(group, 0.0) + weight
    return _weighted(sums.items())


def _places(family: str, cells: Counts, counts: ArmCounts) -> dict[Place, int]:
    """Where hops on wrong parents were, those that can be judged if there are any; without one, where they would be."""
    plain = _plain(family)
    found = Counter[Place]()
    for cell, count in sorted(counts.cells.items()):
        if cell.family == plain and cell.wrong:
            found[Place(plain, cell.kind, cell.parents, cell.wrong)] += count.n
    masks = [*sorted(counts.masks.items()), *sorted(counts.injected_masks.items())]
    unjudged = {place: count.n for place, count in masks if place.family == plain}
    would_be = Counter[Place]()
    for cell, (_, hops) in cells.items():
        if cell.family == plain and cell.parents:
            would_be[Place(plain, cell.kind, cell.parents, 1)] += round(hops)
    return found or unjudged or would_be or {Place(plain, "", 1, 1): 1}


def _cell(place: Place, family: str) -> Cell:
    temperature = float(family.partition("@")[2] or 0)
    return Cell(place.family, place.kind, temperature, 1, place.parents, place.wrong, 0)


def _known(rates: Mapping[str, BetaRate], keys: Iterable[str]) -> BetaRate:
    return next((rates[key] for key in keys if key in rates), BetaRate(a=1.0, b=1.0))


def _coefficients(slips: Slips, rng: np.random.Generator) -> Floats:
    """[draw, term]"""
    return rng.multivariate_normal(np.array(slips.mean), np.array(slips.covariance), size=DRAWS, method="eigh")


def _rates(groups: Iterable[Group], slips: Slips, coefficients: Floats) -> Floats:
    """[group, draw]"""
    rates: Floats = expit(design_rows(groups, slips) @ coefficients.T)
    return rates


def _draws(rate: BetaRate, rng: np.random.Generator) -> Floats:
    return rng.beta(rate.a, rate.b, size=DRAWS)
