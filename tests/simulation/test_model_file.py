"""A model as a file: what is read is what was written, and whatever is wrong with it is one sentence."""

from pathlib import Path

import numpy as np
import pytest
from simulated import Slip, make_run, tasks_of, write_arm

from qtrap_agents.errors import SimulationError
from qtrap_agents.simulation.fit import fit
from qtrap_agents.simulation.model import ErrorModel
from qtrap_agents.simulation.model_file import load_model, save_model
from qtrap_agents.simulation.observations import observe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ErrorModel:
    run = make_run(tmp_path_factory.mktemp("run"), tasks_of(["program"], (4,), 60), ["a"])
    write_arm(run, "a", {"program": Slip(0.1, 0.1)})
    return fit(observe([run]), command="qtrap fit RUN", date="2026-11-26")


@pytest.fixture
def path(tmp_path: Path, model: ErrorModel) -> Path:
    save_model(model, tmp_path / "new" / "model.yaml")
    return tmp_path / "new" / "model.yaml"


def test_what_is_read_is_what_was_written(path: Path, model: ErrorModel) -> None:
    found = load_model(path)
    assert found.model_dump(exclude={"arms", "masks", "luck", "families"}) == model.model_dump(
        exclude={"arms", "masks", "luck", "families"}
    )
    assert found.arm("a").slips.terms == model.arm("a").slips.terms
    assert np.array(found.arm("a").slips.covariance) == pytest.approx(np.array(model.arm("a").slips.covariance), rel=1e-8)
    drawn = [each.draw(np.random.default_rng(0)).slip_logit("a", "program", "times") for each in (found, model)]
    assert drawn[0] == pytest.approx(drawn[1], abs=1e-3)


def test_it_can_be_read_by_a_person(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "version: 1"
    assert "runs: [known-" in path.read_text()
    assert "command: qtrap fit RUN" in lines


def test_nothing_is_overwritten_silently(path: Path, model: ErrorModel) -> None:
    with pytest.raises(SimulationError, match=r"model\.yaml is there already; give --force to overwrite it, or another --out"):
        save_model(model, path)
    save_model(model, path, force=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, model: ErrorModel) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SimulationError, match=r"file/model\.yaml: cannot be written"):
        save_model(model, tmp_path / "file" / "model.yaml")


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"none\.yaml: no such model; fit one with `qtrap fit RUN`"):
        load_model(tmp_path / "none.yaml")
    with pytest.raises(SimulationError, match="cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a run\n", "no error model; fit one"),
        ("- 1\n- 2\n", "no error model; fit one"),
        ("", "no error model; fit one"),
        ("a: [1, 2\nb: 3\n", "damaged one: line 2"),
        ("\x00\x01", "no error model, or a damaged one"),
        (b"\xff\xfe\xfa", "cannot be read"),
        ("version: 2\narms: {}\nmasks: {}\n", "an error model of version 2, this is for 1; fit it again"),
        ("version: 1\narms: {}\nmasks: {}\n", "a damaged error model: made_by: Field required"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    file = tmp_path / "model.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SimulationError, match=message):
        load_model(file)


def test_a_file_that_was_cut_off_is_refused(path: Path) -> None:
    text = path.read_text()
    for share in (0.3, 0.6, 0.9):
        path.write_text(text[: int(share * len(text))])
        with pytest.raises(SimulationError, match="damaged"):
            load_model(path)


def test_a_row_that_was_lost_is_noticed(path: Path, model: ErrorModel) -> None:
    slips = model.arm("a").slips
    short = slips.model_copy(update={"covariance": slips.covariance[:-1]})
    damaged = model.model_copy(update={"arms": {"a": model.arm("a").model_copy(update={"slips": short})}})
    save_model(damaged, path, force=True)
    with pytest.raises(SimulationError, match=r"arms\.a\.slips: \d+ terms need as many numbers"):
        load_model(path)
