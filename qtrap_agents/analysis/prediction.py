"""What a model predicted beside what was measured: predictive intervals, and counted weight bytes."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from scipy.stats import betabinom, binom

from qtrap_agents.analysis.costs import TaskOf, Z
from qtrap_agents.analysis.statistics import Interval
from qtrap_agents.plans import Estimate
from qtrap_agents.types import ArmIdentity, Trace

Place = Literal["below", "within", "above"]

_LEAST_CONCENTRATION = 0.01
"""Of a Beta distribution whose spread is as wide as its mean allows."""


def predictive_interval(estimate: Estimate, n: int, confidence: float = 0.95) -> Interval:
    """Where the measured share of `n` tasks is expected, from a predicted share that is itself uncertain.

    The share is taken as Beta distributed with the predicted mean and the variance of its parameter interval (as that of a
    normal distribution) and of the Monte Carlo; the number of solved tasks is then beta-binomial. [0, 1] where n is 0.
    """
    if n == 0:
        return Interval(low=0.0, high=1.0, confidence=confidence)
    mean = min(max(estimate.mean, 0.5 / estimate.chains), 1 - 0.5 / estimate.chains)
    variance = ((estimate.high - estimate.low) / (2 * Z)) ** 2 + estimate.mc_se**2
    tail = (1 - confidence) / 2
    concentration = math.inf if variance <= 0 else max(mean * (1 - mean) / variance - 1, _LEAST_CONCENTRATION)
    low, high = (_quantile(share, n, mean, concentration) / n for share in (tail, 1 - tail))
    return Interval(low=low, high=high, confidence=confidence)


def _quantile(share: float, n: int, mean: float, concentration: float) -> float:
    """Of a beta-binomial number; of a binomial one where the concentration is infinite."""
    if math.isinf(concentration):
        return float(binom.ppf(share, n, mean))
    return float(betabinom.ppf(share, n, mean * concentration, (1 - mean) * concentration))


def place_of(target: float, measured: Interval) -> Place:
    """Whether a target lies below, within or above a measured interval; an end that is not known bounds nothing."""
    if measured.low is not None and target < measured.low:
        return "below"
    return "above" if measured.high is not None and target > measured.high else "within"


def weight_bytes_by_task(traces: Iterable[Trace], identity: ArmIdentity | None) -> dict[TaskOf, float] | None:
    """Weight bytes read for the generated tokens of each task: bytes of the arm that answered a hop × its completion tokens.

    A count, as if no two requests shared a step of the engine. None where the bytes of an arm that answered are not known.
    """
    if identity is None:
        return None
    weights: Mapping[str | None, int | None] = {None: identity.weight_bytes} | {
        name: part.weight_bytes for name, part in identity.parts.items()
    }
    found: dict[TaskOf, float] = {}
    for trace in traces:
        total = 0.0
        for hop in trace.hops:
            weight = weights.get(hop.arm)
            if weight is None:
                return None
            total += weight * hop.completion.completion_tokens
        found[trace.suite, trace.task_id] = total
    return found
