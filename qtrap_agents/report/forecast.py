"""`qtrap simulate`: an error model in, forecasts for arms, suites and depths out, with the horizon over the depths."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from qtrap_agents.simulation.forecast import Forecast, Work, forecast, here
from qtrap_agents.simulation.layout import Layout
from qtrap_agents.simulation.model import ErrorModel
from qtrap_agents.types import Record

HALF = 0.5


class Place(Record):
    """What is simulated: the layouts of a suite at a depth; `depth` is None for a layout from a file."""

    name: str
    depth: int | None
    layouts: tuple[Layout, ...]


class Row(Record):
    """One forecast. `predictive` is the 95 % interval for a run of so many real tasks as were asked for."""

    name: str
    depth: int | None
    forecast: Forecast
    predictive: tuple[float, float] | None


class Horizon(Record):
    """Where success falls to one half over the depths that were simulated; `low` and `high` from the parameter draws.

    None where it does not within these depths; then `beyond` says on which side it lies. `null` is that of constant hop success.
    """

    name: str
    arm: str
    h50: float | None
    low: float | None
    high: float | None
    null: float | None
    beyond: str = ""


class ForecastReport(Record):
    """All rows in the order asked for. `tasks` is the size of the run that the predictive intervals are for."""

    workflow: str
    seed: int
    chains: int
    draws: int
    tasks: int | None
    rows: tuple[Row, ...]
    horizons: tuple[Horizon, ...]
    notes: tuple[str, ...]


def simulate_all(
    model: ErrorModel,
    places: Sequence[Place],
    arms: Sequence[str],
    workflow: str,
    chains: int,
    draws: int,
    seed: int,
    tasks: int | None = None,
    work: Work = here,
    advance: Callable[[int], None] = lambda hops: None,
) -> ForecastReport:
    """Forecast every arm at every place.

    Raises:
        SimulationError: an arm or family is not in the model.
    """
    for arm in arms:
        model.arm(arm)
    rows = []
    for place in places:
        for arm in arms:
            found = forecast(model, place.layouts, arm, chains, seed, draws, work, advance)
            rows.append(
                Row(name=place.name, depth=place.depth, forecast=found, predictive=found.predictive(tasks) if tasks else None)
            )
    names = dict.fromkeys(place.name for place in places)
    horizons = [_horizon(name, arm, rows) for name in names for arm in arms]
    return ForecastReport(
        workflow=workflow,
        seed=seed,
        chains=chains,
        draws=draws,
        tasks=tasks,
        rows=tuple(rows),
        horizons=tuple(found for found in horizons if found is not None),
        notes=tuple(_notes(model, places, arms)),
    )


def hops_to_simulate(places: Sequence[Place], arms: Sequence[str], chains: int, draws: int, block: int) -> int:
    """All hops of all forecasts, parameter draws included."""
    each = chains + (draws + 1) * min(chains, block)
    hops = math.fsum(math.fsum(len(layout.nodes) for layout in place.layouts) / len(place.layouts) for place in places)
    return round(each * hops) * len(arms)


def _horizon(name: str, arm: str, rows: Sequence[Row]) -> Horizon | None:
    """None with fewer than two depths."""
    chosen = sorted((row.depth, row.forecast) for row in rows if row.name == name and row.forecast.arm == arm and row.depth)
    if len(chosen) < 2:
        return None
    depths = [depth for depth, _ in chosen]
    each = [_crossing(depths, [found.draws[number] for _, found in chosen]) for number in range(len(chosen[0][1].draws))]
    means = [found.success for _, found in chosen]
    known = sorted(math.inf if value is None else value for value in each)
    low, high = (known[round(share * (len(known) - 1))] for share in (0.025, 0.975)) if known else (math.inf, math.inf)
    h50 = _crossing(depths, means)
    null = chosen[-1][1].null
    return Horizon(
        name=name,
        arm=arm,
        h50=h50,
        low=None if math.isinf(low) else low,
        high=None if math.isinf(high) else high,
        null=None if not null or null >= 1 else depths[-1] * math.log(HALF) / math.log(null),
        beyond="" if h50 is not None else f"< {depths[0]}" if means[0] < HALF else f"> {depths[-1]}",
    )


def _crossing(depths: Sequence[int], successes: Sequence[float]) -> float | None:
    """Where log success, a straight line between two depths, is log one half; None where it is not within them."""
    for (near, before), (far, after) in pairwise(zip(depths, successes, strict=True)):
        if before >= HALF > after:
            if after <= 0:
                return float(far)
            share = (math.log(HALF) - math.log(before)) / (math.log(after) - math.log(before))
            return near + share * (far - near)
    return None


def _notes(model: ErrorModel, places: Sequence[Place], arms: Sequence[str]) -> list[str]:
    families = {node.family for place in places for layout in place.layouts for node in layout.nodes}
    operations = {node.op for place in places for layout in place.layouts for node in layout.nodes}
    notes = []
    for arm in arms:
        fitted = model.arm(arm)
        if few := sorted(families & set(fitted.few)):
            notes.append(f"{arm}: fewer than 5 slips were seen in {', '.join(few)}; the interval is what that leaves")
        if operations & {"vote", "verify", "judge"}:
            seen = {family for family, repeats in fitted.repeats.items() if repeats.hops}
            assumed = sorted(families - seen)
            if assumed:
                notes.append(
                    f"{arm}: no hop of {', '.join(assumed)} was drawn twice in the fit: repeated draws are taken as equal; "
                    "fit runs of the same tasks at a temperature with several sampling seeds"
                )
    depths = [place.depth for place in places if place.depth]
    if depths and (beyond := model.beyond(max(depths), families)):
        notes.append(beyond)
    return notes


def forecast_json(report: ForecastReport) -> dict[str, Any]:
    """Everything as JSON, without the single parameter draws."""
    data = report.model_dump(mode="json")
    for row, source in zip(data["rows"], report.rows, strict=True):
        del row["forecast"]["draws"]
        row["forecast"]["energy_per_correct_j"] = source.forecast.energy_per_correct_j
    return data
