"""`qtrap plan` as a user meets it."""

import json
from pathlib import Path
from typing import Any

import mixtures
import pytest
import scripts
from scripts import qtrap

from qtrap_agents.cli.plan import plan
from qtrap_agents.errors import QtrapError
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
    written = load_plan(folder / "plan.yaml")
    assert written.predicted is not None
    assert written.predicted.plan.success.mean >= 0.9
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
        ({"target_success": 0.9, "arm": ["nosy"]}, "unknown arm 'nosy': did you mean 'noisy'?"),
        ({"target_success": 0.9, "suite": "arit"}, "unknown family 'arit': did you mean 'arith'?"),
        ({"target_success": 0.9999}, "no plan with these arms reaches 99.99 %"),
        ({"max_joules": 3.0}, "--max-joules needs measured joules"),
        ({}, "say what the plan is for"),
        ({"target_success": 0.9, "max_cost": 3.0}, "say what the plan is for"),
        ({"max_cost": 3.0, "confident": True}, "--confident belongs to --target-success"),
        ({"target_success": 0.9, "votes": "1"}, "a vote has 2 to 99 samples"),
        ({"target_success": 0.9, "votes": "a"}, "--votes 'a': give numbers of samples"),
        ({"target_success": 0.9, "cost": ["solve"]}, "--cost 'solve': give it as ARM=NUMBER"),
        ({"target_success": 0.9, "cost": ["solve=1"]}, "--cost names no cost of noisy"),
        ({"target_success": 0.9, "outcome": [Path("run")]}, "say where with --html FILE"),
        ({"target_success": 0.9, "config": None}, "give --run RUN or --config FILE"),
        ({"target_success": 0.9, "html": Path("/")}, "/ is there already"),
    ],
)
def test_bad_options_are_one_sentence(folder: Path, options: dict[str, Any], message: str) -> None:
    known: dict[str, Any] = {
        "suite": "arith",
        "depth": 8,
        "votes": "",
        "workflow": "chain",
        "draws": 2,
        "config": folder / "run.yaml",
    }
    with pytest.raises(QtrapError) as error:
        plan(folder / "model.yaml", **known | options)
    assert message in str(error.value)


def test_an_error_is_no_traceback(folder: Path) -> None:
    result = qtrap("plan", "model.yaml", *ASKED, "--config", "run.yaml", "--target-success", "0.9999", "--draws", "2", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert "qtrap: no plan with these arms reaches 99.99 %" in result.stderr
    assert "Traceback" not in result.stderr
