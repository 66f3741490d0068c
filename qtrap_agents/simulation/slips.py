"""A logit model of slips on grouped counts: partial pooling by normal priors, MAP by Newton, Laplace covariance.

    logit(slip) = mean + family + kind within family + slopes × covariates

Slopes are partially pooled too: what a slope is more in a family is a term of its own. Priors: mean N(−4, 2.5²), family
N(0, family_sd²), kind N(0, kind_sd²), slopes and what they are more in a family N(0, 0.5²), the latter of `wrong_parents`
N(0, 1), a family at a temperature N(its greedy family, 1). The two spreads maximise the Laplace marginal likelihood under
Gamma(2, 0.5) and Gamma(2, 2) priors, which keep them away from 0 where few slips say nothing of them (Chung et al. 2013,
doi:10.1007/s11336-013-9328-2).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from qtrap_agents.simulation.counts import Cell
from qtrap_agents.simulation.model import Covariate, Floats, Slips, covariate

COVARIATES: tuple[Covariate, ...] = ("position", "parents", "wrong_parents", "errors_before", "prompt")
TERMS: tuple[str, ...] = (*COVARIATES, "kind", "temperature")
"""All that may be asked for beside arm and family."""

_MEAN, _MEAN_SD = -4.0, 2.5
_SLOPE_SD = 0.5
_DRAWN_SD = _WRONG_SD = 1.0
_SD_BOUNDS = (0.05, 6.0)
_SD_RATES = (0.5, 2.0)

Counts = Mapping[Cell, tuple[float, float]]
"""Cell -> slips and hops; not whole where repeated draws count for less."""


class Group(NamedTuple):
    """Hops that are alike in the terms of a model. `family` bears its temperature where that is a term.

    `kind` is empty on wrong parents, where only the family counts: which kinds slip on right ones tells nothing of those.
    """

    family: str
    kind: str
    values: tuple[float, ...]


def drawn_family(cell: Cell) -> str:
    """`arith`, or `arith@0.7` where the hop was drawn at a temperature."""
    return f"{cell.family}@{cell.temperature:g}" if cell.temperature else cell.family


def plain_family(group: Group) -> str:
    """The family without its temperature."""
    return group.family.partition("@")[0]


def grouped(counts: Counts, terms: Iterable[str]) -> dict[Group, Floats]:
    """[slips, hops] of all cells that are alike in these terms."""
    chosen = frozenset(terms)
    found: dict[Group, Floats] = {}
    for cell, numbers in counts.items():
        group = group_of(cell, chosen)
        found[group] = found.get(group, np.zeros(2)) + numbers
    return found


def group_of(cell: Cell, terms: frozenset[str]) -> Group:
    """What a cell is to a model with these terms."""
    family = drawn_family(cell) if "temperature" in terms else cell.family
    values = tuple(_value(name, cell) for name in COVARIATES if name in terms)
    kind = cell.kind if "kind" in terms and not cell.wrong else ""
    return Group(family, kind, values)


def _value(name: Covariate, cell: Cell) -> float:
    if cell.wrong or name == "wrong_parents":
        return float(cell.wrong > 0 and name == "wrong_parents")
    raw = {
        "position": cell.position,
        "parents": cell.parents,
        "errors_before": cell.errors_before,
        "prompt": cell.prompt_tokens or 32.0,
    }
    return covariate(name, raw[name])


def fit_slips(counts: Counts, chosen: Iterable[str], wrong: Mapping[str, float] | None = None) -> Slips:
    """The model of one arm with the terms chosen; zero slips of any number of hops give a wide posterior, never an error.

    With a covariate of hops on right parents `wrong_parents` enters too.

    Args:
        wrong: what other arms say of the slope of `wrong_parents`, by family: the mean of its prior.
    """
    terms = frozenset(chosen)
    if terms & set(COVARIATES):
        terms |= {"wrong_parents"}
    groups = grouped(counts, terms)
    centres = {f"wrong_parents:{family}": slope for family, slope in (wrong or {}).items() if "wrong_parents" in terms}
    names = list(dict.fromkeys((*_names(groups, terms), *centres)))
    design, numbers = _design(groups, names, terms), np.array(list(groups.values()))
    problem = _Problem(design, numbers[:, 0], numbers[:, 1], names, centres)
    family_sd, kind_sd = problem.spreads()
    mean, hessian = problem.peak(family_sd, kind_sd)
    covariance = np.linalg.inv(hessian)
    return Slips(
        terms=tuple(names),
        mean=tuple(map(float, mean)),
        covariance=tuple(tuple(map(float, row)) for row in (covariance + covariance.T) / 2),
        family_sd=family_sd,
        kind_sd=kind_sd,
    )


def wrong_slopes(slips: Slips) -> dict[str, tuple[float, float]]:
    """Family -> the slope of `wrong_parents` in it and its variance."""
    place = {name: index for index, name in enumerate(slips.terms)}
    found: dict[str, tuple[float, float]] = {}
    for name, index in place.items():
        if name.startswith("wrong_parents:"):
            pair = np.array([place["wrong_parents"], index])
            covariance = np.array(slips.covariance)[np.ix_(pair, pair)]
            found[name.partition(":")[2]] = float(np.array(slips.mean)[pair].sum()), float(covariance.sum())
    return found


def terms_of(slips: Slips) -> frozenset[str]:
    """The terms beside families that a fitted model has, `kind` and `temperature` among them."""
    found: set[str] = {name for name in COVARIATES if name in slips.terms}
    found |= {"kind"} if any(name.startswith("kind:") for name in slips.terms) else set()
    found |= {"temperature"} if any("@" in name for name in slips.terms if name.startswith("family:")) else set()
    return frozenset(found)


def design_rows(groups: Iterable[Group], slips: Slips) -> Floats:
    """[group, term] what each coefficient is multiplied with, as `Rates.slip_logit` and `Rates.slope` do."""
    return _design(groups, list(slips.terms), terms_of(slips))


def _names(groups: Iterable[Group], terms: frozenset[str]) -> list[str]:
    families = sorted({group.family for group in groups})
    kinds = sorted({(plain_family(group), group.kind) for group in groups if group.kind}) if "kind" in terms else []
    several = [(family, kind) for family, kind in kinds if sum(other == family for other, _ in kinds) > 1]
    return [
        "mean",
        *(f"family:{family}" for family in families),
        *(f"kind:{family}/{kind}" for family, kind in several),
        *(name for name in COVARIATES if name in terms),
        *(f"{name}:{family}" for name, family in slopes(groups, terms)),
    ]


def slopes(groups: Iterable[Group], terms: frozenset[str]) -> list[tuple[Covariate, str]]:
    """Covariates, and the families in which they take more than one value."""
    names = [name for name in COVARIATES if name in terms]
    seen: dict[tuple[Covariate, str], set[float]] = {}
    for group in groups:
        for name, value in zip(names, group.values, strict=True):
            seen.setdefault((name, plain_family(group)), set()).add(value)
    return sorted(key for key, values in seen.items() if len(values) > 1)


def _design(groups: Iterable[Group], names: Sequence[str], terms: frozenset[str]) -> Floats:
    place = {name: index for index, name in enumerate(names)}
    covariates = [name for name in COVARIATES if name in terms]
    rows = list(groups)
    design = np.zeros((len(rows), len(names)))
    design[:, 0] = 1.0
    for row, group in zip(design, rows, strict=True):
        plain = plain_family(group)
        for name in (f"family:{group.family}", f"kind:{plain}/{group.kind}"):
            if name in place:
                row[place[name]] = 1.0
        if f"family:{group.family}" not in place and f"family:{plain}" in place:
            row[place[f"family:{plain}"]] = 1.0
        for covariate_name, value in zip(covariates, group.values, strict=True):
            for name in (covariate_name, f"{covariate_name}:{plain}"):
                if name in place:
                    row[place[name]] = value
    return design


class _Problem:
    """The posterior of one arm: design, slips and hops of all groups, and the names of the coefficients."""

    def __init__(self, design: Floats, slips: Floats, hops: Floats, names: Sequence[str], centres: Mapping[str, float]) -> None:
        self._design, self._slips, self._hops, self._names = design, slips, hops, names
        self._centre = np.array([centres.get(name, 0.0) for name in names])
        self._centre[0] = _MEAN
        self._start = self._centre.copy()

    def spreads(self) -> tuple[float, float]:
        """Spread of families and of kinds that maximise the marginal likelihood, each with its prior."""
        low, high = map(math.log, _SD_BOUNDS)
        start = np.log([1.0, 0.5])

        def loss(logs: Floats) -> float:
            return -self._evidence(math.exp(logs[0]), math.exp(logs[1]))

        best = minimize(loss, start, method="L-BFGS-B", bounds=[(low, high)] * 2)
        return math.exp(best.x[0]), math.exp(best.x[1])

    def _evidence(self, family_sd: float, kind_sd: float) -> float:
        mean, hessian = self.peak(family_sd, kind_sd)
        self._start = mean
        prior = self._precision(family_sd, kind_sd)
        volume = float(np.linalg.slogdet(prior)[1] - np.linalg.slogdet(hessian)[1]) / 2
        priors = sum(math.log(sd) - rate * sd for sd, rate in zip((family_sd, kind_sd), _SD_RATES, strict=True))
        return self._log_posterior(mean, prior) + volume + priors

    def peak(self, family_sd: float, kind_sd: float) -> tuple[Floats, Floats]:
        """The coefficients of the highest posterior density, and its negative second derivatives there."""
        prior, at = self._precision(family_sd, kind_sd), self._start
        height = self._log_posterior(at, prior)
        for _ in range(100):
            gradient, hessian = self._derivatives(at, prior)
            step = np.linalg.solve(hessian, gradient)
            size = 1.0
            while (higher := self._log_posterior(at + size * step, prior)) < height and size > 1e-6:
                size /= 2
            at, gained = at + size * step, higher - height
            height = higher
            if gained < 1e-9:
                break
        return at, self._derivatives(at, prior)[1]

    def _log_posterior(self, at: Floats, prior: Floats) -> float:
        logits, off = self._design @ at, at - self._centre
        likelihood = self._slips @ log_expit(logits) + (self._hops - self._slips) @ log_expit(-logits)
        return float(likelihood - off @ prior @ off / 2)

    def _derivatives(self, at: Floats, prior: Floats) -> tuple[Floats, Floats]:
        rates = expit(self._design @ at)
        gradient = self._design.T @ (self._slips - self._hops * rates) - prior @ (at - self._centre)
        weights = self._hops * rates * (1 - rates)
        return gradient, (self._design.T * weights) @ self._design + prior

    def _precision(self, family_sd: float, kind_sd: float) -> Floats:
        place = {name: index for index, name in enumerate(self._names)}
        prior = np.zeros((len(place), len(place)))
        for name, index in place.items():
            greedy = place.get(name.partition("@")[0]) if "@" in name else None
            if greedy is not None:
                pull = 1 / _DRAWN_SD**2
                prior[index, index] += pull
                prior[greedy, greedy] += pull
                prior[index, greedy] -= pull
                prior[greedy, index] -= pull
            else:
                prior[index, index] += 1 / self._sd(name, family_sd, kind_sd) ** 2
        return prior

    @staticmethod
    def _sd(name: str, family_sd: float, kind_sd: float) -> float:
        if name == "mean":
            return _MEAN_SD
        if name.startswith("wrong_parents:"):
            return _WRONG_SD
        return family_sd if name.startswith("family:") else kind_sd if name.startswith("kind:") else _SLOPE_SD
