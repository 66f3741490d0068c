"""How several draws of one hop hang together: intra-hop correlation by beta-binomial maximum likelihood, agreement by pairs."""

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from scipy.stats import betabinom

from qtrap_agents.simulation.counts import Cluster, RepeatCounts
from qtrap_agents.simulation.model import Floats, Repeats

FEW_HOPS = 10
"""With fewer hops that slipped at least once a family has the correlation of its arm, and an arm that of all arms."""

_SMALLEST, _LARGEST = 1e-3, 0.999


def fit_repeats(arms: Mapping[str, Mapping[str, RepeatCounts]]) -> dict[str, dict[str, Repeats]]:
    """Arm -> family -> its repeated draws.

    Where too few hops slipped, those of the arm stand in, then those of all arms; where these are too few too, draws are
    taken as alike: correlation and agreement 1.
    """
    everything = _pooled([counts for families in arms.values() for counts in families.values()], Repeats())
    found: dict[str, dict[str, Repeats]] = {}
    for arm, families in arms.items():
        of_arm = _pooled(families.values(), everything)
        found[arm] = {family: _fitted(counts, of_arm) for family, counts in families.items() if counts.clusters}
    return found


def design_effect(counts: RepeatCounts, correlation: float) -> float:
    """How many repeated draws tell as much as one of independent ones: 1 + (m − 1) × correlation, m the draws of a draw's hop."""
    draws = sum(number * hops for number, hops in counts.plain.items())
    squared = sum(number**2 * hops for number, hops in counts.plain.items())
    return 1 + (squared / draws - 1) * correlation if draws else 1.0


def correlation_of(clusters: Mapping[Cluster, int]) -> float:
    """Intra-hop correlation of slips, with the mean fitted beside it; between 0.001 and 0.999."""
    cells, hops = list(clusters), np.array(list(clusters.values()), dtype=float)
    draws, slips = np.array([cell.draws for cell in cells]), np.array([cell.slips for cell in cells])
    mean = float(hops @ slips / (hops @ draws))
    start = np.array([np.log(mean / (1 - mean)) if 0 < mean < 1 else -5.0, 0.0])

    def height(at: Floats) -> float:
        return -float(hops @ _log_probability(draws, slips, float(expit(at[0])), float(expit(at[1]))))

    best = minimize(height, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6})
    return float(np.clip(expit(best.x[1]), _SMALLEST, _LARGEST))


def _log_probability(draws: Floats, slips: Floats, mean: float, correlation: float) -> Floats:
    spread = np.clip(correlation, _SMALLEST, _LARGEST)
    size = (1 - spread) / spread
    centre = np.clip(mean, 1e-9, 1 - 1e-9)
    return np.asarray(betabinom.logpmf(slips, draws, centre * size, (1 - centre) * size), dtype=float)


def _slipped(clusters: Mapping[Cluster, int]) -> int:
    return sum(hops for cluster, hops in clusters.items() if cluster.slips)


def _pooled(parts: Iterable[RepeatCounts], otherwise: Repeats) -> Repeats:
    """One correlation for families with rates of their own."""
    known = [part.clusters for part in parts]
    if sum(map(_slipped, known)) < FEW_HOPS:
        return otherwise
    correlation = _common_correlation([clusters for clusters in known if _slipped(clusters)])
    return Repeats(correlation=correlation, agreement=_agreement(parts, otherwise.agreement), hops=_hops(known))


def _common_correlation(families: list[Counter[Cluster]]) -> float:
    means = [
        sum(cell.slips * hops for cell, hops in family.items()) / sum(cell.draws * hops for cell, hops in family.items())
        for family in families
    ]

    def height(logit: float) -> float:
        total = 0.0
        for family, mean in zip(families, means, strict=True):
            draws, slips = np.array([cell.draws for cell in family]), np.array([cell.slips for cell in family])
            logs = _log_probability(draws, slips, mean, float(expit(logit)))
            total -= float(np.array(list(family.values()), dtype=float) @ logs)
        return total

    return float(expit(minimize_scalar(height, bounds=(-7.0, 7.0), method="bounded").x))


def _fitted(counts: RepeatCounts, otherwise: Repeats) -> Repeats:
    hops = sum(counts.clusters.values())
    few = _slipped(counts.clusters) < FEW_HOPS
    correlation = otherwise.correlation if few else correlation_of(counts.clusters)
    return Repeats(correlation=correlation, agreement=_agreement([counts], otherwise.agreement), hops=hops)


def _agreement(parts: Iterable[RepeatCounts], otherwise: float) -> float:
    """Share of pairs of slips that state the same value; two pairs more at the value that stands in where there are few."""
    pairs = [part.pairs for part in parts]
    return (sum(pair.events for pair in pairs) + 2 * otherwise) / (sum(pair.n for pair in pairs) + 2)


def _hops(parts: Iterable[Counter[Cluster]]) -> int:
    return sum(sum(clusters.values()) for clusters in parts)
