"""What a hop costs, from each source."""

import mixtures
import pytest

from qtrap_agents.errors import SimulationError
from qtrap_agents.simulation.costing import costs_of
from qtrap_agents.simulation.model import ErrorModel, HopCost

BOTH = ["good", "poor"]


def fitted(energy: float | None = None, weights: int | None = 1000) -> ErrorModel:
    costs = {"arith": HopCost(hops=10, prompt_tokens=9.0, completion_tokens=4.0, energy_j=energy)}
    return mixtures.model({name: mixtures.arm({"k": 0.1}, costs=costs, weight_bytes=weights) for name in BOTH})


def test_given_costs_come_first() -> None:
    found = costs_of(fitted(2.0), BOTH, "arith", {"good": 3.0, "poor": 1.0}, {"good": 1.0, "poor": 1.0}, "b")
    assert (found.unit, found.per_call) == ("cost units", {"good": 3.0, "poor": 1.0})


def test_then_measured_joules_of_hops() -> None:
    found = costs_of(fitted(2.0), BOTH, "arith", None, {"good": 1.0, "poor": 1.0}, "b")
    assert (found.unit, found.per_call) == ("J", {"good": 2.0, "poor": 2.0})


def test_then_those_of_a_bench() -> None:
    found = costs_of(fitted(), BOTH, "arith", None, {"good": 0.5, "poor": 0.25}, "b")
    assert (found.unit, found.per_call) == ("J", {"good": 2.0, "poor": 1.0})
    assert "of b " in found.source


def test_else_weight_bytes_are_counted() -> None:
    found = costs_of(fitted(), BOTH, "arith")
    assert (found.unit, found.per_call) == ("weight bytes", {"good": 4000.0, "poor": 4000.0})
    assert found.source.startswith("counted")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"good": 1.0}, "--cost names no cost of poor"),
        ({"good": 1.0, "por": 1.0}, "did you mean 'poor'"),
        ({"good": 1.0, "poor": 0.0}, "--cost poor=0: a cost is a positive number"),
    ],
)
def test_given_costs_are_whole_and_positive(given: dict[str, float], message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        costs_of(fitted(), BOTH, "arith", given)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SimulationError, match="b: no measured joules of poor"):
        costs_of(fitted(), BOTH, "arith", None, {"good": 1.0}, "b")
    with pytest.raises(SimulationError, match="weight bytes of arm 'good' are not known"):
        costs_of(fitted(weights=None), BOTH, "arith")
    without = mixtures.model({name: mixtures.arm({"k": 0.1}, costs={}) for name in BOTH})
    with pytest.raises(SimulationError, match="no hop of 'arith' on arm 'good'"):
        costs_of(without, BOTH, "arith")
