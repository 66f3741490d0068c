"""`qtrap fit` as a user meets it."""

import json
from pathlib import Path

import pytest
from scripts import qtrap
from simulated import Slip, make_run, tasks_of, write_arm

from qtrap_agents.simulation.model_file import load_model
from qtrap_agents.store import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = make_run(tmp_path, tasks_of(["arith", "program"], (2, 4), 40), ["good", "bad"])
    write_arm(made, "good", {"arith": Slip(0.0, 0.0), "program": Slip(0.0, 0.0)})
    write_arm(made, "bad", {"arith": Slip(0.2, 0.2), "program": Slip(0.2, 0.2)})
    return made


def test_a_table_and_a_model_beside_the_run(tmp_path: Path, run: RunDirectory) -> None:
    result = qtrap("fit", run.path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"next: qtrap simulate {run.path}/model.yaml" in result.stderr
    shown = result.stdout
    assert "bad: is more than constant hop success needed for the chains?" in " ".join(shown.split())
    assert "good: whether more than constant hop success is needed cannot be told" in " ".join(shown.split())
    assert "note: good: fewer than 5 slips in arith, program" in shown
    model = load_model(run.path / "model.yaml")
    assert set(model.arms) == {"good", "bad"}
    assert model.command.startswith("qtrap fit ")
    again = qtrap("fit", run.path, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert "is there already; give --force" in again.stderr
    assert qtrap("fit", run.path, "--force", "--arm", "bad", cwd=tmp_path).returncode == 0
    assert set(load_model(run.path / "model.yaml").arms) == {"bad"}


def test_json_and_another_file(tmp_path: Path, run: RunDirectory) -> None:
    out = tmp_path / "models" / "m.yaml"
    result = qtrap("fit", run.path, "--out", out, "--covariates", "none", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["path"] == str(out)
    assert [arm["arm"] for arm in data["arms"]] == ["good", "bad"]
    assert not any(test["kept"] for arm in data["arms"] for test in arm["tests"])
    assert out.is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arm", "bda"], "unknown arm 'bda': did you mean 'bad'?"),
        (["--covariates", "kindd"], "--covariates: unknown covariate 'kindd': did you mean 'kind'?"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path: Path, run: RunDirectory, options: list[str], message: str) -> None:
    result = qtrap("fit", run.path, *options, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (run.path / "model.yaml").exists()


def test_no_run_is_one_sentence(tmp_path: Path) -> None:
    result = qtrap("fit", tmp_path / "none", cwd=tmp_path)
    assert result.returncode == 2
    assert "not a run directory" in result.stderr
