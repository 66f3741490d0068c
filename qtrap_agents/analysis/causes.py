"""What the replays of an arm prove: the causal hop of every failed chain, and what one full-precision hop would have saved.

`prove` looks at one chain with its evidence, `ReplayAccumulator` adds chains up; memory grows with the number of chains by
one small record each, never with their hops. Terms as in `qtrap_agents.evidence` and the glossary of the README.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from qtrap_agents.analysis.funnel import Share, Sums
from qtrap_agents.analysis.graph import Origin, Status, judge, last_statements, verdicts
from qtrap_agents.evidence import Replay, Reply
from qtrap_agents.semantics import is_right, same_value
from qtrap_agents.types import GoldPremise, Hop, Premise, Record, Task, Trace

Rescue = Literal["one swap", "several swaps", "not restored", "incomplete"]
"""What brings back the answer; `incomplete` where nothing did so far and the replay is not finished."""


class ChainEvidence(NamedTuple):
    """Everything stored about one task of a replay: its chains on both arms, single hops and continued chains."""

    task: Task
    arm: Trace
    baseline: Trace
    replies: Sequence[Reply]
    replays: Sequence[Replay]


class Cause(Record):
    """Why one chain failed. Positions are those of hops in the recorded chain, counted from 1.

    `causal_hop` is the earliest hop whose answer by the baseline, in the same words, restores the answer of the task;
    `status`, `origin` and `kind` are those of the premise that it had stated, of several the first in error;
    `is_first_error` tells whether no premise of an earlier hop was in error. `swaps` is 1 then; else the number of hops that
    together were shown to restore it (an upper bound: fewer may do), None where nothing did. `repaired_hop` is the earliest
    hop whose premise, put right, restores the answer. `complete` tells that every hop was tried; where it is False an
    earlier causal hop may yet be found.
    """

    task_id: str
    suite: str
    depth: int
    hops: int
    baseline_right: bool
    rescue: Rescue
    complete: bool
    causal_hop: str | None = None
    position: int | None = None
    status: Status | None = None
    origin: Origin | None = None
    kind: str = ""
    is_first_error: bool | None = None
    swaps: int | None = None
    repaired_hop: str | None = None


class HopCounts(Sums):
    """Single hops asked again, of the chains that were chosen: `asked` with an answer, `other` with another premise."""

    asked: int = 0
    other: int = 0

    @property
    def share(self) -> Share:
        """Share of the hops whose premise is another one."""
        return Share(count=self.other, n=self.asked)


class HopEvidence(Sums):
    """Hops of the arm asked of the baseline and again of the arm; hops of the baseline asked of the arm and again of it.

    `forced_wrong` of `forced` hops are wrong on the arm although all their premises were right (teacher forcing): its own
    errors. `free_wrong` of `free` premises are in error on the arm's own chains: own and inherited together.
    """

    swapped_asked: int = 0
    swapped_other: int = 0
    again_asked: int = 0
    again_other: int = 0
    reverse_asked: int = 0
    reverse_other: int = 0
    baseline_again_asked: int = 0
    baseline_again_other: int = 0
    forced: int = 0
    forced_wrong: int = 0
    free: int = 0
    free_wrong: int = 0

    def hops(self, what: Literal["swapped", "again", "reverse", "baseline_again"]) -> HopCounts:
        """One of the four pairs."""
        return HopCounts(asked=getattr(self, f"{what}_asked"), other=getattr(self, f"{what}_other"))

    @property
    def own(self) -> Share:
        """Own errors under teacher forcing."""
        return Share(count=self.forced_wrong, n=self.forced)

    @property
    def all_errors(self) -> Share:
        """Premises in error in the arm's own chains."""
        return Share(count=self.free_wrong, n=self.free)

    @property
    def inherited(self) -> float | None:
        """What free running adds to the share of own errors; None where one of the two was not measured."""
        return None if self.all_errors.share is None or self.own.share is None else self.all_errors.share - self.own.share


