"""The arms of one or several runs: what reports call them, and everything that one reading of their traces tells."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qtrap_agents.analysis.agreement import HopAgreement, hop_agreement
from qtrap_agents.analysis.attribution import HopTimes
from qtrap_agents.analysis.costs import Cost, Spending, added, spent
from qtrap_agents.analysis.summary import ArmAccumulator, accumulate
from qtrap_agents.config import AGAIN, ArmConfig, EngineConfig
from qtrap_agents.store import ArmTotals, LastSeen, RunDirectory
from qtrap_agents.types import ArmIdentity, Record, Task, Trace

IRRELEVANT = frozenset({"start_timeout_s", "request_timeout_s"})
"""Engine settings that change no result."""


MARKS = {"contradicted": " (unverified)", "emulated": " (emulated)"}
"""What an arm is called that does not hold, or does not compute with, what its checkpoint claims."""


LONGEST_KIND = 160

_QUOTED = re.compile(r"'[^']*'")


class ArmFacts(Record):
    """What belongs to an arm beside its summary.

    `label` is what reports call it: its name, or `name@run` where several runs have an arm of that name. `done` of
    `total` tasks have a stored trace. `error_kinds` counts traces that ended in an error, by what went wrong. `repeats` are
    further runs whose sampling seed alone differs; they count as one arm with `path`.
    """

    label: str
    arm: str
    run: str
    path: str
    done: int
    total: int
    error_kinds: dict[str, int]
    identity: ArmIdentity | None
    totals: ArmTotals
    repeats: tuple[str, ...] = ()

    @property
    def marked(self) -> str:
        """What tables call the arm."""
        return marked(self.label, self.identity)

    @property
    def finished(self) -> bool:
        """True where every task of the run has a trace."""
        return self.done >= self.total


class Place(NamedTuple):
    """Where traces are stored: a run and one of the arms that it served."""

    run: RunDirectory
    arm: str

    @property
    def config(self) -> ArmConfig:
        """How the arm was served."""
        return next(arm for arm in self.run.config.arms if arm.name == self.arm.removesuffix(AGAIN))

    @property
    def again(self) -> "Place":
        """The second serving of the same arm."""
        return Place(self.run, self.arm + AGAIN)

    @property
    def has_traces(self) -> bool:
        """True where at least one trace is stored."""
        return next(self.run.outlines(self.arm), None) is not None


class ServedArm(NamedTuple):
    """An arm by its label: traces of one place, or of several that differ in the sampling seed alone."""

    label: str
    places: tuple[Place, ...]

    @property
    def first(self) -> Place:
        """The place that its facts are taken from."""
        return self.places[0]

    @property
    def again(self) -> "ServedArm | None":
        """Its second serving; None where none has a stored trace."""
        places = tuple(place.again for place in self.places if place.again.has_traces)
        return ServedArm(self.label + AGAIN, places) if places else None


class ArmReader:
    """Reads the traces of an arm once, for its outcomes, its error messages and its times.

    `done` counts the tasks of every run that have a trace. With `by_seed` two answers to a task are told apart by the seed
    of their sampling, otherwise by the seed of the task.
    """

    def __init__(self, arm: ServedArm, tasks: Mapping[Path, Mapping[str, Task]], by_seed: bool) -> None:
        self.arm = arm
        self.seen = ArmAccumulator()
        self.done: dict[Path, int] = {}
        self._errors: Counter[str] = Counter()
        totals, costs = [], []
        for place in arm.places:
            before, last_seen, hops = len(self.seen.outcomes), LastSeen(), HopTimes()
            accumulate(self._watched(place, last_seen, hops, by_seed), tasks[place.run.path], self.seen)
            self.done[place.run.path] = len(self.seen.outcomes) - before
            totals.append(place.run.totals(place.arm, last_seen))
            costs.append(_spent(place, hops, totals[-1]))
        self.totals = _together(totals)
        self.cost, self.spending = added([cost for cost, _ in costs], [spending for _, spending in costs])

    def _watched(self, place: Place, last_seen: LastSeen, hops: HopTimes, by_seed: bool) -> Iterator[Trace]:
        shift = place.run.config.sampling.seed if by_seed else 0
        for trace in place.run.outlines(place.arm):
            last_seen.note(trace)
            hops.note(trace)
            if trace.error is not None:
                self._errors[error_kind(trace.error)] += 1
            yield trace.model_copy(update={"seed": trace.seed + shift}) if shift else trace

    def facts(self, run_name: str, sizes: Mapping[Path, int]) -> ArmFacts:
        """What belongs to the arm beside its outcomes; `sizes` are the numbers of tasks of the runs."""
        first = self.arm.first
        return ArmFacts(
            label=self.arm.label,
            arm=first.arm,
            run=run_name,
            path=str(first.run.path),
            done=sum(self.done.values()),
            total=sum(sizes[path] for path in self.done),
            error_kinds=dict(self._errors.most_common()),
            identity=first.run.identity(first.arm),
            totals=self.totals,
            repeats=tuple(str(place.run.path) for place in self.arm.places[1:]),
        )


def error_kind(error: str) -> str:
    """What a message has in common with others of its kind: its words before the colon, whatever names they quote."""
    return _QUOTED.sub("'…'", error.partition(": ")[0])[:LONGEST_KIND]


def _spent(place: Place, hops: HopTimes, totals: ArmTotals) -> tuple[Cost, Spending]:
    """What the arm took in one run."""
    cost, spending = spent(hops, totals.windows, place.run.readings(place.arm) if totals.energy_j is not None else ())
    shared = {name: getattr(totals, name) for name in ("wall_s", "energy_j", "meter", "tdp_w", "server")}
    return cost.model_copy(update=shared), spending


def marked(label: str, identity: ArmIdentity | None) -> str:
    """The label, with a mark where the arm is not what it claims to be."""
    verification = identity.verification if identity is not None else None
    return label + (MARKS.get(verification.status, "") if verification is not None else "")


def served_arms(runs: Sequence[RunDirectory]) -> tuple[ServedArm, ...]:
    """Every arm that has traces; where runs differ in the sampling seed alone, arms of one name are one."""
    names = run_names(runs)
    groups: dict[str, list[Place]] = {}
    for place in (Place(run, arm) for run in runs for arm in run.arms()):
        if place.has_traces:
            groups.setdefault(_kind(place), []).append(place)
    parts = [part for group in groups.values() for part in _repeats(group)]
    known = Counter(first.arm for first, *_ in parts)
    return tuple(
        ServedArm(first.arm if known[first.arm] == 1 else f"{first.arm}@{names[first.run.path]}", (first, *others))
        for first, *others in parts
    )


def run_names(runs: Sequence[RunDirectory]) -> dict[Path, str]:
    """Path -> what a run is called: its id, or its path where two have the same id."""
    ids = Counter(run.id for run in runs)
    return {run.path: run.id if ids[run.id] == 1 else str(run.path) for run in runs}


def agreement(first: ServedArm, second: ServedArm) -> HopAgreement:
    """How the second serving of an arm answered the words that the first was asked too."""
    return hop_agreement(pair for place in second.places for pair in _both(place, first.places))


def settings(run: RunDirectory) -> dict[str, object]:
    """What the arms of a run share, by its field in the configuration or the environment."""
    config, environment = run.config, run.environment()
    known: dict[str, object] = {"workflow": config.workflow.name, "workflow.params": config.workflow.params}
    known |= {f"sampling.{name}": value for name, value in config.sampling.model_dump().items()}
    engine = ((name, getattr(config.engine, name)) for name in EngineConfig.model_fields if name not in IRRELEVANT)
    known |= {f"engine.{name}": value for name, value in engine}
    return known | {name: environment.get(name) for name in ("cpu", "gpus")}


def _kind(place: Place) -> str:
    """Equal for places that differ in the sampling seed alone; greedy runs have no use for a seed and differ always."""
    shared = settings(place.run) | {"sampling.seed": None}
    own = None if place.run.config.sampling.temperature else str(place.run.path)
    plan = place.run.config.plan if place.config.backend == "plan" else None
    parts = [place.config.model_dump(mode="json"), plan.model_dump(mode="json") if plan else None, shared, own]
    return json.dumps(parts, sort_keys=True, default=str)


def _repeats(places: Sequence[Place]) -> list[tuple[Place, ...]]:
    """One arm, or each for itself where a seed stands twice: then nothing says which of them repeat which."""
    seeds = {place.run.config.sampling.seed for place in places}
    return [tuple(places)] if len(seeds) == len(places) else [(place,) for place in places]


def _both(second: Place, firsts: Sequence[Place]) -> Iterator[tuple[Trace, Trace]]:
    theirs = next(place.run.stored(place.arm) for place in firsts if place.run is second.run)
    ours = second.run.stored(second.arm)
    return ((theirs[task], ours[task]) for task in ours if task in theirs)


def _together(totals: Sequence[ArmTotals]) -> ArmTotals:
    if len(totals) == 1:
        return totals[0]
    return ArmTotals(
        attempts=sum(total.attempts for total in totals),
        startup_s=_sum([total.startup_s for total in totals]),
        wall_s=_sum([total.wall_s for total in totals]),
        energy_j=_sum([total.energy_j for total in totals]),
        meter=next((total.meter for total in totals if total.meter), None),
    )


def _sum(parts: Sequence[float | None]) -> float | None:
    """None where one part was not measured."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
