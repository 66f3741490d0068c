"""`qtrap plan` on a terminal: the rules with what they do, the prediction, and the front around it."""

from rich.console import Console

from qtrap_agents.plans import FrontPoint, Outlook, Rule
from qtrap_agents.report.format import NOTHING, change, percent, percent_between, plain, significant
from qtrap_agents.report.plan import PlanReport
from qtrap_agents.report.prediction_view import amount
from qtrap_agents.report.table import new_table, print_table

KINDS_SHOWN = 6


def render_plan(report: PlanReport, console: Console) -> None:
    """Print the whole report."""
    for note in report.notes:
        console.print(plain(f"note: {note}", style="yellow"))
    console.print()
    _rules(report, console)
    _prediction(report, console)
    _front(report, console)


def _rules(report: PlanReport, console: Console) -> None:
    plan = report.plan
    table = new_table(f"Plan for {plan.suite}, {plan.depth:,} hops: the first rule that fits a hop counts")
    for heading in ("kinds", "positions", "arm", "drawn", "hops a task", "expected slips a task"):
        table.add_column(heading, overflow="fold")
    for number, row in enumerate(report.rows):
        is_rest = row.rule.family is None
        table.add_row(
            plain("all others" if is_rest and number else _kinds(row.rule)),
            NOTHING if row.rule.positions is None else "{}–{}".format(*row.rule.positions),
            plain(row.rule.arm),
            _drawn(row.rule),
            significant(row.hops),
            significant(row.slips, 2),
        )
    print_table(table, console)


def _kinds(rule: Rule) -> str:
    if not rule.kinds:
        return "all"
    more = len(rule.kinds) - KINDS_SHOWN
    return ", ".join(rule.kinds[:KINDS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _drawn(rule: Rule) -> str:
    if rule.vote is not None:
        return f"{rule.vote.k} times, vote at {rule.vote.temperature:g}"
    if rule.verify is not None:
        return f"until stated twice, at {rule.verify.temperature:g}"
    return "once"


def _prediction(report: PlanReport, console: Console) -> None:
    predicted = report.predicted
    table = new_table("Prediction, 95 % intervals over the parameters")
    for heading in ("", "success", "± Monte Carlo", "cost a task", f"against {report.plan.baseline}"):
        table.add_column(heading)
    rows = [("plan", predicted.plan), (f"all {report.plan.baseline}", predicted.baseline)]
    rows += [(f"all {name}", outlook) for name, outlook in predicted.arms.items()]
    for name, outlook in rows:
        table.add_row(plain(name), *_outlook(report, outlook))
    print_table(table, console)
    if predicted.target is not None:
        meant = "the lower end of the interval" if report.confident else "the mean prediction"
        console.print(plain(f"target: {percent(predicted.target)} by {meant}"))
    if predicted.max_cost is not None:
        console.print(plain(f"cost allowed: {amount(predicted.max_cost, report.unit)} a task"))
    console.print(plain(f"cost in {report.unit}: {report.source}", style="dim"))
    console.print(plain(f"{significant(report.calls)} calls a task; {report.draws} draws of the parameters", style="dim"))
    console.print()


def _outlook(report: PlanReport, outlook: Outlook) -> tuple[str, str, str, str]:
    success, base = outlook.success, report.predicted.baseline
    return (
        percent_between(success.mean, success.low, success.high),
        f"{100 * success.mc_se:.2f}",
        amount(outlook.cost, report.unit),
        NOTHING if outlook is base else change(outlook.cost / base.cost),
    )


def _front(report: PlanReport, console: Console) -> None:
    table = new_table("Front: what more success costs")
    for heading in ("", "cost a task", "success"):
        table.add_column(heading)
    for point in report.predicted.front:
        table.add_row(plain(point.label), amount(point.cost, report.unit), _point(point))
    print_table(table, console)


def _point(point: FrontPoint) -> str:
    return percent_between(point.success, point.low, point.high)
