"""How many hops could not be read: what the model wrote had no value in it, or was cut off before it had one."""

from collections.abc import Sequence

from qtrap_agents.analysis.statistics import Interval, wilson
from qtrap_agents.types import Hop, Record

CUT = "length"
"""The finish reason of a completion that was cut off by `max_tokens`, or by the end of the context."""


class Readings(Record):
    """Hops of all attempts that were to state premises, and how many of them state one without a value (`unparsed`).

    `cut_off` of these were cut off by `max_tokens`. Hops that state nothing by design, such as a plan, are not among them.
    """

    hops: int = 0
    unparsed: int = 0
    cut_off: int = 0

    def __add__(self, other: "Readings") -> "Readings":
        return Readings(
            hops=self.hops + other.hops,
            unparsed=self.unparsed + other.unparsed,
            cut_off=self.cut_off + other.cut_off,
        )

    @property
    def share(self) -> float | None:
        """Share of the hops that could not be parsed; None without hops."""
        return self.unparsed / self.hops if self.hops else None

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval of `share`."""
        return wilson(self.unparsed, self.hops)


def readings(hops: Sequence[Hop]) -> Readings:
    """Count the hops of one chain. Where none of them states any premise, all of them were to."""
    stating = [hop for hop in hops if hop.premises] or hops
    unparsed = [hop for hop in stating if is_unparsed(hop)]
    cut_off = sum(hop.completion.finish_reason == CUT for hop in unparsed)
    return Readings(hops=len(stating), unparsed=len(unparsed), cut_off=cut_off)


def is_unparsed(hop: Hop) -> bool:
    """True where a premise of the hop has no value, or where it states none."""
    return not hop.premises or any(premise.value is None for premise in hop.premises)
