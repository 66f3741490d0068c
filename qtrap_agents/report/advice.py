"""`qtrap advise`: run and bench directories in, for each task family what to serve out.

A verdict comes from the paired accuracy test alone. What an arm saves in time and energy comes from the bench, at the
concurrency that was asked for, or else from the run itself; an arm that is not verified on the device gets no statement on
either, whatever was measured.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic_core import to_jsonable_python

from qtrap_agents.analysis.critical import CriticalFit, SizeCrossing, Weighed, fit_critical, size_crossings, step_points
from qtrap_agents.analysis.effect import Paired
from qtrap_agents.analysis.indices import (
    EQUAL,
    Dominance,
    Figure,
    Indices,
    Weights,
    accuracy_ratio,
    baseline_indices,
    dominances,
    dominant,
    indices,
    inverse,
    weight_shares,
)
from qtrap_agents.analysis.serving import Crossing, Estimate, Serving, ServingCell, summarise
from qtrap_agents.analysis.summary import ArmSummary, Cell
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.errors import ConfigError, StoreError
from qtrap_agents.measures import Window
from qtrap_agents.report.comparison import RunComparison, compare_runs, total_cell
from qtrap_agents.report.format import points, significant
from qtrap_agents.report.provenance import hardware
from qtrap_agents.shapes import SHAPES
from qtrap_agents.store import RunDirectory
from qtrap_agents.types import ArmIdentity, Record

ELEMENT_BITS = {"float16": 16, "bfloat16": 16, "float32": 32}


class Place(Record):
    """Where the bench was looked at: the measured concurrency and prompt length nearest to the ones of the user."""

    bench: str
    served: str
    concurrency: int
    wanted: int
    prompt_tokens: int
    new_tokens: int


class ArmCost(Record):
    """What an arm costs, all task families together. `label` is its name with a mark where it is not verified.

    `energy_per_correct_j` and `output_tokens_per_s` are the run's own. `time` and `energy` are ratios to the baseline for
    the same token work where `source` is `bench`, and for a task where it is `run`; below 1 the arm saves. `in_flight` is
    the concurrency at which they were measured. `tokens` is the ratio of generated tokens per task.
    `reason` says why there is no statement, `run_reason` why not on the run's own.
    """

    arm: str
    label: str
    energy_per_correct_j: float | None = None
    output_tokens_per_s: float | None = None
    tokens: float | None = None
    source: Literal["bench", "run"] | None = None
    in_flight: int | None = None
    time: Figure | None = None
    energy: Figure | None = None
    reason: str | None = None
    run_reason: str | None = None


class ArmAdvice(Record):
    """One arm in one task family; `paired` is None for the baseline, and where no judged task is in common with it."""

    arm: str
    success: Cell
    paired: Paired | None
    indices: Indices


class FamilyAdvice(Record):
    """One task family, the baseline first.

    `dominant` is the arm that no choice of weights can beat; `shares` is the share of the weight simplex on which each
    arm has the highest SI, None where an index is missing.
    """

    suite: str
    arms: tuple[ArmAdvice, ...]
    dominances: tuple[Dominance, ...]
    dominant: str | None
    shares: dict[str, float] | None
    recommendation: str


class ArmCritical(Record):
    """Critical scale and batch of an arm in every form, beside the crossings in time that were measured.

    N* is for `batch`, B* for each of `sizes` (numbers of weights). `reason` says why nothing was fitted.
    """

    arm: str
    batch: int
    sizes: tuple[int, ...] = ()
    fits: tuple[CriticalFit, ...] = ()
    crossings: tuple[tuple[int, Crossing], ...] = ()
    size_crossings: tuple[SizeCrossing, ...] = ()
    reason: str | None = None


class Advice(Record):
    """Everything that `qtrap advise` prints. `costs` has the arms in the order of the run; `place` is None without a bench."""

    run: str
    baseline: str
    margin: float
    weights: Weights
    place: Place | None
    costs: tuple[ArmCost, ...]
    families: tuple[FamilyAdvice, ...]
    critical: tuple[ArmCritical, ...]
    warnings: tuple[str, ...]

    def cost(self, arm: str) -> ArmCost:
        """What that arm costs. Raises KeyError."""
        return {cost.arm: cost for cost in self.costs}[arm]


class _Bench(NamedTuple):
    """A bench read once. `parameters` is the number of weights of the model, None where nothing tells."""

    directory: BenchDirectory
    windows: tuple[Window, ...]
    serving: Serving
    identities: Mapping[str, ArmIdentity | None]
    parameters: int | None


def advise(
    run: RunDirectory,
    benches: Sequence[BenchDirectory] = (),
    concurrency: int | None = None,
    weights: Weights = EQUAL,
    margin: float = 0.02,
) -> Advice:
    """Advice for every task family of a run.

    Args:
        benches: the first one tells what the arms save at `concurrency`; all of them, of other model sizes, enter the fit
            of the critical scale. Their arms are known by their names.
        concurrency: requests in flight; by default those of the run.
        margin: non-inferiority margin as a difference of success (0.02 is two points).

    Raises:
        StoreError: a directory cannot be read or has nothing measured in it.
        ConfigError: a bench has no arm of the name of the run's baseline.
    """
    report = compare_runs([run], margin=margin)
    read = [_read(directory, report.comparison.baseline) for directory in benches]
    wanted = concurrency or run.config.concurrency
    place = _place(read[0], report.comparison.arm(report.comparison.baseline), wanted) if read else None
    costs = tuple(
        _cost(report, summary, read[0] if read else None, place, run.config.concurrency) for summary in report.comparison.arms
    )
    return Advice(
        run=str(run.path),
        baseline=report.comparison.baseline,
        margin=margin,
        weights=weights,
        place=place,
        costs=costs,
        families=tuple(_family(report, suite, {cost.arm: cost for cost in costs}, weights) for suite in report.suites),
        critical=_critical(read, place.concurrency if place else wanted),
        warnings=(*report.warnings, *_doubts(place, run.config.concurrency, wanted)),
    )


def unverified(identity: ArmIdentity | None) -> str | None:
    """Why nothing is said on time and energy of what was served; None where it was verified."""
    found = identity.verification if identity is not None else None
    if found is None:
        return "not verified: nothing tells what was served"
    return None if found.status == "verified" else f"{found.status}: {found.reason}"


def advice_json(report: Advice) -> dict[str, Any]:
    """Every figure with its interval and counts; ratios are arm ÷ baseline, indices as in `analysis.indices`."""
    data = report.model_dump(mode="json", exclude={"families", "critical", "weights"})
    return {
        **data,
        "weights": report.weights._asdict(),
        "families": [_family_json(family) for family in report.families],
        "critical": [_critical_json(arm) for arm in report.critical],
    }


def _read(directory: BenchDirectory, baseline: str) -> _Bench:
    windows = tuple(directory.windows())
    if not windows:
        raise StoreError(f"{directory.path}: nothing was measured; `qtrap bench --resume {directory.path}` goes on")
    try:
        serving = summarise(windows, baseline)
    except ConfigError as error:
        raise ConfigError(f"{directory.path}: {error}; run and bench know their arms by the same names") from error
    identities = {arm: directory.identity(arm) for arm in serving.arms}
    return _Bench(directory, windows, serving, identities, _parameters(directory, identities[baseline]))


def _parameters(directory: BenchDirectory, baseline: ArmIdentity | None) -> int | None:
    """From the shape, else from the bytes of the unquantised weights."""
    if directory.config.shape in SHAPES:
        return SHAPES[directory.config.shape].parameters
    bits = ELEMENT_BITS.get(baseline.activation_dtype or "") if baseline is not None else None
    if baseline is None or bits is None or baseline.weight_bytes is None or baseline.is_quantised:
        return None
    return baseline.weight_bytes * 8 // bits


def _place(bench: _Bench, baseline: ArmSummary, wanted: int) -> Place:
    cells, prompt = bench.serving.of(baseline.arm), baseline.tokens.prompt_per_hop
    concurrency = min((cell.concurrency for cell in cells), key=lambda known: abs(math.log(known / wanted)))
    known = {cell.prompt_tokens for cell in cells if cell.concurrency == concurrency}
    prompt_tokens = min(known, key=lambda length: abs(math.log(length / prompt)) if prompt else length)
    return Place(
        bench=str(bench.directory.path),
        served=f"{bench.directory.config.shape or 'own checkpoints'} on {hardware(bench.directory.environment())}",
        concurrency=concurrency,
        wanted=wanted,
        prompt_tokens=prompt_tokens,
        new_tokens=next(cell.new_tokens for cell in cells if cell.prompt_tokens == prompt_tokens),
    )


def _doubts(place: Place | None, own: int, wanted: int) -> list[str]:
    """That time and energy are of another concurrency than the one that was asked for."""
    if place is None and own != wanted:
        return [f"the run had {own} requests in flight, not {wanted}; --bench tells of other concurrencies"]
    if place is None or place.concurrency == wanted:
        return []
    return [f"the bench has no {wanted} requests in flight: its nearest, {place.concurrency}, stands for them"]


def _cost(report: RunComparison, summary: ArmSummary, bench: _Bench | None, place: Place | None, concurrency: int) -> ArmCost:
    baseline = report.comparison.arm(report.comparison.baseline)
    reason = unverified(report.arm_facts(summary.arm).identity)
    cost = ArmCost(
        arm=summary.arm,
        label=report.arm_facts(summary.arm).marked,
        energy_per_correct_j=None if reason else summary.energy_per_correct_j,
        output_tokens_per_s=None if reason else summary.output_tokens_per_s,
        tokens=_ratio(_tokens_per_task(summary), _tokens_per_task(baseline)),
        run_reason=reason,
    )
    if summary is baseline:
        return cost
    if bench is not None and place is not None:
        return cost.model_copy(update=_from_bench(bench, place, summary.arm))
    return cost.model_copy(update=_from_run(report, summary, baseline, concurrency))


def _from_bench(bench: _Bench, place: Place, arm: str) -> dict[str, object]:
    """What a cost has from the bench, or why it has nothing."""
    if arm not in bench.serving.arms:
        return {"reason": f"the bench has no arm '{arm}', its arms are {', '.join(bench.serving.arms)}"}
    for name in dict.fromkeys((arm, bench.serving.baseline)):
        if (reason := unverified(bench.identities[name])) is not None:
            return {"reason": reason if name == arm else f"the baseline is {reason}"}
    cell = _cell_at(bench.serving, arm, place)
    if cell is None:
        return {"reason": f"not measured with {place.concurrency} in flight; `qtrap bench --resume {place.bench}` goes on"}
    return {"source": "bench", "in_flight": place.concurrency, "time": _figure(cell.time), "energy": _figure(cell.energy)}


def _cell_at(serving: Serving, arm: str, place: Place) -> ServingCell | None:
    wanted = (place.prompt_tokens, place.new_tokens, place.concurrency)
    return next((cell for cell in serving.of(arm) if cell.place == wanted), None)


def _from_run(report: RunComparison, summary: ArmSummary, baseline: ArmSummary, concurrency: int) -> dict[str, object]:
    """The run as one measurement for each arm, which tells of no spread."""
    for name in (summary.arm, baseline.arm):
        if (reason := unverified(report.arm_facts(name).identity)) is not None:
            return {"reason": reason if name == summary.arm else f"the baseline is {reason}"}
    return {
        "source": "run",
        "in_flight": concurrency,
        "time": _one_figure(_per_task(summary.cost.wall_s, summary), _per_task(baseline.cost.wall_s, baseline)),
        "energy": _one_figure(_per_task(summary.cost.energy_j, summary), _per_task(baseline.cost.energy_j, baseline)),
    }


def _per_task(total: float | None, summary: ArmSummary) -> float | None:
    return None if total is None or not summary.n else total / summary.n


def _tokens_per_task(summary: ArmSummary) -> float | None:
    return _per_task(summary.tokens.completion, summary)


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours and theirs else None


def _one_figure(ours: float | None, theirs: float | None) -> Figure | None:
    ratio = _ratio(ours, theirs)
    return None if ratio is None else Figure(value=ratio)


def _figure(found: Estimate | None) -> Figure | None:
    if found is None:
        return None
    return Figure(value=found.value, interval=None if found.interval.low is None else found.interval)


def _family(report: RunComparison, suite: str, costs: Mapping[str, ArmCost], weights: Weights) -> FamilyAdvice:
    summaries = sorted(report.comparison.arms, key=lambda summary: summary.arm != report.comparison.baseline)
    arms = tuple(_arm(summary, suite, costs[summary.arm], weights, report.comparison.baseline) for summary in summaries)
    known = [arm.indices for arm in arms]
    found = dominances(known)
    return FamilyAdvice(
        suite=suite,
        arms=arms,
        dominances=found,
        dominant=dominant(known, found),
        shares=weight_shares(known),
        recommendation=recommendation(suite, arms, costs),
    )


def _arm(summary: ArmSummary, suite: str, cost: ArmCost, weights: Weights, baseline: str) -> ArmAdvice:
    paired = summary.suites_against.get(suite)
    return ArmAdvice(
        arm=summary.arm,
        success=total_cell((cell for cell in summary.cells if cell.suite == suite), suite),
        paired=paired,
        indices=baseline_indices(baseline) if summary.arm == baseline else _indices(summary.arm, paired, cost, weights),
    )


def _indices(arm: str, paired: Paired | None, cost: ArmCost, weights: Weights) -> Indices:
    """A bench tells time and energy per token: an arm that writes more tokens for a task does fewer tasks with them."""
    longer = 1.0 if cost.source != "bench" else cost.tokens
    known = longer is not None
    esi, ssi = (inverse(ratio, longer or 1.0) if known else None for ratio in (cost.time, cost.energy))
    return indices(arm, accuracy_ratio(paired) if paired else None, esi, ssi, weights)


def recommendation(suite: str, arms: Sequence[ArmAdvice], costs: Mapping[str, ArmCost]) -> str:
    """One sentence: which arm to serve for this family, and why; the baseline is the first of the arms."""
    baseline, *others = arms
    judged = [(arm, arm.paired) for arm in others if arm.paired is not None]
    safe = [arm for arm, paired in judged if paired.verdict == "safe"]
    if not judged:
        return f"{suite}: no advice: no arm has a judged task in common with {baseline.arm}"
    if safe:
        best = max(safe, key=_merit)
        return f"{suite}: {_safe_words(best, costs[best.arm], baseline.arm)}"
    undecided = [(arm, paired) for arm, paired in judged if paired.verdict == "undecided"]
    if undecided:
        return f"{suite}: stay with {baseline.arm} until more tasks decide: {'; '.join(map(_open_words, undecided))}"
    losses = "; ".join(f"{arm.arm} {points(paired.counts.difference)} points" for arm, paired in judged)
    return f"{suite}: stay with {baseline.arm}: no arm keeps its success ({losses})"


def _merit(arm: ArmAdvice) -> tuple[float, ...]:
    """By SI, or as much of it as was measured."""
    found = (arm.indices.si, arm.indices.ssi, arm.indices.esi, arm.indices.tsi)
    return tuple(figure.value if figure is not None else 0.0 for figure in found)


def _open_words(found: tuple[ArmAdvice, Paired]) -> str:
    arm, paired = found
    return f"{arm.arm} needs about {significant(paired.further_tasks, 2)}" if paired.further_tasks else f"{arm.arm} is undecided"


def _safe_words(arm: ArmAdvice, cost: ArmCost, baseline: str) -> str:
    esi, ssi = arm.indices.esi, arm.indices.ssi
    known = [(figure, word) for figure, word in ((esi, "time"), (ssi, "energy")) if figure is not None]
    if not known:
        return f"{arm.arm} is safe; whether it pays is open ({cost.reason or 'time and energy were not measured'})"
    words = " and ".join(f"{_change(figure)} {word}" for figure, word in known) + f" at {cost.in_flight} in flight"
    saves = {figure.value > 1 for figure, _ in known if not _level(figure)}
    doubt = "" if all(_certain(figure) for figure, _ in known) else ", within what the intervals leave open"
    if saves == {True}:
        missing = "" if len(known) == 2 else f"; {'energy' if ssi is None else 'time'} was not measured"
        return f"serve {arm.arm}: safe, and a task takes {words} against {baseline}{doubt}{missing}"
    if True not in saves:
        return f"stay with {baseline}: {arm.arm} is safe but does not pay, a task takes {words}{doubt}"
    return f"{arm.arm} is safe and a task takes {words} against {baseline}{doubt}: what you weigh more decides"


def _change(index: Figure) -> str:
    """What a task takes, from what is done with as much."""
    change = f"{100 * abs(1 / index.value - 1):.1f} % {'less' if index.value > 1 else 'more'}"
    return "as much" if _level(index) else change


def _level(index: Figure) -> bool:
    """True where the change rounds to 0.0 %."""
    return abs(1 / index.value - 1) < 0.0005


def _certain(figure: Figure) -> bool:
    """True where the interval lies on one side of 1."""
    low, high = figure.ends
    return figure.interval is not None and not low <= 1 <= high


def _critical(benches: Sequence[_Bench], batch: int) -> tuple[ArmCritical, ...]:
    others = dict.fromkeys(arm for bench in benches for arm in bench.serving.arms if arm != bench.serving.baseline)
    return tuple(_arm_critical(benches, arm, batch) for arm in others)


def _arm_critical(benches: Sequence[_Bench], arm: str, batch: int) -> ArmCritical:
    known = [bench for bench in benches if arm in bench.serving.arms]
    weighed = [(bench, _weighed(bench, arm)) for bench in known]
    good = [(bench, weights) for bench, weights in weighed if isinstance(weights, Weighed)]
    reasons = [weights for _, weights in weighed if isinstance(weights, str)]
    if reasons or len({(weights.native_bits, weights.bits) for _, weights in good}) != 1:
        return ArmCritical(arm=arm, batch=batch, reason=reasons[0] if reasons else "the benches serve it with different bits")
    found = [point for bench, weights in good for point in step_points(bench.windows, bench.serving.baseline, arm, weights)]
    return ArmCritical(
        arm=arm,
        batch=batch,
        sizes=tuple(sorted({weights.parameters for _, weights in good})),
        fits=fit_critical(arm, found) if found else (),
        crossings=tuple(
            (weights.parameters, crossing)
            for bench, weights in good
            for crossing in bench.serving.crossings
            if crossing.arm == arm and crossing.quantity == "time"
        ),
        size_crossings=tuple(
            crossing
            for crossing in size_crossings({weights.parameters: bench.serving for bench, weights in good})
            if crossing.arm == arm
        ),
        reason=None if found else "no repeat has a window of both arms",
    )


def _weighed(bench: _Bench, arm: str) -> Weighed | str:
    """What the arm holds, or why nothing can be fitted to it."""
    base, own = bench.identities[bench.serving.baseline], bench.identities[arm]
    for name, identity in ((arm, own), (bench.serving.baseline, base)):
        if (reason := unverified(identity)) is not None:
            return f"{name} is {reason}"
    native = ELEMENT_BITS.get(base.activation_dtype or "") if base is not None else None
    if bench.parameters is None or native is None or own is None or own.bits is None:
        return f"{bench.directory.path} does not tell the number of weights and their bits"
    return Weighed(bench.parameters, native, own.bits)


def _family_json(family: FamilyAdvice) -> dict[str, Any]:
    arms = [
        arm.model_dump(mode="json")
        | {
            "verdict": arm.paired.verdict if arm.paired else None,
            "difference": arm.paired.counts.difference if arm.paired else None,
        }
        for arm in family.arms
    ]
    return family.model_dump(mode="json", exclude={"arms"}) | {"arms": arms}


def _critical_json(arm: ArmCritical) -> dict[str, Any]:
    fits = [
        fit.model_dump(mode="json")
        | {
            "pays": fit.pays,
            "critical_parameters": to_jsonable_python(fit.critical_parameters(arm.batch)),
            "critical_batch": [{"parameters": size, "batch": to_jsonable_python(fit.critical_batch(size))} for size in arm.sizes],
        }
        for fit in arm.fits
    ]
    crossings = [{"parameters": size} | crossing.model_dump(mode="json") for size, crossing in arm.crossings]
    return arm.model_dump(mode="json", exclude={"fits", "crossings"}) | {"fits": fits, "crossings": crossings}
