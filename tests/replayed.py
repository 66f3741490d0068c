"""Chains with faults and their replays, made by executing gold rules: an arm whose every answer is known, without an arm."""

from collections.abc import Collection, Iterable, Mapping
from functools import cache

from qtrap_agents.config import SuiteChoice
from qtrap_agents.evidence import Change, FaultKind, Replay, Reply
from qtrap_agents.semantics import consequence, same_value
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.types import Completion, GoldPremise, Hop, Measurement, Message, Premise, Task, Trace, Value

FAMILIES = ("arith", "lookup", "program", "relate", "track")

Values = dict[str, Value | None]


@cache
def draw(family: str, depth: int, index: int = 0) -> Task:
    """A task of a procedural family."""
    suite = load_suite(SuiteChoice(name=family))
    return list(suite.tasks((depth,), (0,), index + 1))[index]


@cache
def system(family: str) -> str:
    """What its hops are told first; nothing where there is no such suite."""
    return load_suite(SuiteChoice(name=family)).system if family in FAMILIES else ""


def follow(task: Task, given: Mapping[str, Value | None]) -> Values:
    """What is stated where some premises are given and all others are the consequence of what was stated before."""
    stated: Values = {}
    for gold in task.premises:
        stated[gold.id] = given[gold.id] if gold.id in given else _answer(gold, stated)
    return stated


def chain(task: Task, values: Mapping[str, Value | None], arm: str = "fp16", error: str | None = None) -> Trace:
    """One hop a premise, asked as the workflow `chain` asks."""
    hops: list[Hop] = []
    for position, gold in enumerate(task.premises, start=1):
        hops.append(_hop(task, gold, position, values))
    answer = values[task.premises[-1].id]
    return Trace(
        id=f"run/{arm}/{task.id}",
        run_id="run",
        task_id=task.id,
        suite=task.suite,
        depth=task.depth,
        seed=task.seed,
        workflow="chain",
        arm=arm,
        hops=tuple(hops),
        answer=None if error else answer,
        score=None if error else float(same_value(answer, task.answer)),
        error=error,
        measurement=Measurement(duration_s=0.1),
    )


def injected(
    task: Task, position: int, value: Value | None, fault: FaultKind | None = "digit", error: str | None = None
) -> Replay:
    """A fault in a chain of `fp16`, which is right about everything else."""
    gold = task.premises[position - 1]
    trace = chain(task, follow(task, {gold.id: value}), error=error)
    hops = list(trace.hops)
    said = Premise(id=gold.id, text=str(gold.value), value=gold.value, depends_on=gold.depends_on)
    completion = Completion(text=str(gold.value))
    hops[position - 1] = hops[position - 1].model_copy(update={"replaced": (said,), "completion": completion})
    change = Change(kind="inject", hop_id=hops[position - 1].id, premise=gold.id, value=value, fault=fault)
    return replay(trace.model_copy(update={"hops": tuple(hops)}), "fp16", change)


def replay(trace: Trace, source: str, *changes: Change) -> Replay:
    """A chain that went on from these changes."""
    return Replay(task_id=trace.task_id, seed=trace.seed, source=source, changes=changes, generated=0, trace=trace)


def answers(task: Task, recorded: Trace, arm: str, source: str, wrong: Collection[str] = ()) -> list[Reply]:
    """Every hop of a chain asked of an arm that is right about the words it is asked, but off at the premises `wrong`."""
    stated = {premise.id: premise.value for hop in recorded.hops for premise in hop.premises}
    replies = []
    for gold, hop in zip(task.premises, recorded.hops, strict=True):
        value = _answer(gold, stated)
        value = other(task, value) if gold.id in wrong else value
        premise = hop.premises[0].model_copy(update={"value": value, "text": str(value)})
        base = Reply(
            task_id=task.id, seed=task.seed, source=source, hop_id=hop.id, arm=arm, completion=Completion(text=str(value))
        )
        replies.append(base.model_copy(update={"premises": (premise,)}))
    return replies


def other(task: Task, value: Value | None) -> Value:
    """Another value that downstream rules can execute."""
    values = [premise.value for premise in task.premises if not same_value(premise.value, value)]
    return int(value) + 1 if isinstance(value, int) else values[0] if values else "other"


def swaps(task: Task, recorded: Trace, replies: Iterable[Reply], source: str, wrong: Collection[str] = ()) -> list[Replay]:
    """For every hop that was answered otherwise: the chain with that answer.

    Later hops that are asked in the recorded words keep what they stated, all others are right about theirs but at `wrong`.
    """
    made = []
    for reply in replies:
        hop = next(hop for hop in recorded.hops if hop.id == reply.hop_id)
        if not same_value(hop.premises[0].value, reply.premises[0].value):
            change = Change(kind="swap", hop_id=hop.id, arm=reply.arm)
            values = changed(task, recorded, {reply.premises[0].id: reply.premises[0].value}, wrong)
            made.append(replay(chain(task, values, recorded.arm), source, change))
    return made


def changed(task: Task, recorded: Trace, given: Mapping[str, Value | None], wrong: Collection[str] = ()) -> Values:
    """The values of a chain that goes on from other premises, as in `swaps`."""
    before = {premise.id: premise.value for hop in recorded.hops for premise in hop.premises}
    stated: Values = {}
    for gold in task.premises:
        kept = all(stated[parent] == before[parent] for parent in gold.depends_on)
        new = other(task, _answer(gold, stated)) if gold.id in wrong else _answer(gold, stated)
        stated[gold.id] = given[gold.id] if gold.id in given else before[gold.id] if kept else new
    return stated


def _answer(gold: GoldPremise, stated: Mapping[str, Value | None]) -> Value | None:
    """The consequence of what was stated, or gold where there is no rule."""
    if gold.rule is None:
        return gold.value
    known = {parent: value for parent in gold.depends_on if (value := stated[parent]) is not None}
    return consequence(gold, known)


def _hop(task: Task, gold: GoldPremise, position: int, values: Mapping[str, Value | None]) -> Hop:
    asked = gold.instruction
    for parent in gold.depends_on:
        asked = asked.replace(f"{{{parent}}}", "unknown" if values[parent] is None else str(values[parent]))
    places = {premise.id: index for index, premise in enumerate(task.premises, start=1)}
    text = "" if values[gold.id] is None else str(values[gold.id])
    told = (Message(role="system", content=system(task.suite)),) if system(task.suite) else ()
    return Hop(
        id=f"hop_{position:03d}",
        node=f"hop_{position:03d}",
        parents=tuple(f"hop_{places[parent]:03d}" for parent in gold.depends_on),
        messages=(*told, Message(role="user", content=asked)),
        completion=Completion(text=text),
        premises=(Premise(id=gold.id, text=text, value=values[gold.id], depends_on=gold.depends_on),),
    )
