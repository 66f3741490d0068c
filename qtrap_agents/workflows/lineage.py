"""Which model calls came before which: from what LangGraph tells of its steps to the true parents of each call.

LangGraph names a running node by a checkpoint namespace: `plan:ID`, and inside of a subgraph `team:ID|write:ID`; a second
subgraph that the same node calls has a number in between. What started a node are its triggers, channels that earlier nodes
wrote to, or a `Send`. So the calls before a call are the last ones in its own node, else those of the nodes whose writes
triggered its node, through nodes without a call further back, and for the first nodes of a subgraph those before the subgraph.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

START = "__start__"
SENDS = "__pregel_tasks"
"""LangGraph's channel of `Send`s."""

PUSH = "__pregel_push"
BEFORE_ALL = -1_000


@dataclass(frozen=True)
class Step:
    """A node that ran: its namespace, the number of its round, and what started it.

    `sent` is its place among the `Send`s of the round before, None where it was started by its triggers; `called` where the
    code of another node called it (a task of the functional API). `began` is on the clock of `time.perf_counter`.
    """

    place: str
    round: int
    triggers: tuple[str, ...]
    sent: int | None
    called: bool
    began: float

    @property
    def task(self) -> str:
        """LangGraph's id of it."""
        return self.place.rpartition(":")[2]


class Write(NamedTuple):
    """What a node wrote: the namespace of its graph, its task id, its place in the order of its round, the channels."""

    container: str
    task: str
    order: str
    channels: tuple[str, ...]


class Span(NamedTuple):
    """A model call: where it was made and from when to when; None where its place is not known."""

    place: str | None
    began: float
    ended: float


def nodes(place: str) -> tuple[str, ...]:
    """Names of the nodes in a namespace, from the outside in."""
    return tuple(part.rpartition(":")[0] for part in place.split("|") if ":" in part)


def container(place: str) -> str:
    """The namespace of the graph that a node belongs to; empty for the outermost."""
    return place.rpartition("|")[0]


def _owner(graph: str) -> str:
    """The node that runs a subgraph; empty for the outermost graph."""
    while graph and ":" not in graph.rpartition("|")[2]:
        graph = container(graph)
    return graph


def around(place: str) -> Iterator[str]:
    """A node and the nodes around it, from the inside out."""
    while place:
        yield place
        place = _owner(container(place))


@dataclass
class Lineage:
    """The steps and writes of one task, gathered while it runs."""

    steps: dict[str, Step] = field(default_factory=dict)
    writes: dict[str, list[Write]] = field(default_factory=dict)
    _full: dict[str, str] = field(default_factory=dict)
    _latest: dict[tuple[str, ...], str] = field(default_factory=dict)

    def started(self, metadata: Mapping[str, Any], now: float) -> None:
        """A node starts, or something inside of it; only the first word on a node counts."""
        named = metadata.get("langgraph_checkpoint_ns")
        if not named or named in self._full:
            return
        place = self._full[named] = self._filled(named)
        path = tuple(metadata.get("langgraph_path", ()))
        by = path[1] if len(path) > 1 and path[0] == PUSH else None
        self._latest[nodes(place)] = place
        self.steps[place] = Step(
            place=place,
            round=int(metadata.get("langgraph_step", 0)),
            triggers=tuple(metadata.get("langgraph_triggers", ())),
            sent=by if isinstance(by, int) else None,
            called=isinstance(by, tuple | list),
            began=now,
        )

    def place(self, named: str | None) -> str | None:
        """A namespace as it stands in `steps`."""
        return self._full.get(named, named) if named else None

    def _filled(self, named: str) -> str:
        """With all ids: around a subgraph that remembers between its calls LangGraph leaves them out."""
        parts = named.split("|")
        bare = [number for number, part in enumerate(parts) if ":" not in part and not part.isdigit()]
        if not bare:
            return named
        head, rest = parts[: bare[-1] + 1], parts[bare[-1] + 1 :]
        names = tuple(part.rpartition(":")[0] or part for part in head if not part.isdigit())
        return "|".join((self._latest.get(names, "|".join(head)), *rest))

    def wrote(self, graph: str, task: str, order: str, channels: Iterable[str]) -> None:
        """A node has written."""
        self.writes.setdefault(graph, []).append(Write(graph, task, order, tuple(channels)))

    def label(self, place: str) -> str:
        """The name of a node; `write[2]` where it was sent for several times at once."""
        step, name = self.steps.get(place), nodes(place)[-1]
        return name if step is None or step.sent is None else f"{name}[{step.sent + 1}]"

    def parents(self, spans: Sequence[Span]) -> list[tuple[int, ...]]:
        """For each call, in the order of their beginnings, the places in this list of the calls before it."""
        return _Parents(self, spans).found


