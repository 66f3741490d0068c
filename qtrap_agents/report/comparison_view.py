"""`qtrap compare` on a terminal: what was served, success by depth, one column of figures per arm, a sentence per arm."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from qtrap_agents.analysis.effect import Contrast
from qtrap_agents.analysis.summary import ArmSummary, Cell
from qtrap_agents.report.comparison import RunComparison, total_cell
from qtrap_agents.report.cost_view import cost_figures
from qtrap_agents.report.format import (
    NOTHING,
    chunks,
    mebibytes,
    p_value,
    percent,
    percent_between,
    plain,
    significant,
)
from qtrap_agents.report.prediction_view import render_outcome
from qtrap_agents.report.served import ArmFacts
from qtrap_agents.report.table import new_table, print_table
from qtrap_agents.report.wording import (
    difference_words,
    flips_words,
    floor_sentence,
    floor_words,
    horizon_words,
    next_command,
    null_words,
    shape_words,
    unparsed_words,
    verdict_sentence,
    verdict_words,
)
from qtrap_agents.types import ArmIdentity

VERDICT_STYLES = {"safe": "green", "danger": "bold red", "undecided": "yellow"}
_LABELS, _ARM_COLUMN = 32, 29

Figure = Callable[[ArmSummary, ArmFacts], str]


class _Row(NamedTuple):
    suite: str
    arm: str
    cells: dict[int, Cell]


class _Success(NamedTuple):
    title: str
    depths: tuple[int, ...]
    rows: tuple[_Row, ...]


def render_comparison(report: RunComparison, console: Console) -> None:
    """Print the whole comparison."""
    for warning in report.warnings:
        console.print(plain(f"warning: {warning}", style="yellow"))
    _render_identities(report.facts, console)
    for success in _success_tables(report):
        _render_success(success, console)
    for part in chunks(report.comparison.arms, (console.width - _LABELS) // _ARM_COLUMN):
        print_table(_figures(report, part), console)
    if any(fit.extrapolated for arm in report.comparison.arms for fit in (arm.horizon, *arm.suite_horizons.values())):
        console.print(plain("≈ lies outside the depths that were tried", style="dim"))
        console.print()
    if any(paired.inside_floor for arm in report.comparison.arms for paired in arm.suites_against.values()):
        console.print(plain("~ is inside the noise floor of its suite", style="dim"))
        console.print()
    for found in report.plans:
        render_outcome(found, console)
    _render_verdicts(report, console)


def _render_identities(facts: Sequence[ArmFacts], console: Console) -> None:
    table = new_table("What was served (read from the engine and the checkpoint)")
    for heading in ("arm", "weights", "packed", "kernels", "size", "dtype", "KV cache", "served by", "sha256"):
        table.add_column(heading, overflow="fold")
    for arm in facts:
        table.add_row(*map(plain, (arm.marked, *_identity_cells(arm.identity))))
        for name, part in arm.identity.parts.items() if arm.identity else ():
            table.add_row(*map(plain, (f"  {name}", *_identity_cells(part))))
    console.print(table)
    for note, labels in _notes(facts).items():
        console.print(plain(f"{', '.join(labels)}: {note}", style="dim"))
    console.print()


def _identity_cells(identity: ArmIdentity | None) -> tuple[str, ...]:
    if identity is None:
        return ("unknown", *(NOTHING,) * 7)
    packed = f"{identity.quantised_modules}/{identity.linear_modules}"
    kernels = ", ".join(f"{name} ×{count}" for name, count in identity.kernels.items())
    device = f" on {identity.device}" if identity.device else ""
    return (
        _weights(identity),
        NOTHING if identity.quantised_modules is None else packed,
        kernels or NOTHING,
        mebibytes(identity.weight_bytes),
        identity.activation_dtype or NOTHING,
        identity.kv_cache_dtype or NOTHING,
        f"{identity.engine or identity.backend}{device}",
        (identity.checksum or NOTHING)[:8],
    )


def _weights(identity: ArmIdentity) -> str:
    """`awq 4-bit g128`, `not quantised`, or `unknown`."""
    if identity.quantisation is None:
        known = identity.checksum is not None or identity.quantised_modules == 0
        return "not quantised" if known and not identity.quantised_modules else "unknown"
    bits = f" {identity.bits}-bit" if identity.bits else ""
    return f"{identity.quantisation}{bits}{f' g{identity.group_size}' if identity.group_size else ''}"


def _notes(facts: Iterable[ArmFacts]) -> dict[str, list[str]]:
    """Note -> the arms that it is about."""
    notes: dict[str, list[str]] = {}
    for arm in facts:
        for note in arm.identity.notes if arm.identity else ():
            notes.setdefault(note, []).append(arm.label)
    return notes


def _success_tables(report: RunComparison) -> list[_Success]:
    """One table for the suites that share their depths, the last one for all suites together."""
    arms, rows = report.comparison.arms, dict[tuple[int, ...], list[_Row]]()
    names = [report.arm_facts(arm.arm).marked for arm in arms]
    for suite in report.suites:
        own = [
            _Row(suite, report.arm_facts(arm.arm).marked, {cell.depth: cell for cell in arm.cells if cell.suite == suite})
            for arm in arms
        ]
        rows.setdefault(_depths(own), []).extend(own)
    tables = [_Success("Success by depth, 95 % intervals", depths, tuple(found)) for depths, found in rows.items()]
    if len(report.suites) > 1:
        together = ({cell.depth: cell for cell in arm.by_depth} for arm in arms)
        pooled = tuple(_Row("all", name, known) for name, known in zip(names, together, strict=True))
        tables.append(_Success("Success by depth, all suites together", _depths(pooled), pooled))
    return tables


def _depths(rows: Iterable[_Row]) -> tuple[int, ...]:
    return tuple(sorted({depth for row in rows for depth in row.cells}))


def _render_success(success: _Success, console: Console) -> None:
    """Cells on one line where the console is wide enough, else on two, and several tables for many depths."""
    whole = _success_table(success, success.depths, " ", with_total=True)
    if _fits(whole, console):
        print_table(whole, console)
        return
    sizes = range(len(success.depths), 0, -1)
    size = next((size for size in sizes if _fits(_success_table(success, success.depths[:size], "\n", True), console)), 1)
    parts = chunks(success.depths, size)
    for part in parts:
        print_table(_success_table(success, part, "\n", with_total=part is parts[-1]), console)


def _fits(table: Table, console: Console) -> bool:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width


def _success_table(success: _Success, depths: Sequence[int], gap: str, with_total: bool) -> Table:
    columns = [(f"{depth} {'hop' if depth == 1 else 'hops'}", [row.cells.get(depth) for row in success.rows]) for depth in depths]
    if with_total and len(success.depths) > 1:
        columns.append(("all depths", [total_cell(row.cells.values(), None) for row in success.rows]))
    table = new_table(success.title)
    for heading, labels in (("suite", [row.suite for row in success.rows]), ("arm", [row.arm for row in success.rows])):
        table.add_column(heading, overflow="fold", min_width=min(16, max(map(len, labels))))
    usual = [_usual_n(cells) for _, cells in columns]
    for (heading, _), n in zip(columns, usual, strict=True):
        table.add_column(f"{heading},{gap}n = {n:,}", no_wrap=True)
    for index, row in enumerate(success.rows):
        first = index == 0 or success.rows[index - 1].suite != row.suite
        if index and first:
            table.add_section()
        cells = [_success_cell(cells[index], gap, n) for (_, cells), n in zip(columns, usual, strict=True)]
        table.add_row(plain(row.suite if first else ""), plain(row.arm), *cells)
    return table


def _usual_n(cells: Iterable[Cell | None]) -> int:
    """The number of judged tasks that most cells of a column have; cells with another one say so."""
    return max(Counter(cell.judged for cell in cells if cell is not None).items(), key=lambda item: (item[1], item[0]))[0]


def _success_cell(cell: Cell | None, gap: str, usual_n: int) -> str:
    if cell is None:
        return NOTHING
    if not cell.judged:
        return f"{NOTHING} (n = 0)" if usual_n else NOTHING
    other = f" (n = {cell.judged:,})" if cell.judged != usual_n else ""
    share, _, ends = percent_between(cell.success, cell.interval.low, cell.interval.high).partition(" [")
    return f"{share}{other}{gap}[{ends}"


def _figures(report: RunComparison, arms: Sequence[ArmSummary]) -> Table:
    table = new_table(f"Arms, compared with {report.comparison.baseline}" if len(report.facts) > 1 else "The arm")
    table.add_column("")
    for summary in arms:
        role = " (baseline)" if summary.against is None else ""
        table.add_column(plain(report.arm_facts(summary.arm).marked + role), overflow="fold")
    for title, rows in _sections(report):
        table.add_section()
        for index, (name, figure) in enumerate([(title, None), *rows] if title else rows):
            cells = [_styled(figure(summary, report.arm_facts(summary.arm))) if figure else Text() for summary in arms]
            table.add_row(Text(name, style="bold" if title and not index else ""), *cells)
    return table


def _styled(text: str) -> Text:
    return plain(text, style=VERDICT_STYLES.get(text.split(",")[0], ""))


def _sections(report: RunComparison) -> list[tuple[str, list[tuple[str, Figure]]]]:
    several = len(report.suites) > 1 and len(report.facts) > 1
    return [
        ("", _success_figures(report)),
        *([("verdict by suite", _suite_verdicts(report))] if several else []),
        ("horizon H50, in hops", _horizon_figures(report.suites)),
        ("premises against gold", _premise_figures()),
        ("cost", cost_figures(report.comparison.arms)),
    ]


def _success_figures(report: RunComparison) -> list[tuple[str, Figure]]:
    floor: tuple[str, Figure] = ("against the noise floor", lambda arm, _: floor_words(arm.against) if arm.against else NOTHING)
    return [
        ("tasks run", lambda arm, facts: f"{arm.n:,}" + ("" if facts.finished else f" of {facts.total:,}")),
        ("ended in an error", lambda arm, _: f"{arm.errors:,}"),
        ("success", _success),
        ("difference", lambda arm, _: _shown(report, arm.against, difference_words)),
        (f"verdict (margin {100 * report.comparison.margin:g} points)", _verdict),
        *([floor] if len(report.facts) > 1 else []),
        ("flips: lost / gained", lambda arm, _: _shown(report, arm.against, flips_words)),
        ("exact McNemar p (Holm)", _mcnemar),
    ]


def _shown(report: RunComparison, against: Contrast | None, words: Callable[[Contrast], str]) -> str:
    """Of the baseline, what it does to itself."""
    if against is not None:
        return words(against)
    floor = report.comparison.floor
    return NOTHING if floor is None else f"A/A {words(floor)}"


def _verdict(arm: ArmSummary, _: ArmFacts) -> str:
    return verdict_words(arm.against) if arm.against else NOTHING


def _horizon_figures(suites: Sequence[str]) -> list[tuple[str, Figure]]:
    rows: list[tuple[str, Figure]] = [
        ("  all tasks", lambda arm, _: horizon_words(arm.horizon)),
        ("  if all hops were alike", lambda arm, _: null_words(arm.horizon)),
        ("  p of hops alike", lambda arm, _: shape_words(arm.horizon)),
    ]
    return rows + [(f"  {suite}", _suite_horizon(suite)) for suite in suites if len(suites) > 1]


def _suite_verdicts(report: RunComparison) -> list[tuple[str, Figure]]:
    return [(f"  {suite}", _suite_verdict(report, suite)) for suite in report.suites]


def _suite_verdict(report: RunComparison, suite: str) -> Figure:
    def figure(arm: ArmSummary, _: ArmFacts) -> str:
        paired = arm.suites_against.get(suite)
        if paired is None:
            floor = report.comparison.suite_floors.get(suite) if arm.against is None else None
            return NOTHING if floor is None else f"A/A {_difference(floor)}"
        return f"{paired.verdict}, {_difference(paired)}{' ~' if paired.inside_floor else ''}"

    return figure


def _difference(contrast: Contrast) -> str:
    return difference_words(contrast).replace(" points", "")


def _suite_horizon(suite: str) -> Figure:
    def figure(arm: ArmSummary, _: ArmFacts) -> str:
        return horizon_words(arm.suite_horizons[suite]) if suite in arm.suite_horizons else NOTHING

    return figure


def _premise_figures() -> list[tuple[str, Figure]]:
    return [
        ("  wrong + missing", _wrong),
        ("  first error, median hop", _first_error),
        ("  chains that collapse", _collapse),
        ("  blast radius, mean", lambda arm, _: percent(arm.failures.mean_blast_radius)),
        ("  own / inherited / compounded", _origins),
        ("  wrong per own error", lambda arm, _: _number(arm.failures.amplification)),
        ("  recovered", lambda arm, _: f"{arm.failures.recovered:,}" if arm.failures.chains else NOTHING),
        ("  hops not parsed (cut off)", lambda arm, _: unparsed_words(arm.readings)),
    ]


def _success(arm: ArmSummary, _: ArmFacts) -> str:
    total = total_cell(arm.cells, None)
    return percent_between(total.success, total.interval.low, total.interval.high)


def _mcnemar(arm: ArmSummary, _: ArmFacts) -> str:
    if arm.against is None or not arm.against.counts.n:
        return NOTHING
    unit = " of tasks" if arm.against.unit == "tasks" else ""
    return f"{p_value(arm.against.p)} ({p_value(arm.against.p_holm)}){unit}"


def _wrong(arm: ArmSummary, _: ArmFacts) -> str:
    failures = arm.failures
    return f"{failures.wrong:,} + {failures.missing:,} of {failures.premises:,}" if failures.premises else NOTHING


def _first_error(arm: ArmSummary, _: ArmFacts) -> str:
    first = arm.failures.median_first_error
    if not arm.failures.chains:
        return NOTHING
    return "none" if first is None else f"{first} (in {sum(arm.failures.first_errors.values()):,} chains)"


def _collapse(arm: ArmSummary, _: ArmFacts) -> str:
    interval = arm.failures.collapse_interval
    return percent_between(arm.failures.collapse_rate, interval.low, interval.high)


def _origins(arm: ArmSummary, _: ArmFacts) -> str:
    failures = arm.failures
    if not failures.chains:
        return NOTHING
    return f"{failures.own:,} / {failures.inherited:,} / {failures.compounded:,}"


def _number(number: float | None, absent: str = NOTHING) -> str:
    return absent if number is None else significant(number)


def _render_verdicts(report: RunComparison, console: Console) -> None:
    if len(report.facts) > 1:
        console.print(plain(floor_sentence(report)), soft_wrap=report.again is None)
    for summary in report.comparison.arms:
        verdict = summary.against.verdict if summary.against and summary.judged and summary.against.counts.n else ""
        console.print(plain(verdict_sentence(report, summary), style=VERDICT_STYLES.get(verdict, "")))
    console.print()
    console.print(plain(f"next: {next_command(report)}"), soft_wrap=True)
