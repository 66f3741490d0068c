"""Search for the cheapest precision plan of a success, or the best one of a cost.

A hop of a chain is answered by an `Option`: an arm, maybe with a vote or a checker. Hops are grouped into classes, one for each
kind and range of positions. For each class the options on the lower convex hull of cost against lost log success are the only
ones a Lagrangian sweep ever takes; sorted by what they gain for their cost they make a sequence of plans from the cheapest to
the safest. A slip counts there with the probability that its error reaches the answer. The simulator then judges the plans, all
with the same random numbers, and moves of single classes and positions follow.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from qtrap_agents.simulation.costing import Costs
from qtrap_agents.simulation.layout import Layout, Node
from qtrap_agents.simulation.model import ErrorModel, Rates, covariate
from qtrap_agents.simulation.montecarlo import BLOCK, simulate

TEMPERATURE = 0.7
"""Of votes and checkers."""

ENUMERATED = 2048
"""So many assignments are looked through one by one."""

SLACK, SLACK_SHARE = 0.02, 0.3
"""How far the sum of losses may be off the simulator, in success: at least so much, and so much of what fails."""

MANY_KINDS = 12
MOVES = 40
"""Evaluations that a refinement may take."""


class Option(NamedTuple):
    """How a hop is answered: `k` samples of a vote (0: none), or under a checker."""

    arm: str
    k: int = 0
    verify: bool = False


Cell = tuple[str, int]
"""Kind, and position from 1."""

Assignment = Mapping[Cell, Option]


class Step(NamedTuple):
    """An option more of a class: what it changes in cost and in expected lost log success."""

    group: int
    option: Option
    cost: float
    loss: float


@dataclass
class Problem:
    """Tasks of one suite, the options of their hops and what they cost."""

    model: ErrorModel
    layouts: tuple[Layout, ...]
    family: str
    baseline: str
    options: tuple[Option, ...]
    costs: Costs
    seed: int = 0
    chains: int = BLOCK
    _success: dict[tuple[Option, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rates = self.model.point()
        self.counts = _counts(self.layouts)
        self.cells = tuple(self.counts)
        self.depth = max(position for _, position in self.cells)
        weights = _weights(self.layouts, self._rates)
        kinds = dict.fromkeys(kind for kind, _ in self.cells)
        self._known = drawn = {(kind, option): self._drawn(kind, option) for kind in kinds for option in self.options}
        self._cost = {
            (cell, option): self.counts[cell] * drawn[cell[0], option][1] * self.costs.per_call[option.arm]
            for cell in self.cells
            for option in self.options
        }
        self._loss = {
            (cell, option): weights[cell] * -math.log1p(-min(0.999999, drawn[cell[0], option][0] * self._at(cell, option)))
            for cell in self.cells
            for option in self.options
        }

    def _at(self, cell: Cell, option: Option) -> float:
        """How much more often a greedy hop slips at a position than at the first."""
        kind, position = cell
        return _slip(self._rates, option.arm, self.family, kind, position) / _slip(self._rates, option.arm, self.family, kind, 1)

    def _drawn(self, kind: str, option: Option) -> tuple[float, float]:
        """Slip rate and calls of an option at the first position."""
        if not option.k and not option.verify:
            return _slip(self._rates, option.arm, self.family, kind, 1), 1.0
        node = answered(Node(id="n1", family=self.family, kind=kind), option)
        found = simulate([Layout(nodes=(node,))], self._rates, option.arm, 4 * BLOCK, self.seed)
        return max(1 - found.success, 0.5 / found.chains), found.calls / found.chains

    def cost(self, plan: Assignment) -> float:
        """Of a task."""
        return math.fsum(self._cost[cell, plan[cell]] for cell in self.cells)

    def calls(self, plan: Assignment) -> float:
        """Model calls a task."""
        answers = ((cell, plan[cell]) for cell in self.cells)
        return math.fsum(self._cost[cell, option] / self.costs.per_call[option.arm] for cell, option in answers)

    def estimate(self, plan: Assignment) -> float:
        """Success by the sum of losses, without the simulator."""
        return math.exp(-math.fsum(self._loss[cell, plan[cell]] for cell in self.cells))

    def success(self, plan: Assignment) -> float:
        """Success at the posterior means, simulated."""
        key = tuple(plan[cell] for cell in self.cells)
        if key not in self._success:
            self._success[key] = simulate(self.planned(plan), self._rates, self.baseline, self.chains, self.seed).success
        return self._success[key]

    def planned(self, plan: Assignment) -> tuple[Layout, ...]:
        """The layouts with the options of a plan."""
        return tuple(
            Layout(
                nodes=tuple(answered(node, plan[node.kind, place]) for place, node in enumerate(layout.nodes, start=1)),
            )
            for layout in self.layouts
        )

    def slips(self, cells: Iterable[Cell], option: Option) -> float:
        """Expected slips a task on right parents in these cells, at the posterior means."""
        return math.fsum(self.counts[cell] * min(1.0, self._known[cell[0], option][0] * self._at(cell, option)) for cell in cells)

    def all_on(self, option: Option) -> Assignment:
        """Every hop answered in one way."""
        return dict.fromkeys(self.cells, option)

    def steps_of(self, number: int, group: Sequence[Cell]) -> tuple[Option, list[Step]]:
        """The cheapest option of a class and the steps up its lower convex hull."""
        points = sorted(
            (
                math.fsum(self._cost[cell, option] for cell in group),
                math.fsum(self._loss[cell, option] for cell in group),
                option,
            )
            for option in self.options
        )
        hull: list[tuple[float, float, Option]] = []
        for point in points:
            if hull and point[1] >= hull[-1][1]:
                continue
            while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], point):
                hull.pop()
            hull.append(point)
        steps = [Step(number, after[2], after[0] - before[0], before[1] - after[1]) for before, after in itertools.pairwise(hull)]
        return hull[0][2], steps


def answered(node: Node, option: Option) -> Node:
    """A node with an option."""
    change: dict[str, object] = {"arm": option.arm}
    if option.k:
        change |= {"op": "vote", "k": option.k, "temperature": TEMPERATURE}
    elif option.verify:
        change |= {"op": "verify", "temperature": TEMPERATURE}
    return node.model_copy(update=change)


def options_of(arms: Sequence[str], votes: Sequence[int], verify: bool) -> tuple[Option, ...]:
    """Every arm alone, with each vote, and under a checker."""
    checked = [Option(arm, verify=True) for arm in arms] if verify else []
    return (*map(Option, arms), *(Option(arm, k) for arm in arms for k in votes), *checked)


def classes(problem: Problem) -> list[tuple[Cell, ...]]:
    """Kinds by quarters of the chain; by positions in short chains, by halves where kinds are many."""
    kinds = dict.fromkeys(kind for kind, _ in problem.cells)
    parts = problem.depth if problem.depth <= 4 else 2 if len(kinds) > MANY_KINDS else 4
    found: dict[tuple[str, int], list[Cell]] = {}
    for kind, position in problem.cells:
        found.setdefault((kind, (position - 1) * parts // problem.depth), []).append((kind, position))
    return [tuple(group) for group in found.values()]


def sweep(problem: Problem, groups: Sequence[Sequence[Cell]]) -> list[dict[Cell, Option]]:
    """Plans from the cheapest to the safest: one step of one class more each time, in the order of gain for cost."""
    plan: dict[Cell, Option] = {}
    steps = []
    for number, group in enumerate(groups):
        first, more = problem.steps_of(number, group)
        plan |= dict.fromkeys(group, first)
        steps += more
    plans = [plan]
    for step in sorted(steps, key=lambda one: -one.loss / one.cost):
        plan = plan | dict.fromkeys(groups[step.group], step.option)
        plans.append(plan)
    return plans


def cheapest(problem: Problem, target: float) -> dict[Cell, Option] | None:
    """The cheapest plan found whose simulated success reaches the target; None where none does."""
    groups = classes(problem)
    if len(problem.options) ** len(groups) <= ENUMERATED:
        ordered = sorted(_all(problem, groups), key=problem.cost)
        likely = (plan for plan in ordered if problem.estimate(plan) >= _least(target))
        return next((plan for plan in likely if problem.success(plan) >= target), None)
    plans = sweep(problem, groups)
    reached = _first(plans, lambda plan: problem.success(plan) >= target)
    if reached is None:
        return None
    starts = [plans[reached], *_split(problem, plans, reached, target)]
    return _lighter(problem, min(starts, key=problem.cost), target)


def best_within(problem: Problem, budget: float) -> dict[Cell, Option] | None:
    """The plan found with the highest simulated success that costs no more; None where even the cheapest does."""
    groups = classes(problem)
    if len(problem.options) ** len(groups) <= ENUMERATED:
        allowed = sorted((plan for plan in _all(problem, groups) if problem.cost(plan) <= budget), key=problem.estimate)
        return max(allowed[-MOVES:], key=problem.success, default=None)
    plans = [plan for plan in sweep(problem, groups) if problem.cost(plan) <= budget]
    if not plans:
        return None
    filled = plans[-1]
    for part in [*groups, *([cell] for cell in problem.cells)]:
        filled = _up(problem, filled, part, budget)
    return max((plans[-1], filled), key=problem.success)


def _up(problem: Problem, plan: dict[Cell, Option], part: Sequence[Cell], budget: float) -> dict[Cell, Option]:
    tried = [plan | dict.fromkeys(part, option) for option in problem.options]
    return max((plan, *(one for one in tried if problem.cost(one) <= budget)), key=problem.estimate)


def _all(problem: Problem, groups: Sequence[Sequence[Cell]]) -> list[dict[Cell, Option]]:
    return [
        {cell: option for group, option in zip(groups, chosen, strict=True) for cell in group}
        for chosen in itertools.product(problem.options, repeat=len(groups))
    ]


def _first(plans: Sequence[dict[Cell, Option]], reaches: Callable[[dict[Cell, Option]], bool]) -> int | None:
    """The first plan of a sequence that gets better and better, by bisection."""
    if not reaches(plans[-1]):
        return None
    low, high = -1, len(plans) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(plans[middle]) else (middle, high)
    return high


def _split(problem: Problem, plans: Sequence[dict[Cell, Option]], reached: int, target: float) -> Iterable[dict[Cell, Option]]:
    """The last step of the sweep at as few positions as are needed, late ones first: behind them fewest errors die out."""
    if reached == 0:
        return
    below, above = plans[reached - 1], plans[reached]
    changed = [cell for cell in problem.cells if below[cell] != above[cell]]
    changed.sort(key=lambda cell: -cell[1])
    parts = [{**below, **{cell: above[cell] for cell in changed[:size]}} for size in range(1, len(changed) + 1)]
    first = _first(parts, lambda plan: problem.success(plan) >= target)
    if first is not None:
        yield parts[first]


def _lighter(problem: Problem, plan: dict[Cell, Option], target: float) -> dict[Cell, Option]:
    """Move single classes, then single positions, to cheaper options as long as the target is reached."""
    tried = 0
    for parts in (classes(problem), [(cell,) for cell in problem.cells]):
        moves = [
            (problem.cost(plan) - problem.cost(moved), part, option)
            for part in parts
            for option in problem.options
            if problem.cost(moved := plan | dict.fromkeys(part, option)) < problem.cost(plan)
        ]
        for _, part, option in sorted(moves, key=lambda move: -move[0]):
            moved = plan | dict.fromkeys(part, option)
            if tried >= MOVES or problem.cost(moved) >= problem.cost(plan) or problem.estimate(moved) < _least(target):
                continue
            if len(part) == 1 and not _beside(problem, plan, part[0], option):
                continue
            tried += 1
            plan = moved if problem.success(moved) >= target else plan
    return plan


def _beside(problem: Problem, plan: Assignment, cell: Cell, option: Option) -> bool:
    """Whether the option is that of the same kind one place before or behind: ranges of positions stay few."""
    kind, position = cell
    places = [place for of, place in problem.cells if of == kind]
    number = places.index(position)
    return any(plan[kind, place] == option for place in places[max(0, number - 1) : number + 2] if place != position)


def _least(target: float) -> float:
    """The success by the sum of losses below which a plan is not simulated."""
    return target - max(SLACK, SLACK_SHARE * (1 - target))


def _gain(before: tuple[float, float, Option], after: tuple[float, float, Option]) -> float:
    """Lost log success saved for a unit of cost."""
    return (before[1] - after[1]) / (after[0] - before[0]) if after[0] > before[0] else math.inf


def _counts(layouts: Sequence[Layout]) -> dict[Cell, float]:
    found: dict[Cell, float] = {}
    for layout in layouts:
        for place, node in enumerate(layout.nodes, start=1):
            found[node.kind, place] = found.get((node.kind, place), 0.0) + 1 / len(layouts)
    return dict(sorted(found.items()))


def _weights(layouts: Sequence[Layout], rates: Rates) -> dict[Cell, float]:
    """Sum over the hops of a cell of the probability that an error there reaches the answer, a task."""
    found: dict[Cell, float] = {}
    for layout in layouts:
        reaches = {node.id: 0.0 for node in layout.nodes} | {layout.nodes[-1].id: 1.0}
        for place, node in reversed(list(enumerate(layout.nodes, start=1))):
            onward = reaches[node.id] * (1 - rates.mask(node.family, node.kind, len(node.parents), 1))
            for parent in node.parents:
                reaches[parent] = 1 - (1 - reaches[parent]) * (1 - onward)
            found[node.kind, place] = found.get((node.kind, place), 0.0) + reaches[node.id] / len(layouts)
    return found


def _slip(rates: Rates, arm: str, family: str, kind: str, position: int) -> float:
    """On right parents, no error before, one parent."""
    cost = rates.model.arm(arm).costs.get(family)
    prompt = 32.0 if cost is None else cost.prompt_tokens + cost.prompt_growth * (position - 1)
    logit = (
        rates.slip_logit(arm, family, kind)
        + rates.slope(arm, "position", family) * covariate("position", position)
        + rates.slope(arm, "prompt", family) * covariate("prompt", prompt)
    )
    return 1 / (1 + math.exp(-logit))
