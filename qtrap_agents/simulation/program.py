"""Layouts and rates made ready for numpy: for every place of a chain one step, with the numbers of every template.

Layouts with equally many nodes and the same operations, arms and settings at every place share a group; families, kinds and
parents may differ between them: they are looked up by template.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

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


def compile_program(layouts: Sequence[Layout], rates: Rates, arm: str) -> Program:
    """Every number that the simulation needs.

    Args:
        arm: answers where a node names none.

    Raises:
        SimulationError: no layout, or an arm or family that the model does not know.
    """
    if not layouts:
        raise SimulationError("there is no task to simulate; the suite has none at this depth")
    by_shape: dict[tuple[object, ...], list[int]] = {}
    for number, layout in enumerate(layouts):
        by_shape.setdefault(tuple(map(_setting, layout.nodes)), []).append(number)
    groups = [_group(numbers, [layouts[number] for number in numbers], rates, arm) for numbers in by_shape.values()]
    return Program(len(layouts), tuple(groups))


def _setting(node: Node) -> tuple[object, ...]:
    return tuple(node.model_dump(exclude={"id", "parents", "family", "kind"}).values())


def _group(numbers: Sequence[int], layouts: Sequence[Layout], rates: Rates, arm: str) -> Group:
    places = [{node.id: place for place, node in enumerate(layout.nodes)} for layout in layouts]
    needed = [_on_way(layout, place) for layout, place in zip(layouts, places, strict=True)]
    steps = []
    for place, node in enumerate(layouts[0].nodes):
        nodes = [layout.nodes[place] for layout in layouts]
        parents = [[of[parent] for parent in node.parents] for node, of in zip(nodes, places, strict=True)]
        on_way = np.array([flags[place] for flags in needed])
        steps.append(_step(nodes, parents, len(layouts[0].nodes), place, on_way, rates, node.arm or arm))
    return Group(np.array(numbers, dtype=np.intp), tuple(steps))


def _on_way(layout: Layout, places: dict[str, int]) -> list[bool]:
    """For each node: does the last one need it? The last one counts itself."""
    needed = [False] * len(layout.nodes)
    needed[-1] = True
    for place in reversed(range(len(layout.nodes))):
        if needed[place]:
            for parent in layout.nodes[place].parents:
                needed[places[parent]] = True
    return needed


def _step(
    nodes: Sequence[Node],
    parents: Sequence[Sequence[int]],
    depth: int,
    place: int,
    on_way: npt.NDArray[np.bool_],
    rates: Rates,
    arm: str,
) -> Step:
    node, most = nodes[0], max(map(len, parents))
    padded = np.array([[*own, *[depth] * (most - len(own))] for own in parents], dtype=np.intp).reshape(len(nodes), most)
    costs = [_cost(rates, arm, one.family) for one in nodes]
    checks = [_checking(rates, arm, one) for one in nodes]
    logit = _each(nodes, lambda one: _right(rates, arm, one, place, GREEDY))
    return Step(
        node=node,
        parents=padded,
        same_parents=tuple(parents[0]) if all(own == parents[0] for own in parents) else None,
        right=probability(logit).astype(np.float32),
        wrong=probability(_each(nodes, lambda one: _wrong(rates, arm, one, GREEDY))).astype(np.float32),
        logit=logit,
        before=_each(nodes, lambda one: rates.slope(arm, "errors_before", one.family)),
        masks=_by_wrong(nodes, most, lambda one, wrong: rates.mask(one.family, one.kind, len(one.parents), wrong)),
        luck=_by_wrong(nodes, most, lambda one, wrong: rates.luck(one.family, len(one.parents), wrong)),
        tables=_tables(nodes, rates, arm, place),
        together=np.array([(of.correlation, of.agreement) for of in (rates.repeats(arm, one.family) for one in nodes)]),
        detection=np.array([detection for detection, _ in checks]),
        false_alarm=np.array([alarm for _, alarm in checks]),
        on_way=on_way,
        costs=np.array([_call(cost, place) for cost in costs]),
        latency_s=np.array([np.nan if cost is None or cost.latency_s is None else cost.latency_s for cost in costs]),
    )


def _each(nodes: Sequence[Node], number: Callable[[Node], float]) -> Floats:
    return np.array([number(node) for node in nodes], dtype=np.float64)


def _tables(nodes: Sequence[Node], rates: Rates, arm: str, place: int) -> Floats:
    """[template, wrong parents or not, GRID]; empty where the node is drawn once."""
    if nodes[0].op not in SEVERAL:
        return np.zeros((len(nodes), 2, 0))
    found = []
    for one in nodes:
        logits = np.array([_right(rates, arm, one, place, one.temperature), _wrong(rates, arm, one, one.temperature)])
        correlation = rates.repeats(arm, one.family).correlation
        found.append([quantiles(mean, correlation) for mean in probability(logits).tolist()])
    return np.array(found)


def _by_wrong(nodes: Sequence[Node], most: int, number: Callable[[Node, int], float]) -> Floats:
    """[template, wrong parents from 0]; the first column is never used."""
    return np.array([[0.0, *(number(node, wrong) for wrong in range(1, most + 1))] for node in nodes])


def _right(rates: Rates, arm: str, node: Node, place: int, temperature: float) -> float:
    """Logit of a slip on right parents, no error before."""
    cost = _cost(rates, arm, node.family)
    prompt = 32.0 if cost is None else cost.prompt_tokens + cost.prompt_growth * place
    return (
        rates.slip_logit(arm, node.family, node.kind, temperature)
        + rates.slope(arm, "position", node.family) * covariate("position", place + 1)
        + rates.slope(arm, "parents", node.family) * covariate("parents", max(1, len(node.parents)))
        + rates.slope(arm, "prompt", node.family) * covariate("prompt", prompt)
    )


def _wrong(rates: Rates, arm: str, node: Node, temperature: float) -> float:
    """Logit of a slip where a parent is in error."""
    return rates.slip_logit(arm, node.family, node.kind, temperature) + rates.slope(arm, "wrong_parents", node.family)


def _cost(rates: Rates, arm: str, family: str) -> HopCost | None:
    return rates.model.arm(arm).costs.get(family)


def _call(cost: HopCost | None, place: int) -> tuple[float, float, float]:
    """Prompt tokens, generated tokens and joules of one call; NaN where not measured."""
    if cost is None:
        return np.nan, np.nan, np.nan
    energy_j = np.nan if cost.energy_j is None else cost.energy_j
    return cost.prompt_tokens + cost.prompt_growth * place, cost.completion_tokens, energy_j


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


@lru_cache(maxsize=65536)
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
