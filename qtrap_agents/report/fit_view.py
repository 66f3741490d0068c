"""`qtrap fit` on a terminal: rates by arm and family, whether more than constant hop success is needed, and the tests."""

from rich.console import Console

from qtrap_agents.report.fit import ArmFit, FamilyFit, FitReport
from qtrap_agents.report.format import NOTHING, p_value, percent, plain, significant
from qtrap_agents.report.table import new_table, print_table
from qtrap_agents.simulation.fates import Estimate
from qtrap_agents.simulation.model import TermTest

RATES_NOTE = (
    "own: slips on right parents; slipped, recovered, inherited, compounded: shares of the hops on wrong parents; rates are the "
    "model's for the hops counted, partially pooled, with 95 % intervals of its parameters; null: constant hop success; "
    "*: fewer than 5 slips"
)
RATE_COLUMNS = ("arm", "family", "hops", "slips", "own", "on wrong", "slipped", "recovered", "inherited", "compounded", "null")
TESTS_NOTE = (
    "likelihood ratio of each term alone against a constant slip rate within the family; Holm over the terms of the arm; a term "
    "enters while it is asked for at 1 % beside those already in; wrong_parents always does, unless --covariates says otherwise"
)


def render_fit(report: FitReport, console: Console) -> None:
    """Print the whole report."""
    for note in report.notes:
        console.print(plain(f"note: {note}", style="yellow"))
    console.print()
    _render_rates(report, console)
    for arm in report.arms:
        console.print(plain(f"{arm.arm}: {constant_words(arm)}", style="bold"))
    console.print()
    _render_tests(report, console)
    _render_repeats(report, console)
    if report.path:
        console.print(plain(f"model: {report.path}"))


def _render_rates(report: FitReport, console: Console) -> None:
    table = new_table("Slips by arm and family, % of hops")
    for heading in RATE_COLUMNS:
        table.add_column(heading)
    for arm in report.arms:
        table.add_section()
        for family in arm.families:
            cells = (arm.arm if family is arm.families[0] else "", *_cells(family))
            table.add_row(*(plain(cell, keep_lines=True) for cell in cells))
    print_table(table, console)
    console.print(plain(RATES_NOTE, style="dim"))
    console.print()


def _cells(family: FamilyFit) -> tuple[str, ...]:
    fitted = family.fitted
    return (
        family.family + ("*" if family.few else ""),
        f"{family.hops:,}",
        f"{family.own + family.compounded:,}",
        between(fitted.own),
        f"{family.wrong:,}",
        *(between(rate) for rate in (fitted.slipped, fitted.recovered, fitted.inherited, fitted.compounded)),
        NOTHING if family.null_success is None else success(family.null_success),
    )


def between(rate: Estimate) -> str:
    """Percent, the interval in a line below."""
    return f"{_digits(rate.value)}\n[{_digits(rate.low)}, {_digits(rate.high)}]"


def _digits(share: float) -> str:
    """Percent: three digits from 10 % on, two decimals below, three below 0.1 %."""
    if 100 * share < 0.001:
        return "<0.001"
    return significant(100 * share, 3) if share >= 0.1 else f"{100 * share:.{3 if share < 0.001 else 2}f}"


def success(share: float) -> str:
    """A hop success close to 1 with as many decimals as tell it from 1."""
    return "1" if share == 1 else f"{share:.5f}"


def constant_words(arm: ArmFit) -> str:
    """Whether more than a constant hop success is needed, and what else tells."""
    entered = [test.term for test in arm.tests if test.kept]
    recovered = sum(family.recovered for family in arm.families)
    wrong = sum(family.wrong for family in arm.families)
    more = f"; the model has {', '.join(entered)}" if entered else "; no further term is asked for"
    if wrong:
        more += f"; {recovered:,} of {wrong:,} hops on wrong parents were right all the same ({percent(recovered / wrong)})"
    if arm.constant is None:
        return f"whether more than constant hop success is needed cannot be told: failures at too few depths{more}"
    answer = "no" if arm.constant.kept else "yes"
    return (
        f"is more than constant hop success needed for the chains? {answer} (likelihood ratio {arm.constant.statistic:.1f} on "
        f"{arm.constant.df} degrees of freedom, p {_p(arm.constant.p)}){more}"
    )


def _render_tests(report: FitReport, console: Console) -> None:
    table = new_table("What slips depend on beside arm and family")
    for heading in ("arm", "term", "likelihood ratio", "df", "p (Holm)", "in the model"):
        table.add_column(heading, overflow="fold")
    for arm in report.arms:
        table.add_section()
        for test in arm.tests:
            table.add_row(*map(plain, (arm.arm if test is arm.tests[0] else "", *_test_cells(test))))
    if any(arm.tests for arm in report.arms):
        print_table(table, console)
        console.print(plain(TESTS_NOTE, style="dim"))
        console.print()


def _test_cells(test: TermTest) -> tuple[str, ...]:
    return test.term, f"{test.statistic:,.1f}", str(test.df), _p(test.p_holm), "yes" if test.kept else "no"


def _p(p: float) -> str:
    """`= 0.325` or `< 0.001`, as it stands behind a p."""
    return p_value(p) if p < 0.001 else f"= {p_value(p)}"


def _render_repeats(report: FitReport, console: Console) -> None:
    if not any(arm.repeats for arm in report.arms):
        return
    table = new_table("Hops drawn more than once at a temperature")
    for heading in ("arm", "family", "hops", "correlation of slips", "two slips agree"):
        table.add_column(heading)
    for arm in report.arms:
        table.add_section()
        for number, (family, found) in enumerate(sorted(arm.repeats.items())):
            cells = ("" if number else arm.arm, family, f"{found.hops:,}", f"{found.correlation:.2f}", percent(found.agreement))
            table.add_row(*map(plain, cells))
    print_table(table, console)
