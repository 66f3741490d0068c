"""What the nodes of a workflow cost, by role (`hop`, `sample`, `check`, …), and what its checkers found."""

from collections.abc import Iterable, Mapping, Sequence

from qtrap_agents.semantics import consequence, is_right, same_value
from qtrap_agents.types import Decision, GoldPremise, Hop, Premise, Record, Task, Trace, in_order

VERDICT = "verdict_"
"""How the premise of a checker's verdict begins; the premise that it judges follows (see workflow `verify_revise`)."""

ALARMS = ("sent back", "kept")


class RoleCost(Record):
    """Model calls of the nodes of one role: tokens, and seconds until the answers, those in parallel added up."""

    role: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0

    def __add__(self, other: "RoleCost") -> "RoleCost":
        return RoleCost(
            role=self.role,
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            latency_s=self.latency_s + other.latency_s,
        )


class Checks(Record):
    """What a checker made of the statements it saw.

    `faulty` of the `checked` statements were not the right consequence of what they were derived from; `detected` of these
    raised an alarm, and so did `false_alarms` of the others. `unreadable` verdicts raised none.
    """

    checked: int = 0
    faulty: int = 0
    detected: int = 0
    false_alarms: int = 0
    unreadable: int = 0

    def __add__(self, other: "Checks") -> "Checks":
        return Checks(**{name: getattr(self, name) + getattr(other, name) for name in Checks.model_fields})


def role_costs(hops: Iterable[Hop]) -> dict[str, RoleCost]:
    """Role -> its cost, in the order of the first call."""
    totals: dict[str, list[float]] = {}
    for hop in hops:
        spent = hop.completion
        total = totals.setdefault(hop.role, [0, 0, 0, 0.0])
        for place, amount in enumerate((1, spent.prompt_tokens, spent.completion_tokens, spent.latency_s)):
            total[place] += amount
    return {
        role: RoleCost(
            role=role, calls=int(calls), prompt_tokens=int(prompt), completion_tokens=int(completion), latency_s=latency
        )
        for role, (calls, prompt, completion, latency) in totals.items()
    }


def merged(first: Mapping[str, RoleCost], second: Mapping[str, RoleCost]) -> dict[str, RoleCost]:
    """The sums, role by role."""
    return {
        role: first.get(role, RoleCost(role=role)) + second.get(role, RoleCost(role=role))
        for role in dict.fromkeys((*first, *second))
    }


def checks(trace: Trace, task: Task) -> Checks | None:
    """What the verdicts of a trace were worth; None where it has none, or its task no gold premises."""
    if not task.premises or not any(_is_verdict(decision) for decision in trace.decisions):
        return None
    gold = {premise.id: premise for premise in task.premises}
    stated: dict[str, Premise] = {}
    found = Checks()
    for said in in_order(trace.hops, trace.decisions):
        for premise in said.premises:
            stated[premise.id] = premise
            if isinstance(said, Decision) and premise.id.startswith(VERDICT):
                found += _check(premise, _judged(premise, gold), stated)
    return found


def _is_verdict(decision: Decision) -> bool:
    return any(premise.id.startswith(VERDICT) for premise in decision.premises)


def _judged(verdict: Premise, gold: Mapping[str, GoldPremise]) -> Sequence[GoldPremise]:
    """The premise that the verdict is about, or all of them."""
    name = verdict.id.removeprefix(VERDICT)
    return [gold[name]] if name in gold else list(gold.values())


def _check(verdict: Premise, judged: Sequence[GoldPremise], stated: Mapping[str, Premise]) -> Checks:
    faulty, alarm = any(not _follows(gold, stated) for gold in judged), verdict.value in ALARMS
    return Checks(
        checked=1,
        faulty=int(faulty),
        detected=int(faulty and alarm),
        false_alarms=int(alarm and not faulty),
        unreadable=int(verdict.value == "unreadable"),
    )


def _follows(gold: GoldPremise, stated: Mapping[str, Premise]) -> bool:
    """Whether a statement is right, or what the stated parents rightly give."""
    said = stated.get(gold.id)
    if said is None or said.value is None:
        return False
    parents = {parent: stated[parent].value for parent in gold.depends_on if parent in stated}
    known = {parent: value for parent, value in parents.items() if value is not None}
    expected = consequence(gold, known) if len(known) == len(gold.depends_on) else None
    return is_right(said.value, gold) or same_value(expected, said.value)
