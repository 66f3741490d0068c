"""`qtrap plan`: the record that is written, the front around it, what is out of reach, and the page."""

import json
from pathlib import Path
from xml.etree import ElementTree

import benched
import mixtures
import planned
import pytest
import scripts
from scripts import printed

from qtrap_agents.arms import ArmConfig
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.errors import SimulationError, StoreError
from qtrap_agents.plans import Rule, load_plan
from qtrap_agents.report.comparison import compare_runs
from qtrap_agents.report.front_page import front_page
from qtrap_agents.report.plan import Goal, Place, PlanReport, bench_joules, make_plan, outcomes_of, plan_json, save_plan
from qtrap_agents.report.plan_view import render_plan
from qtrap_agents.simulation.costing import costs_of
from qtrap_agents.simulation.model import ErrorModel
from qtrap_agents.store import Journal

ARMS = ["solve", "noisy"]


def fitted() -> ErrorModel:
    good = mixtures.arm({"plus": 0.001, "minus": 0.001, "times": 0.001}, few=("arith",), observed={"arith": 2})
    poor = mixtures.arm({"plus": 0.01, "minus": 0.01, "times": 0.12}, weight_bytes=300)
    return mixtures.model({"solve": good, "noisy": poor})


def report(goal: Goal, **options: object) -> PlanReport:
    model = fitted()
    arms = [ArmConfig.model_validate(scripts.scripted(name)) for name in ARMS]
    costs = costs_of(model, ARMS, "arith")
    return make_plan(model, Place("arith", 8), goal, arms, "solve", costs, draws=10, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made() -> PlanReport:
    return report(Goal(success=0.9))


def test_the_plan_meets_its_target_for_less_than_the_baseline(made: PlanReport) -> None:
    predicted = made.predicted
    assert predicted.plan.success.mean >= 0.9
    assert predicted.plan.cost < predicted.baseline.cost
    assert predicted.arms["noisy"].success.mean < 0.9
    assert (predicted.target, predicted.unit) == (0.9, "weight bytes")
    assert made.plan.way("arith", "times", 8).arm == "solve"


def test_the_rows_are_all_hops_of_a_task(made: PlanReport) -> None:
    assert sum(row.hops for row in made.rows) == pytest.approx(8)
    assert all(row.slips > 0 for row in made.rows)
    assert made.calls == pytest.approx(8)


def test_the_front_is_monotone_and_has_every_arm_alone(made: PlanReport) -> None:
    front = made.predicted.front
    assert [point.cost for point in front] == sorted(point.cost for point in front)
    assert [point.success for point in front] == sorted(point.success for point in front)
    assert {"all solve", "all noisy", "plan"} <= {point.label for point in front}
    assert all(point.low <= point.success <= point.high for point in front)


def test_a_plan_comes_back_from_its_file(made: PlanReport, tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.yaml"
    save_plan(made.plan, path)
    assert load_plan(path) == made.plan
    with pytest.raises(SimulationError, match="is there already; give --force"):
        save_plan(made.plan, path)
    save_plan(made.plan, path, force=True)


def test_a_budget_is_kept(made: PlanReport) -> None:
    allowed = made.predicted.baseline.cost * 0.6
    found = report(Goal(cost=allowed)).predicted
    assert found.plan.cost <= allowed
    assert found.max_cost == allowed
    assert found.plan.success.mean > found.arms["noisy"].success.mean


def test_the_lower_end_costs_more_than_the_mean() -> None:
    found = report(Goal(success=0.95, confident=True)).predicted
    assert found.plan.success.low >= 0.95


@pytest.mark.parametrize("target", [0.8, 0.85, 0.92, 0.96])
def test_a_plan_is_on_its_own_front(target: float) -> None:
    """No point of the front that reaches the target costs clearly less."""
    predicted = report(Goal(success=target)).predicted
    others = [point.cost for point in predicted.front if point.success >= target]
    assert predicted.plan.success.mean >= target
    assert predicted.plan.cost <= 1.02 * min(others)


def test_what_cannot_be_reached_is_said_with_the_best_there_is() -> None:
    with pytest.raises(SimulationError, match=r"no plan with these arms reaches 99\.99 % by the mean") as error:
        report(Goal(success=0.9999))
    assert "100.0 % of the hops on solve" in str(error.value)
    assert "a task for 99." in str(error.value)
    with pytest.raises(SimulationError, match=r"no plan costs only 10\.0 B a task; the cheapest costs"):
        report(Goal(cost=10.0))


def test_joules_of_a_bench(tmp_path: Path) -> None:
    """At one request at a time, the prompt length that comes nearest."""
    bench = BenchDirectory.create(tmp_path, benched.bench_config("fp16", "awq", baseline="fp16"), {})
    with Journal(bench.windows_path) as lines:
        lines.append(benched.window("fp16"))
    with pytest.raises(SimulationError, match="no energy was measured in this bench"):
        bench_joules(bench.path, 10.0)
    with Journal(bench.windows_path) as lines:
        for found in benched.windows("fp16", {"awq": {1: (0.5, 0.5), 4: (2.0, 2.0)}}, {"fp16": 80.0, "awq": 80.0}):
            lines.append(found)
    joules, looked_up = bench_joules(bench.path, 10.0)
    assert joules == pytest.approx({"fp16": 1.0, "awq": 0.5})
    assert "1 in flight, prompts of 16 tokens" in looked_up


def test_only_chains_are_planned() -> None:
    model = fitted()
    arms = [ArmConfig.model_validate(scripts.scripted(name)) for name in ARMS]
    with pytest.raises(SimulationError, match="leave --workflow vote out"):
        make_plan(model, Place("arith", 8, "vote"), Goal(0.9), arms, "solve", costs_of(model, ARMS, "arith"))


def test_kinds_with_one_option_everywhere_are_one_rule(made: PlanReport) -> None:
    assert len(made.plan.rules) <= 6
    assert all(rule.family == "arith" for rule in made.plan.rules)
    rules = [Rule.model_validate(rule.model_dump()) for rule in made.plan.rules]
    assert rules == list(made.plan.rules)


def test_what_is_printed(made: PlanReport) -> None:
    shown = " ".join(printed(lambda console: render_plan(made, console)).split())
    assert "note: solve: 2 slips in 1,000 hops of arith; what is predicted of it rests on few or none" in shown
    assert "cost in weight bytes: counted: weight bytes of the arm" in shown
    assert "target: 90.0 % by the mean prediction" in shown
    assert " J" not in shown
    assert json.loads(json.dumps(plan_json(made)))["unit"] == "weight bytes"


def test_the_page_is_whole_and_well_formed(made: PlanReport) -> None:
    page = front_page(made.plan)
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    circles = [one for one in svg.iter() if one.tag.endswith("circle")]
    assert len(circles) == len(made.predicted.front)
    words = [one.text for one in svg.iter() if one.tag.endswith("text")]
    assert "success, % of tasks" in words
    assert any(word and word.startswith("cost of a task, ") for word in words)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme: dark" in page


def test_measured_points_stand_beside_the_predicted_ones(made: PlanReport, tmp_path: Path) -> None:
    plan = made.plan.model_copy(update={"depth": 4, "rules": ()})
    run = scripts.go(planned.config(plan, tasks_per_depth=20), tmp_path)
    outcomes = outcomes_of([run.path])
    assert [one.arm for one in outcomes[0].outcomes] == [one.arm for one in compare_runs([run]).plans[0].outcomes]
    page = front_page(made.plan, outcomes)
    assert "<h2>Measured</h2>" in page
    assert "not measured" in page
    assert "<td>20</td>" in page


def test_a_run_without_plan_has_no_outcome(tmp_path: Path) -> None:
    run = scripts.go(planned.config(planned.plan(), tasks_per_depth=2), tmp_path)
    with pytest.raises(StoreError, match="no run of a plan with a prediction"):
        outcomes_of([run.path])