class Outcomes(Sums):
    """What the continued chains came to.

    Of the `failed` chains, `one`, `several`, `none` and `incomplete` count them by `Rescue`, `repaired` those that one
    repaired premise saves, `first_error` those whose causal hop is the hop of their first error; `baseline_wrong` fail on the
    baseline too. Of the `healthy` chains that were replayed to the end, `harmed` are those that a full-precision hop broke:
    the noise floor of `one`. `reverse` counts single hops by the arm, where it stated something else, in chains that the
    baseline solves; `broken` those whose answer became wrong.
    """

    failed: int = 0
    baseline_wrong: int = 0
    one: int = 0
    several: int = 0
    none: int = 0
    incomplete: int = 0
    repaired: int = 0
    first_error: int = 0
    healthy: int = 0
    harmed: int = 0
    reverse: int = 0
    broken: int = 0

    @property
    def replayed(self) -> int:
        """Failed chains of which it is known what a single swap does."""
        return self.failed - self.incomplete

    @property
    def saved_by_one(self) -> Share:
        """Share of the replayed failed chains that a single full-precision hop saves."""
        return Share(count=self.one, n=self.replayed)

    @property
    def saved_by_repair(self) -> Share:
        """The same of all failed chains for one premise put right, which needs no baseline."""
        return Share(count=self.repaired, n=self.failed)

    @property
    def causal_first_errors(self) -> Share:
        """Share of the causal hops that are the hop of the first error."""
        return Share(count=self.first_error, n=self.one)

    @property
    def harmed_share(self) -> Share:
        """Share of the healthy chains that a single full-precision hop breaks."""
        return Share(count=self.harmed, n=self.healthy)

    @property
    def broken_share(self) -> Share:
        """Share of the differing hops by the arm that break a baseline chain on their own; it survives the others."""
        return Share(count=self.broken, n=self.reverse)


class Group(Record):
    """Chains of one suite and depth; None for all of them together."""

    suite: str | None
    depth: int | None
    hops: HopEvidence
    outcomes: Outcomes


class ReplayProfile(Record):
    """The replays of an arm: groups (all, suites, suites by depth), causes of failed chains, causal hops by kind and place.

    `kinds` maps (suite, kind of step) to the causal hops of that kind and to all hops of that kind in the failed chains;
    `tenths` counts causal hops by tenth of the chain (0 to 9), for chains of ten hops and more.
    """

    total: Group
    suites: tuple[Group, ...]
    cells: tuple[Group, ...]
    causes: tuple[Cause, ...]
    kinds: dict[str, dict[str, Share]]
    origins: dict[str, int]
    tenths: tuple[int, ...]
    swaps: dict[int, int]


def prove(chain: ChainEvidence) -> Cause:
    """The cause of one failed chain, as far as it was replayed."""
    arm = chain.arm.arm
    own = [made for made in chain.replays if made.source == arm]
    complete = is_complete(chain.arm, (reply for reply in chain.replies if _pair(reply) == (arm, chain.baseline.arm)), own)
    hop_id = earliest_saving(chain.arm, own, "swap")
    joint = min((len(made.changes) for made in own if len(made.changes) > 1 and made.trace.correct), default=None)
    rescue: Rescue = "one swap" if hop_id else "several swaps" if joint else "not restored" if complete else "incomplete"
    common: dict[str, object] = {"task_id": chain.task.id, "suite": chain.task.suite, "depth": chain.task.depth}
    return Cause.model_validate(
        common
        | {"hops": len(chain.arm.hops), "baseline_right": chain.baseline.correct, "rescue": rescue, "complete": complete}
        | {"swaps": 1 if hop_id else joint, "repaired_hop": earliest_saving(chain.arm, own, "repair")}
        | (_causal(chain, hop_id) if hop_id else {})
    )


def earliest_saving(chain: Trace, replays: Iterable[Replay], kind: Literal["swap", "repair"]) -> str | None:
    """The earliest hop of a chain at which one change of that kind, alone, restored the answer; None where none did."""
    saving = {
        made.changes[0].hop_id
        for made in replays
        if len(made.changes) == 1 and made.changes[0].kind == kind and made.trace.correct
    }
    return next((hop.id for hop in chain.hops if hop.id in saving), None)


