"""Fit an error model to observations: slips for each arm, masks and luck for all arms together, costs, checkers."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from scipy.stats import chi2

from qtrap_agents import __version__
from qtrap_agents.analysis.statistics import horizon
from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.simulation.counts import ArmCounts, Cell, CostSums, Count, FamilyCounts, Observations
from qtrap_agents.simulation.masks import beta_rate, fit_luck, fit_masks
from qtrap_agents.simulation.model import ArmModel, Checking, ErrorModel, Family, HopCost, Repeats, TermTest
from qtrap_agents.simulation.repeats import design_effect, fit_repeats
from qtrap_agents.simulation.selection import LEVEL, select
from qtrap_agents.simulation.slips import TERMS, Counts, drawn_family, fit_slips, terms_of, wrong_slopes

FEW = 5
"""A family with fewer slips is said to have too few to tell a rate from."""

_BETWEEN_ARMS = 1.0
"""Variance between arms of the slope of `wrong_parents` in a family."""

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
        arms=_pooled({arm: fit_arm(counts, repeats[arm], covariates) for arm, counts in seen.arms.items()}, seen.arms),
        masks=fit_masks(seen),
        luck=fit_luck(seen),
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
    terms = {*selection.terms, "wrong_parents"} if covariates is None else set(covariates)
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
        failures=beta_rate(Count(counts.failures, counts.calls), 0.5, 0.5),
        weight_bytes=counts.weight_bytes,
        null_success=_null_success(chains),
        tests=(*_constant_test(chains), *tests),
    )


def _pooled(arms: dict[str, ArmModel], counts: Mapping[str, ArmCounts]) -> dict[str, ArmModel]:
    """The same arms, each with what the others say of hops on wrong parents as its prior: an arm that hardly errs has none."""
    slopes = {arm: wrong_slopes(fitted.slips) for arm, fitted in arms.items()}
    found: dict[str, ArmModel] = {}
    for arm, fitted in arms.items():
        wrong = _wrong_centres([others for name, others in slopes.items() if name != arm])
        cells = effective(counts[arm], fitted.repeats, fitted.costs)
        slips = fit_slips(cells, terms_of(fitted.slips), wrong) if wrong else fitted.slips
        found[arm] = fitted.model_copy(update={"slips": slips})
    return found


def _wrong_centres(others: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Family -> mean slope of `wrong_parents` over other arms, which differ by about 1, shrunk towards 0."""
    found: dict[str, float] = {}
    for name in sorted({family for slopes in others for family in slopes}):
        known = [slopes[name] for slopes in others if name in slopes]
        weights = [1 / (variance + _BETWEEN_ARMS) for _, variance in known]
        found[name] = sum(weight * slope for weight, (slope, _) in zip(weights, known, strict=True)) / (sum(weights) + 1)
    return found


def effective(counts: ArmCounts, repeats: Mapping[str, Repeats], costs: Mapping[str, HopCost]) -> Counts:
    """Slips and hops of every cell, with its prompt tokens; hops that were drawn several times count for what they are worth."""
    effects = {
        name: design_effect(counts.repeats[name], found.correlation) for name, found in repeats.items() if name in counts.repeats
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
        detection=beta_rate(Count(found.detected, found.faulty), 0.5, 0.5),
        false_alarm=beta_rate(Count(found.false_alarms, found.checked - found.faulty), 0.5, 0.5),
    )
