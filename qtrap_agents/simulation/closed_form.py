"""What a simple chain of equal hops does, without simulation: a Markov chain of two states, right and wrong.

From a right parent a hop is wrong with probability `own`; from a wrong one it is right again with `recovered`. Constant hop
success, the null model, is `recovered` = 0. With `Rates`: own = p0, recovered = (1 − p1) m + p1 l (see `model`).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

Floats = npt.NDArray[np.float64]

HALF = 0.5
FARTHEST = 1e12
"""Hops beyond which no horizon is looked for."""


class Chain(NamedTuple):
    """A chain of equal hops, each on the one before it; the first one on right input."""

    own: float
    recovered: float = 0.0

    def success(self, depth: float) -> float:
        """Probability that hop number `depth` is right."""
        both = self.own + self.recovered
        if both == 0:
            return 1.0
        limit = self.recovered / both
        kept = 1.0 - both
        if kept <= 0 and not float(depth).is_integer():
            return limit
        return limit + (1.0 - limit) * math.pow(kept, depth)

    def first_error(self, depth: int) -> Floats:
        """[hop from 1] probability that the first error of a chain of that depth is there."""
        found: Floats = self.own * np.power(1.0 - self.own, np.arange(depth, dtype=np.float64))
        return found

    def wrong_premises(self, depth: int) -> float:
        """Expected number of wrong premises of a chain."""
        return math.fsum(1.0 - self.success(hop) for hop in range(1, depth + 1))

    def horizon(self) -> float | None:
        """The depth at which success falls to one half; None where it never does."""
        both = self.own + self.recovered
        if not self.own or self.recovered / both >= HALF:
            return None
        if self.success(1) <= HALF:
            return 1.0
        if self.success(FARTHEST) > HALF:
            return None
        return float(brentq(lambda depth: self.success(depth) - HALF, 1.0, FARTHEST))
