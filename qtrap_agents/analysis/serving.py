"""What serving costs, arm by arm: windows of the same token work in, ratios to the baseline with intervals and crossings out.

An arm is compared with the baseline within each repeat, in which both did the same requests one after the other; the
interval of a ratio is Student's t over the logarithms of these paired ratios.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Literal

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


def summarise(windows: Iterable[Window], baseline: str) -> Serving:
    """All cells and crossings of a bench. Of a window that was measured again after a resume the last one counts.

    Raises:
        ConfigError: the baseline has no window.
    """
    found = {(window.arm, window.cell, window.repeat): window for window in windows}
    arms = tuple(dict.fromkeys(arm for arm, _, _ in found))
    if baseline not in arms:
        raise ConfigError(unknown("baseline arm", baseline, arms))
    arms = (baseline, *(arm for arm in arms if arm != baseline))
    repeats: dict[tuple[str, Place], _Repeats] = {}
    for (arm, place, repeat), window in sorted(found.items(), key=lambda item: item[0][2]):
        repeats.setdefault((arm, place), {})[repeat] = window
    places = sorted({place for _, place in repeats})
    cells = tuple(
        _cell(arm, place, repeats[arm, place], repeats.get((baseline, place), {}), arm == baseline)
        for place in places
        for arm in arms
        if (arm, place) in repeats
    )
    return Serving(baseline=baseline, arms=arms, cells=cells, crossings=tuple(_crossings(cells)))


_Repeats = dict[int, Window]
_Measure = Callable[[Window], float | None]


def _cell(arm: str, place: Place, own: _Repeats, base: _Repeats, is_baseline: bool) -> ServingCell:
    last = own[max(own)]
    return ServingCell(
        arm=arm,
        prompt_tokens=place[0],
        new_tokens=place[1],
        concurrency=place[2],
        output_tokens_per_s=_needed(_absolute(own, lambda window: window.output_tokens_per_s)),
        energy_per_token_j=_absolute(own, lambda window: window.energy_per_token_j),
        power_w=_absolute(own, lambda window: None if window.energy_j is None else window.energy_j / window.wall_s),
        request_s=_needed(_absolute(own, _round_s)),
        ttft=last.ttft,
        inter_token=last.inter_token,
        time=None if is_baseline else _paired(own, base, lambda window: window.wall_s / window.output_tokens),
        energy=None if is_baseline else _paired(own, base, lambda window: window.energy_per_token_j),
        tdp=None if is_baseline else _paired(own, base, _tdp_per_token_j),
        errors=sum(window.errors for window in own.values()),
    )


def _round_s(window: Window) -> float:
    return window.wall_s * window.concurrency / window.requests


def _tdp_per_token_j(window: Window) -> float | None:
    return None if window.tdp_w is None else window.tdp_w * window.wall_s / window.output_tokens


def _absolute(own: _Repeats, measure: _Measure) -> Estimate | None:
    return estimate([measure(window) for window in own.values()])


def _paired(own: _Repeats, base: _Repeats, measure: _Measure) -> Estimate | None:
    pairs = [(measure(own[repeat]), measure(base[repeat])) for repeat in own if repeat in base]
    return estimate([None if mine is None or theirs is None else mine / theirs for mine, theirs in pairs])


def _needed(found: Estimate | None) -> Estimate:
    assert found is not None
    return found


def estimate(values: Sequence[float | None], confidence: float = 0.95) -> Estimate | None:
    """Geometric mean and Student's t interval of positive values; None without values or where one was not measured."""
    known = [value for value in values if value is not None and value > 0]
    if not known or len(known) < len(values):
        return None
    logs = [math.log(value) for value in known]
    middle, interval = fmean(logs), Interval(low=None, high=None, confidence=confidence)
    if len(logs) > 1:
        half = float(t.ppf((1 + confidence) / 2, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs))
        interval = Interval(low=math.exp(middle - half), high=math.exp(middle + half), confidence=confidence)
    return Estimate(value=math.exp(middle), interval=interval, n=len(logs))


def _crossings(cells: Sequence[ServingCell]) -> Iterable[Crossing]:
    lines: dict[tuple[str, int, int], list[ServingCell]] = {}
    for cell in cells:
        lines.setdefault((cell.arm, cell.prompt_tokens, cell.new_tokens), []).append(cell)
    for line in lines.values():
        for below, above in pairwise(sorted(line, key=lambda cell: cell.concurrency)):
            yield from _between(below, above, "time", below.time, above.time)
            yield from _between(below, above, "energy", below.energy, above.energy)


def _between(
    below: ServingCell, above: ServingCell, quantity: Quantity, left: Estimate | None, right: Estimate | None
) -> Iterable[Crossing]:
    if left is None or right is None or (left.value < 1) == (right.value < 1):
        return
    start, end = math.log(left.value), math.log(right.value)
    share = start / (start - end)
    yield Crossing(
        arm=below.arm,
        quantity=quantity,
        prompt_tokens=below.prompt_tokens,
        new_tokens=below.new_tokens,
        below=below.concurrency,
        above=above.concurrency,
        concurrency=below.concurrency * (above.concurrency / below.concurrency) ** share,
        stops=left.value < 1,
        certain=excludes_one(left) and excludes_one(right),
    )


def excludes_one(ratio: Estimate) -> bool:
    """True where the 95 % interval of a ratio lies on one side of 1."""
    low, high = ratio.interval.low, ratio.interval.high
    return low is not None and high is not None and not low <= 1 <= high
