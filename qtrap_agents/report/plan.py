"""`qtrap plan`: an error model in, the cheapest plan for a success or the best one for a cost out, with the front around it."""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qtrap_agents.analysis.serving import summarise
from qtrap_agents.arms import ArmConfig
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.config import SuiteChoice, WorkflowChoice
from qtrap_agents.errors import SimulationError, StoreError
from qtrap_agents.plans import Estimate, FrontPoint, Outlook, PrecisionPlan, Prediction, Rule, Unit, Verify, Vote
from qtrap_agents.report.comparison import compare_runs
from qtrap_agents.report.format import percent, percent_between
from qtrap_agents.report.prediction import PlanOutcome
from qtrap_agents.report.prediction_view import amount
from qtrap_agents.simulation.costing import Costs
from qtrap_agents.simulation.forecast import Forecast, forecast
from qtrap_agents.simulation.layouts import layouts_of
from qtrap_agents.simulation.model import ErrorModel
from qtrap_agents.simulation.planner import (
    TEMPERATURE,
    Assignment,
    Cell,
    Option,
    Problem,
    best_within,
    cheapest,
    classes,
    options_of,
    sweep,
)
from qtrap_agents.store import RunDirectory, as_yaml, write_whole
from qtrap_agents.types import Record

CHAINS = 100_000
FRONT = 8
"""Points of the front between the cheapest and the safest plan."""

TRIES = 8
MARGIN = 0.0005


class Goal(NamedTuple):
    """What is asked for: a success, or a cost that is allowed. `confident`: the lower end of the interval has to reach it."""

    success: float | None = None
    cost: float | None = None
    confident: bool = False


class Place(NamedTuple):
    """Tasks to plan for."""

    suite: str
    depth: int
    workflow: str = "chain"


class RuleRow(Record):
    """One rule with what it does: hops of a chain that it answers, and slips expected there."""

    rule: Rule
    hops: float
    slips: float


class PlanReport(Record):
    """A plan and where it comes from. `rows` are its rules and, last, all other hops."""

    plan: PrecisionPlan
    rows: tuple[RuleRow, ...]
    unit: Unit
    source: str
    per_call: dict[str, float]
    calls: float
    draws: int
    confident: bool
    notes: tuple[str, ...]

    @property
    def predicted(self) -> Prediction:
        """Raises ValueError for a plan without prediction; those of this report have one."""
        if self.plan.predicted is None:
            raise ValueError("the plan has no prediction")
        return self.plan.predicted


class _Found(NamedTuple):
    plan: Assignment
    cost: float
    forecast: Forecast


def make_plan(
    model: ErrorModel,
    place: Place,
    goal: Goal,
    arms: Sequence[ArmConfig],
    baseline: str,
    costs: Costs,
    votes: Sequence[int] = (),
    verify: bool = False,
    draws: int = 100,
    seed: int = 0,
    model_file: Path | None = None,
    advance: Callable[[str], None] = lambda done: None,
) -> PlanReport:
    """Search, predict, and put the front around it.

    Args:
        arms: to choose among; `baseline` is one of them.

    Raises:
        SimulationError: the goal is out of reach, or an arm or family is not in the model.
    """
    problem = problem_of(model, place, [arm.name for arm in arms], baseline, costs, votes, verify, seed)
    predict = _Predict(problem, draws, seed)
    advance("search")
    found = _search(problem, predict, goal)
    advance("front")
    alone = {arm.name: predict(problem.all_on(Option(arm.name))) for arm in arms}
    front = _front(problem, predict, found, alone)
    notes = _notes(model, place, [arm.name for arm in arms], problem.options)
    rules, default = _rules(problem, found.plan, place.suite)
    plan = PrecisionPlan(
        suite=place.suite,
        depth=problem.depth,
        arms=tuple(arms),
        baseline=baseline,
        default=default,
        rules=rules,
        predicted=_prediction(found, alone, front, baseline, goal, costs.unit, model_file),
    )
    return PlanReport(
        plan=plan,
        rows=tuple(_rows(problem, found.plan, plan)),
        unit=costs.unit,
        source=costs.source,
        per_call=costs.per_call,
        calls=problem.calls(found.plan),
        draws=draws,
        confident=goal.confident,
        notes=notes,
    )


