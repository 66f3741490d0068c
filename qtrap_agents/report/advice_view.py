"""`qtrap advise` on a terminal: verdicts and savings, dominance before the indices, critical points, advice."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from qtrap_agents.analysis.critical import CriticalFit, SizeCrossing
from qtrap_agents.analysis.indices import DIMENSIONS, Dimension, Figure
from qtrap_agents.report.advice import Advice, ArmAdvice, ArmCost, ArmCritical, FamilyAdvice
from qtrap_agents.report.bench import crossing_sentence
from qtrap_agents.report.comparison_view import VERDICT_STYLES
from qtrap_agents.report.format import NOT_MEASURED, NOTHING, change_between, joules, minus, percent, plain, significant
from qtrap_agents.report.table import new_table, print_table
from qtrap_agents.report.wording import difference_words, verdict_words

NO_STATEMENT = "no statement"
INDEX_NOTE = (
    "TSI: accuracy ratio; ESI: tasks per device-second against the baseline; SSI: baseline energy ÷ arm energy per task; "
    "SI = TSI^w₁ · ESI^w₂ · SSI^w₃; baseline = 1, higher is better; intervals are 95 %"
)
CRITICAL_NOTE = (
    "φ: seconds of casting a decode step; B_W/α: bandwidth at which bytes that are not moved save time; N*: weights above which "
    "the arm pays; B*: batch; printed, consistent: N* = φ·B_W·B/(α·(π−p)) and φ·B_W/(α·B·(π−p)) of arXiv 2602.13595; once: "
    "without B; R²: variance of the saved time that the form explains"
)


def render_advice(report: Advice, console: Console) -> None:
    """Print the whole report."""
    for warning in report.warnings:
        console.print(plain(f"warning: {warning}", style="yellow"))
    console.print(plain(_source(report)))
    console.print()
    _render_families(report, console)
    for line in _statements(report):
        console.print(plain(line))
    _render_dominance(report, console)
    _render_indices(report, console)
    if report.critical:
        _render_critical(report, console)
    for family in report.families:
        console.print(plain(family.recommendation, style="bold"))


def _source(report: Advice) -> str:
    place = report.place
    if place is None:
        return "time and energy: the run's own, one measurement for each arm; --bench gives ratios with intervals"
    return (
        f"time and energy: {place.served}, {place.concurrency} in flight ({place.wanted} asked for), "
        f"prompts of {place.prompt_tokens} tokens, {place.new_tokens} new ones; {place.bench}"
    )


def _render_families(report: Advice, console: Console) -> None:
    table = new_table(f"Task families, compared with {report.baseline}, margin {100 * report.margin:g} points")
    for heading in ("family", "arm", "success", "difference", "verdict", "J/correct task", "tokens/s", "time", "energy"):
        table.add_column(heading, overflow="fold")
    for family in report.families:
        table.add_section()
        for arm in family.arms:
            first, *cells = _family_cells(family, arm, report)
            style = VERDICT_STYLES.get(arm.paired.verdict, "") if arm.paired else ""
            shown = [plain(cell, style=style if index == 3 else "") for index, cell in enumerate(cells)]
            table.add_row(plain(first if arm is family.arms[0] else ""), *shown)
    print_table(table, console)
    console.print(plain("J/correct task, tokens/s, time and energy are of all task families together", style="dim"))


def _family_cells(family: FamilyAdvice, arm: ArmAdvice, report: Advice) -> tuple[str, ...]:
    cost, is_baseline = report.cost(arm.arm), arm.arm == report.baseline
    return (
        family.suite,
        cost.label,
        f"{percent(arm.success.success)} (n = {arm.success.judged:,})",
        difference_words(arm.paired).replace(" points", "") if arm.paired else NOTHING,
        verdict_words(arm.paired) if arm.paired else "baseline" if is_baseline else NOTHING,
        _own(cost, None if cost.energy_per_correct_j is None else joules(cost.energy_per_correct_j)),
        _own(cost, None if cost.output_tokens_per_s is None else significant(cost.output_tokens_per_s)),
        NOTHING if is_baseline else _saving(cost, cost.time),
        NOTHING if is_baseline else _saving(cost, cost.energy),
    )


def _own(cost: ArmCost, shown: str | None) -> str:
    return NO_STATEMENT if cost.run_reason else shown or NOT_MEASURED


def _saving(cost: ArmCost, ratio: Figure | None) -> str:
    """`−31.0 % [−33.1, −28.8]`."""
    if ratio is None:
        return NO_STATEMENT if cost.reason else NOT_MEASURED
    low, high = (ratio.interval.low, ratio.interval.high) if ratio.interval else (None, None)
    return change_between(ratio.value, low, high)


def _statements(report: Advice) -> Iterator[str]:
    """Why there is no statement on time and energy, arm by arm."""
    for cost in report.costs:
        if cost.reason is not None:
            yield f"{cost.arm}: no statement on time or energy: {cost.reason}"
        elif cost.run_reason is not None:
            yield f"{cost.arm}: no statement on the run's own time or energy: {cost.run_reason}"


def _render_dominance(report: Advice, console: Console) -> None:
    for family in report.families:
        for line in _dominance_lines(family):
            console.print(plain(f"{family.suite}: {line}"))
    console.print()


def _dominance_lines(family: FamilyAdvice) -> Iterator[str]:
    if not family.dominances:
        measured = any(arm.indices.esi or arm.indices.ssi for arm in family.arms[1:])
        yield "no arm dominates another" if measured else "dominance is open: neither time nor energy is known"
    groups: dict[tuple[str, tuple[Dimension, ...], bool], list[str]] = {}
    for found in family.dominances:
        groups.setdefault((found.winner, found.dimensions, found.certain), []).append(found.loser)
    for (winner, dimensions, certain), losers in groups.items():
        yield dominance_words(winner, losers, dimensions, certain)
    if family.dominant is None and family.shares is not None:
        shares = ", ".join(f"{arm} {percent(share)}" for arm, share in family.shares.items())
        yield f"first by SI on so much of all choices of weights: {shares}"


def dominance_words(winner: str, losers: Sequence[str], dimensions: Sequence[Dimension], certain: bool) -> str:
    """`awq dominates fp16 on accuracy, time and energy: no choice of weights changes the order`."""
    missing = [name for name in DIMENSIONS if name not in dimensions]
    scope = f" of these ({missing[0]} is not known)" if missing else ""
    names = f"{', '.join(dimensions[:-1])} and {dimensions[-1]}"
    doubt = "" if certain else "; the intervals leave it open"
    return f"{winner} dominates {' and '.join(losers)} on {names}: no choice of weights{scope} changes the order{doubt}"


def _render_indices(report: Advice, console: Console) -> None:
    weights = ", ".join(f"{weight:.2g}" for weight in report.weights)
    table = new_table(f"Sustainability index (ours), weights {weights} for accuracy, time and energy")
    for heading in ("family", "arm", "TSI", "ESI", "SSI", "SI"):
        table.add_column(heading, overflow="fold")
    for family in report.families:
        table.add_section()
        for arm in family.arms:
            cost = report.cost(arm.arm)
            cells = ("1",) * 4 if arm.arm == report.baseline else _index_cells(arm, cost)
            table.add_row(plain(family.suite if arm is family.arms[0] else ""), plain(cost.label), *cells)
    print_table(table, console)
    console.print(plain(INDEX_NOTE, style="dim"))
    console.print()


def _index_cells(arm: ArmAdvice, cost: ArmCost) -> Iterator[str]:
    found = arm.indices
    yield NOTHING if found.tsi is None else _with_ends(found.tsi)
    for figure in (found.esi, found.ssi, found.si):
        absent = NO_STATEMENT if cost.reason else NOT_MEASURED
        yield absent if figure is None else _with_ends(figure)


def _with_ends(figure: Figure, unit: float = 1.0) -> str:
    """`1.23 [1.10, 1.40]`, an open end as ∞."""
    low, high = figure.ends
    if figure.interval is None:
        return significant(figure.value / unit)
    return f"{significant(figure.value / unit)} [{_end(low, unit)}, {_end(high, unit)}]"


def _end(end: float, unit: float) -> str:
    if end in (float("-inf"), float("inf")):
        return "∞" if end > 0 else "−∞"
    return significant(end / unit)


def _render_critical(report: Advice, console: Console) -> None:
    batch = report.critical[0].batch
    table = new_table("Critical scale and batch, fitted to the time of a decode step")
    for heading in ("arm", "form", "n", "φ, µs", "B_W/α, GB/s", f"N* at batch {batch}, 10⁹", "B*", "R²"):
        table.add_column(heading, overflow="fold")
    for arm in report.critical:
        table.add_section()
        for fit in arm.fits:
            table.add_row(*map(plain, (arm.arm if fit is arm.fits[0] else "", *_fit_cells(arm, fit))))
    if any(arm.fits for arm in report.critical):
        print_table(table, console)
        console.print(plain(CRITICAL_NOTE, style="dim"))
    for arm in report.critical:
        for line in _critical_lines(arm):
            console.print(plain(f"{arm.arm}: {line}"))
    console.print()


def _fit_cells(arm: ArmCritical, fit: CriticalFit) -> tuple[str, ...]:
    scale, batches = fit.critical_parameters(arm.batch), [(size, fit.critical_batch(size)) for size in arm.sizes]
    shown = [f"{_with_ends(batch)} at {_size(size)}" for size, batch in batches if batch is not None]
    return (
        fit.form,
        f"{fit.n:,}",
        NOTHING if fit.phi_s is None else _with_ends(fit.phi_s, 1e-6),
        _bandwidth(fit.seconds_per_byte),
        NOTHING if scale is None else _with_ends(scale, 1e9),
        f"pays {fit.pays} {', '.join(shown)}" if shown else NOTHING,
        NOTHING if fit.r2 is None else minus(f"{fit.r2:.2f}"),
    )


def _bandwidth(rate: Figure | None) -> str:
    return NOTHING if rate is None or rate.value <= 0 else significant(1 / rate.value / 1e9)


def _critical_lines(arm: ArmCritical) -> Iterator[str]:
    if arm.reason is not None:
        yield f"no critical scale or batch: {arm.reason}"
        return
    yield from (f"{fit.form}: {fit.reason}" for fit in arm.fits if fit.reason is not None)
    yield from (f"measured at {_size(size)}: {crossing_sentence(crossing)}" for size, crossing in arm.crossings)
    yield from (f"measured: {size_sentence(crossing)}" for crossing in arm.size_crossings)
    if not arm.crossings and not arm.size_crossings:
        yield "measured: no crossing in time within the bench"


def size_sentence(crossing: SizeCrossing) -> str:
    """`awq starts paying in time at about 3.2 billion weights (between …) with 64 in flight`."""
    verb = "starts" if crossing.starts else "stops"
    doubt = "" if crossing.certain else "; the intervals at both ends do not rule out that it is elsewhere"
    return (
        f"{crossing.arm} {verb} paying in time at about {_size(crossing.parameters)} (between {_size(crossing.below)} and "
        f"{_size(crossing.above)}, {crossing.concurrency} in flight, prompts of {crossing.prompt_tokens} tokens{doubt})"
    )


def _size(parameters: float) -> str:
    scale, word = (1e9, "billion") if parameters >= 1e8 else (1e6, "million")
    return f"{significant(parameters / scale)} {word} weights"
