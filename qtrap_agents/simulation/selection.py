"""Which terms a model of slips needs: likelihood ratios of binomial logit models without priors, Holm over the terms."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import chi2

from qtrap_agents.analysis.statistics import holm
from qtrap_agents.simulation.counts import Cell
from qtrap_agents.simulation.model import Floats, TermTest
from qtrap_agents.simulation.slips import COVARIATES, TERMS, Counts, Group, grouped, plain_family, slopes

LEVEL = 0.01
"""A term enters where its likelihood ratio rejects a constant slip rate at this level."""

_TOLD = 5.0
"""Slips that are to be expected of a kind, or are there in a family, for its likelihood to follow a chi-square distribution."""


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
    """The terms that a term is held against: `wrong_parents` beside all that is told of hops on right parents."""
    needs = name in (*COVARIATES, "kind") and name != "wrong_parents" and "wrong_parents" not in known
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
    of_family = dict.fromkeys(map(plain_family, groups), 0.0)
    for group, numbers in groups.items():
        of_family[plain_family(group)] += float(numbers[0])
    design = _free_design(list(groups), chosen, of_family)
    return _highest(design, slips, hops - slips), design.shape[1]


def _parts(terms: frozenset[str]) -> list[Callable[[Group], object]]:
    parts: list[Callable[[Group], object]] = [lambda group: plain_family(group)]
    if "temperature" in terms:
        parts.append(lambda group: group.family)
    if "kind" in terms:
        parts.append(lambda group: (plain_family(group), group.kind))
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
    families = np.array([together[plain_family(group)] for group in groups])
    told = dict.fromkeys((name, together[family]) for name, family in slopes(groups, terms))
    columns += [values[name] * (families == family) for name, family in told]
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
