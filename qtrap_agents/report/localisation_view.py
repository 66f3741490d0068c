"""`qtrap localise` on a terminal: every localiser in one table, by family and kind of fault, and what the replay missed."""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from qtrap_agents.analysis.funnel import Share
from qtrap_agents.analysis.localisers import Accuracy, Group, Localiser
from qtrap_agents.report.diagnosis_view import rate, share_words
from qtrap_agents.report.faultsets import words_or_nothing
from qtrap_agents.report.format import NOT_MEASURED, NOTHING, percent, plain
from qtrap_agents.report.localisation import Localisation, Suspects
from qtrap_agents.report.table import new_table, print_table

_REASON = 90
_SHOWN: tuple[Localiser, ...] = ("best constant", "reference-free", "replay")


def render_localisation(found: Localisation, console: Console, limit: int = 10) -> None:
    """Print the whole report.

    Args:
        limit: how many of the chains to list whose faulty hop the replay does not name.
    """
    for warning in found.warnings:
        console.print(plain(f"warning: {warning}", style="yellow"))
    _render_total(found, console)
    if found.benchmark.searches:
        _render_groups(found, console)
        _render_missed(found, console, limit)


def render_suspects(found: Suspects, console: Console, limit: int = 20) -> None:
    """Print the suspicions; `limit` is how many of them to list."""
    for problem in found.problems[:limit]:
        console.print(plain(f"warning: {problem}", style="yellow"))
    if len(found.problems) > limit:
        console.print(plain(f"warning: {len(found.problems) - limit:,} more lines are no traces", style="yellow"))
    rows = [row for row in found.rows if row.suspicion is not None]
    table = new_table(f"Traces of {found.path} that contradict themselves: {share_words(found.suspected)}")
    for heading in ("line", "task", "hop", "premise", "because"):
        table.add_column(heading, overflow="fold")
    for row in rows[:limit]:
        if row.suspicion is not None:
            place = f"{row.suspicion.hop} ({row.suspicion.hop_id})"
            cells = (str(row.line), row.task_id, place, row.suspicion.premise or NOTHING)
            table.add_row(*map(plain, cells), plain(row.suspicion.reason, _REASON))
    print_table(table, console)
    if len(rows) > limit:
        console.print(plain(f"the first {limit:,} of {len(rows):,}; --show N shows more"))
    console.print(plain(f"premises that could be checked without gold or a second arm: {share_words(found.checkable)}"))


def _render_total(found: Localisation, console: Console) -> None:
    seen, total = found.population, found.benchmark.total
    changed = f"{total.chains:,} of {seen.injected:,} chains whose answer the fault changed"
    table = new_table(f"Who names the faulty hop? {changed} ({found.name})")
    for heading in ("localiser", "exact hop", "within one hop", "abstains", "exact where it names one"):
        table.add_column(heading, overflow="fold")
    for accuracy in total.accuracies:
        table.add_row(*map(plain, _cells(accuracy, total.chains)))
    print_table(table, console)
    for line in (*_notes(total), _needs(found.arm)):
        console.print(plain(line))
    console.print()


def _cells(accuracy: Accuracy, chains: int) -> tuple[str, ...]:
    constant = f" (hop {accuracy.constant})" if accuracy.constant else ""
    if not accuracy.tally.n:
        return (accuracy.localiser + constant, NOT_MEASURED, NOT_MEASURED, NOTHING, NOTHING)
    return (
        accuracy.localiser + constant,
        _short(accuracy.exact, chains),
        _short(accuracy.near, chains),
        f"{accuracy.abstained:,}",
        words_or_nothing(accuracy.precision) if accuracy.abstained else NOTHING,
    )


def _needs(arm: str) -> str:
    return (
        f"replay needs the arm {arm} and the right answer, first error needs all gold premises, reference-free the chain alone; "
        "the best constant is known in hindsight only"
    )


def _notes(total: Group) -> Iterator[str]:
    guess = total.of("random")
    if guess.expected is not None and guess.expected_near is not None:
        yield f"random guessing, in expectation: exact {percent(guess.expected)}, within one hop {percent(guess.expected_near)}"
    yield f"premises that the reference-free localiser could check: {words_or_nothing(total.checkable)}"


def _render_groups(found: Localisation, console: Console) -> None:
    table = new_table("Exact hop, by family and by kind of fault")
    for heading in ("", "chains", *_SHOWN):
        table.add_column(heading, overflow="fold")
    for section in (found.benchmark.suites, found.benchmark.faults):
        table.add_section()
        for group in section:
            exact = [_short(group.of(localiser).exact, group.chains) for localiser in _SHOWN]
            table.add_row(*map(plain, (group.suite or group.fault or NOTHING, f"{group.chains:,}", *exact)))
    print_table(table, console)


def _short(share: Share, chains: int) -> str:
    """Count and rate; the number of chains is named where it is not that of the heading."""
    other = f" of {share.n:,}" if share.n != chains else ""
    return f"{share.count:,}{other}, {rate(share)}" if share.n else NOT_MEASURED


def _render_missed(found: Localisation, console: Console, limit: int) -> None:
    missed = found.missed
    if not missed:
        if any(chain.searched for chain in found.benchmark.searches):
            console.print(plain("the replay names the faulty hop of every chain that it searched"))
        console.print(plain(f"next: {found.command(found.benchmark.searches[0])}"), soft_wrap=True)
        return
    table = new_table(f"Chains whose faulty hop the replay does not name: {len(missed):,}")
    for heading in ("task", "fault", "hop", "replay names", "reference-free names", "because"):
        table.add_column(heading, overflow="fold")
    for chain in missed[:limit]:
        names = (_hop(chain.named.get("replay")), _hop(chain.named.get("reference-free")))
        table.add_row(*map(plain, (chain.task_id, chain.fault or NOTHING, str(chain.hop))), *names, plain(chain.reason, _REASON))
    print_table(table, console)
    if len(missed) > limit:
        console.print(plain(f"the first {limit:,} of {len(missed):,}; --show N shows more"))
    console.print(plain(f"next: {found.command(missed[0])}"), soft_wrap=True)


def _hop(position: int | None) -> Text:
    return plain("none" if position is None else str(position))
