"""Prediction and outcome of a precision plan, for `qtrap compare`: success and cost of the plan and of the arms beside it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from qtrap_agents.analysis.costs import Cost, Ratio, Spending, TaskOf, against, ratio_of_sums
from qtrap_agents.analysis.prediction import Place, place_of, predictive_interval, weight_bytes_by_task
from qtrap_agents.analysis.statistics import Interval, wilson
from qtrap_agents.plans import PLAN_ARM, Estimate, Outlook, PrecisionPlan, Prediction
from qtrap_agents.store import RunDirectory
from qtrap_agents.types import Record, Trace


class Outcome(Record):
    """One way to run the tasks: what was predicted of it and what was measured.

    `predictive` is where the success of `judged` tasks was expected. Costs are of a task, in the unit of the prediction;
    `cost` is None where nothing measured or counted it. `against` divides what the common tasks took by what they took on the
    baseline; None for the baseline itself.
    """

    arm: str
    predicted: Estimate
    predictive: Interval
    correct: int
    judged: int
    errors: int
    interval: Interval
    predicted_cost: float
    predicted_against: float | None
    cost: Ratio | None
    against: Ratio | None

    @property
    def success(self) -> float | None:
        """Measured share of solved tasks; None without judged ones."""
        return self.correct / self.judged if self.judged else None

    @property
    def as_predicted(self) -> bool | None:
        """Whether the measured success lies in the predictive interval; None without judged tasks."""
        if self.success is None or self.predictive.low is None or self.predictive.high is None:
            return None
        return self.predictive.low <= self.success <= self.predictive.high


class PlanOutcome(Record):
    """The plan of a run. `place` tells where the target lies to the measured interval of the plan; None without a target."""

    run: str
    plan: PrecisionPlan
    outcomes: tuple[Outcome, ...]
    place: Place | None

    @property
    def prediction(self) -> Prediction:
        """What was predicted. Raises ValueError for a plan without prediction, which has no outcome either."""
        if self.plan.predicted is None:
            raise ValueError("the plan has no prediction")
        return self.plan.predicted


class Spent(NamedTuple):
    """What an arm took, as it was measured."""

    cost: Cost
    spending: Spending


def plan_outcome(run: RunDirectory, name: str, spent: Mapping[str, Spent]) -> PlanOutcome | None:
    """Prediction and outcome of the plan of a run; None where it has no plan, no prediction, or no trace of the plan yet.

    Args:
        name: what the run is called.
        spent: measured cost by arm of the run.

    Raises:
        StoreError: the run cannot be read.
    """
    plan = run.config.plan
    if plan is None or plan.predicted is None or PLAN_ARM not in spent:
        return None
    predicted = _outlooks(plan, plan.predicted)
    measured = {arm: _Measured.of(run, arm, plan.predicted.unit, spent[arm]) for arm in predicted if arm in spent}
    base = plan.baseline
    outcomes = tuple(
        _outcome(arm, predicted[arm], found, *((predicted[base], measured.get(base)) if arm != base else (None, None)))
        for arm, found in measured.items()
    )
    target, planned = plan.predicted.target, outcomes[0]
    place = place_of(target, planned.interval) if target is not None and planned.judged else None
    return PlanOutcome(run=name, plan=plan, outcomes=outcomes, place=place)


def outcome_json(found: PlanOutcome) -> dict[str, Any]:
    """Every figure as JSON types; the plan itself with its rules and its predicted front."""
    prediction = found.prediction
    return {
        "run": found.run,
        "unit": prediction.unit,
        "counted": prediction.unit == "weight bytes",
        "target": prediction.target,
        "max_cost": prediction.max_cost,
        "target_to_interval": found.place,
        "outcomes": [_outcome_json(one) for one in found.outcomes],
        "plan": found.plan.model_dump(mode="json", exclude={"arms"}),
    }


def _outcome_json(one: Outcome) -> dict[str, Any]:
    return one.model_dump(mode="json") | {"success": one.success, "as_predicted": one.as_predicted}


class _Measured(NamedTuple):
    """Tasks and costs of an arm; `costs` by task in the unit of the prediction, of which `share` is known task by task."""

    correct: int
    judged: int
    errors: int
    costs: dict[TaskOf, float] | None
    share: float

    @classmethod
    def of(cls, run: RunDirectory, arm: str, unit: str, spent: Spent) -> "_Measured":
        latest = run.stored_outlines(arm)
        traces = [latest[task] for task in latest]
        judged = [trace for trace in traces if trace.score is not None]
        if unit == "J":
            costs, share = _joules(spent)
        elif unit == "weight bytes":
            costs, share = weight_bytes_by_task(traces, run.identity(arm)), 1.0
        else:
            costs, share = None, 1.0
        return cls(_solved(judged), len(judged), len(traces) - len(judged), costs, share)


def _solved(traces: Iterable[Trace]) -> int:
    return sum(trace.correct for trace in traces)


def _joules(spent: Spent) -> tuple[dict[TaskOf, float] | None, float]:
    """Joules by task, and which part of all joules they are: the residual is spread over the tasks."""
    joules, total = spent.spending.joules, spent.cost.energy_j
    if joules is None or not total:
        return None, 1.0
    return dict(joules), math.fsum(joules.values()) / total


def _outlooks(plan: PrecisionPlan, predicted: Prediction) -> dict[str, Outlook]:
    """What was predicted by arm, the plan first and the baseline second."""
    return {PLAN_ARM: predicted.plan, plan.baseline: predicted.baseline} | {
        arm: outlook for arm, outlook in predicted.arms.items() if arm != plan.baseline
    }


def _outcome(arm: str, predicted: Outlook, found: _Measured, baseline: Outlook | None, measured: _Measured | None) -> Outcome:
    costs = found.costs
    return Outcome(
        arm=arm,
        predicted=predicted.success,
        predictive=predictive_interval(predicted.success, found.judged),
        correct=found.correct,
        judged=found.judged,
        errors=found.errors,
        interval=wilson(found.correct, found.judged),
        predicted_cost=predicted.cost,
        predicted_against=predicted.cost / baseline.cost if baseline is not None and baseline.cost else None,
        cost=None if costs is None else ratio_of_sums(list(costs.values()), [1.0] * len(costs), found.share),
        against=against(costs, measured.costs) if measured is not None else None,
    )
