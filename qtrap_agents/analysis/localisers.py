"""The localiser benchmark: faults of known place, and how often each localiser names the hop where the fault lies.

Only chains whose answer the fault made wrong are searched, and only those of two hops and more: in a single hop there is
nothing to find. A localiser that abstains has not named the hop, so its accuracy counts abstentions as misses.

    random                one hop at random, drawn with a fixed seed; its expected accuracy is exact
    first, middle, last   always the same place
    best constant         always hop k, with the k that is right most often in these very chains: known in hindsight only
    reference-free        the chain alone (`qtrap_agents.analysis.localise`)
    first error           the earliest premise that differs from gold: an oracle, it needs gold
    replay                the causal hop: the earliest hop whose answer by the baseline restores the answer of the task
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Literal, NamedTuple, get_args

from qtrap_agents.analysis.causes import earliest_saving, is_complete
from qtrap_agents.analysis.funnel import Share, Sums
from qtrap_agents.analysis.graph import last_statements, verdicts
from qtrap_agents.analysis.localise import Review, review
from qtrap_agents.evidence import FaultKind, Replay, Reply
from qtrap_agents.types import Record, Task, Trace

Localiser = Literal["random", "first", "middle", "last", "best constant", "reference-free", "first error", "replay"]


class Faulty(NamedTuple):
    """Everything stored about one faulty chain: its hops asked again, and the swaps that were tried on it."""

    task: Task
    made: Replay
    replies: Sequence[Reply]
    swaps: Sequence[Replay]


class Search(Record):
    """One faulty chain: the hop of the fault and the hop that each localiser names, by position from 1.

    None in `named` is an abstention. `replay` is missing there where the finder has not searched the chain to its end,
    which `searched` tells. `reason` is what the reference-free localiser says.
    """

    task_id: str
    suite: str
    depth: int
    fault: FaultKind | None
    hops: int
    hop: int
    name: str
    named: dict[Localiser, int | None]
    searched: bool
    checked: int
    premises: int
    reason: str = ""

    def distance(self, localiser: Localiser) -> int | None:
        """Hops between the fault and what a localiser names; None where it abstains."""
        guess = self.named.get(localiser)
        return None if guess is None else abs(guess - self.hop)


class Tally(Sums):
    """Chains by what a localiser made of them; `near` are those within one hop, the exact ones included."""

    n: int = 0
    named: int = 0
    exact: int = 0
    near: int = 0


class Accuracy(Record):
    """One localiser. `expected` and `expected_near` are exact expectations of random guessing; `constant` is the best hop."""

    localiser: Localiser
    tally: Tally
    expected: float | None = None
    expected_near: float | None = None
    constant: int | None = None

    @property
    def exact(self) -> Share:
        """Share of the chains whose faulty hop it names."""
        return Share(count=self.tally.exact, n=self.tally.n)

    @property
    def near(self) -> Share:
        """Share of the chains where it names the faulty hop or a neighbour of it."""
        return Share(count=self.tally.near, n=self.tally.n)

    @property
    def precision(self) -> Share:
        """Share of the hops that it names which are the faulty ones."""
        return Share(count=self.tally.exact, n=self.tally.named)

    @property
    def abstained(self) -> int:
        """Chains where it names no hop."""
        return self.tally.n - self.tally.named


class Group(Record):
    """Chains of one suite or with one kind of fault; None for all. `checked` of `premises` could be checked without reference."""

    suite: str | None = None
    fault: FaultKind | None = None
    chains: int
    checkable: Share
    accuracies: tuple[Accuracy, ...]

    def of(self, localiser: Localiser) -> Accuracy:
        """The row of a localiser. Raises KeyError."""
        for accuracy in self.accuracies:
            if accuracy.localiser == localiser:
                return accuracy
        raise KeyError(localiser)


class Benchmark(Record):
    """All chains, by suite and by kind of fault, and the chains themselves."""

    total: Group
    suites: tuple[Group, ...]
    faults: tuple[Group, ...]
    searches: tuple[Search, ...]


def search(chain: Faulty) -> Search | None:
    """What every localiser names in a faulty chain; None where the chain has no hop of that id.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    trace, change = chain.made.trace, chain.made.changes[0]
    places = {hop.id: position for position, hop in enumerate(trace.hops, start=1)}
    if change.hop_id not in places:
        return None
    read, searched = review(trace), is_complete(trace, chain.replies, chain.swaps)
    named = _guesses(chain, len(trace.hops), places, read)
    if searched:
        named["replay"] = places.get(earliest_saving(trace, chain.swaps, "swap") or "")
    return Search(
        task_id=chain.task.id,
        suite=chain.task.suite,
        depth=chain.task.depth,
        fault=change.fault,
        hops=len(trace.hops),
        hop=places[change.hop_id],
        name=chain.made.name,
        named=named,
        searched=searched,
        checked=read.checked,
        premises=read.premises,
        reason=read.suspicion.reason if read.suspicion else "",
    )


