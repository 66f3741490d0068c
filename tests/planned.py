"""Precision plans of tests, with scripted arms."""

from pathlib import Path
from typing import Any

import scripts

from qtrap_agents.arms import ArmConfig
from qtrap_agents.config import RunConfig
from qtrap_agents.plans import PLAN_ARM, PrecisionPlan

GOOD = {"mean": 0.9, "low": 0.8, "high": 0.95, "mc_se": 0.002, "chains": 10_000}


def content(**changes: Any) -> dict[str, Any]:
    """A plan for four hops: the first two on `solve`, a vote of `noisy` at the third, a checked `solve` at the last."""
    return {
        "suite": "arith",
        "depth": 4,
        "arms": [scripts.scripted(name) for name in ("solve", "noisy", "slow")],
        "baseline": "solve",
        "default": "noisy",
        "rules": [
            {"positions": [1, 2], "arm": "solve"},
            {"positions": [3, 3], "arm": "noisy", "vote": {"k": 3}},
            {"family": "arith", "kinds": ["plus", "minus", "times"], "positions": [4, 4], "arm": "solve", "verify": {}},
        ],
        **changes,
    }


def predicted(cost: float = 100.0, **changes: Any) -> dict[str, Any]:
    """A prediction in which the plan costs half of the baseline."""
    outlooks = {"plan": {"success": GOOD, "cost": cost / 2}, "baseline": {"success": GOOD, "cost": cost}}
    return outlooks | {"target": 0.9, "model": "model.yaml", "checksum": "0123456789abcdef"} | changes


def plan(**changes: Any) -> PrecisionPlan:
    """The same as a record."""
    return PrecisionPlan.model_validate(content(**changes))


def config(chosen: PrecisionPlan, *more: str, **changes: Any) -> RunConfig:
    """A small run that carries it out."""
    arms = [arm.model_dump() for arm in chosen.arms if arm.name in (chosen.baseline, *more)]
    arms.append(ArmConfig(name=PLAN_ARM, backend="plan").model_dump())
    known = {"suites": [chosen.suite], "depths": [chosen.depth], "baseline": chosen.baseline, "plan": chosen.model_dump()}
    return RunConfig.model_validate(scripts.settings(arms, **known | changes))


def write(folder: Path, **changes: Any) -> Path:
    """The file of a plan."""
    return scripts.write_yaml(folder / "plan.yaml", content(**changes))
