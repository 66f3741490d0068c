"""`qtrap simulate` as a user runs it."""

import json
from pathlib import Path

import pytest
import scripts
from modelled import arm, model

from qtrap_agents.simulation.model import ErrorModel, Family
from qtrap_agents.simulation.model_file import save_model

DEPTHS = ("--depth", "4", "--depth", "16")


@pytest.fixture(name="fitted")
def _fitted(tmp_path: Path) -> Path:
    made = model({"fp16": arm(0.001), "awq": arm(0.05, sd=0.1)})
    families = {"arith": Family(kinds={"plus": 1.0}, mean_parents=1.0, rules=True, depths=(2, 8)), **made.families}
    path = tmp_path / "model.yaml"
    save_model(ErrorModel.model_validate(made.model_dump() | {"families": families}), path, force=False)
    return path


def test_a_table_with_both_uncertainties(fitted: Path) -> None:
    done = scripts.qtrap("simulate", fitted, "--suite", "arith", *DEPTHS, "--n", "20000", "--draws", "20", cwd=fitted.parent)
    assert done.returncode == 0, done.stderr
    assert "Predicted success of workflow chain" in done.stdout
    assert "20,000 chains, seed 0" in done.stdout
    assert "Horizon H50" in done.stdout
    assert "not measured" in done.stdout
    assert "depth 16 lies beyond the deepest chain of the fit (8)" in done.stdout
    assert done.stderr == ""


def test_json_is_the_same_on_several_workers(fitted: Path) -> None:
    common = (
        "simulate",
        fitted,
        "--suite",
        "arith",
        "--arm",
        "awq",
        "--depth",
        "8",
        "--n",
        "100000",
        "--draws",
        "8",
        "--tasks",
        "50",
    )
    alone, several = (scripts.qtrap(*common, "--json", *more, cwd=fitted.parent) for more in ((), ("--workers", "2")))
    assert alone.stdout == several.stdout
    (row,) = json.loads(alone.stdout)["rows"]
    assert 0.55 < row["forecast"]["success"] < 0.75
    assert row["predictive"][0] < row["forecast"]["low"] < row["forecast"]["high"] < row["predictive"][1]
    assert "draws" not in row["forecast"]


def test_a_graph_of_ones_own_with_checkers(fitted: Path, tmp_path: Path) -> None:
    nodes = [{"id": f"n{i}", "family": "f", "parents": [f"n{i - 1}"] if i else []} for i in range(6)]
    (tmp_path / "team.json").write_text(json.dumps({"nodes": nodes}))
    common = ("simulate", fitted, "--dag", tmp_path / "team.json", "--arm", "awq", "--n", "8192", "--draws", "0", "--json")
    plain, checked = (json.loads(scripts.qtrap(*common, *more, cwd=tmp_path).stdout) for more in ((), ("--verify-every", "2")))
    assert [data["rows"][0]["forecast"]["calls"] for data in (plain, checked)] == [6.0, 9.0]
    assert any("no hop of f was drawn twice in the fit" in note for note in checked["notes"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--arm", "awk"), "unknown arm 'awk': did you mean 'awq'?"),
        (("--suite", "relate"), "unknown family 'relate'"),
        (("--suite", "arith", "--workflow", "debate"), "workflow 'debate' has no layout"),
        (("--suite", "arith", "--param", "k"), "give it as NAME=VALUE"),
        (("--dag", "none.yaml"), "none.yaml: cannot be read as a layout"),
        (("--dag", "none.yaml", "--depth", "3"), "leave --suite and --depth out"),
        (("--suite", "arith", "--ray", "127.0.0.1:1"), "no cluster answers there"),
    ],
)
def test_bad_input_is_one_sentence(fitted: Path, options: tuple[str, ...], words: str) -> None:
    done = scripts.qtrap("simulate", fitted, "--n", "100", "--draws", "1", *options, cwd=fitted.parent)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_model_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    done = scripts.qtrap("simulate", tmp_path / "model.yaml", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
