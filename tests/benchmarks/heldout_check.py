"""Predictions held against runs that the model has not seen: python tests/benchmarks/heldout_check.py MODEL RUN… [--json]

For every arm, suite and depth (or workflow) of the runs: the success that was measured, the prediction of the model with its 95 %
predictive interval for a run of that many tasks, and constant hop success, the null model. Then the share of cells inside
their interval and the mean absolute errors. The runs must be other ones than those that were fitted.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qtrap_agents.analysis.statistics import wilson
from qtrap_agents.config import SuiteChoice
from qtrap_agents.environment import describe_environment
from qtrap_agents.errors import SimulationError
from qtrap_agents.simulation.forecast import forecast
from qtrap_agents.simulation.layout import Layout
from qtrap_agents.simulation.layouts import layouts_of
from qtrap_agents.simulation.model import ErrorModel
from qtrap_agents.simulation.model_file import load_model
from qtrap_agents.store import RunDirectory


class Cell(NamedTuple):
    """One arm on one suite at one depth of one workflow. Shares; `null` is None where the null model is for chains only."""

    workflow: str
    arm: str
    suite: str
    depth: int
    right: int
    n: int
    predicted: float
    low: float
    high: float
    null: float | None

    @property
    def measured(self) -> float:
        """Share of right answers."""
        return self.right / self.n

    @property
    def inside(self) -> bool:
        """Whether the measured success lies in the predictive interval."""
        return self.low <= self.measured <= self.high


def outcomes(run: RunDirectory, arm: str) -> dict[tuple[str, int], list[int]]:
    """Suite and depth -> right answers and judged tasks."""
    found: dict[tuple[str, int], list[int]] = {}
    for trace in run.outlines(arm):
        if trace.score is not None:
            count = found.setdefault((trace.suite, trace.depth), [0, 0])
            count[0] += trace.correct
            count[1] += 1
    return found


def cells_of(model: ErrorModel, run: RunDirectory, chains: int, draws: int, arms: Sequence[str]) -> Iterator[Cell]:
    """All cells of a run. Raises SimulationError where the model was fitted on this very run."""
    if run.id in model.runs:
        raise SimulationError(f"{run.path}: the model was fitted on this run; hold it against another one")
    suites = {Path(choice.name).name: choice for choice in run.config.suites}
    layouts: dict[tuple[str, int], tuple[Layout, ...]] = {}
    for arm in [name for name in run.arms() if name in model.arms and (not arms or name in arms)]:
        for (suite, depth), (right, n) in outcomes(run, arm).items():
            if (suite, depth) not in layouts:
                choice = suites.get(suite, SuiteChoice(name=suite))
                layouts[suite, depth] = layouts_of(choice, run.config.workflow, depth)
            found = forecast(model, layouts[suite, depth], arm, chains, draws=draws)
            low, high = found.predictive(n)
            null = found.null if run.config.workflow.name in ("chain", "map_reduce") else None
            yield Cell(run.config.workflow.name, arm, suite, depth, right, n, found.success, low, high, null)


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """Coverage with its Wilson interval, and mean absolute errors in points."""
    inside = sum(cell.inside for cell in cells)
    span = wilson(inside, len(cells))
    errors = [abs(cell.predicted - cell.measured) for cell in cells]
    null = [abs(cell.null - cell.measured) for cell in cells if cell.null is not None]
    return {
        "cells": len(cells),
        "inside": inside,
        "coverage": [round(share, 4) for share in (inside / len(cells), span.low or 0.0, span.high or 1.0)],
        "mean_absolute_error_points": round(100 * sum(errors) / len(errors), 2),
        "largest_error_points": round(100 * max(errors), 2),
        "within_5_points": sum(error <= 0.05 for error in errors),
        "null_mean_absolute_error_points": round(100 * sum(null) / len(null), 2) if null else None,
    }


def as_json(cells: Sequence[Cell], options: Mapping[str, object]) -> dict[str, Any]:
    """Everything, rounded."""
    workflows = dict.fromkeys(cell.workflow for cell in cells)
    groups = {name: summary([cell for cell in cells if cell.workflow == name]) for name in workflows}
    rows = [
        {
            **{name: value for name, value in cell._asdict().items() if not isinstance(value, float)},
            **{name: round(value, 4) for name, value in cell._asdict().items() if isinstance(value, float)},
            "measured": round(cell.measured, 4),
            "inside": cell.inside,
        }
        for cell in cells
    ]
    environment = describe_environment()
    return {
        "command": f"python tests/benchmarks/heldout_check.py MODEL RUN… --chains {options['chains']} --draws {options['draws']}",
        "date": time.strftime("%Y-%m-%d"),
        "cpu": environment.get("cpu"),
        "cores": environment.get("cores"),
        "packages": environment.get("packages"),
        "workflows": groups,
        "cells": rows,
    }


def main() -> None:
    """Predict, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--arm", action="append", default=[], help="only this arm (repeatable)")
    parser.add_argument("--chains", type=int, default=40_000)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = load_model(options.model)
    cells: list[Cell] = []
    for path in options.runs:
        for cell in cells_of(model, RunDirectory.open(path), options.chains, options.draws, options.arm):
            cells.append(cell)
            if not options.json:
                mark = " " if cell.inside else "✗"
                null = "–" if cell.null is None else f"{100 * cell.null:.1f}"
                predicted = f"{100 * cell.predicted:5.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
                print(
                    f"{mark} {cell.workflow:14} {cell.arm:6} {cell.suite:9} {cell.depth:4} measured {100 * cell.measured:5.1f} "
                    f"(n = {cell.n})  predicted {predicted}  null {null}",
                    flush=True,
                )
    print(
        json.dumps(as_json(cells, vars(options)), indent=1)
        if options.json
        else json.dumps(as_json(cells, vars(options))["workflows"], indent=1)
    )


if __name__ == "__main__":
    main()
