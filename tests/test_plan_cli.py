"""`qtrap plan` as a user meets it."""

import json
from pathlib import Path

import mixtures
import pytest
import scripts
from scripts import qtrap

from qtrap_agents.plans import load_plan
from qtrap_agents.simulation.model_file import save_model

ASKED = ("--suite", "arith", "--depth", "8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.yaml` of two arms, and `run.yaml` that has them in full."""
    found = tmp_path_factory.mktemp("planning")
    good = mixtures.arm({"plus": 0.001, "minus": 0.001, "times": 0.001})
    poor = mixtures.arm({"plus": 0.01, "minus": 0.01, "times": 0.12}, weight_bytes=300)
    save_model(mixtures.model({"solve": good, "noisy": poor}), found / "model.yaml")
    scripts.write_yaml(found / "run.yaml", scripts.settings(["solve", "noisy"]))
    return found


def test_a_plan_is_written_and_carried_out(folder: Path) -> None:
    options = ("--config", "run.yaml", "--target-success", "0.9", "--draws", "5", "--out", "plan.yaml", "--html", "front.html")
    result = qtrap("plan", "model.yaml", *ASKED, *options, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "Plan for arith, 8 hops" in result.stdout
    assert "next: qtrap run --plan plan.yaml" in result.stderr
    plan = load_plan(folder / "plan.yaml")
    assert plan.predicted is not None
    assert plan.predicted.plan.success.mean >= 0.9
    assert "<svg" in (folder / "front.html").read_text(encoding="utf-8")
    again = qtrap("plan", "model.yaml", *ASKED, *options, cwd=folder)
    assert (again.returncode, again.stdout) == (2, "")
    assert "plan.yaml is there already; give --force" in again.stderr


def test_json_with_given_costs(folder: Path) -> None:
    options = ("--config", "run.yaml", "--max-cost", "12", "--cost", "solve=2", "--cost", "noisy=1", "--draws", "5", "--json")
    result = qtrap("plan", "model.yaml", *ASKED, *options, cwd=folder)
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["unit"] == "cost units"
    assert data["plan"]["predicted"]["plan"]["cost"] <= 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target-success", "0.9", "--arm", "nosy"], "unknown arm 'nosy': did you mean 'noisy'?"),
        (["--target-success", "0.9", "--suite", "arit"], "unknown family 'arit': did you mean 'arith'?"),
        (["--target-success", "0.9999"], "no plan with these arms reaches 99.99 %"),
        (["--max-joules", "3"], "--max-joules needs measured joules"),
        ([], "say what the plan is for"),
        (["--target-success", "0.9", "--max-cost", "3"], "say what the plan is for"),
        (["--max-cost", "3", "--confident"], "--confident belongs to --target-success"),
        (["--target-success", "0.9", "--votes", "1"], "a vote has 2 to 99 samples"),
        (["--target-success", "0.9", "--cost", "solve"], "--cost 'solve': give it as ARM=NUMBER"),
        (["--target-success", "0.9", "--cost", "solve=1"], "--cost names no cost of noisy"),
        (["--target-success", "0.9", "--outcome", "run"], "say where with --html FILE"),
    ],
)
def test_bad_options_are_one_sentence(folder: Path, options: list[str], message: str) -> None:
    result = qtrap("plan", "model.yaml", *ASKED, "--config", "run.yaml", "--draws", "2", *options, cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr


def test_arms_that_are_not_known_in_full(folder: Path) -> None:
    result = qtrap("plan", "model.yaml", *ASKED, "--target-success", "0.9", cwd=folder)
    assert result.returncode == 2
    assert "give --run RUN or --config FILE" in result.stderr
