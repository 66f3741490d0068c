"""`qtrap inject` on a terminal: what the faults did by family and kind, and the propagation curve."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from qtrap_agents.analysis.propagation import Group, pooled
from qtrap_agents.report.faultsets import bar, two_lines, words_or_nothing
from qtrap_agents.report.format import NOTHING, plain, significant
from qtrap_agents.report.propagation import PropagationReport
from qtrap_agents.report.table import new_table, print_table

NOTE = (
    "recovered: chains with a right answer in spite of a fault on the way to it; wrong, then right: wrong premises with a right "
    "descendant on the way to the answer; per fault: premises in error, the faulty one included; intervals are 95 % Wilson, as "
    "if premises of one chain were independent"
)


def render_propagation(report: PropagationReport, console: Console) -> None:
    """Print the whole report."""
    for warning in report.warnings:
        console.print(plain(f"warning: {warning}", style="yellow"))
    _render_groups(report, console)
    _render_curve(report, console)
    console.print(plain(NOTE, style="dim"))
    if report.command:
        console.print(plain(f"next: {report.command}"), soft_wrap=True)


def _render_groups(report: PropagationReport, console: Console) -> None:
    found = report.propagation
    table = new_table(f"{found.total.spread.faults:,} faults in chains of {report.arm} ({report.name})")
    headings = ("", "faults", "answer wrong", "recovered", "wrong, then right", "downstream in error", "of these", "per fault")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for section in (found.suites, found.faults, (found.total,)):
        table.add_section()
        for group in section:
            table.add_row(*_cells(group))
    print_table(table, console)


def _cells(group: Group) -> tuple[Text, ...]:
    spread = group.spread
    return (
        plain(group.suite or group.fault or "all"),
        plain(f"{spread.faults:,}"),
        *map(two_lines, (spread.changed_share, spread.recovery, spread.premise_recovery, spread.hit)),
        plain(", ".join(_origins(group)) or NOTHING),
        plain(NOTHING if spread.amplification is None else significant(spread.amplification)),
    )


def _origins(group: Group) -> Iterator[str]:
    """What the downstream errors are."""
    for name, count in group.spread.downstream:
        if count and name != "match":
            yield f"{count:,} {name}"


def _render_curve(report: PropagationReport, console: Console) -> None:
    table = new_table("Premises in error by their distance from the fault, in edges of the premise graph")
    for heading in ("suite", "distance", "in error", ""):
        table.add_column(heading, overflow="fold")
    for group in _curves(report.propagation.suites, report.propagation.total):
        table.add_section()
        for index, ((first, last), share) in enumerate(pooled(group.by_distance).items()):
            name = (group.suite or "all") if index == 0 else ""
            span = str(first) if first == last else f"{first}–{last}"
            table.add_row(plain(name), plain(span), plain(words_or_nothing(share)), plain(bar(share.share)))
    if table.rows:
        print_table(table, console)


def _curves(suites: Sequence[Group], total: Group) -> Sequence[Group]:
    return (*suites, total) if len(suites) > 1 else suites
