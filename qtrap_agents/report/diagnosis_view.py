"""`qtrap diagnose` on a terminal: the funnel from top to bottom, then by family and depth, then what it says, then chains."""

import math
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.text import Text

from qtrap_agents.analysis.funnel import Cell, ClearChain, Counts, Premises, Share, median_distance
from qtrap_agents.report.diagnosis import Diagnosis
from qtrap_agents.report.format import NOT_MEASURED, NOTHING, minus, plain, shown, significant
from qtrap_agents.report.table import new_table, print_table
from qtrap_agents.semantics import same_value

INSIDE = "inside the noise floor"

_Line = tuple[str, str, str]


def render_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the whole diagnosis."""
    for warning in diagnosis.warnings:
        console.print(plain(f"warning: {warning}", style="yellow"))
    _render_total(diagnosis, console)
    _render_cells(diagnosis, console)
    for line in _findings(diagnosis):
        console.print(plain(line))
    console.print()
    _render_clearest(diagnosis, console)


def _render_total(diagnosis: Diagnosis, console: Console) -> None:
    counts, arm, baseline = diagnosis.funnel.total, diagnosis.arm, diagnosis.baseline
    head = f"{arm} against {baseline}" if baseline and not diagnosis.is_floor else arm
    table = new_table(f"{head}: from tiny error to logic collapse, {counts.chains.n:,} chains")
    table.add_column("", min_width=36)
    for heading in (arm, f"noise floor ({baseline} again)" if baseline else "noise floor"):
        table.add_column(plain(heading), overflow="fold")
    for section in (_token_lines(diagnosis), _premise_lines(diagnosis), _chain_lines(diagnosis)):
        table.add_section()
        for line in section:
            table.add_row(*map(plain, line))
    print_table(table, console)


def _token_lines(diagnosis: Diagnosis) -> list[_Line]:
    counts = diagnosis.funnel.total
    if not diagnosis.token_level:
        return [("token level", NOT_MEASURED, NOT_MEASURED)]
    arm, floor = counts.arm, counts.floor if counts.floor.positions else None
    return [
        (f"hops of {diagnosis.baseline} read", f"{counts.hops.compared:,}", ""),
        ("positions of their text", f"{arm.positions:,}", f"{floor.positions:,}" if floor else NOT_MEASURED),
        ("  loss of log-probability, mean", _nats(arm.mean_drop), _nats(floor.mean_drop if floor else None)),
        ("  KL, mean, at least", _nats(arm.mean_kl), _nats(floor.mean_kl if floor else None)),
        *_beside("  flips of the top-1 token", arm.flip_share, floor.flip_share if floor else None),
        ("positions inside a premise's value", f"{arm.value_positions:,}", f"{floor.value_positions:,}" if floor else NOTHING),
        *_beside("  flips", arm.value_flip_share, floor.value_flip_share if floor else None),
    ]


def _beside(name: str, share: Share, floor: Share | None) -> Iterator[_Line]:
    """A share and its floor, and a line that says so where it is no more than that."""
    yield (name, share_words(share), share_words(floor) if floor else NOT_MEASURED)
    if floor is not None and share.within(floor):
        yield (f"    {INSIDE}", "", "")


def _premise_lines(diagnosis: Diagnosis) -> Iterator[_Line]:
    counts, arm = diagnosis.funnel.total, diagnosis.arm
    if diagnosis.token_level:
        yield ("premises with a flip inside the value", share_words(Share(count=counts.hit.n, n=counts.read)), "")
        yield (f"  what {arm} made of them", _fates(counts.hit), "")
    yield (f"premises of {arm}'s own run", f"{counts.premises.n:,}", "")
    yield ("  false", share_words(Share(count=counts.premises.false, n=counts.premises.n)), "")
    yield ("  of them", _fates(counts.premises, false_only=True), "")


def _chain_lines(diagnosis: Diagnosis) -> Iterator[_Line]:
    chains = diagnosis.funnel.total.chains
    yield ("chains", f"{chains.n:,}", "")
    if diagnosis.token_level:
        yield ("  with a flip", share_words(Share(count=chains.flipped, n=chains.scored)), "")
        yield ("  with a flip inside a value", share_words(Share(count=chains.value_flipped, n=chains.scored)), "")
        spoilt = Share(count=chains.value_flipped_false, n=chains.value_flipped)
        yield ("    of them with a false premise", share_words(spoilt), "")
    yield ("  with a false premise", share_words(Share(count=chains.false, n=chains.n)), "")
    yield ("    recovered: answer right", share_words(Share(count=chains.recovered, n=chains.false)), "")
    yield ("    collapsed: answer wrong", share_words(Share(count=chains.collapsed, n=chains.false)), "")
    yield ("  right answer", share_words(Share(count=chains.right, n=chains.n)), "")
    if diagnosis.baseline is not None and not diagnosis.is_floor:
        yield (f"  right answer, {diagnosis.baseline}", share_words(Share(count=chains.baseline_right, n=chains.n)), "")


def _render_cells(diagnosis: Diagnosis, console: Console) -> None:
    """One row for each family and depth; flips inside values are left out where all positions are inside values."""
    arm = diagnosis.funnel.total.arm
    apart = arm.value_positions < arm.positions
    what = "flips of all positions and of those inside a value" if apart else "flips, all positions are inside values"
    table = new_table(f"By family and depth: {what}; premises of {diagnosis.arm}'s own run; chains")
    for heading in ("suite", "depth", "flips", "floor", *(("in a value", "floor") if apart else ())):
        table.add_column(heading, overflow="fold")
    for heading in ("own", "inherited", "comp.", "missing", "chains", "false", "recov.", "coll."):
        table.add_column(heading, justify="right")
    last = None
    for cell in _rows(diagnosis):
        if last is not None and cell.suite != last:
            table.add_section()
        table.add_row(*map(plain, _cells(cell, cell.suite != last, apart)))
        last = cell.suite
    print_table(table, console)
    if diagnosis.token_level:
        note = "floor: upper end of the noise floor; ≤: inside it; intervals are 95 % Wilson, as if positions were independent"
        console.print(plain(note, style="dim"))
        console.print()


def _rows(diagnosis: Diagnosis) -> Iterator[Cell]:
    """The depths of each family, and their sum where there are several."""
    for whole in diagnosis.funnel.suites:
        depths = [cell for cell in diagnosis.funnel.cells if cell.suite == whole.suite]
        yield from depths
        if len(depths) > 1:
            yield whole


def _cells(cell: Cell, first: bool, apart: bool) -> tuple[str, ...]:
    counts, chains, premises = cell.counts, cell.counts.chains, cell.counts.premises
    arm, floor = counts.arm, counts.floor
    fates = (premises.own, premises.inherited, premises.compounded, premises.missing)
    unknown = f" +{premises.unknown:,} unknown" if premises.unknown else ""
    return (
        (cell.suite or "") if first else "",
        "all" if cell.depth is None else str(cell.depth),
        *_rates(arm.flip_share, floor.flip_share),
        *(_rates(arm.value_flip_share, floor.value_flip_share) if apart else ()),
        *((f"{fates[0]:,}", f"{fates[1]:,}{unknown}", *(f"{n:,}" for n in fates[2:])) if premises.n else (NOTHING,) * 4),
        *(f"{number:,}" for number in (chains.n, chains.false, chains.recovered, chains.collapsed)),
    )


def _rates(share: Share, floor: Share) -> tuple[str, str]:
    """Rate and interval, marked where it is inside the floor, and the upper end of the floor."""
    high = floor.interval.high if floor.interval else None
    mark = "≤ " if share.within(floor) else ""
    return mark + rate(share), NOTHING if high is None else f"{_percent(high, _decimals(high))} %"


def _findings(diagnosis: Diagnosis) -> Iterator[str]:
    """What the numbers say, a sentence each."""
    counts, funnel = diagnosis.funnel.total, diagnosis.funnel
    if diagnosis.token_level:
        yield from _flip_findings(diagnosis, counts)
        yield (
            f"from the first flip to the first error: {_distance(funnel.flip_to_error)}; "
            f"from there to the collapse: {_distance(funnel.error_to_collapse)}"
        )
        yield from _error_findings(diagnosis, counts)
    elif funnel.error_to_collapse:
        yield f"from the first error to the collapse: {_distance(funnel.error_to_collapse)}"


def _flip_findings(diagnosis: Diagnosis, counts: Counts) -> Iterator[str]:
    flips, arm, baseline = counts.flips, diagnosis.arm, diagnosis.baseline
    yield f"{baseline} reading its own text prefers another token at {share_words(counts.self_flip_share)} positions"
    if not flips.everywhere.n:
        yield f"no position where {arm} prefers another token"
        return
    unknown = f" (unknown for {flips.everywhere.unknown:,})" if flips.everywhere.unknown else ""
    yield (
        f"harmless flips, no own, compounded or missing premise at their hop: {share_words(flips.everywhere.share)}{unknown}; "
        f"where {arm} was asked in the same words there: {share_words(flips.asked.share)}; "
        f"in chains that {arm} solved: {share_words(flips.answer_right_share)}"
    )


def _error_findings(diagnosis: Diagnosis, counts: Counts) -> Iterator[str]:
    first, baseline = counts.first_errors, diagnosis.baseline
    if not first.n:
        return
    yield (
        f"first errors with a flip at the same hop, asked in the same words: {share_words(first.explained)} "
        f"({first.value_flip:,} inside the value, {first.other_flip:,} elsewhere in the hop; {first.confirmed:,} where "
        f"{diagnosis.arm}'s own text takes the flipped token); {first.no_flip:,} without a flip are not explained"
    )
    others = {f"shared with {baseline}": first.shared, "asked in other words": first.other_words, "not scored": first.not_scored}
    named = [f"{count:,} {words}" for words, count in others.items() if count]
    if named:
        yield f"first errors beside these: {', '.join(named)}"


def _render_clearest(diagnosis: Diagnosis, console: Console) -> None:
    chains = diagnosis.funnel.clearest
    if not chains:
        if diagnosis.token_level:
            console.print(plain("no chain with one flip in one value as its whole story"))
        return
    found = f"{len(chains)} of {diagnosis.funnel.clear:,}"
    table = new_table(f"The clearest chains ({found}): one flip spoils one value; others: further flips")
    rows = [_chain_cells(chain) for chain in chains]
    tokens = f"{diagnosis.baseline} → {diagnosis.arm}"
    for index, heading in enumerate(("task", tokens, "hop", "token", "loss, nats", "premise", "gold", diagnosis.arm, "others")):
        widest = max(row[index].cell_len for row in rows)
        table.add_column(plain(heading), min_width=min(24, widest) if index < 2 else None, overflow="fold")
    for row in rows:
        table.add_row(*row)
    print_table(table, console)
    if not all(chain.confirmed for chain in chains):
        console.print(plain(f"? {diagnosis.arm}'s own text does not take that token at that position", style="dim"))
    console.print(plain(f"next: {diagnosis.command(chains[0])}"), soft_wrap=True)


def _chain_cells(chain: ClearChain) -> tuple[Text, ...]:
    tokens = f"{_piece(chain.piece, chain.token_id)} → {_piece(chain.arm_piece, chain.arm_token_id)}"
    place = f"{chain.position + 1}{'' if chain.confirmed else ' ?'}"
    same = same_value(chain.gold, chain.baseline_value)
    gold = shown(chain.gold) + ("" if same else f" (baseline {shown(chain.baseline_value)})")
    cells = (tokens, str(chain.hop), place, significant(chain.drop), chain.premise, gold, shown(chain.arm_value))
    return tuple(plain(cell) for cell in (chain.task_id, *cells, f"{chain.other_flips:,}"))


def _piece(piece: str | None, token_id: int) -> str:
    """A token as text in quotation marks; the token that ends a text has none."""
    if piece is None:
        return f"token {token_id}"
    return f"“{piece}”" if piece else "end"


def share_words(share: Share) -> str:
    """`12 of 3,400, 0.35 % [0.20, 0.62]`; the count alone where there is nothing to share."""
    return f"{share.count:,} of {share.n:,}, {rate(share)}" if share.n else f"0 of 0, {NOTHING}"


def rate(share: Share) -> str:
    """`0.35 % [0.20, 0.62]`, with enough decimals for two digits of a small rate."""
    if share.share is None or share.interval is None or share.interval.low is None or share.interval.high is None:
        return NOTHING
    low, high = share.interval.low, share.interval.high
    places = _decimals(share.share or high)
    return f"{_percent(share.share, places)} % [{_percent(low, places)}, {_percent(high, places)}]"


def _percent(value: float, places: int) -> str:
    return f"{100 * value:.{places}f}"


def _decimals(share: float) -> int:
    return 1 if share >= 0.1 or share <= 0 else min(6, max(1, 1 - math.floor(math.log10(100 * share))))


def _nats(value: float | None) -> str:
    return NOT_MEASURED if value is None else minus(f"{value:.2g} nats")


def _fates(premises: Premises, false_only: bool = False) -> str:
    """`12 own, 3 inherited`: what there is."""
    named = [f"{count:,} {name}" for name, count in premises if count and not (false_only and name == "match")]
    return ", ".join(named) or "none"


def _distance(distances: Mapping[int, int]) -> str:
    middle = median_distance(distances)
    if middle is None:
        return "no chain has both"
    return f"{minus(f'{middle:g}')} hops (median of {sum(distances.values()):,} chains)"
