"""A logit model of slips on grouped counts: partial pooling by normal priors, MAP by Newton, Laplace covariance.

    logit(slip) = mean + family + kind within family + slopes × covariates

Slopes are partially pooled too: what a slope is more in a family is a term of its own. Priors: mean N(−4, 2.5²), family
N(0, family_sd²), kind N(0, kind_sd²), slopes and what they are more in a family N(0, 0.5²), the latter of `wrong_parents`
N(0, 1), a family at a temperature N(its greedy family, 1). The two spreads maximise the Laplace marginal likelihood under
Gamma(2, 1) and Gamma(2, 2) priors, which keep them away from 0 where few slips say nothing of them (Chung et al. 2013,
doi:10.1007/s11336-013-9328-2).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import chi2

from qtrap_agents.analysis.statistics import holm
from qtrap_agents.simulation.model import Covariate, Floats, Slips, TermTest, covariate
from qtrap_agents.simulation.observations import Cell

COVARIATES: tuple[Covariate, ...] = ("position", "parents", "wrong_parents", "errors_before", "prompt")
TERMS: tuple[str, ...] = (*COVARIATES, "kind", "temperature")
"""All that may be asked for beside arm and family."""

LEVEL = 0.01
"""A term enters where its likelihood ratio rejects a constant slip rate at this level."""

_TOLD = 5.0
"""Slips that are to be expected of a kind, or are there in a family, for its likelihood to follow a chi-square distribution."""

_MEAN, _MEAN_SD = -4.0, 2.5
_SLOPE_SD = 0.5
_DRAWN_SD = _WRONG_SD = 1.0
_SD_BOUNDS = (0.05, 6.0)
_SD_RATES = (0.5, 2.0)

Counts = Mapping[Cell, tuple[float, float]]
"""Cell -> slips and hops; not whole where repeated draws count for less."""


class Group(NamedTuple):
    """Hops that are alike in the terms of a model. `family` bears its temperature where that is a term."""

    family: str
    kind: str
    values: tuple[float, ...]


def drawn_family(cell: Cell) -> str:
    """`arith`, or `arith@0.7` where the hop was drawn at a temperature."""
    return f"{cell.family}@{cell.temperature:g}" if cell.temperature else cell.family


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
    return Group(family, cell.kind if "kind" in terms else "", values)


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
    kinds = sorted({(_plain(group), group.kind) for group in groups}) if "kind" in terms else []
    several = [(family, kind) for family, kind in kinds if sum(other == family for other, _ in kinds) > 1]
    return [
        "mean",
        *(f"family:{family}" for family in families),
        *(f"kind:{family}/{kind}" for family, kind in several),
        *(name for name in COVARIATES if name in terms),
        *(f"{name}:{family}" for name, family in _slopes(groups, terms)),
    ]


def _slopes(groups: Iterable[Group], terms: frozenset[str]) -> list[tuple[Covariate, str]]:
    """Covariates, and the families in which they take more than one value."""
    names = [name for name in COVARIATES if name in terms]
    seen: dict[tuple[Covariate, str], set[float]] = {}
    for group in groups:
        for name, value in zip(names, group.values, strict=True):
            seen.setdefault((name, _plain(group)), set()).add(value)
    return sorted(key for key, values in seen.items() if len(values) > 1)


def _design(groups: Iterable[Group], names: Sequence[str], terms: frozenset[str]) -> Floats:
    place = {name: index for index, name in enumerate(names)}
    covariates = [name for name in COVARIATES if name in terms]
    rows = list(groups)
    design = np.zeros((len(rows), len(names)))
    design[:, 0] = 1.0
    for row, group in zip(design, rows, strict=True):
        plain = _plain(group)
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


class Selection(NamedTuple):
    """The terms that a model needs, and the tests that say so."""

    terms: tuple[str, ...]
    tests: tuple[TermTest, ...]


def select(counts: Counts, candidates: Sequence[str]) -> Selection:
    """Terms taken in one after the other: each time the one whose likelihood ratio is clearest, while Holm's p is below 1 %.

    The tests that are reported hold each term alone against a constant slip rate within the family (covariates of hops on right
    parents on these hops); a term that is not kept although its own p is small adds nothing to those that are.
    """
    alone = _ratios(counts, (), candidates)
    kept: list[str] = []
    ratios = alone
    while ratios:
        adjusted = dict(zip(ratios, holm([ratio.p for ratio in ratios.values()]), strict=True))
        clearest = min(ratios, key=lambda name: (ratios[name].p, -ratios[name].statistic))
        if adjusted[clearest] >= LEVEL:
            break
        kept.append(clearest)
        ratios = _ratios(counts, kept, [name for name in ratios if name != clearest])
    adjusted = dict(zip(alone, holm([ratio.p for ratio in alone.values()]), strict=True))
    tests = tuple(
        TermTest(term=name, statistic=ratio.statistic, df=ratio.df, p=ratio.p, p_holm=adjusted[name], kept=name in kept)
        for name, ratio in alone.items()
    )
    return Selection(tuple(name for name in TERMS if name in kept), tests)


class _Ratio(NamedTuple):
    statistic: float
    df: int

    @property
    def p(self) -> float:
        return float(chi2.sf(self.statistic, self.df))


def _ratios(counts: Counts, known: Sequence[str], candidates: Iterable[str]) -> dict[str, _Ratio]:
    """Candidates that the data can tell of -> how much better a model with it is than one with the known terms."""
    pooled = _with_rare_kinds_pooled(counts)
    found: dict[str, _Ratio] = {}
    bases: dict[tuple[str, ...], tuple[float, int]] = {}
    for name in candidates:
        base = beside(known, name)
        height, size = bases[base] if base in bases else bases.setdefault(base, _likelihood(pooled, base))
        higher, larger = _likelihood(pooled, (*base, name))
        if larger > size:
            found[name] = _Ratio(max(0.0, 2 * (higher - height)), larger - size)
    return found


def beside(known: Sequence[str], name: str) -> tuple[str, ...]:
    """The terms that a term is held against: `wrong_parents` beside all covariates of hops on right parents."""
    needs = name in COVARIATES and name != "wrong_parents" and "wrong_parents" not in known
    return (*known, "wrong_parents") if needs else tuple(known)


def _with_rare_kinds_pooled(counts: Counts) -> Counts:
    """Kinds with few slips to be expected under the family's rate are taken together: chi-square does not hold for them."""
    rates = {group.family: slips / hops for group, (slips, hops) in grouped(counts, ()).items()}
    by_kind = grouped(counts, ("kind",))
    rare = {(group.family, group.kind) for group, (_, hops) in by_kind.items() if hops * rates[group.family] < _TOLD}
    found: dict[Cell, tuple[float, float]] = {}
    for cell, (slips, hops) in counts.items():
        other = cell._replace(kind="\0rare") if (cell.family, cell.kind) in rare else cell
        before = found.get(other, (0.0, 0.0))
        found[other] = (before[0] + slips, before[1] + hops)
    return found