def benchmark(searches: Iterable[Search]) -> Benchmark:
    """Score every localiser on these chains."""
    chains = sorted(searches, key=lambda chain: chain.task_id)
    suites, faults = sorted({chain.suite for chain in chains}), sorted({chain.fault for chain in chains if chain.fault})
    return Benchmark(
        total=_group(chains),
        suites=tuple(_group([chain for chain in chains if chain.suite == suite], suite=suite) for suite in suites),
        faults=tuple(_group([chain for chain in chains if chain.fault == fault], fault=fault) for fault in faults),
        searches=tuple(chains),
    )


def _guesses(chain: Faulty, hops: int, places: dict[str, int], read: Review) -> dict[Localiser, int | None]:
    draw = random.Random(f"guess/{chain.task.id}")
    return {
        "random": draw.randint(1, hops),
        "first": 1,
        "middle": (hops + 1) // 2,
        "last": hops,
        "reference-free": read.suspicion.hop if read.suspicion else None,
        "first error": _first_error(chain.made.trace, chain.task, places),
    }


def _first_error(trace: Trace, task: Task, places: dict[str, int]) -> int | None:
    stated = last_statements(trace)
    first = next((premise.gold.id for premise in verdicts(task, stated) if premise.status != "match"), None)
    return places[stated[first].hop_id] if first in stated else None


def _group(chains: Sequence[Search], suite: str | None = None, fault: FaultKind | None = None) -> Group:
    checkable = Share(count=sum(chain.checked for chain in chains), n=sum(chain.premises for chain in chains))
    rows = tuple(_accuracy(localiser, chains) for localiser in get_args(Localiser))
    return Group(suite=suite, fault=fault, chains=len(chains), checkable=checkable, accuracies=rows)


def _accuracy(localiser: Localiser, chains: Sequence[Search]) -> Accuracy:
    if localiser == "best constant":
        return _best_constant(chains)
    known = [chain for chain in chains if localiser in chain.named]
    accuracy = Accuracy(localiser=localiser, tally=_tally([chain.distance(localiser) for chain in known]))
    if localiser != "random" or not known:
        return accuracy
    return accuracy.model_copy(
        update={
            "expected": fmean(1 / chain.hops for chain in known),
            "expected_near": fmean(_neighbours(chain) / chain.hops for chain in known),
        }
    )


def _best_constant(chains: Sequence[Search]) -> Accuracy:
    """Shorter chains than k are guessed at their last hop; of equally good ones the earliest hop."""
    spots = Counter((chain.hops, chain.hop) for chain in chains)
    hits = Counter[int]()
    for (hops, hop), count in spots.items():
        hits[hop] += count
        if hop == hops:
            hits.update(dict.fromkeys(range(hops + 1, _longest(chains) + 1), count))
    best = min(hits, key=lambda guess: (-hits[guess], guess), default=None)
    distances = [abs(min(best or 1, chain.hops) - chain.hop) for chain in chains]
    return Accuracy(localiser="best constant", tally=_tally(distances), constant=best)


def _longest(chains: Iterable[Search]) -> int:
    return max(chain.hops for chain in chains)


def _tally(distances: Iterable[int | None]) -> Tally:
    named = list(distances)
    return Tally(
        n=len(named),
        named=sum(distance is not None for distance in named),
        exact=sum(distance == 0 for distance in named),
        near=sum(distance is not None and distance <= 1 for distance in named),
    )


def _neighbours(chain: Search) -> int:
    """Hops within one hop of the faulty one."""
    return 1 + (chain.hop > 1) + (chain.hop < chain.hops)
