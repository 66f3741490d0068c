"""How far an injected fault goes: premises in error by their distance from it, recovery, amplification.

One chain at a time passes through `observe`; what is kept are sums per family, depth and kind of fault. The distance of a
premise from the fault is the length of the shortest path between them in the gold premise graph, in edges.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from qtrap_agents.analysis.collapse import analyse
from qtrap_agents.analysis.funnel import Premises, Share, Sums
from qtrap_agents.analysis.graph import Verdict, last_statements, verdicts
from qtrap_agents.evidence import FaultKind, Replay
from qtrap_agents.types import Record, Task


class Spread(Sums):
    """Chains with one injected fault each, and the premises derived from it, directly or not.

    `faults` counts chains with a judged answer, `unjudged` those without one. `on_way` counts faults that the answer depends
    on and that are not the answer itself; of these, `recovered` chains gave the right answer all the same. Of the `wrong`
    premises of the chains, the fault included, `recovered_premises` have a right descendant on the way to the answer. The
    rest are the fates of the downstream premises.
    """

    faults: int = 0
    unjudged: int = 0
    changed: int = 0
    on_way: int = 0
    recovered: int = 0
    wrong: int = 0
    recovered_premises: int = 0
    match: int = 0
    own: int = 0
    inherited: int = 0
    compounded: int = 0
    missing: int = 0
    unknown: int = 0

    @property
    def downstream(self) -> Premises:
        """What became of the premises downstream of the faults."""
        return Premises(**{name: getattr(self, name) for name in Premises.model_fields})

    @property
    def hit(self) -> Share:
        """Share of the downstream premises that are wrong or missing."""
        return Share(count=self.downstream.false, n=self.downstream.n)

    @property
    def changed_share(self) -> Share:
        """Share of the judged chains whose answer the fault made wrong."""
        return Share(count=self.changed, n=self.faults)

    @property
    def recovery(self) -> Share:
        """Share of the chains with a right answer in spite of a fault on the way to it."""
        return Share(count=self.recovered, n=self.on_way)

    @property
    def premise_recovery(self) -> Share:
        """Share of the wrong premises that have a right descendant on the way to the answer."""
        return Share(count=self.recovered_premises, n=self.wrong)

    @property
    def amplification(self) -> float | None:
        """Premises in error per fault, the faulty one included; None without faults."""
        return (self.faults + self.downstream.false) / self.faults if self.faults else None


class Observation(NamedTuple):
    """One chain: its sums, and for each downstream premise its distance and whether it is in error."""

    spread: Spread
    reached: tuple[tuple[int, bool], ...]


class Group(Record):
    """Faults of one suite, depth and kind; None for all of them. `by_distance` has the premises in error of all premises."""

    suite: str | None = None
    depth: int | None = None
    fault: FaultKind | None = None
    spread: Spread
    by_distance: dict[int, Share]


class Propagation(Record):
    """All faults together, by suite, by kind of fault, and by suite, depth and kind."""

    total: Group
    suites: tuple[Group, ...]
    faults: tuple[Group, ...]
    cells: tuple[Group, ...]


Cell = tuple[str, int, FaultKind | None]
"""Suite, depth, kind of fault."""


def observe(task: Task, made: Replay) -> Observation | None:
    """What a fault did to a chain; None where the task has no gold premise that was changed.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    chain = verdicts(task, last_statements(made.trace))
    start = next((index for index, premise in enumerate(chain) if premise.gold.id == faulty_premise(made)), None)
    if start is None:
        return None
    if made.trace.error is not None or made.trace.score is None:
        return Observation(Spread(unjudged=1), ())
    facts, distances = analyse(made.trace, task), _distances(_parents(chain), start)
    downstream = [index for index, distance in enumerate(distances) if distance]
    on_way = bool(distances[-1])
    spread = Spread(
        faults=1,
        changed=int(not made.trace.correct),
        on_way=int(on_way),
        recovered=int(on_way and made.trace.correct),
        wrong=facts.wrong,
        recovered_premises=len(facts.recovered),
        **Counter(_fate(chain[index]) for index in downstream),
    )
    return Observation(spread, tuple((distances[index] or 0, chain[index].status != "match") for index in downstream))


