"""From the judged premises of one trace to the facts of its failure: where it began, how far it went, where it stayed.

A few linear passes over the gold premises; a chain without an error needs only the first.
"""

from collections.abc import Sequence
from typing import NamedTuple

from qtrap_agents.analysis.graph import Verdict, last_statements, verdicts
from qtrap_agents.types import Record, Task, Trace


class Place(Record):
    """A gold premise by id and by its position in the task's topological order, counted from 1."""

    id: str
    position: int


class Collapse(Record):
    """What went wrong in one trace. Counts are gold premises, except `unsupported`.

    `own` counts errors (wrong or missing) whose parents all match, `inherited` and `compounded` wrong premises;
    `origin_unknown` the remaining errors (see `JudgedPremise`), so the four sum to `wrong + missing`.

    `judged` is False where an error kept the answer from being scored; then there is no collapse hop.
    `first_error` is the earliest wrong or missing premise. `recovered` are the wrong premises with a right descendant
    on the way to the answer. `collapse_hop` is the first premise on the way to the answer (an ancestor of the last
    gold premise, or that itself) from which on no premise on the way matches gold, in a chain whose answer is wrong.
    `downstream` counts the descendants of the first error, `downstream_errors` those of them in error.
    """

    task_id: str
    arm: str
    judged: bool
    correct: bool
    match: int
    wrong: int
    missing: int
    unsupported: int
    own: int
    inherited: int
    compounded: int
    first_error: Place | None
    recovered: tuple[str, ...]
    collapse_hop: Place | None
    downstream: int
    downstream_errors: int

    @property
    def premises(self) -> int:
        """Number of gold premises."""
        return self.match + self.wrong + self.missing

    @property
    def origin_unknown(self) -> int:
        """Errors whose origin cannot be told."""
        return self.wrong + self.missing - self.own - self.inherited - self.compounded

    @property
    def blast_radius(self) -> float | None:
        """Share of the premises downstream of the first error that are wrong or missing; None with none downstream."""
        return self.downstream_errors / self.downstream if self.downstream else None

    @property
    def amplification(self) -> float | None:
        """Wrong premises per own error; None without own errors."""
        return self.wrong / self.own if self.own else None


def analyse(trace: Trace, task: Task) -> Collapse:
    """The facts of one trace; linear in premises and edges.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    stated = last_statements(trace)
    chain = verdicts(task, stated)
    statuses = [premise.status for premise in chain]
    origins = [premise.origin for premise in chain]
    judged = trace.error is None and trace.score is not None
    spread = _spread(chain, judged and not trace.correct)
    return Collapse(
        task_id=task.id,
        arm=trace.arm,
        judged=judged,
        correct=trace.correct,
        match=statuses.count("match"),
        wrong=statuses.count("wrong"),
        missing=statuses.count("missing"),
        unsupported=len(stated.keys() - {premise.gold.id for premise in chain}),
        own=origins.count("own"),
        inherited=origins.count("inherited"),
        compounded=origins.count("compounded"),
        **spread._asdict(),
    )


class _Spread(NamedTuple):
    """The facts that hang on how premises depend on each other."""

    first_error: Place | None = None
    recovered: tuple[str, ...] = ()
    collapse_hop: Place | None = None
    downstream: int = 0
    downstream_errors: int = 0


def _spread(chain: Sequence[Verdict], failed: bool) -> _Spread:
    first = next((index for index, premise in enumerate(chain) if premise.status != "match"), None)
    if first is None:
        return _Spread()
    position = {premise.gold.id: index for index, premise in enumerate(chain)}
    parents = [[position[parent] for parent in premise.gold.depends_on] for premise in chain]
    on_way = _ancestors_of_last(parents)
    downstream = _descendants(parents, first)
    return _Spread(
        first_error=_place(chain, first),
        recovered=_recovered(chain, parents, on_way),
        collapse_hop=_place(chain, _collapse_index(chain, on_way)) if failed else None,
        downstream=len(downstream),
        downstream_errors=sum(chain[index].status != "match" for index in downstream),
    )


def _place(chain: Sequence[Verdict], index: int | None) -> Place | None:
    return None if index is None else Place(id=chain[index].gold.id, position=index + 1)


def _ancestors_of_last(parents: Sequence[Sequence[int]]) -> list[bool]:
    """For each premise: does the last one need it? The last one counts itself."""
    needed = [False] * len(parents)
    for index in reversed(range(len(parents))):
        needed[index] = needed[index] or index == len(parents) - 1
        if needed[index]:
            for parent in parents[index]:
                needed[parent] = True
    return needed


def _descendants(parents: Sequence[Sequence[int]], start: int) -> list[int]:
    """Indices of all premises derived, directly or not, from `start`."""
    reached = {start}
    for index in range(start + 1, len(parents)):
        if any(parent in reached for parent in parents[index]):
            reached.add(index)
    return sorted(reached - {start})


def _recovered(chain: Sequence[Verdict], parents: Sequence[Sequence[int]], on_way: Sequence[bool]) -> tuple[str, ...]:
    right_below = [False] * len(chain)
    for index in reversed(range(len(chain))):
        if right_below[index] or (on_way[index] and chain[index].status == "match"):
            for parent in parents[index]:
                right_below[parent] = True
    return tuple(
        premise.gold.id for premise, right in zip(chain, right_below, strict=True) if right and premise.status == "wrong"
    )


def _collapse_index(chain: Sequence[Verdict], on_way: Sequence[bool]) -> int | None:
    """The first premise of the unbroken run of errors that ends at the last premise, off-way premises skipped."""
    found = None
    for index in reversed(range(len(chain))):
        if on_way[index]:
            if chain[index].status == "match":
                break
            found = index
    return found
