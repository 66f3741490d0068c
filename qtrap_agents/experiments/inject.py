"""`qtrap inject`: one wrong premise of known place and size in a baseline chain, then the baseline goes on by itself."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from qtrap_agents.analysis.faults import ALL_KINDS, possible
from qtrap_agents.analysis.graph import Statement, last_statements
from qtrap_agents.backends.base import Backend
from qtrap_agents.errors import ConfigError, StoreError
from qtrap_agents.evidence import REPLAYS, Change, FaultKind, Replay
from qtrap_agents.experiments.branch import replay
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.semantics import is_right
from qtrap_agents.store import Lines, RunDirectory
from qtrap_agents.types import GoldPremise, Hop, Premise, Record, Task, Trace
from qtrap_agents.workflows.foreign import NOT_REPLACED, ForeignApp

Place = int | Literal["random", "first", "middle", "last"]


class FaultPlan(Record):
    """What is injected: one fault a chain, of a kind drawn among those that fit the premise, at a hop counted from 1."""

    kinds: tuple[FaultKind, ...]
    at: Place = "random"
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the directory that keeps these faults."""
        every = len(self.kinds) == len(ALL_KINDS)
        return f"{'any' if every else '-'.join(self.kinds)}-at-{self.at}-s{self.seed}"


class Fault(NamedTuple):
    """A fault to be injected into the chain of a task."""

    task_id: str
    change: Change


@dataclass(frozen=True)
class Drawn:
    """The faults that can be injected, and for how many chains there is none, by reason."""

    faults: tuple[Fault, ...]
    left_out: Counter[str]


def draw_faults(run: RunDirectory, plan: FaultPlan) -> Drawn:
    """A fault for every baseline chain that can take one; the same run and plan give the same faults.

    Raises:
        StoreError: the baseline has no stored trace.
        ConfigError: no chain can take such a fault.
    """
    baseline = run.config.baseline_arm
    tasks, traces = run.task_index(), run.stored(baseline)
    if not traces:
        raise StoreError(f"{run.path}: arm '{baseline}' has no stored trace; `qtrap run --resume {run.path}` makes them")
    faults: list[Fault] = []
    left_out: Counter[str] = Counter()
    for task_id in traces:
        drawn = _draw(tasks[task_id], traces[task_id], plan)
        if isinstance(drawn, str):
            left_out[drawn] += 1
        else:
            faults.append(Fault(task_id, drawn))
    if not faults:
        reasons = "; ".join(f"{count} chains: {reason}" for reason, count in left_out.items())
        raise ConfigError(f"no chain of {run.path} takes such a fault ({reasons}); choose another --at or --kind")
    return Drawn(tuple(faults), left_out)


async def run_faults(run: RunDirectory, bench: Bench, name: str, faults: Sequence[Fault]) -> None:
    """Inject what is not stored yet.

    Raises:
        ConfigError: the workflow is an app of the user's own.
        ArmError: the baseline cannot be served or died; the next call does the rest.
    """
    if isinstance(bench.plan.graph_for, ForeignApp):
        raise ConfigError(f"{run.path}: {NOT_REPLACED}")
    baseline, journal = run.config.baseline_arm, run.faults_path(name) / REPLAYS
    tasks, traces, stored = run.task_index(), run.stored(baseline), Lines(journal, Replay)

    async def one(backend: Backend, fault: Fault) -> Replay:
        task, recorded = tasks[fault.task_id], traces[fault.task_id]
        return await replay(bench.plan, backend, task, recorded, baseline, [fault.change])

    todo = [fault for fault in faults if fault.task_id not in stored]
    await bench.serve(baseline, f"{baseline}: faults", journal, todo, one)


def _draw(task: Task, trace: Trace, plan: FaultPlan) -> Change | str:
    """The change, or why there is none."""
    if not trace.correct:
        return "the baseline does not solve the task"
    gold = {premise.id: premise for premise in task.premises}
    last = last_statements(trace)
    if any(name in gold and not is_right(said.premise.value, gold[name]) for name, said in last.items()):
        return "a premise of the baseline is in error"
    stated = [(hop.id, premise) for hop in trace.hops for premise in hop.premises if _stands(hop, premise, gold, last)]
    if not stated:
        return "none of its hops alone states a gold premise, so there is none to spoil"
    draw = random.Random(f"{task.id}/{plan.seed}")
    place = _place(plan.at, len(stated), draw)
    if place is None:
        return f"it has fewer than {plan.at} hops"
    hop_id, premise = stated[place]
    for kind in draw.sample(plan.kinds, len(plan.kinds)):
        value = possible(gold[premise.id], task, kind, draw)
        if kind == "drop" or value is not None:
            return Change(kind="inject", hop_id=hop_id, premise=premise.id, value=value, fault=kind)
    return f"no fault of kind {' or '.join(plan.kinds)} fits a premise like {gold[premise.id].value!r}"


def _stands(hop: Hop, premise: Premise, gold: Mapping[str, GoldPremise], last: Mapping[str, Statement]) -> bool:
    """Whether the statement is of gold and is what later hops go by; the samples of a vote are not."""
    return premise.id in gold and last[premise.id].hop_id == hop.id


def _place(at: Place, hops: int, draw: random.Random) -> int | None:
    """Index of the hop; None where the chain is too short."""
    if isinstance(at, int):
        return at - 1 if at <= hops else None
    return {"first": 0, "middle": (hops - 1) // 2, "last": hops - 1, "random": draw.randrange(hops)}[at]
