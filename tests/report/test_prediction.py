"""`qtrap compare` of a planned run: prediction and outcome."""

import json
from pathlib import Path
from typing import Any

import planned
import pytest
import scripts

from qtrap_agents.cli.read import compare
from qtrap_agents.plans import PrecisionPlan
from qtrap_agents.report.comparison import RunComparison, compare_runs, comparison_json
from qtrap_agents.report.comparison_view import render_comparison
from qtrap_agents.store import ArmWriter, AttemptEvent, RunDirectory
from qtrap_agents.types import ArmIdentity

WEIGHTS = {"solve": 1000, "noisy": 250, "slow": 400}


def measured(folder: Path, plan: PrecisionPlan, *more: str, energy_j: float | None = None, **changes: Any) -> RunDirectory:
    """A run whose arms say how large they are; with energy each window took so many joules."""
    run = scripts.go(planned.config(plan, *more, tasks_per_depth=40, **changes), folder)
    for arm in run.arms():
        with ArmWriter(run, arm) as writer:
            writer.identity(told(run, arm))
            if energy_j is not None:
                ended = run.attempts(arm)[-1].model_copy(update={"energy_j": energy_j, "meter": "test"})
                writer.event(AttemptEvent.model_validate(ended.model_dump()))
    return run


def told(run: RunDirectory, arm: str) -> ArmIdentity:
    found = run.identity(arm)
    assert found is not None
    parts = {name: part.model_copy(update={"weight_bytes": WEIGHTS.get(name)}) for name, part in found.parts.items()}
    return found.model_copy(update={"weight_bytes": WEIGHTS.get(arm), "parts": parts})


def printed(report: RunComparison) -> str:
    return scripts.printed(lambda console: render_comparison(report, console))


def row(text: str, name: str) -> list[str]:
    """The cells of a row of the table of prediction and outcome."""
    table = text.partition("Prediction and outcome")[2]
    line = next(line for line in table.splitlines() if line.strip().startswith(name))
    return [cell.strip() for cell in line.strip().removeprefix(name).split("  ") if cell.strip()]


def test_prediction_and_outcome_stand_side_by_side(tmp_path: Path) -> None:
    plan = planned.plan(predicted=planned.predicted(cost=4000, arms={"slow": {"success": planned.GOOD, "cost": 1600}}), rules=[])
    report = compare_runs([measured(tmp_path, plan, "slow")])
    (found,) = report.plans
    by_arm = {one.arm: one for one in found.outcomes}
    assert list(by_arm) == ["plan", "solve", "slow"]
    assert [(one.judged, one.errors) for one in found.outcomes] == [(40, 0)] * 3
    summary = next(arm for arm in report.comparison.arms if arm.arm == "plan")
    assert (by_arm["plan"].correct, by_arm["plan"].judged) == (summary.correct, summary.judged)
    assert (by_arm["solve"].correct, by_arm["slow"].correct) == (40, 40)
    costs = {arm: one.cost.value for arm, one in by_arm.items() if one.cost}
    assert costs == {"plan": 4 * 250, "solve": 4 * 1000, "slow": 4 * 400}
    assert by_arm["plan"].against is not None
    assert (by_arm["plan"].predicted_against, by_arm["plan"].against.value) == (0.5, 0.25)
    assert by_arm["solve"].against is None
    text = printed(report)
    assert row(text, "success, predicted")[0] == "90.0 % [80.0, 95.0]"
    assert row(text, "cost of a task, predicted") == ["2.00 kB", "4.00 kB"]
    assert row(text, "cost of a task, counted") == ["1.00 kB [1.00, 1.00]", "4.00 kB [4.00, 4.00]"]
    assert "a count, not a measurement" in text
    assert "predicted with model.yaml (01234567)" in text


