"""Small error models and problems for tests of the planner."""

import math
from collections.abc import Mapping, Sequence

from qtrap_agents.simulation.costing import Costs
from qtrap_agents.simulation.layout import Layout, Node
from qtrap_agents.simulation.model import ArmModel, BetaRate, ErrorModel, Family, HopCost, Repeats, Slips
from qtrap_agents.simulation.planner import Option, Problem


def arm(rates: Mapping[str, float], family: str = "arith", **changes: object) -> ArmModel:
    """An arm that slips at these rates by kind on right parents, and hardly ever on wrong ones."""
    logits = {kind: math.log(p / (1 - p)) for kind, p in rates.items()}
    terms = {"mean": 0.0, "wrong_parents": -4.0} | {f"kind:{family}/{kind}": value for kind, value in logits.items()}
    size = len(terms)
    known = {
        "slips": Slips(
            terms=tuple(terms),
            mean=tuple(terms.values()),
            covariance=tuple(tuple(1e-6 * (row == column) for column in range(size)) for row in range(size)),
            family_sd=0.1,
            kind_sd=0.1,
        ),
        "hops": {family: 1000},
        "observed": {family: 50},
        "costs": {family: HopCost(hops=1000, prompt_tokens=10.0, completion_tokens=4.0)},
        "weight_bytes": 1000,
    }
    return ArmModel.model_validate(known | changes)


def model(arms: Mapping[str, ArmModel], family: str = "arith", mask: float = 0.0) -> ErrorModel:
    """Masks are as good as known."""
    known = BetaRate(a=1e9 * max(mask, 1e-9), b=1e9 * (1 - mask))
    return ErrorModel(
        made_by="test",
        baseline=next(iter(arms)),
        families={family: Family(kinds={}, mean_parents=1.0, rules=True, depths=(4, 8))},
        arms=dict(arms),
        masks={family: known},
        luck={family: BetaRate(a=1e-3, b=1e9)},
    )


def drawn_again() -> dict[str, Repeats]:
    """Draws of a hop that hardly hang together: votes win much."""
    return {"arith": Repeats(correlation=0.05, agreement=0.1, hops=500)}


def chain(kinds: Sequence[str], family: str = "arith") -> Layout:
    """One hop after the other."""
    return Layout(
        nodes=tuple(
            Node(id=f"s{place}", parents=(f"s{place - 1}",) if place else (), family=family, kind=kind)
            for place, kind in enumerate(kinds)
        )
    )


def problem(
    fitted: ErrorModel, kinds: Sequence[str], per_call: Mapping[str, float], options: Sequence[Option] | None = None
) -> Problem:
    """A problem of one layout."""
    return Problem(
        fitted,
        (chain(kinds),),
        "arith",
        fitted.baseline,
        tuple(options or map(Option, fitted.arms)),
        Costs(unit="cost units", source="test", per_call=dict(per_call)),
    )
