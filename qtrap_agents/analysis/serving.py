"""What serving costs, arm by arm: windows of the same token work in, ratios to the baseline with intervals and crossings out.

An arm is compared with the baseline within each repeat, in which both did the same requests one after the other; the
interval of a ratio is Student's t over the logarithms of these paired ratios.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from scipy.stats import t

from qtrap_agents.analysis.statistics import Interval
from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.measures import Spread, Window
from qtrap_agents.types import Record

Place = tuple[int, int, int]
"""Prompt tokens, new tokens, concurrency."""

Quantity = Literal["time", "energy"]


class Estimate(Record):
    """A geometric mean over `n` repeats with its 95 % interval; without an end where one repeat tells of no spread."""

    value: float
    interval: Interval
    n: int


class ServingCell(Record):
    """An arm at one place. What divides by the baseline is None for the baseline itself, energies where not measured.

    `time` is T_q / T_16 for the same token work, `energy` the same of joules; `tdp` is the energy ratio that power limit
    × time would have shown. `request_s` is the wall time of one round: new tokens of one request at this concurrency.
    """

    arm: str
    prompt_tokens: int
    new_tokens: int
    concurrency: int
    output_tokens_per_s: Estimate
    energy_per_token_j: Estimate | None = None
    power_w: Estimate | None = None
    request_s: Estimate
    ttft: Spread | None = None
    inter_token: Spread | None = None
    time: Estimate | None = None
    energy: Estimate | None = None
    tdp: Estimate | None = None
    errors: int = 0

    @property
    def place(self) -> Place:
        """Where it was measured."""
        return self.prompt_tokens, self.new_tokens, self.concurrency

    @property
    def cor_latency(self) -> float | None:
        """T_q / T_16 − 1 on equal token counts, batch size and hardware; negative where the arm is faster."""
        return None if self.time is None else self.time.value - 1

    @property
    def throughput(self) -> float | None:
        """Output tokens per second relative to the baseline."""
        return None if self.time is None else 1 / self.time.value


class Crossing(Record):
    """Between which measured concurrencies an arm starts or stops paying; `concurrency` is interpolated on a log scale.

    `stops` is True where the arm pays below and costs above. `certain` is True where the intervals at both ends exclude 1.
    """

    arm: str
    quantity: Quantity
    prompt_tokens: int
    new_tokens: int
    below: int
    above: int
    concurrency: float
    stops: bool
    certain: bool


class Serving(Record):
    """A bench: all cells, ordered by prompt length, concurrency and arm, and the crossings."""

    baseline: str
    arms: tuple[str, ...]
    cells: tuple[ServingCell, ...]
    crossings: tuple[Crossing, ...]

    def of(self, arm: str) -> tuple[ServingCell, ...]:
        """The cells of an arm."""
        return tuple(cell for cell in self.cells if cell.arm == arm)
