"""Rates that are a property of the tasks, from all arms together: masks of wrong parents, and slips that hit gold by luck.

Whether a wrong parent is masked depends on how wrong it is, and arms err in ways of their own. Where the arms, and the injected
faults, disagree by more than chance, their counts weigh less: divided by Pearson's chi-square over its degrees of freedom, as in
quasi-likelihood (McCullagh and Nelder 1989, section 4.5).
"""

from collections.abc import Callable, Mapping, Sequence

from qtrap_agents.simulation.counts import Count, Observations, Place
from qtrap_agents.simulation.model import BetaRate

_WEIGHT = 2.0
_LUCK = 0.02


def fit_masks(seen: Observations) -> dict[str, BetaRate]:
    """Mask rates by the keys of `ErrorModel.masks`.

    The prior of a rate has the weight of two observations. Its mean is what the gold rules give on counterfactual wrong
    parents; one half for want of rules.
    """
    arms = seen.arms.values()
    sources = [counts.masks for counts in arms] + [counts.injected_masks for counts in arms]
    tried = _added([family.masks for family in seen.families.values()])
    masks: dict[str, BetaRate] = {}
    for place in sorted({*tried, *(place for source in sources for place in source)}):
        for key in mask_keys(place):
            if key not in masks:
                counterfactual = _sum_where(tried, mask_keys, key)
                mean = (counterfactual.events + 0.5) / (counterfactual.n + 1)
                masks[key] = _pooled([_sum_where(source, mask_keys, key) for source in sources], mean)
    return dict(sorted(masks.items()))


def mask_keys(place: Place) -> tuple[str, ...]:
    """From the most specific to the least."""
    return f"{place.family}/{place.kind}/{place.parents}/{place.wrong}", f"{place.family}/{place.kind}", place.family


def fit_luck(seen: Observations) -> dict[str, BetaRate]:
    """Rates of slips on wrong parents that state gold, by the keys of `ErrorModel.luck`.

    The prior of a family has mean 2 % and the weight of two slips; that of a number of parents has the mean of its family.
    """
    sources = [counts.luck for counts in seen.arms.values()]
    luck: dict[str, BetaRate] = {}
    for name in sorted(seen.families):
        luck[name] = _pooled([_sum_where(source, luck_keys, name) for source in sources], _LUCK)
    for place in sorted({place for source in sources for place in source}):
        key, name = luck_keys(place)
        luck[key] = _pooled([_sum_where(source, luck_keys, key) for source in sources], luck[name].mean)
    return luck


def luck_keys(place: Place) -> tuple[str, ...]:
    """From the most specific to the least."""
    return f"{place.family}/{place.parents}/{place.wrong}", place.family


def beta_rate(count: Count, a: float, b: float, weight: float = 1.0) -> BetaRate:
    """A count with a Beta(a, b) prior, each observation with a weight."""
    others = count.n - count.events
    return BetaRate(a=a + weight * count.events, b=b + weight * others, events=count.events, n=count.n)


def overdispersion(counts: Sequence[Count]) -> float:
    """Pearson's chi-square of equal rates over its degrees of freedom, at least 1."""
    known = [count for count in counts if count.n]
    total = _sum(known)
    if len(known) < 2 or not 0 < total.events < total.n:
        return 1.0
    rate = total.events / total.n
    statistic = sum((count.events - count.n * rate) ** 2 / (count.n * rate * (1 - rate)) for count in known)
    return max(1.0, statistic / (len(known) - 1))


def _pooled(counts: Sequence[Count], mean: float) -> BetaRate:
    return beta_rate(_sum(counts), _WEIGHT * mean, _WEIGHT * (1 - mean), 1 / overdispersion(counts))


def _sum(counts: Sequence[Count]) -> Count:
    return Count(sum(count.events for count in counts), sum(count.n for count in counts))


def _sum_where(counts: Mapping[Place, Count], keys: Callable[[Place], tuple[str, ...]], key: str) -> Count:
    return _sum([count for place, count in counts.items() if key in keys(place)])


def _added(parts: Sequence[Mapping[Place, Count]]) -> dict[Place, Count]:
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: _sum([part[key] for part in parts if key in part]) for key in keys}
