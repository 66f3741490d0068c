"""`qtrap replay` on a terminal: what one full-precision hop saves, hop by hop evidence, where causal hops lie, and chains."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from qtrap_agents.analysis.causes import Cause, Group, origin_of
from qtrap_agents.analysis.funnel import Share
from qtrap_agents.report.diagnosis_view import INSIDE, share_words
from qtrap_agents.report.faultsets import bar, words_or_nothing
from qtrap_agents.report.format import NOT_MEASURED, NOTHING, plain, points
from qtrap_agents.report.replays import ReplayReport, first_hops
from qtrap_agents.report.table import new_table, print_table

_KINDS = 5
_OF_CHOSEN = "failed chains and as many healthy ones of the same family and depth: no rates of the whole run"

_Line = tuple[str, Share, Share | None]


def render_replays(report: ReplayReport, console: Console, limit: int = 20) -> None:
    """Print the whole report.

    Args:
        limit: how many of the failed chains to list.
    """
    for warning in report.warnings:
        console.print(plain(f"warning: {warning}", style="yellow"))
    _render_saved(report, console)
    _render_evidence(report, console)
    _render_places(report, console)
    _render_kinds(report, console)
    for line in _findings(report):
        console.print(plain(line))
    console.print()
    _render_chains(report, console, limit)


def _render_saved(report: ReplayReport, console: Console) -> None:
    table = new_table(f"Failed chains of {report.arm}: what brings back the answer")
    headings = ("suite", "depth", "failed", f"one hop by {report.baseline}", "several", "not restored", "open", "one repair")
    for heading in headings:
        table.add_column(plain(heading), overflow="fold")
    last = None
    for group in _rows(report):
        if last is not None and group.suite != last:
            table.add_section()
        table.add_row(*map(plain, _saved_cells(group, group.suite != last)))
        last = group.suite or ""
    print_table(table, console)
    console.print(
        plain("open: not replayed to the end, no part of the shares; several: all hops where only this arm errs", style="dim")
    )
    console.print()


def _rows(report: ReplayReport) -> Iterator[Group]:
    """The depths of each family, their sum where there are several, and the total of several families."""
    profile = report.profile
    for whole in profile.suites:
        depths = [cell for cell in profile.cells if cell.suite == whole.suite]
        yield from depths
        if len(depths) > 1:
            yield whole
    if len(profile.suites) > 1:
        yield profile.total


def _saved_cells(group: Group, first: bool) -> tuple[str, ...]:
    outcomes = group.outcomes
    return (
        (group.suite or "all") if first else "",
        "all" if group.depth is None else str(group.depth),
        f"{outcomes.failed:,}",
        words_or_nothing(outcomes.saved_by_one),
        f"{outcomes.several:,}",
        f"{outcomes.none:,}",
        f"{outcomes.incomplete:,}",
        words_or_nothing(outcomes.saved_by_repair),
    )


def _render_evidence(report: ReplayReport, console: Console) -> None:
    table = new_table("Hop by hop, and what single hops do to chains")
    for heading in ("", "share", "noise floor"):
        table.add_column(heading, overflow="fold")
    for name, share, floor in _evidence(report):
        inside = f", {INSIDE}" if floor is not None and share.within(floor) else ""
        beside = "" if floor is None else share_words(floor) if floor.n else NOT_MEASURED
        table.add_row(*map(plain, (name, (share_words(share) if share.n else NOT_MEASURED) + inside, beside)))
    print_table(table, console)


def _evidence(report: ReplayReport) -> Iterator[_Line]:
    arm, baseline = report.arm, report.baseline
    hops, outcomes = report.profile.total.hops, report.profile.total.outcomes
    swapped, again = hops.hops("swapped").share, hops.hops("again").share
    reverse, floor = hops.hops("reverse").share, hops.hops("baseline_again").share
    yield (f"hops of {arm} that {baseline} answers otherwise", swapped, again)
    yield (f"hops of {baseline} that {arm} answers otherwise", reverse, floor)
    yield (f"own errors: {arm} on right premises (teacher forcing)", hops.own, None)
    yield (f"own and inherited: {arm} on its own premises", hops.all_errors, None)
    yield (f"failed chains that one hop by {baseline} saves", outcomes.saved_by_one, outcomes.harmed_share)
    yield (f"chains of {baseline} that one differing hop by {arm} breaks", outcomes.broken_share, None)


def _render_places(report: ReplayReport, console: Console) -> None:
    """Causal hops by position, and by tenth of the chain where there are chains of ten hops."""
    causes = report.profile.causes
    places = {span: share for span, share in first_hops(causes).items() if share.n}
    if not any(share.count for share in places.values()):
        return
    table = new_table("Where the causal hops lie: of all hops of failed chains at these positions")
    for heading in ("hop", "causal", ""):
        table.add_column(heading, overflow="fold")
    most = max(share.share or 0.0 for share in places.values())
    for (first, last), share in places.items():
        span = str(first) if first == last else f"{first}–{last}"
        table.add_row(*map(plain, (span, share_words(share), bar(share.share, most))))
    print_table(table, console)
    tenths = report.profile.tenths
    if sum(tenths):
        shown = " ".join(f"{count:,}" for count in tenths)
        console.print(plain(f"by tenth of the chain, {sum(tenths):,} chains of ten hops and more: {shown}"))
        console.print()


def _render_kinds(report: ReplayReport, console: Console) -> None:
    table = new_table("Kinds of step at causal hops: of all steps of that kind in the failed chains")
    for heading in ("suite", "kind", "causal"):
        table.add_column(heading, overflow="fold")
    for suite, kinds in report.profile.kinds.items():
        shown = [(kind or "not told", share) for kind, share in kinds.items() if share.count][:_KINDS]
        for index, (kind, share) in enumerate(shown):
            table.add_row(*map(plain, ("" if index else suite, kind, share_words(share))))
        if shown:
            table.add_section()
    if table.rows:
        print_table(table, console)


def _findings(report: ReplayReport) -> Iterator[str]:
    profile, outcomes = report.profile, report.profile.total.outcomes
    hops = profile.total.hops
    yield f"these are {_OF_CHOSEN}"
    if hops.inherited is not None:
        yield f"errors that free running adds to the own ones, inherited: {points(hops.inherited)} points of the premises"
    if outcomes.baseline_wrong:
        yield f"{outcomes.baseline_wrong:,} of the {outcomes.failed:,} failed chains fail on {report.baseline} too"
    if outcomes.one:
        named = ", ".join(f"{count:,} {origin}" for origin, count in profile.origins.items())
        yield f"causal hops: {named}; the hop of the first error: {share_words(outcomes.causal_first_errors)}"
    several = {swaps: count for swaps, count in profile.swaps.items() if swaps > 1}
    if several:
        named = ", ".join(f"{count:,} × {swaps}" for swaps, count in several.items())
        yield f"hops swapped together where one was not enough (an upper bound, fewer may do): {named}"


def _render_chains(report: ReplayReport, console: Console, limit: int) -> None:
    causes = _listed(report.profile.causes)
    if not causes:
        console.print(plain(f"no failed chain of {report.arm} was replayed"))
        return
    table = new_table(f"Failed chains of {report.arm}")
    for heading in ("task", "hops", "causal hop", "origin", "step", "swaps needed", "saved by repair at"):
        table.add_column(heading, overflow="fold")
    for cause in causes[:limit]:
        table.add_row(*map(plain, _cause_cells(cause)))
    print_table(table, console)
    if len(causes) > limit:
        console.print(plain(f"the first {limit:,} of {len(causes):,}; --show N shows more"))
    console.print(plain(f"next: {report.command(causes[0])}"), soft_wrap=True)


def _listed(causes: Sequence[Cause]) -> list[Cause]:
    """Chains that one swap saves first, then those that need several, then the rest."""
    order = {"one swap": 0, "several swaps": 1, "not restored": 2, "incomplete": 3}
    return sorted(causes, key=lambda cause: (order[cause.rescue], cause.task_id))


def _cause_cells(cause: Cause) -> tuple[str, ...]:
    swaps = {"one swap": "1", "several swaps": f"≤ {cause.swaps}"}.get(cause.rescue, cause.rescue)
    both = "" if cause.baseline_right else ", baseline fails too"
    return (
        cause.task_id,
        f"{cause.hops:,}",
        f"{cause.position} ({cause.causal_hop})" if cause.causal_hop else NOTHING,
        origin_of(cause) if cause.causal_hop else NOTHING,
        cause.kind or NOTHING,
        swaps + both,
        cause.repaired_hop or NOTHING,
    )
