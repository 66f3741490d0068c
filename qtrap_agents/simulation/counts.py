"""Observations of hops as counts: what is kept of runs, whatever their length. `observations` fills them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from qtrap_agents.analysis.roles import Checks
from qtrap_agents.types import Hop

_EXACT = 16
"""Up to this a position or a number of errors is kept as it is; above that in steps of an eighth of an octave."""


class Cell(NamedTuple):
    """Hops that are alike in all that a slip may depend on. `temperature` 0 is greedy, `position` counts from 1.

    `prompt_tokens` are those that the family's hops have at this position, filled in by the fit: a hop's own number is a matter
    of its values, which nobody knows of a chain that was not run.
    """

    family: str
    kind: str
    temperature: float
    position: int
    parents: int
    wrong: int
    errors_before: int
    prompt_tokens: float = 0.0


class Place(NamedTuple):
    """What a mask depends on: family, kind, number of parents, how many of them are wrong."""

    family: str
    kind: str
    parents: int
    wrong: int


class Cluster(NamedTuple):
    """Draws of one hop and how many of them slipped."""

    draws: int
    slips: int


@dataclass
class Count:
    """Events of `n` observations."""

    events: int = 0
    n: int = 0

    def note(self, event: bool) -> None:
        """One more observation."""
        self.events += event
        self.n += 1


@dataclass
class CostSums:
    """Sums over the plain hops of a family; `joules` are of `calls` model calls of any kind, in runs that measured them."""

    hops: int = 0
    prompt: int = 0
    completion: int = 0
    latency_s: float = 0.0
    position: int = 0
    position_squared: int = 0
    position_prompt: int = 0
    prompt_squared: int = 0
    joules: float = 0.0
    calls: int = 0

    def note(self, hop: Hop, position: int) -> None:
        """One more hop."""
        spent_on = hop.completion
        self.hops += 1
        self.prompt += spent_on.prompt_tokens
        self.completion += spent_on.completion_tokens
        self.latency_s += spent_on.latency_s
        self.position += position
        self.position_squared += position * position
        self.position_prompt += position * spent_on.prompt_tokens
        self.prompt_squared += spent_on.prompt_tokens * spent_on.prompt_tokens


@dataclass
class RepeatCounts:
    """Hops drawn several times, and pairs of slips of one hop, of which `events` state the same value.

    `plain` has the number of draws of every hop that is in the cells, 1 included; the samples of a vote are in no cell.
    """

    clusters: Counter[Cluster] = field(default_factory=Counter)
    plain: Counter[int] = field(default_factory=Counter)
    pairs: Count = field(default_factory=Count)


@dataclass
class ArmCounts:
    """All observations of one arm.

    `cells` are of plain hops, and so are `fates`, by family and temperature: `right` and `own` on right parents; `recovered`,
    `inherited`, `compounded` on wrong ones; `unjudged` where the right consequence cannot be told: its rule has no value for
    what was stated, or there is none. `masks` are hops on wrong parents whose right consequence equals gold; a rule without a
    value masks nothing, and without a rule a right statement stands for a masked one. `luck` are slips on wrong parents that
    state gold. `chains` are judged answers by family, temperature and depth. `together` counts premises that were not stated by
    one call of their own, `again` greedy hops that were asked before in the same words, `injected` hops after injected faults,
    which are in all of this, but their masks by themselves in `injected_masks`.
    """

    cells: dict[Cell, Count] = field(default_factory=dict)
    fates: dict[tuple[str, float], Counter[str]] = field(default_factory=dict)
    masks: dict[Place, Count] = field(default_factory=dict)
    injected_masks: dict[Place, Count] = field(default_factory=dict)
    luck: dict[Place, Count] = field(default_factory=dict)
    chains: dict[tuple[str, float, int], Count] = field(default_factory=dict)
    costs: dict[str, CostSums] = field(default_factory=dict)
    repeats: dict[str, RepeatCounts] = field(default_factory=dict)
    checks: Checks | None = None
    calls: int = 0
    failures: int = 0
    together: int = 0
    again: int = 0
    injected: int = 0
    weight_bytes: int | None = None


@dataclass
class FamilyCounts:
    """Gold premises of the tasks of a family; `masks` are rules executed on counterfactual wrong parents."""

    kinds: Counter[str] = field(default_factory=Counter)
    parents: int = 0
    without_rule: int = 0
    depths: set[int] = field(default_factory=set)
    masks: dict[Place, Count] = field(default_factory=dict)

    @property
    def premises(self) -> int:
        """Number of gold premises."""
        return sum(self.kinds.values())


class Observations(NamedTuple):
    """All that a model is fitted to. `runs` are run ids."""

    runs: tuple[str, ...]
    baseline: str
    arms: dict[str, ArmCounts]
    families: dict[str, FamilyCounts]


def rounded(number: int) -> int:
    """The number itself up to 16, above that in steps of an eighth of an octave, so that there are few different ones."""
    if number <= _EXACT:
        return number
    step = 1 << (number.bit_length() - 4)
    return (number + step // 2) // step * step
