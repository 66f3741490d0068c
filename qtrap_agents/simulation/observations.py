"""Stored runs, read once, as observations of single hops: counts by what a slip may depend on, never rows.

A premise enters where one model call stated it and nothing else (**plain** hops). Hops that were sampled several times are
**repeated draws**: plain hops that several runs drew from the same given values at a temperature above 0, and the samples of
`vote` with `per: hop`. In `verify_revise` and `debate` a statement that stands alone is one that nobody objected to, so none of
their hops is plain, nor a draw: draws stop once two agree. An arm that a precision plan mixes from others is no arm here. A
greedy hop that several runs asked in the same words is one observation. What stays in memory is the place of every line and the
counts.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from sys import intern
from typing import NamedTuple

from qtrap_agents.analysis.attribution import HopTimes
from qtrap_agents.analysis.costs import spent
from qtrap_agents.analysis.graph import Verdict, last_statements, verdicts
from qtrap_agents.analysis.roles import Checks, checks
from qtrap_agents.errors import SimulationError, SuiteError, unknown
from qtrap_agents.evidence import REPLAYS, Replay
from qtrap_agents.semantics import consequence, is_right, same_value
from qtrap_agents.simulation.counts import (
    ArmCounts,
    Cell,
    Cluster,
    CostSums,
    Count,
    Observations,
    Place,
    RepeatCounts,
    rounded,
)
from qtrap_agents.simulation.families import Families
from qtrap_agents.store import LastSeen, Lines, RunDirectory
from qtrap_agents.types import Decision, GoldPremise, Hop, Task, Trace, Value


def observe(runs: Sequence[RunDirectory], arms: Sequence[str] | None = None, faults: bool = True) -> Observations:
    """Read runs of the same arms, task by task.

    Args:
        arms: only these; by default all with stored traces.
        faults: count the hops after the injected faults of these runs too.

    Raises:
        SimulationError: no traces or no plain hop, an unknown arm, runs with different baselines, or one name for different
            weights.
        SuiteError: a trace without its task, or a task whose premises are not in topological order.
        StoreError: a run is damaged.
    """
    distinct = list({run.path.resolve(): run for run in runs}.values())
    sources = [_Source(run, faults) for run in distinct]
    baseline, chosen = _baseline(distinct), _chosen(distinct, arms)
    counts = {arm: ArmCounts(weight_bytes=_weights(distinct, arm)) for arm in chosen}
    families = Families()
    for task_id in dict.fromkeys(name for source in sources for name in source.tasks):
        _one_task(task_id, sources, counts, families)
    for source in sources:
        for arm in chosen:
            _energy(source.run, arm, counts[arm])
    _some(distinct, counts)
    return Observations(tuple(run.id for run in distinct), baseline, counts, families.counts)


def observe_faults(run: RunDirectory, tasks: Container[str] | None = None) -> ArmCounts:
    """The hops of the baseline after the injected faults of a run, or only of some of its tasks, and nothing else.

    Raises:
        StoreError, SuiteError: as `observe`.
    """
    counts, source = ArmCounts(), _Source(run, True)
    for task_id in source.tasks if tasks is None else [name for name in source.tasks if name in tasks]:
        reader = _TaskReader(counts)
        for made in source.faults:
            if task_id in made:
                reader.note_fault(source.tasks[task_id], made[task_id])
    return counts


REVISING = ("verify_revise", "debate")
"""Workflows that state a premise again where it was doubted."""

MIXED = "plan"
"""Backend of arms that are mixed from others."""


class _Source:
    """One run: its tasks, the traces of its arms and its injected faults, each by task id."""

    def __init__(self, run: RunDirectory, faults: bool) -> None:
        self.run, self.tasks = run, run.task_index()
        self.traces = {arm: run.stored_outlines(arm) for arm in _arms(run)}
        for arm, traces in self.traces.items():
            if (lost := next((name for name in traces if name not in self.tasks), None)) is not None:
                raise SuiteError(f"{run.path}: arm '{arm}' answers task '{lost}', which is not among the tasks of the run")
        files = sorted((run.path / "faults").glob(f"*/{REPLAYS}")) if faults else []
        self.faults = [Lines(file, Replay) for file in files]
        self.temperature = run.config.sampling.temperature
        workflow = run.config.workflow
        self.revises = workflow.name in REVISING
        self.votes = workflow.name == "vote" and workflow.params.get("per", "hop") == "hop"
        self.judges = workflow.name == "verify_revise" and workflow.params.get("check") == "model"

    def drawn_at(self, hop: Hop) -> float:
        """Temperature of a hop."""
        return self.temperature if hop.sampling is None else hop.sampling.temperature


def _baseline(runs: Sequence[RunDirectory]) -> str:
    names = {run.config.baseline_arm: run for run in runs}
    if len(names) > 1:
        first, second = list(names)[:2]
        raise SimulationError(
            f"{names[first].path} has the baseline '{first}' and {names[second].path} '{second}'"
            "; fit runs of one baseline together"
        )
    return next(iter(names))


def _arms(run: RunDirectory) -> tuple[str, ...]:
    """Arms with traces that are one model each."""
    mixed = {arm.name for arm in run.config.arms if arm.backend == MIXED}
    return tuple(arm for arm in run.arms() if arm not in mixed)


def _chosen(runs: Sequence[RunDirectory], arms: Sequence[str] | None) -> list[str]:
    known = list(dict.fromkeys(arm for run in runs for arm in _arms(run)))
    if not known:
        raise SimulationError(f"{runs[0].path}: no arm has a stored trace; `qtrap run --resume {runs[0].path}` makes them")
    for arm in arms or ():
        if arm not in known:
            raise SimulationError(f"{unknown('arm', arm, known)} The runs have traces of {', '.join(known)}.")
    return [arm for arm in known if not arms or arm in arms]


def _weights(runs: Sequence[RunDirectory], arm: str) -> int | None:
    """Bytes of the weights. Raises SimulationError where runs served different ones."""
    served = [(run, identity) for run in runs if arm in run.arms() and (identity := run.identity(arm)) is not None]
    sums = {identity.checksum: run for run, identity in served if identity.checksum is not None}
    if len(sums) > 1:
        one, other = [run.path for run in sums.values()][:2]
        raise SimulationError(f"arm '{arm}' served other weights in {one} than in {other}: fit these runs one by one")
    return next((identity.weight_bytes for _, identity in served if identity.weight_bytes is not None), None)


def _some(runs: Sequence[RunDirectory], counts: Mapping[str, ArmCounts]) -> None:
    for arm, seen in counts.items():
        if not seen.cells:
            names = ", ".join(str(run.path) for run in runs)
            raise SimulationError(
                f"{names}: arm '{arm}' has no hop that alone states a gold premise; fit a run with gold premises and a workflow "
                "with one call a premise, such as `chain`"
            )


def _one_task(task_id: str, sources: Sequence[_Source], counts: Mapping[str, ArmCounts], families: Families) -> None:
    readers = {arm: _TaskReader(seen) for arm, seen in counts.items()}
    known: list[Task] = []
    for source in sources:
        if task_id not in source.tasks:
            continue
        task = source.tasks[task_id]
        if all(task.premises != other.premises for other in known):
            families.note(task)
            known.append(task)
        for arm, reader in readers.items():
            if task_id in source.traces.get(arm, ()):
                reader.note(task, source.traces[arm][task_id], source)
        baseline = readers.get(source.run.config.baseline_arm)
        for made in source.faults if baseline is not None else ():
            if baseline is not None and task_id in made:
                baseline.note_fault(task, made[task_id])
    for reader in readers.values():
        reader.finish()


class _Draw(NamedTuple):
    family: str
    value: Value | None
    slip: bool
    plain: bool


class _Seen(NamedTuple):
    """One gold premise with its parents: how many are in error, what is the right consequence, None where that is unknown."""

    verdict: Verdict
    position: int
    wrong: int
    errors_before: int
    expected: Value | None
    given: tuple[object, ...]

    def slip(self, value: Value | None) -> bool | None:
        """Whether this value is not what should have been stated; None where that cannot be told."""
        if not self.wrong:
            return not is_right(value, self.verdict.gold)
        return None if self.expected is None else not same_value(self.expected, value)


class _TaskReader:
    """Reads the traces of one task on one arm; `finish` counts its repeated draws."""

    def __init__(self, counts: ArmCounts) -> None:
        self._counts = counts
        self._asked: set[tuple[object, ...]] = set()
        self._draws: dict[tuple[object, ...], list[_Draw]] = {}

    def note(self, task: Task, trace: Trace, source: _Source) -> None:
        """One chain of a run."""
        counts = self._counts
        counts.calls += len(trace.hops) + (trace.error is not None)
        counts.failures += trace.error is not None
        if source.judges and (found := checks(trace, task)) is not None:
            counts.checks = found + (counts.checks or Checks())
        plain, seen = {} if source.revises else _plain(trace), list(_premises(task, trace))
        for premise in seen:
            hop = plain.get(premise.verdict.gold.id)
            if hop is not None:
                self._hop(task.suite, premise, hop, source.drawn_at(hop))
            elif premise.verdict.stated is not None or trace.error is None:
                counts.together += 1
        if source.votes:
            self._samples(task, trace, seen, source)
        if seen and len(plain) >= len(seen) and trace.error is None and trace.score is not None:
            temperature = max(source.drawn_at(hop) for hop in plain.values())
            counts.chains.setdefault((intern(task.suite), temperature, task.depth), Count()).note(trace.correct)

    def note_fault(self, task: Task, made: Replay) -> None:
        """One chain with an injected fault: the hops that were given something wrong, and were therefore asked anew."""
        plain = _plain(made.trace)
        changed = {change.premise for change in made.changes} | {None}
        for premise in _premises(task, made.trace):
            hop = plain.get(premise.verdict.gold.id)
            if premise.wrong and hop is not None and premise.verdict.gold.id not in changed and not hop.replaced:
                temperature = hop.sampling.temperature if hop.sampling is not None else 0.0
                self._counts.injected += 1
                self._count(task.suite, premise, hop, temperature, self._counts.injected_masks)

    def finish(self) -> None:
        """Count the hops that were drawn more than once."""
        for draws in self._draws.values():
            found = self._counts.repeats.setdefault(draws[0].family, RepeatCounts())
            found.plain[sum(draw.plain for draw in draws)] += 1
            if len(draws) > 1:
                slips = [draw.value for draw in draws if draw.slip]
                found.clusters[Cluster(len(draws), len(slips))] += 1
                for index, value in enumerate(slips):
                    for other in slips[:index]:
                        found.pairs.note(same_value(value, other))

    def _hop(self, family: str, premise: _Seen, hop: Hop, temperature: float) -> None:
        if not temperature:
            if premise.given in self._asked:
                self._counts.again += 1
                return
            self._asked.add(premise.given)
        else:
            self._draw(family, premise, hop.premises[-1].value, True)
        self._counts.costs.setdefault(intern(family), CostSums()).note(hop, premise.position)
        self._count(family, premise, hop, temperature, self._counts.masks)

    def _draw(self, family: str, premise: _Seen, value: Value | None, plain: bool) -> None:
        slip = premise.slip(value)
        if slip is not None:
            self._draws.setdefault(premise.given, []).append(_Draw(intern(family), value, slip, plain))

    def _samples(self, task: Task, trace: Trace, seen: Sequence[_Seen], source: _Source) -> None:
        """The samples of a vote: all were given what the votes before had handed on."""
        by_id = {premise.verdict.gold.id: premise for premise in seen}
        for hop in trace.hops:
            if hop.role == "sample" and len(hop.premises) == 1 and source.drawn_at(hop):
                premise = by_id.get(hop.premises[0].id)
                if premise is not None:
                    self._draw(task.suite, premise, hop.premises[0].value, False)

    def _count(self, family: str, premise: _Seen, hop: Hop, temperature: float, masks: dict[Place, Count]) -> None:
        counts, gold, value = self._counts, premise.verdict.gold, hop.premises[-1].value
        family, slip, right = intern(family), premise.slip(value), is_right(value, premise.verdict.gold)
        fates = counts.fates.setdefault((family, temperature), Counter())
        place = Place(family, intern(gold.kind), len(gold.depends_on), premise.wrong)
        if slip is None:
            fates["unjudged"] += 1
            masks.setdefault(place, Count()).note(right and gold.rule is None)
            return
        cell = Cell(
            family,
            place.kind,
            temperature,
            rounded(premise.position),
            place.parents,
            place.wrong,
            rounded(premise.errors_before),
        )
        counts.cells.setdefault(cell, Count()).note(slip)
        if not premise.wrong:
            fates["own" if slip else "right"] += 1
            return
        fates["recovered" if right else "compounded" if slip else "inherited"] += 1
        masks.setdefault(place, Count()).note(is_right(premise.expected, gold))
        if slip:
            counts.luck.setdefault(place, Count()).note(right)


def _plain(trace: Trace) -> dict[str, Hop]:
    """Premise id -> the hop that alone stated it, and nothing else."""
    said: tuple[Hop | Decision, ...] = (*trace.hops, *trace.decisions)
    times = Counter(premise.id for one in said for premise in one.premises)
    return {hop.premises[0].id: hop for hop in trace.hops if len(hop.premises) == 1 and times[hop.premises[0].id] == 1}


def _premises(task: Task, trace: Trace) -> Iterator[_Seen]:
    """All gold premises, with what they were given."""
    found: dict[str, Verdict] = {}
    errors = 0
    for position, verdict in enumerate(verdicts(task, last_statements(trace)), start=1):
        parents = [found[name] for name in verdict.gold.depends_on]
        wrong = sum(parent.status != "match" for parent in parents)
        gold = verdict.gold
        given = (gold.id, gold.instruction, gold.rule, *(parent.stated for parent in parents))
        yield _Seen(verdict, position, wrong, errors, _expected(gold, parents) if wrong else gold.value, given)
        found[gold.id] = verdict
        errors += verdict.status != "match"


def _expected(gold: GoldPremise, parents: Sequence[Verdict]) -> Value | None:
    known = {parent.gold.id: parent.stated for parent in parents if parent.stated is not None}
    return consequence(gold, known) if len(known) == len(parents) else None


def _energy(run: RunDirectory, arm: str, counts: ArmCounts) -> None:
    """Joules of the hops of a run, family by family, as `qtrap compare` apportions them; nothing where none were measured."""
    if arm not in run.arms() or all(event.energy_j is None for event in run.attempts(arm)):
        return
    last_seen, hops, calls = LastSeen(), HopTimes(), Counter[str]()
    for trace in run.outlines(arm):
        last_seen.note(trace)
        hops.note(trace)
        calls[trace.suite] += len(trace.hops)
    totals = run.totals(arm, last_seen)
    joules = spent(hops, totals.windows, run.readings(arm))[1].joules if totals.energy_j is not None else None
    for (family, _), amount in (joules or {}).items():
        counts.costs.setdefault(family, CostSums()).joules += amount
    for family, number in calls.items() if joules is not None else ():
        counts.costs.setdefault(family, CostSums()).calls += number
