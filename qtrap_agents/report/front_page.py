"""A page of its own with the predicted front, and measured points beside it: one SVG, one table, nothing from a network."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from qtrap_agents.plans import FrontPoint, PrecisionPlan
from qtrap_agents.report.format import NOT_MEASURED, NOTHING, percent_between, significant
from qtrap_agents.report.prediction import Outcome, PlanOutcome
from qtrap_agents.report.prediction_view import amount

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 24, 64

SCALES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #d0d7de; --one: #0a5fb4; --two: #b3400a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --paper: #14171a; --faint: #3d444d; --one: #6cb2ff; --two: #ff9b5e; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 52rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 13px; }
table { border-collapse: collapse; } th, td { text-align: left; padding: 0.2rem 0.9rem 0.2rem 0; }
th { border-bottom: 1px solid var(--faint); }
.axis { stroke: var(--ink); } .grid { stroke: var(--faint); } .line { stroke: var(--one); fill: none; stroke-width: 1.5; }
.band { fill: var(--one); opacity: 0.15; } .predicted { fill: var(--one); stroke: var(--one); }
.measured { fill: var(--two); stroke: var(--two); stroke-width: 1.5; } .target { stroke: var(--ink); stroke-dasharray: 4 4; }
"""


class Measured(NamedTuple):
    """One measured point; `n` tasks were judged."""

    name: str
    cost: float
    success: float
    low: float
    high: float
    n: int


class Frame(NamedTuple):
    """From costs and successes to places in the drawing."""

    costs: tuple[float, float]
    shares: tuple[float, float]

    def x(self, cost: float) -> float:
        """Place of a cost from the left."""
        low, high = self.costs
        return LEFT + (cost - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, share: float) -> float:
        """Place of a success from the top."""
        low, high = self.shares
        return HEIGHT - BOTTOM - (share - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def front_page(plan: PrecisionPlan, outcomes: Sequence[PlanOutcome] = ()) -> str:
    """HTML of the front that belongs to a plan, with the outcomes of runs of plans in the same unit.

    Raises:
        ValueError: the plan has no prediction.
    """
    predicted = plan.predicted
    if predicted is None:
        raise ValueError("the plan has no prediction")
    title = f"Cost and success of precision plans: {plan.suite}, {plan.depth} hops"
    points = measured_points(outcomes)
    drawn = "".join(_svg(predicted.front, points, predicted.unit, predicted.target))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n'
        f"{drawn}\n<p>{escape(_caption(predicted.unit, bool(points)))}</p>\n"
        f"{''.join(_table(predicted.front, outcomes, predicted.unit))}\n</body></html>\n"
    )


def measured_points(outcomes: Sequence[PlanOutcome]) -> list[Measured]:
    """What was measured in the runs; the arms of several runs once for each run."""
    found = []
    for outcome in outcomes:
        for one in outcome.outcomes:
            if (
                one.success is not None
                and one.cost is not None
                and one.interval.low is not None
                and one.interval.high is not None
            ):
                name = one.arm if one.arm != "plan" else f"plan for {_goal(outcome)}"
                found.append(Measured(name, one.cost.value, one.success, one.interval.low, one.interval.high, one.judged))
    return found


def _goal(outcome: PlanOutcome) -> str:
    prediction = outcome.prediction
    if prediction.target is not None:
        return f"{100 * prediction.target:g} %"
    return NOTHING if prediction.max_cost is None else amount(prediction.max_cost, prediction.unit)


def _caption(unit: str, any_measured: bool) -> str:
    cost = {"J": "joules", "weight bytes": "counted weight bytes: bytes of the arm that answered × tokens it generated"}
    more = " Orange: measured, 95 % Wilson interval, n judged tasks." if any_measured else ""
    blue = "Blue: predicted mean, band and bars the 95 % interval of the parameters."
    return f"Cost of a task in {cost.get(unit, unit)}. {blue}{more}"


def _svg(front: Sequence[FrontPoint], measured: Sequence[Measured], unit: str, target: float | None) -> Iterator[str]:
    frame = _frame(front, measured)
    name, scale = _scale(frame.costs[1], unit)
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="cost against success">'
    yield from _axes(frame, name, scale)
    line = [point for number, point in enumerate(front) if all(point.success > other.success for other in front[:number])]
    around = [*((p.cost, p.high) for p in line), *((p.cost, p.low) for p in reversed(line))]
    yield f'<polygon class="band" points="{_path(frame, around)}"/>'
    yield f'<polyline class="line" points="{_path(frame, [(p.cost, p.success) for p in line])}"/>'
    if target is not None and frame.shares[0] <= target <= frame.shares[1]:
        y = frame.y(target)
        yield f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT + 6}" y="{y - 5:.1f}">target {100 * target:g} %</text>'
    for point in front:
        words = f"{point.label or 'plan of the front'}: predicted {percent_between(point.success, point.low, point.high)}"
        yield from _point(frame, "predicted", point.cost, (point.success, point.low, point.high), words, point.label)
    for one in measured:
        words = f"{one.name}: measured {percent_between(one.success, one.low, one.high)}, n = {one.n}"
        yield from _point(frame, "measured", one.cost, (one.success, one.low, one.high), words, "")
    yield "</svg>"


