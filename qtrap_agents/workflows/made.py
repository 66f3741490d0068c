"""The model calls of an app as hops: those that the gateway answered, and those that only LangChain saw."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from qtrap_agents.backends.gateway import Call
from qtrap_agents.types import Completion, Hop, Message, Sampling
from qtrap_agents.workflows.lineage import Lineage, Span, around, nodes
from qtrap_agents.workflows.witness import Sighting

UNKNOWN_NODE = "unattributed"


class Made(NamedTuple):
    """A call with its answer. `arm` is set where not the arm of the trace gave it, `sampling` where the arm was asked."""

    span: Span
    messages: tuple[Message, ...]
    completion: Completion
    started_at: float
    arm: str | None
    sampling: Sampling | None


def made(calls: Iterable[Call], seen: Iterable[Sighting]) -> list[Made]:
    """All answered calls in the order of their beginnings; what passed through the gateway counts once, as it saw it."""
    passed = [call for call in calls if call.completion is not None]
    elsewhere = [sighting for sighting in seen if not _passed(sighting, passed)]
    return sorted((*map(_from_call, passed), *map(_from_sighting, elsewhere)), key=lambda one: one.span.began)


def _passed(sighting: Sighting, calls: Iterable[Call]) -> bool:
    """Whether it is one of the calls: by the id of the response, which some clients drop, else by place and time."""
    return any(
        call.id in sighting.ids or (call.place == sighting.place and sighting.began <= call.began <= sighting.ended)
        for call in calls
    )


def _from_call(call: Call) -> Made:
    assert call.completion is not None
    span = Span(call.place, call.began, call.ended)
    return Made(span, call.messages, call.completion, call.started_at, call.arm, call.sampling)


def _from_sighting(sighting: Sighting) -> Made:
    assert sighting.completion is not None
    span = Span(sighting.place, sighting.began, sighting.ended)
    return Made(span, sighting.messages, sighting.completion, sighting.started_at, sighting.model, None)


def hops(calls: Sequence[Made], lineage: Lineage) -> tuple[Hop, ...]:
    """One hop for each call, its premises still to be read."""
    calls = [call._replace(span=call.span._replace(place=lineage.place(call.span.place))) for call in calls]
    parents = lineage.parents([call.span for call in calls])
    ids = _ids(calls, lineage)
    return tuple(
        Hop(
            id=ids[index],
            node=node_name(call.span.place),
            parents=tuple(ids[parent] for parent in parents[index]),
            messages=call.messages,
            completion=call.completion,
            started_at=call.started_at,
            arm=call.arm,
            sampling=call.sampling,
        )
        for index, call in enumerate(calls)
    )


def _ids(calls: Sequence[Made], lineage: Lineage) -> list[str]:
    """Calls to the arm are numbered first, so that a replay finds them under the same ids."""
    order = sorted(range(len(calls)), key=lambda index: calls[index].sampling is None)
    names = hop_ids([calls[index].span.place for index in order], lineage)
    return [name for _, name in sorted(zip(order, names, strict=True))]


def hop_ids(places: Iterable[str | None], lineage: Lineage) -> list[str]:
    """`team/write`, the second time `team/write.2`; where a node was sent for several times at once, `write[2]`."""
    told: Counter[str] = Counter()
    found = []
    for place in places:
        name = _label(lineage.place(place), lineage)
        told[name] += 1
        found.append(name if told[name] == 1 else f"{name}.{told[name]}")
    return found


def node_name(place: str | None) -> str:
    """The node with the nodes around it, such as `team/write`."""
    return "/".join(nodes(place)) if place else UNKNOWN_NODE


def _label(place: str | None, lineage: Lineage) -> str:
    if not place:
        return UNKNOWN_NODE
    return "/".join(lineage.label(one) for one in reversed(list(around(place))))