def _prediction(
    found: _Found,
    alone: Mapping[str, _Found],
    front: tuple[FrontPoint, ...],
    baseline: str,
    goal: Goal,
    unit: Unit,
    model_file: Path | None,
) -> Prediction:
    return Prediction(
        plan=_outlook(found),
        baseline=_outlook(alone[baseline]),
        arms={name: _outlook(one) for name, one in alone.items() if name != baseline},
        unit=unit,
        target=goal.success,
        max_cost=goal.cost,
        model="" if model_file is None else model_file.name,
        checksum="" if model_file is None else hashlib.sha256(model_file.read_bytes()).hexdigest(),
        front=front,
    )


def problem_of(
    model: ErrorModel,
    place: Place,
    arms: Sequence[str],
    baseline: str,
    costs: Costs,
    votes: Sequence[int] = (),
    verify: bool = False,
    seed: int = 0,
) -> Problem:
    """The search problem of a suite at a depth. Raises SimulationError."""
    for arm in arms:
        model.arm(arm)
    model.family(place.suite)
    if place.workflow != "chain":
        raise SimulationError(f"a plan is carried out as a chain; leave --workflow {place.workflow} out")
    layouts = layouts_of(SuiteChoice(name=place.suite), WorkflowChoice(name=place.workflow), place.depth)
    return Problem(model, layouts, place.suite, baseline, options_of(arms, votes, verify), costs, seed)


def bench_joules(path: Path, prompt_tokens: float) -> tuple[dict[str, float], str]:
    """Joules per output token by arm at one request at a time, or as few as were measured, and what was looked up.

    Raises:
        StoreError, ConfigError: no bench. SimulationError: it measured no energy.
    """
    bench = BenchDirectory.open(path)
    cells = [cell for cell in summarise(bench.windows(), bench.config.baseline_arm).cells if cell.energy_per_token_j]
    if not cells:
        raise SimulationError(
            f"{path}: no energy was measured in this bench; give --cost, or leave --bench out to count weight bytes"
        )
    chosen = min(cells, key=lambda cell: (cell.concurrency, abs(cell.prompt_tokens - prompt_tokens))).place
    found = {cell.arm: cell.energy_per_token_j.value for cell in cells if cell.place == chosen and cell.energy_per_token_j}
    return found, f"{path.name} ({chosen[2]} in flight, prompts of {chosen[0]} tokens)"


class _Predict:
    """Forecasts with a seed that the search did not use: its luck is not part of them."""

    def __init__(self, problem: Problem, draws: int, seed: int) -> None:
        self._problem, self._draws, self._seed = problem, draws, seed + 1
        self._known: dict[tuple[Option, ...], _Found] = {}

    def __call__(self, plan: Assignment) -> _Found:
        key = tuple(plan[cell] for cell in self._problem.cells)
        if key not in self._known:
            problem = self._problem
            found = forecast(problem.model, problem.planned(plan), problem.baseline, CHAINS, self._seed, self._draws)
            self._known[key] = _Found(plan, problem.cost(plan), found)
        return self._known[key]


def _search(problem: Problem, predict: _Predict, goal: Goal) -> _Found:
    if goal.cost is not None:
        plan = best_within(problem, goal.cost)
        if plan is None:
            least = predict(sweep(problem, classes(problem))[0])
            raise SimulationError(
                f"no plan costs only {amount(goal.cost, problem.costs.unit)} a task; the cheapest costs {_told(problem, least)}"
            )
        return predict(plan)
    assert goal.success is not None
    return _reach(problem, predict, goal.success, goal.confident)


