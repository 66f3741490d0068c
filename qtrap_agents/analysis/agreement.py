"""Two servings of one arm, hop by hop: how often the same words were answered by another statement."""

from collections.abc import Iterable

from qtrap_agents.analysis.statistics import Interval, wilson
from qtrap_agents.types import Hop, Record, Trace, Value


class HopAgreement(Record):
    """Hops that both servings were asked in the same words, and those of them that stated something else."""

    same_words: int
    differing: int

    @property
    def rate(self) -> float | None:
        """Share of the hops in the same words that stated something else; None where there is no such hop."""
        return self.differing / self.same_words if self.same_words else None

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval of `rate`."""
        return wilson(self.differing, self.same_words)


def hop_agreement(pairs: Iterable[tuple[Trace, Trace]]) -> HopAgreement:
    """Compare the two traces of every task, hops paired by id; later hops of a chain that went another way are left out."""
    same_words = differing = 0
    for first, second in pairs:
        known = {hop.id: hop for hop in first.hops}
        for hop in second.hops:
            other = known.get(hop.id)
            if other is not None and other.messages == hop.messages:
                same_words += 1
                differing += _stated(other) != _stated(hop)
    return HopAgreement(same_words=same_words, differing=differing)


def _stated(hop: Hop) -> list[tuple[str, Value | None]]:
    return [(premise.id, premise.value) for premise in hop.premises]
