"""`qtrap replay`: the failed chains of an arm once more, hop by hop, to prove which hop made them fail.

Two passes through files, so that one device is enough: the baseline answers the recorded hops of the arm (precision swap,
hop by hop) and is asked its own hops again (noise floor); then the arm does the same with the hops of the baseline, which is
teacher forcing, and goes on from every hop where the swapped or repaired premise is another one. A third pass lets the
baseline go on from single hops of the arm. See `qtrap_agents.evidence` for the files.
"""

import asyncio
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from qtrap_agents.analysis.causes import states_the_same
from qtrap_agents.analysis.graph import judge
from qtrap_agents.backends.base import Backend
from qtrap_agents.errors import ArmError, CompletionError, ConfigError, ExtractionError, StoreError
from qtrap_agents.evidence import REPLAYS, REPLIES, Change, Replay, Reply, joined_name
from qtrap_agents.experiments.branch import Known, premises_of, replay
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.runner import Plan
from qtrap_agents.semantics import is_right
from qtrap_agents.store import Journal, Lines, RunDirectory, read_lines
from qtrap_agents.types import Hop, Record, Task, Trace
from qtrap_agents.workflows.foreign import ForeignApp

HOPS_PER_JOB = 8
"""A job asks for all hops of a chain: so many fewer jobs than requests are in flight."""

Stage = Literal["baseline", "arm", "reverse"]


@dataclass
class Evidence:
    """What is known of one task: replies by (source, arm, hop), names of the replays that are stored, by source."""

    replies: dict[tuple[str, str, str], Reply] = field(default_factory=dict)
    replayed: set[tuple[str, str]] = field(default_factory=set)


class Findings(NamedTuple):
    """What one job adds."""

    replies: list[Reply]
    replays: list[Replay]


