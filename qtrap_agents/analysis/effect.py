"""What quantisation does to success, and what the same arm does to itself: the effect of an arm and the noise floor."""

from collections.abc import Mapping

from qtrap_agents.analysis.paired import (
    PairedCounts,
    PairedDifference,
    PairedSample,
    Unit,
    Verdict,
    further_tasks_needed,
    mcnemar_unit,
    paired_difference,
    paired_p,
    verdict,
)
from qtrap_agents.analysis.statistics import Interval, holm
from qtrap_agents.types import Record

Name = tuple[str, str | None]
"""An arm, and a suite or None for all of them."""


class Contrast(Record):
    """A serving of the model against the baseline, on the tasks and seeds that both were judged on.

    `counts` are pairs of answers to `tasks` different tasks; `p` is exact McNemar's, counted in `unit`.
    """

    counts: PairedCounts
    tasks: int
    intervals: PairedDifference
    p: float
    unit: Unit

    @property
    def difference(self) -> Interval:
        """The 95 % interval of the difference that verdicts are read from."""
        return self.intervals.interval


class NoiseFloor(Contrast):
    """The baseline against itself (A/A): served once more, in another batch composition and with a cold prefix cache."""

    @property
    def limit(self) -> float:
        """The largest difference that nothing but noise could make: the farther end of the 95 % interval."""
        return max(abs(end) for end in (self.difference.low, self.difference.high) if end is not None)


class Paired(Contrast):
    """An arm against the baseline.

    `p_holm` is `p` adjusted over all arms of the comparison (or all arms and suites), `further_tasks` the estimate of
    `further_tasks_needed` (0 where the verdict has fallen). `inside_floor` tells that the difference is no larger than
    the noise floor's `limit`; None where the floor was not measured.
    """

    p_holm: float
    verdict: Verdict
    further_tasks: int | None
    inside_floor: bool | None = None


def noise_floor(sample: PairedSample) -> NoiseFloor | None:
    """The floor from the pairs of the two servings of the baseline; None without pairs."""
    if not sample.counts.n:
        return None
    return NoiseFloor(
        counts=sample.counts,
        tasks=sample.tasks,
        intervals=paired_difference(sample),
        p=paired_p(sample),
        unit=mcnemar_unit(sample),
    )


def effects(
    samples: Mapping[Name, PairedSample], margin: float, floors: Mapping[str | None, NoiseFloor | None]
) -> dict[Name, Paired]:
    """Every sample as an effect beside the floor of its suite; p-values are adjusted over all samples."""
    p = {name: paired_p(sample) for name, sample in samples.items()}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    return {name: _paired(sample, p[name], adjusted[name], margin, floors.get(name[1])) for name, sample in samples.items()}


def _paired(sample: PairedSample, p: float, p_holm: float, margin: float, floor: NoiseFloor | None) -> Paired:
    intervals = paired_difference(sample)
    fallen = verdict(intervals.interval, margin)
    return Paired(
        counts=sample.counts,
        tasks=sample.tasks,
        intervals=intervals,
        p=p,
        unit=mcnemar_unit(sample),
        p_holm=p_holm,
        verdict=fallen,
        further_tasks=further_tasks_needed(sample, margin) if fallen == "undecided" else 0,
        inside_floor=_inside(sample.counts.difference, floor),
    )


def _inside(difference: float | None, floor: NoiseFloor | None) -> bool | None:
    return None if floor is None or difference is None else abs(difference) <= floor.limit