def is_complete(chain: Trace, replies: Iterable[Reply], replays: Iterable[Replay]) -> bool:
    """True where the other arm answered every hop of a chain, and every answer that differs was followed to its end."""
    answers = {reply.hop_id: reply.premises for reply in replies if reply.completion is not None}
    ended = (made for made in replays if len(made.changes) == 1 and made.trace.error is None)
    tried = {made.changes[0].hop_id for made in ended if made.changes[0].kind == "swap"}
    same = (hop.id in answers and states_the_same(hop.premises, answers[hop.id]) for hop in chain.hops)
    return all(hop.id in answers and (equal or hop.id in tried) for hop, equal in zip(chain.hops, same, strict=True))


def _pair(reply: Reply) -> tuple[str, str]:
    return reply.source, reply.arm


def _causal(chain: ChainEvidence, hop_id: str) -> dict[str, object]:
    """What is known of the causal hop and the premise that it had stated."""
    judged = judge(chain.arm, chain.task)
    first = next((premise for premise in judged if premise.is_error), None)
    stated = sorted((premise for premise in judged if premise.hop_id == hop_id), key=lambda premise: not premise.is_error)
    kinds = {premise.id: premise.kind for premise in chain.task.premises}
    facts: dict[str, object] = {
        "causal_hop": hop_id,
        "position": next(place for place, hop in enumerate(chain.arm.hops, start=1) if hop.id == hop_id),
        "is_first_error": first is not None and first.hop_id == hop_id,
    }
    if not stated:
        return facts
    return facts | {"status": stated[0].status, "origin": stated[0].origin, "kind": kinds.get(stated[0].id, "")}


def states_the_same(left: Iterable[Premise], right: Iterable[Premise]) -> bool:
    """True where both state the same premises with the same values; nothing readable is equal to nothing readable."""
    ours, theirs = ({premise.id: premise.value for premise in side} for side in (left, right))
    return ours.keys() == theirs.keys() and all(
        value is theirs[name] is None or same_value(value, theirs[name]) for name, value in ours.items()
    )


class ReplayAccumulator:
    """Adds up the evidence chain by chain."""

    def __init__(self) -> None:
        self._hops: dict[tuple[str, int], HopEvidence] = {}
        self._outcomes: dict[tuple[str, int], Outcomes] = {}
        self._causes: list[Cause] = []
        self._steps: Counter[tuple[str, str]] = Counter()

    def add(self, chain: ChainEvidence) -> None:
        """One chosen chain with a judged answer, failed or healthy."""
        cell = (chain.task.suite, chain.task.depth)
        self._hops[cell] = self._hops.get(cell, HopEvidence()) + _hop_evidence(chain)
        cause = None if chain.arm.correct else prove(chain)
        self._outcomes[cell] = self._outcomes.get(cell, Outcomes()) + _outcomes(chain, cause)
        if cause is not None:
            self._causes.append(cause)
            self._steps.update((chain.task.suite, premise.kind) for premise in chain.task.premises)

    def profile(self) -> ReplayProfile:
        """All chains so far."""
        suites = sorted({suite for suite, _ in self._hops})
        causal = [cause for cause in self._causes if cause.causal_hop is not None]
        return ReplayProfile(
            total=self._group(None, None),
            suites=tuple(self._group(suite, None) for suite in suites),
            cells=tuple(self._group(*cell) for cell in sorted(self._hops)),
            causes=tuple(sorted(self._causes, key=lambda cause: cause.task_id)),
            kinds={suite: self._kinds(suite, causal) for suite in suites},
            origins=dict(Counter(map(origin_of, causal))),
            tenths=_tenths(causal),
            swaps=dict(sorted(Counter(cause.swaps for cause in self._causes if cause.swaps is not None).items())),
        )

    def _group(self, suite: str | None, depth: int | None) -> Group:
        cells = [cell for cell in self._hops if suite in (None, cell[0]) and depth in (None, cell[1])]
        hops = sum((self._hops[cell] for cell in cells), HopEvidence())
        return Group(suite=suite, depth=depth, hops=hops, outcomes=sum((self._outcomes[cell] for cell in cells), Outcomes()))

    def _kinds(self, suite: str, causal: Iterable[Cause]) -> dict[str, Share]:
        found = Counter(cause.kind for cause in causal if cause.suite == suite)
        steps = {kind: count for (name, kind), count in self._steps.items() if name == suite}
        return {kind: Share(count=found[kind], n=steps[kind]) for kind in sorted(steps, key=lambda kind: (-found[kind], kind))}


