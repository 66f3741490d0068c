"""Prediction and outcome of a precision plan on a terminal: a table, and a sentence on the target."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from qtrap_agents.analysis.costs import Ratio
from qtrap_agents.analysis.statistics import Interval
from qtrap_agents.plans import Unit
from qtrap_agents.report.format import (
    NOT_MEASURED,
    NOTHING,
    change,
    change_between,
    chunks,
    joules_between,
    percent,
    percent_between,
    plain,
    significant,
)
from qtrap_agents.report.prediction import Outcome, PlanOutcome
from qtrap_agents.report.table import new_table, print_table

Figure = Callable[[Outcome], str]

_LABELS, _COLUMN = 42, 34
_SCALES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))

_PLACES = {
    "below": "lies below the measured interval: reached",
    "within": "lies within the measured interval",
    "above": "lies above the measured interval: not reached",
}


def render_outcome(found: PlanOutcome, console: Console) -> None:
    """Print prediction and outcome of one plan."""
    for part in chunks(found.outcomes, (console.width - _LABELS) // _COLUMN):
        print_table(_table(found, part), console)
    prediction = found.prediction
    if found.place is not None and prediction.target is not None:
        console.print(plain(f"the target of {percent(prediction.target)} {_PLACES[found.place]}"))
    console.print(plain(_meaning(prediction.unit), style="dim"))
    if prediction.model:
        checksum = f" ({prediction.checksum[:8]})" if prediction.checksum else ""
        console.print(plain(f"predicted with {prediction.model}{checksum}", style="dim"))
    console.print()


def _table(found: PlanOutcome, outcomes: Sequence[Outcome]) -> Table:
    table = new_table(f"Prediction and outcome: {found.run}, 95 % intervals")
    table.add_column("")
    for outcome in outcomes:
        role = " (baseline)" if outcome.arm == found.plan.baseline else ""
        table.add_column(plain(outcome.arm + role), overflow="fold")
    for name, figure in _rows(found.prediction.unit):
        table.add_row(name, *(plain(figure(one)) for one in outcomes))
    return table


def _rows(unit: Unit) -> list[tuple[str, Figure]]:
    return [
        ("success, predicted", _predicted),
        ("  s.e. of the Monte Carlo", lambda one: f"{100 * one.predicted.mc_se:.2f} points of {one.predicted.chains:,} chains"),
        ("  predictive interval for that n", lambda one: _between(one.predictive)),
        ("success, measured", _measured),
        ("cost of a task, predicted", lambda one: amount(one.predicted_cost, unit)),
        (f"cost of a task, {'measured' if unit == 'J' else 'counted'}", lambda one: _cost(one.cost, unit)),
        ("  against the baseline, predicted", lambda one: _change(one.predicted_against)),
        ("  against the baseline", _against),
    ]


def amount(cost: float, unit: Unit) -> str:
    """`12.4 MB` of weight bytes, joules, or units that were given."""
    if unit == "J":
        return joules_between(cost, None, None)
    if unit == "cost units":
        return f"{significant(cost)} {unit}"
    name, scale = _scale(cost)
    return f"{significant(cost / scale)} {name}"


def _scale(cost: float) -> tuple[str, float]:
    return next(((name, scale) for name, scale in _SCALES if cost >= scale), ("B", 1.0))


def _predicted(outcome: Outcome) -> str:
    predicted = outcome.predicted
    return percent_between(predicted.mean, predicted.low, predicted.high)


def _between(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return NOTHING
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def _measured(outcome: Outcome) -> str:
    if not outcome.judged:
        return NOTHING
    errors = f", {outcome.errors:,} errors" if outcome.errors else ""
    outside = "" if outcome.as_predicted else ", not as predicted"
    share = percent_between(outcome.success, outcome.interval.low, outcome.interval.high)
    return f"{share} (n = {outcome.judged:,}{errors}){outside}"


def _cost(cost: Ratio | None, unit: Unit) -> str:
    if cost is None:
        return NOT_MEASURED
    if unit == "J":
        return joules_between(cost.value, cost.interval.low, cost.interval.high)
    name, scale = _scale(cost.value)
    low, high = cost.interval.low, cost.interval.high
    ends = "" if low is None or high is None else f" [{significant(low / scale)}, {significant(high / scale)}]"
    return f"{significant(cost.value / scale)} {name}{ends}"


def _change(ratio: float | None) -> str:
    return NOTHING if ratio is None else change(ratio)


def _against(outcome: Outcome) -> str:
    if outcome.predicted_against is None:
        return NOTHING
    ratio = outcome.against
    return NOT_MEASURED if ratio is None else change_between(ratio.value, ratio.interval.low, ratio.interval.high)


def _meaning(unit: Unit) -> str:
    if unit == "J":
        return "J: joules as the meter counted them, apportioned by busy token time"
    if unit == "cost units":
        return "cost units: as they were given to `qtrap plan --cost`; a run does not count them"
    return "weight bytes: bytes of the weights of the arm that answered × tokens it generated; a count, not a measurement"
