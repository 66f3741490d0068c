"""What a call of the model costs on each arm, from the best source there is; the unit always says which."""

from collections.abc import Mapping, Sequence

from qtrap_agents.errors import SimulationError, unknown
from qtrap_agents.plans import Unit
from qtrap_agents.simulation.model import ErrorModel, HopCost
from qtrap_agents.types import Record


class Costs(Record):
    """Cost of one call by arm, in `unit`; `source` says in words where the numbers come from."""

    unit: Unit
    source: str
    per_call: dict[str, float]


def costs_of(
    model: ErrorModel,
    arms: Sequence[str],
    family: str,
    given: Mapping[str, float] | None = None,
    joules_per_token: Mapping[str, float] | None = None,
    bench: str = "",
) -> Costs:
    """Given costs, else joules per hop measured in the fitted runs, else joules per token of a bench, else counted weight bytes.

    Args:
        given: cost of a hop by arm; must name all arms.
        joules_per_token: of a bench, called `bench`.

    Raises:
        SimulationError: a cost is missing or no positive number, or the model lacks what is needed.
    """
    if given:
        return _given(arms, given)
    tokens = {arm: _tokens(model, arm, family) for arm in arms}
    measured = {arm: cost.energy_j for arm, cost in tokens.items() if cost.energy_j}
    if len(measured) == len(arms):
        return Costs(unit="J", source="joules per hop, measured in the fitted runs", per_call=measured)
    if joules_per_token is not None:
        if missing := [arm for arm in arms if arm not in joules_per_token]:
            raise SimulationError(f"{bench}: no measured joules of {', '.join(missing)}; bench it on a machine with a meter")
        found = {arm: joules_per_token[arm] * tokens[arm].completion_tokens for arm in arms}
        return Costs(unit="J", source=f"joules per output token of {bench} × generated tokens of a hop", per_call=found)
    return Costs(
        unit="weight bytes",
        source="counted: weight bytes of the arm × generated tokens of a hop, what a decoder reads at batch 1",
        per_call={arm: _weights(model, arm) * tokens[arm].completion_tokens for arm in arms},
    )


def _given(arms: Sequence[str], given: Mapping[str, float]) -> Costs:
    for name in given:
        if name not in arms:
            raise SimulationError(f"--cost {name}: {unknown('arm', name, arms)}")
    if missing := [arm for arm in arms if arm not in given]:
        raise SimulationError(f"--cost names no cost of {', '.join(missing)}; give one for each arm, or leave --cost out")
    if wrong := [name for name, cost in given.items() if not 0 < cost < float("inf")]:
        raise SimulationError(f"--cost {wrong[0]}={given[wrong[0]]:g}: a cost is a positive number")
    return Costs(unit="cost units", source="given with --cost, per hop", per_call={arm: given[arm] for arm in arms})


def _tokens(model: ErrorModel, arm: str, family: str) -> HopCost:
    cost = model.arm(arm).costs.get(family)
    if cost is None:
        raise SimulationError(f"the model has no hop of '{family}' on arm '{arm}' ; give --cost, or fit such a run")
    return cost


def _weights(model: ErrorModel, arm: str) -> int:
    weights = model.arm(arm).weight_bytes
    if weights is None:
        raise SimulationError(f"the weight bytes of arm '{arm}' are not known; give --cost {arm}=… for each arm, or --bench")
    return weights