class _Graph:
    """What ran in one graph."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._rounds: dict[str, list[int]] = {}
        self._writes: list[tuple[int, str, str, tuple[str, ...]]] = []
        self._by_channel: dict[str, list[tuple[int, str]]] = {}

    @property
    def began(self) -> float:
        """When its first node started."""
        return min((step.began for step in self.steps), default=0.0)

    def ran(self, step: Step) -> None:
        """A node of it ran."""
        self.steps.append(step)
        if step.sent is None:
            self._rounds.setdefault(nodes(step.place)[-1], []).append(step.round)

    def wrote(self, writer: Step | None, write: Write) -> None:
        """A node of it wrote; the graph's own input has no step."""
        number, place = (writer.round, writer.place) if writer else (BEFORE_ALL, START)
        self._writes.append((number, write.order, place, write.channels))
        for channel in set(write.channels):
            self._by_channel.setdefault(channel, []).append((number, place))

    def writers(self, step: Step) -> list[str]:
        """The nodes whose writes started a step; `START` for the graph's own beginning."""
        if not self._writes:
            found = self._round_before(step)
        elif step.sent is not None:
            found = self._senders(step)
        else:
            found = self._triggering(step)
        return list(dict.fromkeys(found)) or [START]

    def _triggering(self, step: Step) -> list[str]:
        """Writers of its triggers since the node ran last."""
        earlier = (number for number in self._rounds[nodes(step.place)[-1]] if number < step.round)
        since = max(earlier, default=BEFORE_ALL)
        written = (pair for trigger in step.triggers for pair in self._by_channel.get(trigger, ()))
        return [place for number, place in written if since <= number < step.round]

    def _senders(self, step: Step) -> list[str]:
        """The node whose `Send` it was: they are numbered through the writers of the round before, in their order."""
        last = max((one.round for one in self.steps if one.round < step.round), default=BEFORE_ALL)
        before = sorted(written for written in self._writes if written[0] == last)
        senders = [place for _, _, place, channels in before for channel in channels if channel == SENDS]
        number = step.sent or 0
        return senders[number : number + 1]

    def _round_before(self, step: Step) -> list[str]:
        """Where nothing is known of writes: all of the round before."""
        last = max((one.round for one in self.steps if one.round < step.round), default=BEFORE_ALL)
        return [one.place for one in self.steps if one.round == last]


def _graphs(lineage: Lineage) -> dict[str, _Graph]:
    graphs: defaultdict[str, _Graph] = defaultdict(_Graph)
    for step in lineage.steps.values():
        graphs[container(step.place)].ran(step)
    by_task = {step.task: step for step in lineage.steps.values()}
    for name, writes in lineage.writes.items():
        for write in writes:
            writer = by_task.get(write.task)
            graphs[container(writer.place) if writer else name].wrote(writer, write)
    return dict(graphs)


class _Parents:
    """One pass over the calls of a task."""

    def __init__(self, lineage: Lineage, spans: Sequence[Span]) -> None:
        self._steps, self._graphs, self._spans = lineage.steps, _graphs(lineage), spans
        self._inside: dict[str, list[int]] = {}
        self._entries: dict[str, frozenset[int]] = {}
        self.found: list[tuple[int, ...]] = []
        for index, span in enumerate(spans):
            self.found.append(tuple(sorted(self._before(span))))
            for place in around(span.place or ""):
                self._inside.setdefault(place, []).append(index)

    def _before(self, span: Span) -> frozenset[int]:
        if span.place is None:
            return frozenset()
        return self._earlier(self._inside.get(span.place, ()), span.began) or self._entry(span.place)

    def _earlier(self, calls: Iterable[int], before: float) -> frozenset[int]:
        """The last of the calls that had ended by then."""
        return self._last(call for call in calls if self._spans[call].ended <= before)

    def _last(self, calls: Iterable[int]) -> frozenset[int]:
        """Those that none of the others came after."""
        chosen = set(calls)
        return frozenset(chosen - {parent for call in chosen for parent in self.found[call]})

    def _entry(self, place: str) -> frozenset[int]:
        """The calls that a node builds on: the same ones from its start on."""
        if place not in self._entries:
            self._entries[place] = self._find_entry(place)
        return self._entries[place]

    def _find_entry(self, place: str) -> frozenset[int]:
        step, graph = self._steps.get(place), container(place)
        if step is None:
            return self._before_graph(graph)
        if step.called:
            owner = _owner(graph)
            return self._earlier(self._inside.get(owner, ()), step.began) or self._entry(owner)
        writers = self._graphs[graph].writers(step)
        return frozenset().union(*(self._before_graph(graph) if writer == START else self._exit(writer) for writer in writers))

    def _exit(self, place: str) -> frozenset[int]:
        """The last calls of a node, or what it builds on itself."""
        return self._last(self._inside[place]) if place in self._inside else self._entry(place)

    def _before_graph(self, graph: str) -> frozenset[int]:
        """The calls before a subgraph: earlier ones in the node that runs it, else those before that node."""
        owner = _owner(graph)
        if not owner:
            return frozenset()
        outside = [call for call in self._inside.get(owner, ()) if not _is_in(graph, self._spans[call].place or "")]
        begun = self._graphs[graph].began if graph in self._graphs else 0.0
        return self._earlier(outside, begun) or self._entry(owner)


def _is_in(graph: str, place: str) -> bool:
    return any(container(one) == graph for one in around(place))