def origin_of(cause: Cause) -> str:
    """The origin of the error at a causal hop; `missing`, or `right` where its premise was no error."""
    if cause.origin is None and cause.status in ("match", "missing"):
        return "right" if cause.status == "match" else "missing"
    return cause.origin or "unknown"


def _tenths(causal: Iterable[Cause]) -> tuple[int, ...]:
    tenths = Counter(10 * (cause.position - 1) // cause.hops for cause in causal if cause.position and cause.hops >= 10)
    return tuple(tenths[tenth] for tenth in range(10))


def _hop_evidence(chain: ChainEvidence) -> HopEvidence:
    arm, baseline = chain.arm.arm, chain.baseline.arm
    counts: Counter[str] = Counter()
    recorded = {(trace.arm, hop.id): hop for trace in (chain.arm, chain.baseline) for hop in trace.hops}
    names = {(arm, baseline): "swapped", (arm, arm): "again", (baseline, arm): "reverse", (baseline, baseline): "baseline_again"}
    right = _right_premises(chain.baseline, chain.task)
    gold = {premise.id: premise for premise in chain.task.premises if right.issuperset(premise.depends_on)}
    for reply in chain.replies:
        hop, name = recorded.get((reply.source, reply.hop_id)), names.get(_pair(reply))
        if hop is None or name is None or reply.completion is None:
            continue
        counts[f"{name}_asked"] += 1
        counts[f"{name}_other"] += not states_the_same(hop.premises, reply.premises)
        if name == "reverse":
            counts += _forced(gold, hop, reply)
    counts["free"] += len(chain.task.premises)
    counts["free_wrong"] += len(chain.task.premises) - len(_right_premises(chain.arm, chain.task))
    return HopEvidence(**counts)


def _right_premises(trace: Trace, task: Task) -> set[str]:
    return {premise.gold.id for premise in verdicts(task, last_statements(trace)) if premise.status == "match"}


def _forced(gold: Mapping[str, GoldPremise], hop: Hop, reply: Reply) -> Counter[str]:
    """Premises of a hop of the baseline, of those in `gold`, that the arm stated too, and those that it got wrong."""
    stated = {premise.id: premise.value for premise in reply.premises}
    forced = [premise.id for premise in hop.premises if premise.id in gold]
    return Counter(forced=len(forced), forced_wrong=sum(not is_right(stated.get(name), gold[name]) for name in forced))


def _outcomes(chain: ChainEvidence, cause: Cause | None) -> Outcomes:
    arm = chain.arm.arm
    swaps = [made for made in chain.replays if len(made.changes) == 1 and made.changes[0].kind == "swap"]
    judged = [made for made in swaps if made.trace.error is None]
    reverse = [made for made in judged if made.source == chain.baseline.arm and chain.baseline.correct]
    both = {"reverse": len(reverse), "broken": sum(not made.trace.correct for made in reverse)}
    if cause is None:
        replies = [reply for reply in chain.replies if _pair(reply) == (arm, chain.baseline.arm)]
        own = [made for made in judged if made.source == arm]
        complete = is_complete(chain.arm, replies, own)
        return Outcomes(healthy=int(complete), harmed=int(complete and not all(made.trace.correct for made in own)), **both)
    return Outcomes(
        failed=1,
        baseline_wrong=int(not chain.baseline.correct),
        one=int(cause.rescue == "one swap"),
        several=int(cause.rescue == "several swaps"),
        none=int(cause.rescue == "not restored"),
        incomplete=int(cause.rescue == "incomplete"),
        repaired=int(cause.repaired_hop is not None),
        first_error=int(bool(cause.is_first_error)),
        **both,
    )
