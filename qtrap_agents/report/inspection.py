"""`qtrap inspect`: which traces there are, one trace judged hop by hop, and the same task on two arms."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field

from qtrap_agents.analysis.attribution import HopTimes, Kind, attribute
from qtrap_agents.analysis.collapse import Collapse, Place, analyse
from qtrap_agents.analysis.export import graphml, node_link_json
from qtrap_agents.analysis.graph import JudgedPremise, Origin, Status, judge
from qtrap_agents.analysis.readings import Readings, readings
from qtrap_agents.analysis.roles import RoleCost, checks, role_costs
from qtrap_agents.errors import StoreError, unknown
from qtrap_agents.evidence import REPLAYS, Replay
from qtrap_agents.semantics import same_value
from qtrap_agents.store import RunDirectory, read_lines
from qtrap_agents.types import Decision, Hop, Record, Task, Trace, Value, in_order


class TraceRow(Record):
    """One line of the list. `correct` is None where an error kept the answer from being judged."""

    task_id: str
    arm: str
    suite: str
    depth: int
    correct: bool | None
    error: str | None
    first_error: Place | None
    first_status: Status | None
    first_origin: Origin | None
    collapse_hop: Place | None
    answer: Value | None
    gold: Value


class TraceList(Record):
    """The traces that fit the filters; `rows` are the first of `total`."""

    run: str
    rows: tuple[TraceRow, ...]
    total: int
    failed: bool


class HopView(Record):
    """A hop with the judgement of what it stated; a premise that a later hop stated again is `restated` here."""

    hop: Hop
    premises: tuple[JudgedPremise, ...]
    restated: tuple[str, ...] = ()


class DecisionView(Record):
    """What a node made of hops without a model call, with the judgement of what it stated."""

    decision: Decision
    premises: tuple[JudgedPremise, ...]


class TraceView(Record):
    """One task on one arm. `unstated` are the gold premises that no hop stated; `others` says how other arms did.

    `energies` maps hop ids to joules where the arm's energy was measured, `attribution` says how they came to the hops.
    `roles` are the costs by role of node.
    """

    run: str
    task: Task
    trace: Trace
    collapse: Collapse
    hops: tuple[HopView, ...]
    decisions: tuple[DecisionView, ...] = ()
    unstated: tuple[JudgedPremise, ...]
    others: dict[str, str]
    energies: dict[str, float] = Field(default_factory=dict)
    attribution: Kind | None = None

    @property
    def roles(self) -> tuple[RoleCost, ...]:
        """Calls, tokens and latency by role of node, in the order of their first call."""
        return tuple(role_costs(self.trace.hops).values())

    @property
    def in_order(self) -> tuple[HopView | DecisionView, ...]:
        """Hops and decisions as they were made."""
        known: dict[str, HopView | DecisionView] = {view.hop.id: view for view in self.hops}
        known |= {view.decision.id: view for view in self.decisions}
        return tuple(known[said.id] for said in in_order(self.trace.hops, self.trace.decisions))

    @property
    def energy_j(self) -> float | None:
        """Joules of all hops; None where not measured."""
        return sum(self.energies.values()) if self.energies else None

    @property
    def unsupported(self) -> tuple[JudgedPremise, ...]:
        """What was stated and is none of the gold premises; empty for a task without any."""
        views: tuple[HopView | DecisionView, ...] = (*self.hops, *self.decisions)
        said = (premise for view in views for premise in view.premises)
        return tuple(premise for premise in said if premise.status == "unsupported") if self.task.premises else ()

    @property
    def readings(self) -> Readings:
        """How many of its hops could not be parsed."""
        return readings(self.trace.hops)


class PremisePair(Record):
    """One premise on two arms, None where an arm has no such premise; `hop` and `against_hop` made the statements."""

    id: str
    gold: Value | None
    against: JudgedPremise | None
    arm: JudgedPremise | None
    against_hop: Hop | None = None
    hop: Hop | None = None

    @property
    def differs(self) -> bool:
        """True where the two arms state different values, or only one states any."""
        ours, theirs = (premise.stated if premise else None for premise in (self.arm, self.against))
        return not (ours is None and theirs is None) and not same_value(ours, theirs)


class PairView(Record):
    """The same task on two arms, aligned by premise in topological order."""

    run: str
    task: Task
    arm: str
    against: str
    pairs: tuple[PremisePair, ...]
    answer: Value | None
    against_answer: Value | None
    outcome: str
    against_outcome: str

    @property
    def first_difference(self) -> PremisePair | None:
        """The earliest premise that differs."""
        return next((pair for pair in self.pairs if pair.differs), None)

    @property
    def words(self) -> str:
        """`first difference: s7: fp16 412, awq 472, gold 412`."""
        pair = self.first_difference
        if pair is not None:
            theirs, ours = (premise.stated if premise else None for premise in (pair.against, pair.arm))
            name, gold = pair.id, pair.gold
        elif self.answer != self.against_answer:
            name, gold, theirs, ours = "answer", self.task.answer, self.against_answer, self.answer
        else:
            return "no difference: both arms state the same values"
        values = f"{self.against} {_stated(theirs)}, {self.arm} {_stated(ours)}"
        return f"first difference: {name}: {values}, gold {'unknown' if gold is None else gold}"


def list_traces(
    run: RunDirectory,
    arm: str | None = None,
    depth: int | None = None,
    failed: bool = False,
    suite: str | None = None,
    limit: int | None = 20,
) -> TraceList:
    """Traces by arm (in configuration order), suite, depth and task id.

    Args:
        failed: only wrong answers and errors.
        limit: how many rows to keep; None for all.

    Raises:
        StoreError: no such arm, suite or depth in this run.
    """
    tasks = run.tasks()
    _check_filters(run, tuple(tasks.values()), arm, depth, suite)
    names = (arm,) if arm is not None else run.arms()
    rows = [
        _trace_row(trace, tasks[trace.task_id])
        for name in names
        for trace in _latest(run, name)
        if depth in (None, trace.depth) and suite in (None, trace.suite) and not (failed and trace.correct)
    ]
    order = {name: index for index, name in enumerate(names)}
    rows.sort(key=lambda row: (order[row.arm], row.suite, row.depth, row.task_id))
    return TraceList(run=str(run.path), rows=tuple(rows[:limit]), total=len(rows), failed=failed)


def inspect_trace(run: RunDirectory, task_id: str, arm: str | None = None) -> TraceView:
    """One trace, hop by hop.

    Args:
        task_id: the id or an unambiguous beginning of it.
        arm: by default the first arm that failed the task, else the baseline; then `others` tells of the other arms.
            `awq:swap@hop_007` is a replay of a chain of `awq`.

    Raises:
        StoreError: no such task or arm, or the arm has no trace of the task.
    """
    task = find_task(run, task_id)
    if arm is not None:
        return _view(run, task, _find_trace(run, arm, task), {})
    traces = {name: found for name in run.arms() if (found := _stored_trace(run, name, task)) is not None}
    if not traces:
        raise StoreError(f"{run.path}: no arm has a trace of '{task.id}' yet; `qtrap run --resume {run.path}` goes on")
    failed = (name for name, trace in traces.items() if not trace.correct)
    baseline = run.config.baseline_arm if run.config.baseline_arm in traces else next(iter(traces))
    chosen = next(failed, baseline)
    others = {name: outcome(trace) for name, trace in traces.items() if name != chosen}
    return _view(run, task, traces[chosen], others)


def compare_traces(run: RunDirectory, task_id: str, arm: str, against: str) -> PairView:
    """The same task on two arms, premise by premise; either may be a replay, such as `awq:swap@hop_007`.

    Raises:
        StoreError: no such task or arm, or an arm has no trace of the task.
    """
    task = find_task(run, task_id)
    ours, theirs = _find_trace(run, arm, task), _find_trace(run, against, task)
    left = {premise.id: premise for premise in judge(theirs, task)}
    right = {premise.id: premise for premise in judge(ours, task)}
    their_hops, our_hops = ({hop.id: hop for hop in trace.hops} for trace in (theirs, ours))
    gold = {premise.id: premise.value for premise in task.premises}
    return PairView(
        run=str(run.path),
        task=task,
        arm=arm,
        against=against,
        pairs=tuple(
            PremisePair(
                id=name,
                gold=gold.get(name),
                against=left.get(name),
                arm=right.get(name),
                against_hop=_hop_of(left.get(name), their_hops),
                hop=_hop_of(right.get(name), our_hops),
            )
            for name in dict.fromkeys((*left, *right))
        ),
        answer=ours.answer,
        against_answer=theirs.answer,
        outcome=outcome(ours),
        against_outcome=outcome(theirs),
    )


def export_trace(run: RunDirectory, task_id: str, arm: str | None = None, format: Literal["json", "graphml"] = "json") -> str:
    """The premise graph of one trace as node-link JSON or GraphML; arguments and errors as of `inspect_trace`."""
    view = inspect_trace(run, task_id, arm)
    return graphml(view.trace, view.task) if format == "graphml" else node_link_json(view.trace, view.task)


def traces_json(found: TraceList) -> dict[str, Any]:
    """The list as JSON types."""
    return found.model_dump(mode="json")


def trace_json(view: TraceView) -> dict[str, Any]:
    """The whole trace with its task and judgement as JSON types."""
    collapse = view.collapse
    derived = {"blast_radius": collapse.blast_radius, "amplification": collapse.amplification}
    return {
        "run": view.run,
        "outcome": outcome(view.trace),
        "others": view.others,
        "task": view.task.model_dump(mode="json"),
        "trace": view.trace.model_dump(mode="json"),
        "roles": [role.model_dump(mode="json") for role in view.roles],
        "checks": found.model_dump(mode="json") if (found := checks(view.trace, view.task)) else None,
        "energy": {"hops_j": view.energies, "total_j": view.energy_j, "attribution": view.attribution},
        "parsing": view.readings.model_dump(mode="json"),
        "premises": [premise.model_dump(mode="json") for premise in judge(view.trace, view.task)],
        "unaligned": {
            "statements": [premise.id for premise in view.unsupported],
            "gold": [premise.id for premise in view.unstated],
        },
        "collapse": collapse.model_dump(mode="json") | derived,
    }


def pair_json(view: PairView) -> dict[str, Any]:
    """The two arms as JSON types."""
    first = view.first_difference
    return view.model_dump(mode="json", exclude={"pairs"}) | {
        "pairs": [pair.model_dump(mode="json") | {"differs": pair.differs} for pair in view.pairs],
        "first_difference": first.id if first else None,
        "words": view.words,
    }


def outcome(trace: Trace) -> str:
    """`right`, `wrong`, `error`, or `not judged`."""
    if trace.error is not None:
        return "error"
    return "not judged" if trace.score is None else "right" if trace.correct else "wrong"


def find_task(run: RunDirectory, task_id: str) -> Task:
    """The task of that id, or of the only id that begins so.

    Raises:
        StoreError: none or several fit; names the nearest.
    """
    tasks = run.tasks()
    if task_id in tasks:
        return tasks[task_id]
    fitting = [known for known in tasks if known.startswith(task_id)]
    if len(fitting) == 1:
        return tasks[fitting[0]]
    if fitting:
        raise StoreError(f"'{task_id}' fits {len(fitting):,} tasks ({', '.join(fitting[:3])}, …); give more of the id")
    near = difflib.get_close_matches(task_id, tasks, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"`qtrap inspect {run.path}` lists them"
    raise StoreError(f"unknown task '{task_id}': {hint}")


def _check_filters(run: RunDirectory, tasks: Sequence[Task], arm: str | None, depth: int | None, suite: str | None) -> None:
    if arm is not None:
        _check_arm(run, arm)
    suites, depths = {task.suite for task in tasks}, {task.depth for task in tasks}
    if suite is not None and suite not in suites:
        raise StoreError(unknown("suite of this run", suite, suites))
    if depth is not None and depth not in depths:
        raise StoreError(f"no task of this run has depth {depth}; its depths: {', '.join(map(str, sorted(depths)))}")


def _check_arm(run: RunDirectory, arm: str) -> None:
    known = [config.name for config in run.config.served_arms]
    if arm not in known:
        raise StoreError(unknown("arm", arm, known))


def _latest(run: RunDirectory, arm: str) -> Iterator[Trace]:
    """Of several traces of a task the one of the last attempt."""
    found: dict[str, Trace] = {}
    for trace in run.traces(arm):
        known = found.get(trace.task_id)
        if known is None or trace.attempt >= known.attempt:
            found[trace.task_id] = trace
    yield from found.values()


def _stored_trace(run: RunDirectory, arm: str, task: Task) -> Trace | None:
    found = [trace for trace in run.traces(arm) if trace.task_id == task.id]
    return max(reversed(found), key=lambda trace: trace.attempt, default=None)


def _find_trace(run: RunDirectory, arm: str, task: Task) -> Trace:
    """The trace of an arm, or of a replay of one of its chains: `awq:swap@hop_007`."""
    arm, _, replay = arm.partition(":")
    _check_arm(run, arm)
    if replay:
        return _find_replay(run, arm, replay, task)
    trace = _stored_trace(run, arm, task)
    if trace is None:
        raise StoreError(f"arm '{arm}' has no trace of '{task.id}' yet; `qtrap run --resume {run.path}` goes on")
    return trace


def _find_replay(run: RunDirectory, arm: str, name: str, task: Task) -> Trace:
    files = sorted((*run.path.glob(f"replays/*/{REPLAYS}"), *run.path.glob(f"faults/*/{REPLAYS}")))
    replays = [made for file in files for made in read_lines(file, Replay) if (made.task_id, made.source) == (task.id, arm)]
    for made in replays:
        if made.name == name:
            return made.trace
    known = unknown("replay", name, (made.name for made in replays))
    raise StoreError(f"chain '{task.id}' of arm '{arm}': {known} `qtrap replay` and `qtrap inject` make them")


def _trace_row(trace: Trace, task: Task) -> TraceRow:
    collapse = analyse(trace, task)
    first = collapse.first_error if collapse.judged else None
    judged = next((premise for premise in judge(trace, task) if first and premise.id == first.id), None)
    return TraceRow(
        task_id=task.id,
        arm=trace.arm,
        suite=task.suite,
        depth=task.depth,
        correct=trace.correct if collapse.judged else None,
        error=trace.error,
        first_error=first,
        first_status=judged.status if judged else None,
        first_origin=judged.origin if judged else None,
        collapse_hop=collapse.collapse_hop,
        answer=trace.answer,
        gold=task.answer,
    )


def _view(run: RunDirectory, task: Task, trace: Trace, others: dict[str, str]) -> TraceView:
    judged = judge(trace, task)
    energies, attribution = _energies(run, trace)
    return TraceView(
        run=str(run.path),
        task=task,
        trace=trace,
        collapse=analyse(trace, task),
        hops=tuple(_hop_view(hop, judged) for hop in trace.hops),
        decisions=tuple(_decision_view(decision, judged) for decision in trace.decisions),
        unstated=tuple(premise for premise in judged if premise.hop_id is None),
        others=others,
        energies=energies,
        attribution=attribution,
    )


def _energies(run: RunDirectory, trace: Trace) -> tuple[dict[str, float], Kind | None]:
    """Hop -> joules, from everything that was in flight with it; nothing for a replay, or where energy was not measured."""
    if trace.arm not in run.arms():
        return {}, None
    totals, hops, number = run.totals(trace.arm), HopTimes(), None
    if totals.energy_j is None:
        return {}, None
    for known in run.outlines(trace.arm):
        number = len(hops.tasks) if (known.id, known.attempt) == (trace.id, trace.attempt) else number
        hops.note(known)
    found = attribute(hops, totals.windows, run.readings(trace.arm))
    if number is None or found is None or found.joules is None:
        return {}, None
    timed = [hop.id for hop in trace.hops if hop.completion.latency_s > 0]
    return dict(zip(timed, hops.of_trace(number, found.joules.hops), strict=True)), found.kind


def _hop_view(hop: Hop, judged: Sequence[JudgedPremise]) -> HopView:
    own = tuple(premise for premise in judged if premise.hop_id == hop.id)
    known = {premise.id for premise in own}
    restated = dict.fromkeys(premise.id for premise in hop.premises if premise.id not in known)
    return HopView(hop=hop, premises=own, restated=tuple(restated))


def _decision_view(decision: Decision, judged: Sequence[JudgedPremise]) -> DecisionView:
    return DecisionView(decision=decision, premises=tuple(premise for premise in judged if premise.hop_id == decision.id))


def _hop_of(premise: JudgedPremise | None, hops: dict[str, Hop]) -> Hop | None:
    return hops.get(premise.hop_id) if premise is not None and premise.hop_id is not None else None


def _stated(value: Value | None) -> str:
    return "nothing" if value is None else str(value)