class Stored:
    """The two journals of an experiment: read at the start, appended to by every pass."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._evidence: dict[str, Evidence] = {}
        for reply in read_lines(directory / REPLIES, Reply):
            self._learn(reply)
        for made in read_lines(directory / REPLAYS, Replay):
            self._learn(made)

    def of(self, task_id: str) -> Evidence:
        """What is known of a task."""
        return self._evidence.setdefault(task_id, Evidence())

    def keep(self, files: ExitStack) -> "Keeper":
        """Open the journals for appending."""
        return Keeper(*(files.enter_context(Journal(self.directory / name)) for name in (REPLIES, REPLAYS)))

    def _learn(self, record: Reply | Replay) -> None:
        evidence = self.of(record.task_id)
        if isinstance(record, Reply):
            evidence.replies[record.source, record.arm, record.hop_id] = record
        else:
            evidence.replayed.add((record.source, record.name))

    def learn_all(self, replies: Iterable[Reply]) -> None:
        """Remember answers that later passes build on."""
        for reply in replies:
            self._learn(reply)


@dataclass(frozen=True)
class Keeper:
    """Puts findings away."""

    replies: Journal
    replays: Journal

    def put(self, findings: Findings) -> None:
        """Append them to the journals."""
        for reply in findings.replies:
            self.replies.append(reply)
        for done in findings.replays:
            self.replays.append(done)


@dataclass(frozen=True)
class Chains:
    """The two arms of an experiment and where their chains are stored."""

    baseline: str
    arm: str
    tasks: Lines[Task]
    theirs: Lines[Trace]
    ours: Lines[Trace]

    @classmethod
    def of(cls, run: RunDirectory, arm: str) -> "Chains":
        """Chains of an arm and of the baseline of the run.

        Raises:
            StoreError: one of them has no stored trace.
            ConfigError: the arm is the baseline.
        """
        baseline = run.config.baseline_arm
        if arm == baseline:
            raise ConfigError(f"arm '{arm}' is the baseline of {run.path}; replay another one with --arm")
        chains = cls(baseline, arm, run.task_index(), run.stored(baseline), run.stored(arm))
        for name, traces in ((baseline, chains.theirs), (arm, chains.ours)):
            if not traces:
                raise StoreError(f"{run.path}: arm '{name}' has no stored trace; `qtrap run --resume {run.path}` makes them")
        return chains


class Choice(Record):
    """Which chains are replayed: those that failed on the arm, and as many healthy ones of the same suite and depth."""

    failed: tuple[str, ...]
    healthy: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.failed, *self.healthy)


def choose(chains: Chains, tasks: Collection[str] | None = None, limit: int | None = None) -> Choice:
    """Chains with a judged answer and a judged baseline; drawn with a fixed seed.

    Args:
        tasks: only these; then no healthy ones are added.
        limit: at most so many failed chains of each suite and depth.

    Raises:
        StoreError: a task has no chain on both arms, or nothing is left.
    """
    cells: dict[tuple[str, int], dict[bool, list[str]]] = {}
    for task_id in chains.ours if tasks is None else tasks:
        if task_id not in chains.ours or task_id not in chains.theirs:
            if tasks is not None:
                raise StoreError(f"task '{task_id}' has no stored chain on both '{chains.baseline}' and '{chains.arm}'")
            continue
        trace = chains.ours[task_id]
        if trace.score is not None:
            cells.setdefault((trace.suite, trace.depth), {True: [], False: []})[trace.correct].append(task_id)
    draw = random.Random(0)
    failed: list[str] = []
    healthy: list[str] = []
    for _, cell in sorted(cells.items()):
        wrong = _drawn(draw, cell[False], limit)
        failed += wrong
        healthy += cell[True] if tasks is not None else _drawn(draw, cell[True], len(wrong))
    if not failed and not healthy:
        raise StoreError(f"arm '{chains.arm}' has no judged chain that '{chains.baseline}' has too: nothing to replay")
    return Choice(failed=tuple(failed), healthy=tuple(healthy))


async def run_replays(run: RunDirectory, bench: Bench, arm: str, choice: Choice, chains: Chains) -> list[str]:
    """All passes that are still needed; sentences on what could not be done."""
    stored = Stored(run.replays_path(arm))
    problems: list[str] = []
    for stage in ("baseline", "arm", "reverse"):
        try:
            await _run_stage(bench, stage, Experiment(bench.plan, chains, stored), choice.tasks)
        except ArmError as error:
            problems.append(f"the pass '{stage}' of the replay was not finished: {error}")
    return problems


async def _run_stage(bench: Bench, stage: Stage, experiment: "Experiment", tasks: Sequence[str]) -> None:
    jobs = [task_id for task_id in tasks if experiment.work(stage, task_id)]
    if not jobs:
        return
    arm = experiment.chains.arm if stage == "arm" else experiment.chains.baseline
    title = {"baseline": f"{arm}: hops of {experiment.chains.arm}", "arm": f"{arm}: replays", "reverse": f"{arm}: reverse"}[stage]

    async def one(backend: Backend, task_id: str) -> Findings:
        return await experiment.find(stage, task_id, backend)

    with ExitStack() as files:
        keeper = experiment.stored.keep(files)
        log = experiment.stored.directory / f"{stage}.log"
        concurrency = max(1, bench.plan.config.concurrency // HOPS_PER_JOB)
        await bench.work_off(arm, title, log, jobs, one, keeper.put, concurrency)


class Question(NamedTuple):
    """A recorded hop of `source`, to be asked of `arm`."""

    source: str
    arm: str
    hop: Hop


class Attempt(NamedTuple):
    """A replay to be made: the recorded chain, the arm that goes on, the changes, and the answers of swapped hops."""

    recorded: Trace
    arm: str
    changes: tuple[Change, ...]
    swapped: Mapping[str, Known]


@dataclass(frozen=True)
class Experiment:
    """What each pass asks and replays, task by task."""

    plan: Plan
    chains: Chains
    stored: Stored

    def work(self, stage: Stage, task_id: str) -> bool:
        """True where the pass has something to do for the task, as far as can be told before it."""
        ours, theirs = self._traces(task_id)
        if stage == "reverse":
            return any(True for _ in self._attempts(stage, task_id, ours, theirs))
        return bool(self._questions(stage, task_id, ours, theirs)) or any(self._attempts(stage, task_id, ours, theirs))

    async def find(self, stage: Stage, task_id: str, backend: Backend) -> Findings:
        """Ask the open questions of a task, then make the replays that the answers call for."""
        task, (ours, theirs) = self.chains.tasks[task_id], self._traces(task_id)
        asked = await asyncio.gather(
            *(ask_again(self.plan, backend, task, *question) for question in self._questions(stage, task_id, ours, theirs))
        )
        self.stored.learn_all(asked)
        known = self._known(task_id) if stage == "arm" else {}
        attempts = self._attempts(stage, task_id, ours, theirs)
        replays = await asyncio.gather(
            *(
                replay(self.plan, backend, task, attempt.recorded, attempt.arm, attempt.changes, attempt.swapped, known)
                for attempt in attempts
            )
        )
        return Findings(list(asked), list(replays))

    def _traces(self, task_id: str) -> tuple[Trace, Trace]:
        return self.chains.ours[task_id], self.chains.theirs[task_id]

    def _questions(self, stage: Stage, task_id: str, ours: Trace, theirs: Trace) -> list[Question]:
        if stage == "reverse":
            return []
        arm, known = (self.chains.baseline if stage == "baseline" else self.chains.arm), self.stored.of(task_id).replies
        every = (Question(trace.arm, arm, hop) for trace in (ours, theirs) for hop in trace.hops if hop.arm is None)
        return [question for question in every if (question.source, arm, question.hop.id) not in known]

    def _attempts(self, stage: Stage, task_id: str, ours: Trace, theirs: Trace) -> list[Attempt]:
        if stage == "baseline":
            return []
        if stage == "arm":
            swaps = self._swaps(task_id, ours, self.chains.baseline)
            every = [*swaps, *self._repairs(task_id, ours), *self._joint(task_id, ours, theirs)]
        else:
            every = list(self._swaps(task_id, theirs, self.chains.arm))
        done = self.stored.of(task_id).replayed
        return [attempt for attempt in every if (attempt.recorded.arm, joined_name(attempt.changes)) not in done]

    def _swaps(self, task_id: str, recorded: Trace, other: str) -> Iterator[Attempt]:
        """One hop by the other arm, wherever that states something else."""
        for hop in recorded.hops:
            reply = self.stored.of(task_id).replies.get((recorded.arm, other, hop.id))
            if reply is None or reply.completion is None or states_the_same(reply.premises, hop.premises):
                continue
            swapped = {hop.id: Known(hop.messages, reply.completion)}
            yield Attempt(recorded, recorded.arm, (Change(kind="swap", hop_id=hop.id, arm=other),), swapped)

    def _repairs(self, task_id: str, recorded: Trace) -> Iterator[Attempt]:
        """One premise by gold, wherever an error was born; an app of the user's own hands on text, which has none to replace."""
        if isinstance(self.plan.graph_for, ForeignApp):
            return
        judged = judge(recorded, self.chains.tasks[task_id])
        wrong = {premise.id for premise in judged if premise.is_error and premise.origin != "inherited"}
        for hop in recorded.hops:
            for premise in hop.premises:
                if premise.id in wrong:
                    named = premise.id if len(hop.premises) > 1 else None
                    yield Attempt(recorded, recorded.arm, (Change(kind="repair", hop_id=hop.id, premise=named),), {})

    def _joint(self, task_id: str, ours: Trace, theirs: Trace) -> Iterator[Attempt]:
        """All hops at once at which the arm errs on the baseline's right premises and the baseline does not."""
        if ours.correct or not theirs.correct:
            return
        gold = {premise.id: premise for premise in self.chains.tasks[task_id].premises}
        replies = self.stored.of(task_id).replies
        chosen = [
            hop
            for hop in theirs.hops
            if (reply := replies.get((self.chains.baseline, self.chains.arm, hop.id))) is not None
            and all(premise.id not in gold or is_right(premise.value, gold[premise.id]) for premise in hop.premises)
            and not states_the_same(reply.premises, hop.premises)
        ]
        if len(chosen) > 1:
            changes = tuple(Change(kind="swap", hop_id=hop.id, arm=self.chains.baseline) for hop in chosen)
            yield Attempt(ours, self.chains.arm, changes, {hop.id: Known(hop.messages, hop.completion) for hop in chosen})

    def _known(self, task_id: str) -> dict[str, Known]:
        """What the arm answers to the baseline's hops."""
        words = {hop.id: hop.messages for hop in self.chains.theirs[task_id].hops}
        return {
            hop_id: Known(words[hop_id], reply.completion)
            for (source, arm, hop_id), reply in self.stored.of(task_id).replies.items()
            if (source, arm) == (self.chains.baseline, self.chains.arm) and reply.completion is not None
        }


async def ask_again(plan: Plan, backend: Backend, task: Task, source: str, arm: str, hop: Hop) -> Reply:
    """A recorded hop asked once more in the same words of `arm`, which `backend` serves.

    Raises:
        ArmDied: the arm is gone.
    """
    suite = plan.suites[task.suite]
    base = Reply(task_id=task.id, seed=task.seed, source=source, hop_id=hop.id, arm=arm, completion=None)
    max_tokens = suite.spec.max_tokens if len(hop.premises) == 1 else suite.spec.cot_tokens_per_premise * len(task.premises)
    try:
        sampling = hop.sampling or plan.config.sampling.sampling(max_tokens, task.seed)
        completion = await backend.complete(hop.messages, sampling)
        premises = premises_of(plan, task, hop, completion)
    except (CompletionError, ExtractionError) as error:
        return base.model_copy(update={"error": str(error)})
    return base.model_copy(update={"completion": completion, "premises": premises})


def _drawn(draw: random.Random, tasks: list[str], limit: int | None) -> list[str]:
    return sorted(tasks) if limit is None or len(tasks) <= limit else draw.sample(sorted(tasks), limit)