def _frame(front: Sequence[FrontPoint], measured: Sequence[Measured]) -> Frame:
    costs = [point.cost for point in front] + [point.cost for point in measured]
    lows = [point.low for point in front] + [point.low for point in measured]
    step = _round_step(max(costs) - min(costs) or max(costs))
    low, high = math.floor(min(costs) / step) * step, math.ceil(max(costs) / step) * step
    bottom = math.floor(20 * min(lows)) / 20
    return Frame((low, high if high > low else low + step), (min(bottom, 0.95), 1.0))


def _round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, four to nine of which make the span."""
    size = math.pow(10.0, math.floor(math.log10(span / 4)))
    return next(size * times for times in (5, 2, 1) if span / (size * times) >= 4)


def _ticks(low: float, high: float) -> list[float]:
    step = _round_step(high - low)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _scale(cost: float, unit: str) -> tuple[str, float]:
    """Name and size of what the axis counts in."""
    if unit != "weight bytes":
        return unit, 1.0
    name, scale = next(((name, scale) for name, scale in SCALES if cost >= scale), ("B", 1.0))
    return f"{name} of weights read", scale


def _axes(frame: Frame, name: str, scale: float) -> Iterator[str]:
    base = HEIGHT - BOTTOM
    for share in _ticks(*frame.shares):
        y = frame.y(share)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.3g}</text>'
    for cost in _ticks(*frame.costs):
        yield f'<text x="{frame.x(cost):.1f}" y="{base + 20}" text-anchor="middle">{significant(cost / scale)}</text>'
    yield f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 16}" text-anchor="middle">cost of a task, {escape(name)}</text>'
    middle = (TOP + base) / 2
    yield f'<text transform="translate(20 {middle}) rotate(-90)" text-anchor="middle">success, % of tasks</text>'


def _path(frame: Frame, places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{frame.x(cost):.1f},{frame.y(share):.1f}" for cost, share in places)


def _point(frame: Frame, kind: str, cost: float, success: tuple[float, float, float], words: str, label: str) -> Iterator[str]:
    x, (middle, low, high) = frame.x(cost), (frame.y(share) for share in success)
    yield f'<g class="{kind}"><title>{escape(words)}</title>'
    yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
    if kind == "measured":
        yield f'<rect x="{x - 4:.1f}" y="{middle - 4:.1f}" width="8" height="8"/>'
    else:
        yield f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="4"/>'
    yield "</g>"
    if label:
        anchor, shift = ("end", -8) if x > WIDTH / 2 else ("start", 8)
        yield f'<text x="{x + shift:.1f}" y="{middle + 18:.1f}" text-anchor="{anchor}">{escape(label)}</text>'


def _table(front: Sequence[FrontPoint], outcomes: Sequence[PlanOutcome], unit: str) -> Iterator[str]:
    yield "<h2>Predicted</h2><table><tr><th>plan</th><th>cost a task</th><th>success</th></tr>"
    for point in front:
        cells = (point.label or NOTHING, _cost(point.cost, unit), percent_between(point.success, point.low, point.high))
        yield _row(cells)
    yield "</table>"
    if not outcomes:
        return
    heads = ("run", "arm", "predicted success", "measured success", "n", "predicted cost", "cost of the run")
    yield f"<h2>Measured</h2><table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
    for outcome in outcomes:
        for one in outcome.outcomes:
            yield _row((outcome.run, _name(one, outcome), *_measured(one, unit)))
    yield "</table>"


def _name(one: Outcome, outcome: PlanOutcome) -> str:
    return one.arm if one.arm != "plan" else f"plan for {_goal(outcome)}"


def _measured(one: Outcome, unit: str) -> tuple[str, ...]:
    return (
        percent_between(one.predicted.mean, one.predicted.low, one.predicted.high),
        percent_between(one.success, one.interval.low, one.interval.high),
        f"{one.judged:,}",
        _cost(one.predicted_cost, unit),
        NOT_MEASURED if one.cost is None else _cost(one.cost.value, unit),
    )


def _cost(cost: float, unit: str) -> str:
    if unit == "weight bytes":
        return amount(cost, "weight bytes")
    return f"{significant(cost)} {unit}"


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
