"""What an arm's work cost: energy of the window apportioned to suites and tasks, and what one solved task took.

Ratios are sums over sums, as they are paid, with a 95 % interval over tasks by the delta method: it tells how much the figure
would move with other tasks of the same kind, not how exact the meter is.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qtrap_agents.analysis.attribution import Attribution, HopTimes, Kind, Shares, attribute
from qtrap_agents.analysis.statistics import Interval
from qtrap_agents.measures import EnergyWindow, Reading, ServerStats, Spread, together
from qtrap_agents.types import Record

TaskOf = tuple[str, str]
"""Suite and task."""

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


class Ratio(Record):
    """A sum divided by a sum over `n` tasks, with its 95 % interval over tasks."""

    value: float
    interval: Interval
    n: int


class Cost(Record):
    """What an arm's run took, all attempts together: wall seconds of generating, and joules. None: not measured.

    `residual_j` and `residual_s` are what no hop was in flight for. `idle_j` is what the idle device would have used in the
    same time; it is part of `energy_j`. `attribution` says how hops came to their parts. `ttft` and `inter_token` are as the
    completions tell, `server` is what the engine itself counted.
    """

    wall_s: float | None = None
    energy_j: float | None = None
    meter: str | None = None
    tdp_w: float | None = None
    idle_w: float | None = None
    idle_j: float | None = None
    residual_s: float | None = None
    residual_j: float | None = None
    attribution: Kind | None = None
    ttft: Spread | None = None
    inter_token: Spread | None = None
    server: ServerStats | None = None

    @property
    def idle_share(self) -> float | None:
        """Share of the energy that the idle device would have used too."""
        return None if self.idle_j is None or not self.energy_j else self.idle_j / self.energy_j

    @property
    def tdp_proxy_j(self) -> float | None:
        """Power limit × time: what stands for energy where nothing is measured. Not a measurement."""
        return None if self.tdp_w is None or self.wall_s is None else self.tdp_w * self.wall_s


@dataclass(frozen=True)
class Spending:
    """Joules and seconds of the device, task by task, all attempts of a task together; a task is named with its suite."""

    joules: Mapping[TaskOf, float] | None = None
    seconds: Mapping[TaskOf, float] = field(default_factory=dict)

    def suite(self, name: str) -> Cost:
        """The part of one suite: what its hops took, without the residual."""
        joules = None if self.joules is None else math.fsum(_of(self.joules, name))
        return Cost(energy_j=joules, wall_s=math.fsum(_of(self.seconds, name)) if self.seconds else None)


def _of(parts: Mapping[TaskOf, float], suite: str) -> list[float]:
    return [part for (own, _), part in parts.items() if own == suite]


def spent(hops: HopTimes, windows: Sequence[EnergyWindow], readings: Iterable[Reading]) -> tuple[Cost, Spending]:
    """The cost of one arm in one run and its parts. Meter, power limit and the engine's counters are left to the caller."""
    found = attribute(hops, windows, readings)
    cost = Cost(ttft=hops.ttft, inter_token=hops.inter_token, **_idle(windows))
    if found is None:
        return cost, Spending()
    known = cost.model_copy(update=_residuals(found))
    return known, Spending(joules=_by_task(hops, found.joules), seconds=hops.by_task(found.seconds.hops))


def _residuals(found: Attribution) -> dict[str, object]:
    joules = None if found.joules is None else found.joules.residual
    return {"residual_s": found.seconds.residual, "residual_j": joules, "attribution": found.kind}


def _by_task(hops: HopTimes, shares: Shares | None) -> dict[TaskOf, float] | None:
    return None if shares is None else hops.by_task(shares.hops)


def _idle(windows: Sequence[EnergyWindow]) -> dict[str, float]:
    """Idle energy and mean idle power; nothing where one window has none."""
    used = [window for window in windows if window.wall_s > 0]
    if not used or any(window.idle_w is None for window in used):
        return {}
    idle_j = math.fsum((window.idle_w or 0.0) * window.wall_s for window in used)
    return {"idle_j": idle_j, "idle_w": idle_j / math.fsum(window.wall_s for window in used)}


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[float], share: float = 1.0) -> Ratio | None:
    """Sum over sum, task by task paired, with its interval; None where the denominators sum to nothing.

    Args:
        share: divides the ratio: the part of all costs that the numerators hold, where a residual is to be spread over them.
    """
    above, below = np.array(numerators, dtype=float), np.array(denominators, dtype=float)
    total = float(below.sum())
    if total <= 0 or share <= 0:
        return None
    value = float(above.sum()) / total
    half = Z * math.sqrt(len(above) * float(np.var(above - value * below, ddof=1))) / total if len(above) > 1 else math.inf
    ends = (None, None) if math.isinf(half) else (max(0.0, value - half) / share, (value + half) / share)
    return Ratio(value=value / share, interval=Interval(low=ends[0], high=ends[1], confidence=0.95), n=len(above))


def per_correct(spending: Spending, correct: Counter[TaskOf], residual_j: float, suite: str | None = None) -> Ratio | None:
    """Joules per task solved, of one suite or of all with the residual; None where not measured or nothing was solved."""
    if spending.joules is None:
        return None
    tasks = [task for task in spending.joules if suite in (None, task[0])]
    joules = [spending.joules[task] for task in tasks]
    own = math.fsum(joules)
    share = own / (own + residual_j) if suite is None and own else 1.0
    return ratio_of_sums(joules, [correct[task] for task in tasks], share)


def against(ours: Mapping[TaskOf, float] | None, theirs: Mapping[TaskOf, float] | None) -> Ratio | None:
    """What the tasks that both did took on an arm, over what they took on the baseline, residuals left out."""
    if ours is None or theirs is None:
        return None
    common = [task for task in ours if task in theirs]
    return ratio_of_sums([ours[task] for task in common], [theirs[task] for task in common])


def added(costs: Sequence[Cost], kinds: Iterable[Spending]) -> tuple[Cost, Spending]:
    """One arm over several runs; its latencies are left out, since quantiles do not add up."""
    if len(costs) == 1:
        return costs[0], next(iter(kinds))
    parts = list(kinds)
    wall_s, idle_j = _sum([cost.wall_s for cost in costs]), _sum([cost.idle_j for cost in costs])
    cost = Cost(
        wall_s=wall_s,
        energy_j=_sum([cost.energy_j for cost in costs]),
        meter=next((cost.meter for cost in costs if cost.meter), None),
        tdp_w=next((cost.tdp_w for cost in costs if cost.tdp_w), None),
        idle_j=idle_j,
        idle_w=idle_j / wall_s if idle_j is not None and wall_s else None,
        residual_s=_sum([cost.residual_s for cost in costs]),
        residual_j=_sum([cost.residual_j for cost in costs]),
        attribution="prorated" if any(cost.attribution == "prorated" for cost in costs) else costs[0].attribution,
        server=together([cost.server for cost in costs]),
    )
    joules = None if any(part.joules is None for part in parts) else _merged([part.joules or {} for part in parts])
    return cost, Spending(joules=joules, seconds=_merged([part.seconds for part in parts]))


def _merged(parts: Sequence[Mapping[TaskOf, float]]) -> dict[TaskOf, float]:
    found: dict[TaskOf, float] = {}
    for part in parts:
        for task, amount in part.items():
            found[task] = found.get(task, 0.0) + amount
    return found


def _sum(parts: Sequence[float | None]) -> float | None:
    """None where one part was not measured."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