@pytest.mark.parametrize(
    ("target", "place", "words"),
    [(0.0, "below", "below the measured interval: reached"), (1.0, "above", "above the measured interval: not reached")],
)
def test_where_the_target_lies(target: float, place: str, words: str, tmp_path: Path) -> None:
    report = compare_runs([measured(tmp_path, planned.plan(predicted=planned.predicted(target=target), rules=[]))])
    assert report.plans[0].place == place
    assert words in printed(report)
    (data,) = json.loads(json.dumps(comparison_json(report)))["plans"]
    assert (data["target"], data["target_to_interval"], data["counted"]) == (target, place, True)
    assert set(data["outcomes"][0]) >= {
        "predicted",
        "predictive",
        "interval",
        "success",
        "as_predicted",
        "cost",
        "predicted_cost",
    }


def test_votes_and_checkers_cost_what_they_drew(tmp_path: Path) -> None:
    report = compare_runs([measured(tmp_path, planned.plan(predicted=planned.predicted()))])
    cost = report.plans[0].outcomes[0].cost
    assert cost is not None
    assert (cost.value, cost.n) == (4 * 1000 + 3 * 250, 40)


def test_joules_only_where_they_were_measured(tmp_path: Path) -> None:
    plan = planned.plan(predicted=planned.predicted(unit="J", cost=1.0), rules=[])
    without = printed(compare_runs([measured(tmp_path / "a", plan)]))
    assert row(without, "cost of a task, measured") == ["not measured", "not measured"]
    report = compare_runs([measured(tmp_path / "b", plan, energy_j=20.0)])
    costs = [one.cost.value for one in report.plans[0].outcomes if one.cost]
    assert costs == [pytest.approx(0.5), pytest.approx(0.5)]
    assert row(printed(report), "cost of a task, predicted") == ["500 mJ", "1.00 J"]


def test_what_was_not_predicted_is_said(tmp_path: Path) -> None:
    success = planned.GOOD | {"mean": 0.1, "low": 0.09, "high": 0.11}
    prediction = planned.predicted(target=None) | {"plan": {"success": success, "cost": 1}}
    report = compare_runs([measured(tmp_path, planned.plan(predicted=prediction, default="solve", rules=[]))])
    assert report.plans[0].outcomes[0].as_predicted is False
    text = printed(report)
    assert "not as predicted" in text
    assert "the target of" not in text


def test_chains_that_ended_in_an_error_are_no_part_of_success(tmp_path: Path) -> None:
    arms = [scripts.scripted(name) for name in ("solve", "refusing")]
    plan = planned.plan(arms=arms, default="refusing", rules=[], predicted=planned.predicted())
    outcome = compare_runs([measured(tmp_path, plan)]).plans[0].outcomes[0]
    assert outcome.errors > 0
    assert (outcome.judged + outcome.errors, outcome.correct) == (40, outcome.judged)
    assert outcome.success == 1.0


def test_an_unfinished_plan_and_a_run_without_one_show_no_table(tmp_path: Path) -> None:
    run = measured(tmp_path / "a", planned.plan(predicted=planned.predicted()))
    (run.arm_path("plan") / "traces.jsonl").unlink()
    assert compare_runs([run]).plans == ()
    assert compare_runs([scripts.go(scripts.config("solve"), tmp_path / "b")]).plans == ()


def test_two_plans_of_one_name_stay_apart(tmp_path: Path) -> None:
    runs = [
        measured(tmp_path, planned.plan(predicted=planned.predicted(), rules=rules), sampling={"temperature": 0.5, "seed": seed})
        for seed, rules in enumerate(([], [{"positions": [1, 1], "arm": "solve"}]))
    ]
    report = compare_runs(runs)
    assert len([arm for arm in report.comparison.arms if arm.arm.startswith("plan@")]) == 2
    assert [found.run for found in report.plans] == [run.id for run in runs]


def test_the_command_prints_it_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = measured(tmp_path, planned.plan(predicted=planned.predicted()))
    compare([run.path], as_json=True)
    (data,) = json.loads(capsys.readouterr().out)["plans"]
    assert (data["run"], data["unit"], data["plan"]["predicted"]["target"]) == (run.id, "weight bytes", 0.9)
