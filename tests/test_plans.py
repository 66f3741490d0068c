"""Precision plans: which rule counts, and what is wrong with a file."""

from pathlib import Path
from typing import Any

import planned
import pytest

from qtrap_agents.config import RunConfig, load_yaml
from qtrap_agents.errors import ConfigError
from qtrap_agents.plans import PrecisionPlan, Rule, Verify, Vote, Way, load_plan
from qtrap_agents.store import as_yaml


def test_the_first_rule_that_fits_counts() -> None:
    plan = planned.plan(
        rules=[
            {"kinds": ["times"], "positions": [2, 3], "arm": "slow"},
            {"positions": [1, 3], "arm": "solve", "vote": {"k": 7, "temperature": 0.5}},
            {"family": "arith", "positions": [3, 4], "arm": "noisy", "verify": {"max_revisions": 0}},
        ]
    )
    vote = Way("solve", Vote(k=7, temperature=0.5))
    assert plan.way("arith", "times", 1) == vote
    assert plan.way("arith", "times", 2) == Way("slow")
    assert plan.way("arith", "plus", 3) == vote
    assert plan.way("arith", "plus", 4) == Way("noisy", None, Verify(max_revisions=0))
    assert plan.way("program", "plus", 4) == Way("noisy")
    assert [arm.name for arm in plan.parts] == ["solve", "noisy", "slow"]


def test_a_rule_without_conditions_fits_every_hop() -> None:
    assert all(Rule(arm="a").fits("arith", kind, position) for kind in ("", "plus") for position in (1, 99))
    assert not Rule(arm="a", positions=(2, 2)).fits("arith", "", 1)


def test_only_arms_that_answer_hops_are_served() -> None:
    assert [arm.name for arm in planned.plan(rules=[]).parts] == ["noisy"]


def test_a_file_and_a_run_keep_the_whole_plan(tmp_path: Path) -> None:
    path = planned.write(tmp_path, predicted=planned.predicted(front=[{"cost": 1, "success": 0.5, "low": 0.4, "high": 0.6}]))
    plan = load_plan(path)
    assert plan == planned.plan(predicted=planned.predicted(front=[{"cost": 1, "success": 0.5, "low": 0.4, "high": 0.6}]))
    path.write_text(as_yaml(plan), encoding="utf-8")
    assert load_plan(path) == plan
    run = tmp_path / "run.yaml"
    run.write_text(as_yaml(planned.config(plan)), encoding="utf-8")
    assert load_yaml(run, RunConfig).plan == plan


RULE: dict[str, Any] = {"arm": "solve"}


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        ({"baseline": "sole"}, 13, "field 'baseline': unknown arm 'sole': did you mean 'solve'?"),
        ({"default": "fp16"}, 14, "field 'default': unknown arm 'fp16'"),
        ({"rules": [RULE, {"arm": "nosy"}]}, 17, "field 'rules.1.arm': unknown arm 'nosy': did you mean 'noisy'?"),
        ({"rules": [RULE | {"family": "program"}]}, 17, "field 'rules.0.family': unknown family 'program': known: arith."),
        (
            {"rules": [RULE | {"positions": [2, 5]}]},
            17,
            "field 'rules.0.positions': the last position is 5, the plan is for 4 hops",
        ),
        ({"rules": [RULE | {"positions": [3, 2]}]}, 17, "field 'rules.0.positions': must be [first, last], counted from 1"),
        ({"rules": [RULE | {"positions": [0, 2]}]}, 17, "field 'rules.0.positions': must be [first, last], counted from 1"),
        ({"rules": [RULE | {"vote": {}, "verify": {}}]}, 16, "field 'rules.0': a hop has a 'vote' or is checked by 'verify'"),
        ({"rules": [RULE | {"vote": {"k": 1}}]}, 18, "field 'rules.0.vote.k': input should be greater than or equal to 2"),
        ({"rules": [RULE | {"position": [1, 2]}]}, 17, "unknown field 'position': did you mean 'positions'?"),
        ({"predicted": planned.predicted(target=90)}, None, "field 'predicted.target': input should be less than or equal to 1"),
        ({"predicted": planned.predicted(unit="kWh")}, None, "field 'predicted.unit': input should be 'weight bytes', 'J' or"),
        ({"arms": [{"name": "plan", "checkpoint": "x"}]}, 3, "field 'arms': no arm of a plan can be called 'plan'"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_field(
    changes: dict[str, Any], line: int | None, message: str, tmp_path: Path
) -> None:
    path = planned.write(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        load_plan(path)
    told = str(caught.value)
    assert message in told
    assert told.startswith(f"{path}:{line}: " if line else f"{path}:")


def test_a_file_that_is_no_plan_says_where_plans_come_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; `qtrap plan MODEL` writes a plan"):
        load_plan(tmp_path / "plan.yaml")
    (tmp_path / "run.yaml").write_text("name: run\nsuites: [arith]\n")
    with pytest.raises(ConfigError, match=r"no precision plan; `qtrap plan MODEL` writes one"):
        load_plan(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": None}, "arm 'plan' has 'backend: plan', but the run has no plan"),
        ({"depths": [2]}, "the plan is for depth 4, the run has depths \\[2\\]"),
        ({"arms": [{"name": "solve", "backend": "scripted", "script": "scripts:solve"}]}, "needs one arm 'name: plan"),
    ],
)
def test_a_run_and_its_plan_fit_together(changes: dict[str, Any], message: str) -> None:
    whole = planned.config(planned.plan()).model_dump()
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(whole | changes)


def test_a_plan_without_prediction_is_a_plan() -> None:
    assert PrecisionPlan.model_validate(planned.content(rules=())).predicted is None
