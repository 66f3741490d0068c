"""The steps of the serving figures: what is stored, what is left out, and that each of them names options that there are."""

import json
import sys
from pathlib import Path

import benched
import pytest
import scripts
import serving_figures
from serving_figures import QTRAP, Step, perform_all, steps

from qtrap_agents.config import BenchConfig, RunConfig, load_yaml

HANDED_ON = Step(
    "handed-on",
    (
        (sys.executable, "-c", "print('noise'); print('found')"),
        (sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", "{last}", '{"braces": "stay"}'),
    ),
)
BROKEN = Step("broken", ((sys.executable, "-c", "import sys; print('half'); sys.exit('no GPU here')"),))


def test_steps_are_stored_whole_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(scripts.TESTS))
    scripts.write_yaml(tmp_path / "bench.yaml", benched.bench_settings("fp16", "awq"))
    small = Step("bench", ((*QTRAP, "bench", str(tmp_path / "bench.yaml"), "--json"),))
    assert perform_all([small, BROKEN, HANDED_ON], tmp_path, tmp_path / "scratch") == 1
    assert json.loads((tmp_path / "bench.json").read_text())["arms"] == ["fp16", "awq"]
    assert [path.name.rpartition("-20")[0] for path in (tmp_path / "scratch").iterdir()] == ["small"]
    assert json.loads((tmp_path / "handed-on.json").read_text()) == ["found", '{"braces": "stay"}']
    assert not (tmp_path / "broken.json").exists()
    assert "no GPU here" in (tmp_path / "broken.log").read_text()
    assert "broken: exit code 1, see " in capsys.readouterr().out


def test_what_is_stored_is_not_measured_again(tmp_path: Path) -> None:
    (tmp_path / "handed-on.json").write_text("0")
    assert perform_all([HANDED_ON], tmp_path, tmp_path / "scratch") == 0
    assert (tmp_path / "handed-on.json").read_text() == "0"


def test_weights_of_a_shape_are_kept_for_its_steps_only(tmp_path: Path) -> None:
    scratch, code = tmp_path / "scratch", "import pathlib, sys; pathlib.Path(sys.argv[-1]).mkdir(parents=True, exist_ok=True)"
    chosen = [Step(name, ((sys.executable, "-c", code),), name[0]) for name in ("a1", "a2", "b1")]
    assert perform_all(chosen[:1], tmp_path, scratch) == 0
    assert not (scratch / "a").exists()
    assert perform_all(chosen, tmp_path, scratch) == 0
    assert not (scratch / "b").exists()


def test_every_figure_has_a_name_of_its_own_and_files_that_exist() -> None:
    found = list(steps())
    names = [step.name for step in found]
    assert len(set(names)) == len(names) > 10
    assert [step.shape for step in found if step.shape] == sorted(
        (step.shape for step in found if step.shape), key=serving_figures.SHAPES.index
    )
    for command in (command for step in found for command in step.commands):
        for word in command:
            if word.endswith(".yaml"):
                load_yaml(serving_figures.ROOT / word, RunConfig if "run" in command else BenchConfig)
