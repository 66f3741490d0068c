"""`qtrap simulate` on a terminal: success with both uncertainties, where chains go wrong, and what they cost."""

from rich.console import Console
from rich.text import Text

from qtrap_agents.report.forecast import ForecastReport, Horizon, Row
from qtrap_agents.report.format import NOT_MEASURED, NOTHING, hops, joules, percent, plain, seconds, significant
from qtrap_agents.report.table import new_table, print_table
from qtrap_agents.simulation.forecast import Distribution

FATES = ("with an error", "first error", "recovered", "collapsed", "collapse hop", "blast radius", "amplification")
COSTS = ("calls", "prompt tokens", "generated tokens", "critical path", "energy", "energy per correct task")


def render_forecast(report: ForecastReport, console: Console) -> None:
    """Print the whole report."""
    for note in report.notes:
        console.print(plain(f"note: {note}", style="yellow"))
    console.print()
    _success(report, console)
    if report.horizons:
        _horizons(report, console)
    _failures(report, console)
    _costs(report, console)


def _success(report: ForecastReport, console: Console) -> None:
    table = new_table(f"Predicted success of {report.workflow}, % of chains")
    run = [f"a run of {report.tasks:,} tasks"] if report.tasks else []
    for heading in ("what", "depth", "arm", "success, 95 % by parameters", "± Monte Carlo", *run, "constant hop success"):
        table.add_column(heading)
    for row in report.rows:
        found = row.forecast
        predicted = [] if row.predictive is None else [_span(*row.predictive)]
        table.add_row(
            *_place(row),
            f"{_percent(found.success)} {_span(found.low, found.high)}",
            f"{100 * found.mc_se:.2f}",
            *predicted,
            NOTHING if found.null is None else _percent(found.null),
        )
    print_table(table, console)
    console.print(
        plain(
            f"95 % interval over {report.draws} draws of the parameters; ± is the standard error of the Monte Carlo alone, "
            f"{report.chains:,} chains, seed {report.seed}; a run's interval holds parameters and chance together",
            style="dim",
        )
    )
    console.print()


def _horizons(report: ForecastReport, console: Console) -> None:
    table = new_table("Horizon H50, hops")
    for heading in ("what", "arm", "H50, 95 % by parameters", "constant hop success"):
        table.add_column(heading)
    for found in report.horizons:
        table.add_row(plain(found.name), plain(found.arm), _h50(found), NOTHING if found.null is None else hops(found.null))
    print_table(table, console)


def _h50(found: Horizon) -> str:
    if found.h50 is None:
        return found.beyond
    low = NOTHING if found.low is None else hops(found.low)
    return f"{hops(found.h50)} [{low}, {'∞' if found.high is None else hops(found.high)}]"


def _failures(report: ForecastReport, console: Console) -> None:
    table = new_table("Where chains go wrong, hop of 5 % / 50 % / 95 % of them")
    for heading in (
        "what",
        "depth",
        "arm",
        "with an error",
        "first error",
        "recovered",
        "collapsed",
        "collapse hop",
        "blast radius",
        "amplification",
    ):
        table.add_column(heading)
    for row in report.rows:
        found = row.forecast
        table.add_row(
            *_place(row),
            _percent(found.first_error.chains / found.chains),
            _where(found.first_error),
            _percent(found.recovered),
            _percent(found.collapse.chains / found.chains),
            _where(found.collapse),
            NOTHING if found.blast_radius is None else _percent(found.blast_radius),
            NOTHING if found.amplification is None else significant(found.amplification),
        )
    print_table(table, console)


def _costs(report: ForecastReport, console: Console) -> None:
    table = new_table("Cost of a task, from the costs that were measured in the fitted runs")
    for heading in (
        "what",
        "depth",
        "arm",
        "calls",
        "prompt tokens",
        "generated tokens",
        "time on the critical path",
        "energy",
        "energy per correct task",
    ):
        table.add_column(heading)
    for row in report.rows:
        found = row.forecast
        table.add_row(
            *_place(row),
            significant(found.calls),
            _tokens(found.prompt_tokens),
            _tokens(found.completion_tokens),
            seconds(found.seconds),
            joules(found.energy_j),
            joules(found.energy_per_correct_j),
        )
    print_table(table, console)


def _place(row: Row) -> tuple[Text, str, Text]:
    return plain(row.name), NOTHING if row.depth is None else f"{row.depth:,}", plain(row.forecast.arm)


def _tokens(number: float | None) -> str:
    return NOT_MEASURED if number is None else significant(number)


def _percent(share: float) -> str:
    return percent(share).removesuffix(" %")


def _span(low: float, high: float) -> str:
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def _where(found: Distribution) -> str:
    return NOTHING if found.median is None else f"{found.low} / {found.median} / {found.high}"