def faulty_premise(made: Replay) -> str | None:
    """Id of the premise that was changed; None where the trace has no such hop."""
    change = made.changes[0]
    if change.premise is not None:
        return change.premise
    return next((hop.premises[-1].id for hop in made.trace.hops if hop.id == change.hop_id and hop.premises), None)


class PropagationAccumulator:
    """Adds up faults chain by chain; memory grows with the number of suites, depths and distances."""

    def __init__(self) -> None:
        self._spreads: dict[Cell, Spread] = {}
        self._reached: dict[Cell, Counter[tuple[int, bool]]] = {}

    def add(self, task: Task, made: Replay) -> bool:
        """Count one chain. False where it cannot be placed, see `observe`, from which errors come too."""
        seen = observe(task, made)
        if seen is None:
            return False
        cell = (task.suite, task.depth, made.changes[0].fault)
        self._spreads[cell] = self._spreads.get(cell, Spread()) + seen.spread
        self._reached.setdefault(cell, Counter()).update(seen.reached)
        return True

    def propagation(self) -> Propagation:
        """All chains so far."""
        cells = sorted(self._spreads, key=lambda cell: (cell[0], cell[1], cell[2] or ""))
        suites, faults = dict.fromkeys(cell[0] for cell in cells), sorted({cell[2] for cell in cells if cell[2]})
        return Propagation(
            total=self._group(cells),
            suites=tuple(self._group([cell for cell in cells if cell[0] == suite], suite=suite) for suite in suites),
            faults=tuple(self._group([cell for cell in cells if cell[2] == fault], fault=fault) for fault in faults),
            cells=tuple(self._group([cell], *cell) for cell in cells),
        )

    def _group(
        self, cells: Iterable[Cell], suite: str | None = None, depth: int | None = None, fault: FaultKind | None = None
    ) -> Group:
        chosen = list(cells)
        reached = sum((self._reached[cell] for cell in chosen), Counter[tuple[int, bool]]())
        distances = sorted({distance for distance, _ in reached})
        return Group(
            suite=suite,
            depth=depth,
            fault=fault,
            spread=sum((self._spreads[cell] for cell in chosen), Spread()),
            by_distance={far: Share(count=reached[far, True], n=reached[far, True] + reached[far, False]) for far in distances},
        )


def pooled(by_distance: dict[int, Share]) -> dict[tuple[int, int], Share]:
    """Distances 1, 2, 3–4, 5–8, 9–16 and so on, each pair the first and the last distance of its range."""
    ranges: dict[tuple[int, int], Share] = {}
    for distance, share in by_distance.items():
        last = 1 << (distance - 1).bit_length()
        key, known = (last // 2 + 1, last), ranges.get((last // 2 + 1, last), Share(count=0, n=0))
        ranges[key] = Share(count=known.count + share.count, n=known.n + share.n)
    return ranges


def _parents(chain: Sequence[Verdict]) -> list[list[int]]:
    place = {premise.gold.id: index for index, premise in enumerate(chain)}
    return [[place[parent] for parent in premise.gold.depends_on] for premise in chain]


def _distances(parents: Sequence[Sequence[int]], start: int) -> list[int | None]:
    """Edges from the start to every premise in topological order; None where there is no way."""
    distances: list[int | None] = []
    for index, above in enumerate(parents):
        known = [distance for parent in above if (distance := distances[parent]) is not None]
        distances.append(0 if index == start else min(known) + 1 if known else None)
    return distances


def _fate(premise: Verdict) -> str:
    return premise.status if premise.status != "wrong" else premise.origin or "unknown"