def _reach(problem: Problem, predict: _Predict, target: float, confident: bool) -> _Found:
    """The cheapest plan whose prediction reaches the target; what the search aims at follows what the prediction says."""

    def got(found: _Found) -> float:
        return found.forecast.low if confident else found.forecast.success

    aim = target
    for number in range(TRIES):
        plan = cheapest(problem, aim)
        if plan is None:
            break
        found = predict(plan)
        if got(found) >= target:
            return found
        aim = min(1 - (1 - aim) * 0.5, aim + target - got(found) + MARGIN * 2**number)
    plans = sorted([*sweep(problem, classes(problem)), *map(problem.all_on, problem.options)], key=problem.cost)
    found = max(map(predict, (plans[-1], max(plans, key=problem.estimate))), key=got)
    if got(found) < target:
        what = "the lower end of the interval" if confident else "the mean prediction"
        raise SimulationError(
            f"no plan with these arms reaches {100 * target:g} % by {what}; the best one is "
            f"{_told(problem, found)}; lower --target-success, or give more --arm, --votes or --verify"
        )
    return next((one for one in map(predict, sweep(problem, classes(problem))) if got(one) >= target), found)


def _told(problem: Problem, found: _Found) -> str:
    cast = found.forecast
    shares = _shares(problem, found.plan)
    mixture = ", ".join(f"{percent(share)} of the hops on {name}" for name, share in shares.items())
    success = percent_between(cast.success, cast.low, cast.high)
    return f"{amount(found.cost, problem.costs.unit)} a task for {success} success ({mixture})"


def _shares(problem: Problem, plan: Assignment) -> dict[str, float]:
    total = math.fsum(problem.counts.values())
    found: dict[str, float] = {}
    for cell in problem.cells:
        name = _called(plan[cell])
        found[name] = found.get(name, 0.0) + problem.counts[cell] / total
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _called(option: Option) -> str:
    return option.arm + (f", votes of {option.k}" if option.k else ", checked" if option.verify else "")


def _front(problem: Problem, predict: _Predict, found: _Found, alone: Mapping[str, _Found]) -> tuple[FrontPoint, ...]:
    """Points that no other one beats in both cost and predicted success, and those of one arm alone, from the cheapest on."""
    plans = sweep(problem, classes(problem))
    costs = [problem.cost(plan) for plan in plans]
    wanted = [costs[0] + (costs[-1] - costs[0]) * number / (FRONT - 1) for number in range(FRONT)]
    chosen = dict.fromkeys(min(range(len(plans)), key=lambda at: abs(costs[at] - cost)) for cost in wanted)
    singles = [(f"all {name}", one) for name, one in alone.items()]
    named = [("plan", found), *singles, *(("", predict(plans[at])) for at in chosen)]
    points: list[FrontPoint] = []
    for label, one in sorted(named, key=lambda item: (item[1].cost, -item[1].forecast.success, item[0] == "")):
        cast = one.forecast
        beaten = any(point.success >= cast.success for point in points)
        if label or not beaten:
            low, high = _ends(cast)
            points.append(FrontPoint(cost=one.cost, success=cast.success, low=low, high=high, label=label))
    return tuple(points)


def _ends(cast: Forecast) -> tuple[float, float]:
    """The interval; it holds the mean even where all draws are as good as equal."""
    return min(cast.low, cast.success), max(cast.high, cast.success)


def _outlook(found: _Found) -> Outlook:
    cast = found.forecast
    low, high = _ends(cast)
    return Outlook(success=Estimate(mean=cast.success, low=low, high=high, mc_se=cast.mc_se, chains=cast.chains), cost=found.cost)


def _rules(problem: Problem, plan: Assignment, suite: str) -> tuple[tuple[Rule, ...], str]:
    """Ranges of positions with one option, kinds of the same ranges together; the arm of most plain hops is the default."""
    kinds: dict[str, list[int]] = {}
    for kind, position in problem.cells:
        kinds.setdefault(kind, []).append(position)
    plain: dict[str, float] = {}
    for cell in problem.cells:
        if plan[cell] == Option(plan[cell].arm):
            plain[plan[cell].arm] = plain.get(plan[cell].arm, 0.0) + problem.counts[cell]
    default = max(plain, key=lambda name: plain[name], default=problem.baseline)
    ranges: dict[tuple[tuple[int, int], Option], list[str]] = {}
    for kind, places in kinds.items():
        for option, run in itertools.groupby(_filled(plan, kind, places, problem.depth), key=lambda at: at[1]):
            positions = [position for position, _ in run]
            ranges.setdefault(((positions[0], positions[-1]), option), []).append(kind)
    found = [
        _rule(suite, () if len(of) == len(kinds) else of, None if span == (1, problem.depth) else span, option)
        for (span, option), of in sorted(ranges.items(), key=lambda item: item[0])
        if option != Option(default)
    ]
    return tuple(found), default


