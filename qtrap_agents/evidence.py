"""Records of the experiments on a stored run: what an arm makes of another's text, and what a chain does when one hop changes.

    <run>/arms/<arm>/scores.jsonl         TraceScore: the baseline's own text under that arm
    <run>/arms/<baseline>/scores-again.jsonl    the same once more on the baseline: the noise floor
    <run>/replays/<arm>/replies.jsonl     Reply: single hops of recorded chains, answered by another arm
    <run>/replays/<arm>/replays.jsonl     Replay: chains that went on from a changed hop
    <run>/faults/<name>/replays.jsonl     Replay: chains with an injected fault
    <run>/faults/<name>/replies.jsonl, located.jsonl    the same experiments on these chains, to find the fault again

One line each, appended as they are made; the next pass goes on where the last one stopped.
"""

from collections.abc import Iterable
from typing import Literal

from qtrap_agents.types import Completion, Premise, Record, Score, Trace, Value

REPLIES, REPLAYS, LOCATED = "replies.jsonl", "replays.jsonl", "located.jsonl"
"""Names of the files."""

FaultKind = Literal["off-by-one", "digit", "name", "drop", "swap"]


class HopScore(Record):
    """One hop of a trace under teacher forcing; `score` is None where `error` says why it could not be taken."""

    hop_id: str
    score: Score | None
    error: str | None = None


class TraceScore(Record):
    """The text of one stored trace of arm `source` under the arm whose directory holds this line."""

    task_id: str
    seed: int
    source: str
    hops: tuple[HopScore, ...]


class Reply(Record):
    """A hop of a recorded chain of arm `source`, asked again in the same words of arm `arm`, on its own.

    `premises` are what it states now. With `arm` equal to `source` it is the noise floor of the experiment.
    `error` is set where the request failed; then there is no completion.
    """

    task_id: str
    seed: int
    source: str
    hop_id: str
    arm: str
    completion: Completion | None
    premises: tuple[Premise, ...] = ()
    error: str | None = None


class Change(Record):
    """What is different at one hop of a replay.

    `swap`: arm `arm` answers the hop. `repair`: later hops are given gold. `inject`: later hops are given `value`
    (None: nothing readable) instead of what the hop stated, a fault of kind `fault`. `premise` is the id of the premise
    that is given; None is the last one of the hop.
    """

    kind: Literal["swap", "repair", "inject"]
    hop_id: str
    arm: str | None = None
    premise: str | None = None
    value: Value | None = None
    fault: FaultKind | None = None

    @property
    def name(self) -> str:
        """`swap@hop_007`, `repair@answer:s3` where one premise of several is meant."""
        return f"{self.kind}@{self.hop_id}" + (f":{self.premise}" if self.premise else "")


class Replay(Record):
    """A chain of arm `source` that went on, on arm `trace.arm`, from one or more changed hops.

    Hops before the first change are the recorded ones, and so are later hops that were asked in the same words;
    `generated` counts the model calls that were really made. `trace` is judged like any other.
    """

    task_id: str
    seed: int
    source: str
    changes: tuple[Change, ...]
    generated: int
    trace: Trace

    @property
    def name(self) -> str:
        """The names of the changes, joined by `+`."""
        return joined_name(self.changes)


def joined_name(changes: Iterable[Change]) -> str:
    """The names of several changes as one."""
    return "+".join(change.name for change in changes)
