"""Layouts and rates made ready for numpy: for every place of a chain one step, with the numbers of every template.

Layouts with equally many nodes and the same operations and settings at every place share a group; arms, families, kinds and
parents may differ between them: they are looked up by template.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, expit

from qtrap_agents.errors import SimulationError
from qtrap_agents.simulation.layout import Layout, Node
from qtrap_agents.simulation.model import HopCost, Rates, covariate

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.intp]

GRID = 129
"""Points of a table of quantiles."""

GREEDY = 0.0

SEVERAL = frozenset({"vote", "verify", "judge"})
"""Operations that may draw a hop several times."""


@dataclass(frozen=True)
class Step:
    """One place of a chain. Arrays have one row for each template.

    `parents` are places, padded with the place behind the last one, where nothing is ever wrong. `right` and `wrong` are
    probabilities of a slip in a greedy draw on right and on wrong parents; `logit` is that of `right`, for where `before`, the
    slope of earlier errors, is added. `tables` [template, wrong parents or not, GRID] are `quantiles` at the temperature of the
    node, `together` the correlation and agreement of its draws; both for nodes with several draws only. `masks` and `luck` are by
    number of wrong parents. `costs` are prompt tokens, generated tokens and joules of a call.
    """

    node: Node
    parents: Integers
    same_parents: tuple[int, ...] | None
    right: Singles
    wrong: Singles
    logit: Floats
    before: Floats
    masks: Floats
    luck: Floats
    tables: Floats
    together: Floats
    detection: Floats
    false_alarm: Floats
    on_way: npt.NDArray[np.bool_]
    costs: Floats
    latency_s: Floats


@dataclass(frozen=True)
class Group:
    """Templates that share their steps; `templates` are their numbers among all layouts."""

    templates: Integers
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Program:
    """All groups; chain number i follows template i modulo `layouts`."""

    layouts: int
    groups: tuple[Group, ...]

    @property
    def depth(self) -> int:
        """Nodes of the longest layout."""
        return max(len(group.steps) for group in self.groups)


class Place(NamedTuple):
    """What a step has whatever the rates: `sorts` [template] are numbers among the sorts of its outline."""

    node: Node
    sorts: Integers
    parents: Integers
    same_parents: tuple[int, ...] | None
    on_way: npt.NDArray[np.bool_]


class Outline(NamedTuple):
    """Layouts without rates: groups of templates with their places, and one node for every sort of nodes.

    Nodes are of one sort where they differ in nothing but their name, place and which parents they have.
    """

    layouts: int
    groups: tuple[tuple[Integers, tuple[Place, ...]], ...]
    sorts: tuple[Node, ...]


class Sort(NamedTuple):
    """The numbers of one sort of nodes. Slopes are of what grows with the place; the others as in `Step`.

    `drift` is the slope of what lies behind `deepest`, the fitted depth.
    """

    logit: float
    wrong: float
    position: float
    prompt: float
    before: float
    masks: tuple[float, ...]
    luck: tuple[float, ...]
    sampled: tuple[float, float]
    together: tuple[float, float]
    checks: tuple[float, float]
    cost: HopCost | None
    drift: float
    deepest: int


def outline_of(layouts: Sequence[Layout]) -> Outline:
    """Group the layouts.

    Raises:
        SimulationError: there is none.
    """
    if not layouts:
        raise SimulationError("there is no task to simulate; the suite has none at this depth")
    by_shape: dict[tuple[object, ...], list[int]] = {}
    for number, layout in enumerate(layouts):
        by_shape.setdefault(tuple(map(_shape, layout.nodes)), []).append(number)
    sorts: dict[tuple[object, ...], tuple[int, Node]] = {}
    groups = [
        (np.array(numbers, dtype=np.intp), tuple(_places([layouts[number] for number in numbers], sorts)))
        for numbers in by_shape.values()
    ]
    return Outline(len(layouts), tuple(groups), tuple(node for _, node in sorts.values()))


def _shape(node: Node) -> tuple[object, ...]:
    return tuple(node.model_dump(exclude={"id", "parents", "family", "kind", "arm"}).values())


def _setting(node: Node) -> tuple[object, ...]:
    return tuple(node.model_dump(exclude={"id", "parents", "family", "kind"}).values())


def _places(layouts: Sequence[Layout], sorts: dict[tuple[object, ...], tuple[int, Node]]) -> Iterator[Place]:
    names = [{node.id: place for place, node in enumerate(layout.nodes)} for layout in layouts]
    needed = [_on_way(layout, of) for layout, of in zip(layouts, names, strict=True)]
    depth = len(layouts[0].nodes)
    for place, node in enumerate(layouts[0].nodes):
        nodes = [layout.nodes[place] for layout in layouts]
        keys = [(*_setting(one), one.family, one.kind, len(one.parents)) for one in nodes]
        numbers = [sorts.setdefault(key, (len(sorts), one))[0] for key, one in zip(keys, nodes, strict=True)]
        parents = [[of[parent] for parent in one.parents] for one, of in zip(nodes, names, strict=True)]
        most = max(map(len, parents))
        padded = np.array([[*own, *[depth] * (most - len(own))] for own in parents], dtype=np.intp).reshape(len(nodes), most)
        same = tuple(parents[0]) if all(own == parents[0] for own in parents) else None
        on_way = np.array([flags[place] for flags in needed])
        yield Place(node, np.array(numbers, dtype=np.intp), padded, same, on_way)


def _on_way(layout: Layout, places: dict[str, int]) -> list[bool]:
    """For each node: does the last one need it? The last one counts itself."""
    needed = [False] * len(layout.nodes)
    needed[-1] = True
    for place in reversed(range(len(layout.nodes))):
        if needed[place]:
            for parent in layout.nodes[place].parents:
                needed[places[parent]] = True
    return needed


def compile_program(outline: Outline, rates: Rates, arm: str) -> Program:
    """Every number that the simulation needs.

    Args:
        arm: answers where a node names none.

    Raises:
        SimulationError: an arm or family that the model does not know, or a checker of unknown worth.
    """
    most = max(place.parents.shape[1] for _, places in outline.groups for place in places)
    sorts = [_sort(rates, node.arm or arm, node, most) for node in outline.sorts]
    table = _Table(sorts)
    groups = [
        Group(templates, tuple(table.step(place, number) for number, place in enumerate(places)))
        for templates, places in outline.groups
    ]
    return Program(outline.layouts, tuple(groups))


def _sort(rates: Rates, arm: str, node: Node, most: int) -> Sort:
    family, kind, parents = node.family, node.kind, len(node.parents)
    base = rates.slope(arm, "parents", family) * covariate("parents", max(1, parents))
    change = rates.slope(arm, "wrong_parents", family)
    greedy, drawn = (rates.slip_logit(arm, family, kind, temperature) for temperature in (GREEDY, node.temperature))
    wrong, drawn_wrong = (rates.slip_logit(arm, family, "", temperature) + change for temperature in (GREEDY, node.temperature))
    repeats = rates.repeats(arm, family)
    return Sort(
        logit=greedy + base,
        wrong=wrong,
        position=rates.slope(arm, "position", family),
        prompt=rates.slope(arm, "prompt", family),
        before=rates.slope(arm, "errors_before", family),
        masks=(0.0, *(rates.mask(family, kind, parents, wrong) for wrong in range(1, most + 1))),
        luck=(0.0, *(rates.luck(family, parents, wrong) for wrong in range(1, most + 1))),
        sampled=(drawn + base, drawn_wrong),
        together=(repeats.correlation, repeats.agreement),
        checks=_checking(rates, arm, node),
        cost=rates.model.arm(arm).costs.get(family),
        drift=rates.drift(arm, family),
        deepest=rates.model.family(family).deepest,
    )


class _Table:
    """The numbers of all sorts as arrays, from which steps are looked up."""

    def __init__(self, sorts: Sequence[Sort]) -> None:
        self._sorts = sorts
        self._logit, self._wrong, self._position, self._prompt, self._before = np.array([one[:5] for one in sorts]).T
        self._masks, self._luck = np.array([one.masks for one in sorts]), np.array([one.luck for one in sorts])
        self._together, self._checks = np.array([one.together for one in sorts]), np.array([one.checks for one in sorts])
        self._cost = np.array([_call(one.cost) for one in sorts])
        self._growth = np.array([0.0 if one.cost is None else one.cost.prompt_growth for one in sorts])
        self._drift, self._deepest = np.array([(one.drift, max(1, one.deepest)) for one in sorts]).T
        self._latency = np.array([_known(None if one.cost is None else one.cost.latency_s) for one in sorts])
        self._quantiles: dict[tuple[int, float], Floats] = {}

    def step(self, place: Place, number: int) -> Step:
        """The step at a place, counted from 0."""
        own = place.sorts
        drifted = self._drift[own] * np.maximum(0.0, np.log2((number + 1) / self._deepest[own]))
        more = self._position[own] * covariate("position", number + 1) + self._prompted(own, number) + drifted
        costs = self._cost[own].copy()
        costs[:, 0] += self._growth[own] * number
        logit = self._logit[own] + more
        return Step(
            node=place.node,
            parents=place.parents,
            same_parents=place.same_parents,
            right=probability(logit).astype(np.float32),
            wrong=probability(self._wrong[own]).astype(np.float32),
            logit=logit,
            before=self._before[own],
            masks=self._masks[own],
            luck=self._luck[own],
            tables=self._tables(place, more),
            together=self._together[own],
            detection=self._checks[own, 0],
            false_alarm=self._checks[own, 1],
            on_way=place.on_way,
            costs=costs,
            latency_s=self._latency[own],
        )

    def _prompted(self, own: Integers, number: int) -> Floats:
        """[template] what the length of the prompt adds to the logit."""
        slopes: Floats = self._prompt[own]
        if not slopes.any():
            return slopes
        tokens = np.nan_to_num(self._cost[own, 0], nan=32.0) + self._growth[own] * number
        found: Floats = slopes * np.array([covariate("prompt", count) for count in tokens.tolist()])
        return found

    def _tables(self, place: Place, more: Floats) -> Floats:
        """[template, wrong parents or not, GRID]; empty where the node is drawn once."""
        if place.node.op not in SEVERAL:
            return np.zeros((len(place.sorts), 2, 0))
        found = []
        for sort, added in zip(place.sorts.tolist(), more.tolist(), strict=True):
            key = sort, added
            if key not in self._quantiles:
                right, wrong = self._sorts[sort].sampled
                means = probability(np.array([right + added, wrong])).tolist()
                correlation = self._sorts[sort].together[0]
                self._quantiles[key] = np.array([quantiles(mean, correlation) for mean in means])
            found.append(self._quantiles[key])
        return np.array(found)


def _known(number: float | None) -> float:
    return np.nan if number is None else number


def _call(cost: HopCost | None) -> tuple[float, float, float]:
    """Prompt tokens at the first place, generated tokens and joules of one call; NaN where not measured."""
    if cost is None:
        return np.nan, np.nan, np.nan
    return cost.prompt_tokens, cost.completion_tokens, _known(cost.energy_j)


def _checking(rates: Rates, arm: str, node: Node) -> tuple[float, float]:
    """Detection and false alarms of a checker that judges.

    Raises:
        SimulationError: neither the node nor the model says what they are.
    """
    if node.op != "judge":
        return 0.0, 0.0
    fitted = rates.model.arm(arm).checking
    detection, alarm = node.detection, node.false_alarm
    if fitted is not None:
        detection = fitted.detection.mean if detection is None else detection
        alarm = fitted.false_alarm.mean if alarm is None else alarm
    if detection is None or alarm is None:
        raise SimulationError(
            f"node '{node.id}': no checker was seen in the runs of arm '{arm}'; give its rates with --detection and --false-alarm"
        )
    return detection, alarm


def quantiles(mean: float, correlation: float) -> Floats:
    """[GRID] the probability of a slip at evenly spaced cube roots of 1 − difficulty, from the hardest hop to the easiest.

    The Beta distribution of that mean whose draws correlate so within a hop; at a correlation of 1 only its mean, since there
    every draw is the same.
    """
    upper = np.linspace(0.0, 1.0, GRID) ** 3
    if correlation <= 0 or correlation >= 1 or mean in (0.0, 1.0):
        return np.full(GRID, mean)
    size = (1 - correlation) / correlation
    found: Floats = betaincinv(mean * size, (1 - mean) * size, 1 - upper)
    return found


def probability(logit: Floats) -> Floats:
    """The inverse of the logit."""
    found: Floats = expit(logit)
    return found
