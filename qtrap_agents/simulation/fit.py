"""Fit an error model to observations: slips for each arm, masks and luck for all arms together, costs, checkers."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from scipy.stats import chi2

from qtrap_agents import __version__
from qtrap_agents.analysis.statistics import horizon
from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.simulation.model import ArmModel, BetaRate, Checking, ErrorModel, Family, HopCost, Repeats, TermTest
from qtrap_agents.simulation.observations import ArmCounts, Cell, CostSums, Count, FamilyCounts, Observations, Place
from qtrap_agents.simulation.repeats import design_effect, fit_repeats
from qtrap_agents.simulation.slips import LEVEL, TERMS, Counts, drawn_family, fit_slips, select

Key = TypeVar("Key", Place, str)

FEW = 5
"""A family with fewer slips is said to have too few to tell a rate from."""

_MASK_WEIGHT = 2.0
_LUCK = (0.04, 1.96)
_CLEAR_GROWTH = 3.0

CONSTANT = "constant hop success"
"""Name of the test of the null model against free chain success at every depth."""


def parse_covariates(text: str) -> tuple[str, ...] | None:
    """`auto` as None, `all`, `none`, or names with commas. Raises ConfigError."""
    if text == "auto":
        return None
    if text in ("all", "none"):
        return TERMS if text == "all" else ()
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in TERMS:
            raise ConfigError(f"--covariates: {unknown('covariate', name, TERMS)} Or give auto, all or none.")
    return tuple(name for name in TERMS if name in names)


def fit(seen: Observations, covariates: Sequence[str] | None = None, command: str = "", date: str = "") -> ErrorModel:
    """The error model of all observations.

    Args:
        covariates: terms that enter; None lets the likelihood-ratio tests choose.
        command, date: where the model comes from, written down with it.
    """
    repeats = fit_repeats({arm: counts.repeats for arm, counts in seen.arms.items()})
    families = {name: family(counts) for name, counts in seen.families.items()}
    return ErrorModel(
        made_by=f"qtrap {__version__}",
        command=command,
        date=date,
        runs=seen.runs,
        baseline=seen.baseline if seen.baseline in seen.arms else next(iter(seen.arms)),
        families=families,
        arms={arm: fit_arm(counts, repeats[arm], covariates) for arm, counts in seen.arms.items()},
        masks=fit_masks(seen),
        luck=_luck(seen),
    )


def family(counts: FamilyCounts) -> Family:
    """What the tasks of a family look like."""
    total = counts.premises
    return Family(
        kinds={kind: number / total for kind, number in sorted(counts.kinds.items())},
        mean_parents=counts.parents / total,
        rules=counts.without_rule == 0,
        depths=tuple(sorted(counts.depths)),
    )


def fit_arm(counts: ArmCounts, repeats: Mapping[str, Repeats], covariates: Sequence[str] | None = None) -> ArmModel:
    """One arm."""
    costs = {name: _cost(sums) for name, sums in sorted(counts.costs.items()) if sums.hops}
    cells = effective(counts, repeats, costs)
    selection = select(cells, TERMS)
    terms = selection.terms if covariates is None else tuple(covariates)
    tests = tuple(test.model_copy(update={"kept": test.term in terms}) for test in selection.tests)
    hops, slips = _by_family(counts.cells)
    chains = greedy_chains(counts)
    return ArmModel(
        slips=fit_slips(cells, terms),
        hops=dict(hops),
        observed={name: slips[name] for name in hops},
        few=tuple(name for name in hops if slips[name] < FEW),
        repeats=dict(repeats),
        costs=costs,
        checking=_checking(counts),
        failures=_rate(Count(counts.failures, counts.calls), 0.5, 0.5),
        weight_bytes=counts.weight_bytes,
        null_success=_null_success(chains),
        tests=(*_constant_test(chains), *tests),
    )


def effective(counts: ArmCounts, repeats: Mapping[str, Repeats], costs: Mapping[str, HopCost]) -> Counts:
    """Slips and hops of every cell, with its prompt tokens; hops that were drawn several times count for what they are worth."""
    effects = {
        name: design_effect(counts.repeats[name], found.correlation)
        for name, found in repeats.items()
        if name in counts.repeats and found.hops
    }
    found: dict[Cell, tuple[float, float]] = {}
    for cell, count in sorted(counts.cells.items()):
        effect = effects.get(cell.family, 1.0) if cell.temperature else 1.0
        found[_with_prompt(cell, costs)] = (count.events / effect, count.n / effect)
    return found


def _with_prompt(cell: Cell, costs: Mapping[str, HopCost]) -> Cell:
    cost = costs.get(cell.family)
    return cell._replace(prompt_tokens=cost.prompt_tokens + cost.prompt_growth * (cell.position - 1)) if cost else cell


def _by_family(cells: Mapping[Cell, Count]) -> tuple[Counter[str], Counter[str]]:
    hops, slips = Counter[str](), Counter[str]()
    for cell, count in sorted(cells.items()):
        hops[drawn_family(cell)] += count.n
        slips[drawn_family(cell)] += count.events
    return hops, slips


Chains = dict[str, dict[int, Count]]
"""Family -> depth -> right answers of judged chains."""


def greedy_chains(counts: ArmCounts) -> Chains:
    """Chains of greedy hops; of a family that has none, those of the lowest temperature."""
    lowest: dict[str, float] = {}
    for name, temperature, _ in counts.chains:
        lowest[name] = min(temperature, lowest.get(name, math.inf))
    found: Chains = {}
    for (name, temperature, depth), count in sorted(counts.chains.items()):
        if temperature == lowest[name]:
            found.setdefault(name, {})[depth] = count
    return found


def _null_success(chains: Chains) -> dict[str, float]:
    """Constant hop success by family, by maximum likelihood of whole chains."""
    found: dict[str, float] = {}
    for name, depths in chains.items():
        right = [count.events for count in depths.values()]
        fitted = horizon(list(depths), right, [count.n for count in depths.values()])
        found[name] = fitted.hop_success if fitted.hop_success is not None else 0.0
    return found


def _constant_test(chains: Chains) -> tuple[TermTest, ...]:
    """Free success at every depth against p^depth, over all families; nothing where there is but one depth to tell from.

    Neighbouring depths are taken together until one failure and one success are to be expected, as chi-square asks for.
    """
    statistic, df = 0.0, 0
    for name, success in _null_success(chains).items():
        if 0 < success < 1:
            bins = _bins(chains[name], success)
            statistic += sum(_deviance(*one) for one in bins)
            df += max(0, len(bins) - 1)
    if not df:
        return ()
    p = float(chi2.sf(statistic, df))
    return (TermTest(term=CONSTANT, statistic=statistic, df=df, p=p, p_holm=p, kept=p >= LEVEL),)


def _bins(depths: Mapping[int, Count], success: float) -> list[tuple[float, float, float]]:
    """Right answers, those expected, and chains."""
    bins: list[tuple[float, float, float]] = []
    right = expected = total = 0.0
    for depth, count in sorted(depths.items()):
        right, expected, total = right + count.events, expected + count.n * success**depth, total + count.n
        if min(expected, total - expected) >= 1:
            bins.append((right, expected, total))
            right = expected = total = 0.0
    if total and bins:
        last = bins.pop()
        bins.append((last[0] + right, last[1] + expected, last[2] + total))
    return bins


def _deviance(right: float, expected: float, total: float) -> float:
    pairs = ((right, expected), (total - right, total - expected))
    return 2 * sum(found * math.log(found / wanted) for found, wanted in pairs if found)


def _cost(sums: CostSums) -> HopCost:
    growth = _growth(sums)
    prompt = sums.prompt / sums.hops
    return HopCost(
        hops=sums.hops,
        prompt_tokens=prompt - growth * (sums.position / sums.hops - 1),
        completion_tokens=sums.completion / sums.hops,
        latency_s=sums.latency_s / sums.hops if sums.latency_s else None,
        energy_j=sums.joules / sums.calls if sums.calls else None,
        prompt_growth=growth,
    )


def _growth(sums: CostSums) -> float:
    """Least-squares slope of prompt tokens over positions; 0 unless it is clearly above 0."""
    n = sums.hops
    spread = sums.position_squared - sums.position**2 / n
    if spread <= 0 or n < 3:
        return 0.0
    slope = (sums.position_prompt - sums.position * sums.prompt / n) / spread
    rest = max(0.0, sums.prompt_squared - sums.prompt**2 / n - slope**2 * spread)
    error = math.sqrt(rest / (n - 2) / spread)
    return slope if slope > _CLEAR_GROWTH * error else 0.0


def _checking(counts: ArmCounts) -> Checking | None:
    found = counts.checks
    if found is None or not found.checked:
        return None
    return Checking(
        detection=_rate(Count(found.detected, found.faulty), 0.5, 0.5),
        false_alarm=_rate(Count(found.false_alarms, found.checked - found.faulty), 0.5, 0.5),
    )


def _rate(count: Count, a: float, b: float) -> BetaRate:
    return BetaRate(a=a + count.events, b=b + count.n - count.events, events=count.events, n=count.n)


def fit_masks(seen: Observations) -> dict[str, BetaRate]:
    """Mask rates of all arms together, by the keys of `ErrorModel.masks`.

    The prior of a rate has the weight of two observations. Its mean is what the gold rules give on counterfactual wrong
    parents; one half for want of rules.
    """
    observed: dict[Place, Count] = {}
    tried: dict[Place, Count] = {}
    for counts in seen.arms.values():
        _add(observed, counts.masks)
    for found in seen.families.values():
        _add(tried, found.masks)
    masks: dict[str, BetaRate] = {}
    for place in sorted({*observed, *tried}):
        for key in mask_keys(place):
            if key not in masks:
                masks[key] = _mask(_matching(observed, key), _matching(tried, key))
    return dict(sorted(masks.items()))


def mask_keys(place: Place) -> tuple[str, str, str]:
    """From the most specific to the least."""
    return f"{place.family}/{place.kind}/{place.parents}/{place.wrong}", f"{place.family}/{place.kind}", place.family


def _matching(counts: Mapping[Place, Count], key: str) -> Count:
    found = [count for place, count in counts.items() if key in mask_keys(place)]
    return Count(sum(count.events for count in found), sum(count.n for count in found))


def _mask(observed: Count, tried: Count) -> BetaRate:
    mean = (tried.events + 0.5) / (tried.n + 1)
    return _rate(observed, _MASK_WEIGHT * mean, _MASK_WEIGHT * (1 - mean))


def _luck(seen: Observations) -> dict[str, BetaRate]:
    """Rates of slips on wrong parents that state gold, all arms together; the prior has mean 2 % and the weight of two slips."""
    found: dict[str, Count] = {name: Count() for name in sorted(seen.families)}
    for counts in seen.arms.values():
        _add(found, counts.luck)
    return {name: _rate(count, *_LUCK) for name, count in found.items()}


def _add(total: dict[Key, Count], part: Mapping[Key, Count]) -> None:
    for key, count in part.items():
        before = total.get(key, Count())
        total[key] = Count(before.events + count.events, before.n + count.n)