def _likelihood(counts: Counts, terms: Sequence[str]) -> tuple[float, int]:
    """Maximum log-likelihood of a model with free families and these terms, and its number of coefficients.

    Families, temperatures and kinds without a slip, or with nothing but slips, have probability 1 at their own rate of 0 or 1
    and are left out.
    """
    chosen = frozenset(terms)
    groups = grouped(counts, chosen)
    for part in _parts(chosen):
        sums: dict[object, Floats] = {}
        for group, numbers in groups.items():
            sums[part(group)] = sums.get(part(group), np.zeros(2)) + numbers
        groups = {group: numbers for group, numbers in groups.items() if 0 < sums[part(group)][0] < sums[part(group)][1]}
    if not groups:
        return 0.0, 0
    slips, hops = np.array(list(groups.values())).T
    of_family = dict.fromkeys(map(_plain, groups), 0.0)
    for group, numbers in groups.items():
        of_family[_plain(group)] += float(numbers[0])
    design = _free_design(list(groups), chosen, of_family)
    return _highest(design, slips, hops - slips), design.shape[1]


def _plain(group: Group) -> str:
    return group.family.partition("@")[0]


def _parts(terms: frozenset[str]) -> list[Callable[[Group], object]]:
    parts: list[Callable[[Group], object]] = [lambda group: _plain(group)]
    if "temperature" in terms:
        parts.append(lambda group: group.family)
    if "kind" in terms:
        parts.append(lambda group: (_plain(group), group.kind))
    return parts


def _free_design(groups: Sequence[Group], terms: frozenset[str], slips: Mapping[str, float]) -> Floats:
    """Indicators of family, temperature and kind, and the slopes of covariates, family by family.

    Families with few of the `slips` share a slope.
    """
    columns: list[Floats] = []
    for part in _parts(terms):
        keys = [part(group) for group in groups]
        levels = list(dict.fromkeys(keys))
        columns += [np.array([key == level for key in keys], dtype=float) for level in levels]
    values = dict(
        zip((name for name in COVARIATES if name in terms), np.array([group.values for group in groups]).T, strict=True)
    )
    together = {family: family if number >= _TOLD else "" for family, number in slips.items()}
    families = np.array([together[_plain(group)] for group in groups])
    slopes = dict.fromkeys((name, together[family]) for name, family in _slopes(groups, terms))
    columns += [values[name] * (families == family) for name, family in slopes]
    return _independent(np.array(columns).T)


def _independent(design: Floats) -> Floats:
    """The same space with as many columns as it has dimensions."""
    left, sizes, _ = np.linalg.svd(design, full_matrices=False)
    basis: Floats = left[:, sizes > 1e-9 * sizes[0]]
    return basis


def _highest(design: Floats, slips: Floats, others: Floats) -> float:
    """Maximum log-likelihood of a binomial logit model, without the binomial coefficients.

    It is concave, and has a supremum where a coefficient runs off to infinity: a trust region gets close to that, iteratively
    reweighted least squares do not.
    """
    hops = slips + others

    def loss(at: Floats) -> float:
        logits = design @ at
        return -float(slips @ log_expit(logits) + others @ log_expit(-logits))

    def gradient(at: Floats) -> Floats:
        return design.T @ (hops * expit(design @ at) - slips)

    def curvature(at: Floats) -> Floats:
        rates = expit(design @ at)
        return (design.T * (hops * rates * (1 - rates))) @ design

    start = design.T @ np.full(len(slips), math.log(slips.sum() / others.sum()))
    best = minimize(
        loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-4, "max_trust_radius": 1e3}
    )
    return -float(best.fun)