def _filled(plan: Assignment, kind: str, places: Sequence[int], depth: int) -> list[tuple[int, Option]]:
    """Every position with its option; where the kind was not seen, that of the nearest place before, else behind."""
    found, last = [], plan[kind, places[0]]
    for position in range(1, depth + 1):
        last = plan.get((kind, position), last)
        found.append((position, last))
    return found


def _rule(suite: str, kinds: Sequence[str], span: tuple[int, int] | None, option: Option) -> Rule:
    return Rule(
        family=suite,
        kinds=tuple(kinds),
        positions=span,
        arm=option.arm,
        vote=Vote(k=option.k, temperature=TEMPERATURE) if option.k else None,
        verify=Verify(temperature=TEMPERATURE) if option.verify else None,
    )


def _rows(problem: Problem, plan: Assignment, written: PrecisionPlan) -> list[RuleRow]:
    rest = Rule(family=None, arm=written.default)
    by_rule: dict[int, list[Cell]] = {}
    rules = [*written.rules, rest]
    for cell in problem.cells:
        number = next(at for at, rule in enumerate(rules) if rule.fits(problem.family, *cell))
        by_rule.setdefault(number, []).append(cell)
    return [
        RuleRow(
            rule=rules[number],
            hops=math.fsum(problem.counts[cell] for cell in cells),
            slips=problem.slips(cells, plan[cells[0]]),
        )
        for number, cells in sorted(by_rule.items())
    ]


def _notes(model: ErrorModel, place: Place, arms: Sequence[str], options: Sequence[Option]) -> tuple[str, ...]:
    notes = []
    for name in arms:
        arm = model.arm(name)
        seen, hops = arm.observed.get(place.suite, 0), arm.hops.get(place.suite, 0)
        if place.suite in arm.few:
            notes.append(f"{name}: {seen} slips in {hops:,} hops of {place.suite}; what is predicted of it rests on few or none")
        several = any(option.arm == name and (option.k or option.verify) for option in options)
        if several and not arm.repeats.get(place.suite):
            notes.append(f"{name}: no hop was drawn twice in the fit, repeated draws are taken as equal: votes win nothing")
    if beyond := model.beyond(place.depth, [place.suite]):
        notes.append(beyond)
    return tuple(notes)


def save_plan(plan: PrecisionPlan, path: Path, force: bool = False) -> None:
    """Write a plan. Raises SimulationError where the file is there and `force` is not given, or cannot be written."""
    _save(as_yaml(plan), path, force)


def save_page(text: str, path: Path, force: bool = False) -> None:
    """Write a page; errors as of `save_plan`."""
    _save(text, path, force)


def check_free(path: Path, force: bool) -> None:
    """Raises SimulationError where something would be overwritten."""
    if path.exists() and not force:
        raise SimulationError(f"{path} is there already; give --force to overwrite it, or another name")


def _save(text: str, path: Path, force: bool) -> None:
    check_free(path, force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise SimulationError(f"{path}: cannot be written: {error.strerror or error}") from error


def outcomes_of(paths: Sequence[Path]) -> list[PlanOutcome]:
    """Prediction and outcome of runs of plans. Raises StoreError where a run has no plan with a prediction."""
    found: list[PlanOutcome] = []
    for path in paths:
        plans = compare_runs([RunDirectory.open(path)]).plans
        if not plans:
            raise StoreError(f"{path}: no run of a plan with a prediction; `qtrap run --plan FILE` makes one")
        found += plans
    return found


def plan_json(report: PlanReport) -> dict[str, Any]:
    """Everything but the arms in full."""
    return report.model_dump(mode="json", exclude={"plan": {"arms"}})
