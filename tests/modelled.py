"""Error models made by hand, with rates that are known exactly."""

import math
from collections.abc import Mapping

from qtrap_agents.simulation.layout import Layout, Node
from qtrap_agents.simulation.model import ArmModel, BetaRate, Checking, ErrorModel, Family, HopCost, Repeats, Slips

SURE = 1e9
"""Weight of a rate that is as good as known."""


def logit(p: float) -> float:
    """Of a probability."""
    return math.log(p / (1 - p))


def rate(mean: float) -> BetaRate:
    """A rate that every draw has."""
    return BetaRate(a=max(mean, 1e-9) * SURE, b=max(1 - mean, 1e-9) * SURE)


def arm(
    own: float,
    wrong: float | None = None,
    *,
    sampled: float | None = None,
    sd: float = 0.0,
    repeats: Repeats | None = None,
    cost: HopCost | None = None,
    checking: Checking | None = None,
) -> ArmModel:
    """An arm that slips at `own` on right and `wrong` on wrong parents, drawn at 0.7 at `sampled`; `sd` of the mean logit."""
    terms = {"mean": logit(own), "wrong_parents": logit(own if wrong is None else wrong) - logit(own)}
    if sampled is not None:
        terms["family:f@0.7"] = logit(sampled) - logit(own)
    covariance = [[sd**2 if row == column == 0 else 0.0 for column in range(len(terms))] for row in range(len(terms))]
    slips = Slips(
        terms=tuple(terms),
        mean=tuple(terms.values()),
        covariance=tuple(map(tuple, covariance)),
        family_sd=0.1,
        kind_sd=0.1,
    )
    return ArmModel(
        slips=slips,
        hops={"f": 1000},
        observed={"f": 10},
        repeats={"f": repeats} if repeats else {},
        costs={"f": cost} if cost else {},
        checking=checking,
        null_success={"f": 1 - own},
    )


def model(arms: Mapping[str, ArmModel], mask: float = 0.0, luck: float = 0.0) -> ErrorModel:
    """A model of the family `f`."""
    return ErrorModel(
        made_by="test",
        baseline=next(iter(arms)),
        families={"f": Family(kinds={"k": 1.0}, mean_parents=1.0, rules=True, depths=(8,))},
        arms=dict(arms),
        masks={"f": rate(mask)},
        luck={"f": rate(luck)},
    )


def chain(depth: int, **settings: object) -> Layout:
    """A chain of equal hops."""
    nodes = [
        Node.model_validate({"id": f"s{n}", "parents": (f"s{n - 1}",) if n > 1 else (), "family": "f", "kind": "k", **settings})
        for n in range(1, depth + 1)
    ]
    return Layout(nodes=tuple(nodes))
