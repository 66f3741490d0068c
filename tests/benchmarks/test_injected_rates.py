"""The benchmark on faults in an arm of known slip rates: a model that knows them agrees, a wrong one does not."""

import json
import sys
from pathlib import Path

import injected_rates
import numpy as np
import pytest
import replayed
import simulated
from simulated import Slip, make_run, tasks_of, write_arm

from qtrap_agents.evidence import REPLAYS, Change
from qtrap_agents.store import Journal, RunDirectory
from qtrap_agents.types import Value


def faulty(parent: Path, slip: Slip, after_faults: Slip) -> RunDirectory:
    """A run whose hops slip as they do, and by other rates after faults in its first premise."""
    tasks = tasks_of(["program"], (6,), 120)
    run = make_run(parent, tasks, ["a"])
    write_arm(run, "a", {"program": slip})
    rng = np.random.default_rng(5)
    with Journal(run.faults_path("known") / REPLAYS) as journal:
        for task in tasks:
            first = task.premises[0]
            spoilt: Value = (int(first.value) + int(rng.integers(1, 100))) % 100
            changed = task.model_copy(update={"premises": (first.model_copy(update={"rule": str(spoilt)}), *task.premises[1:])})
            values = simulated.stated(changed, Slip(0.0, after_faults.wrong), rng)
            values[first.id] = spoilt
            change = Change(kind="inject", hop_id="hop_001", premise=first.id, value=spoilt, fault="digit")
            journal.append(replayed.replay(replayed.chain(task, values, "a"), "a", change))
    return run


def test_a_model_of_the_same_arm_agrees(tmp_path: Path) -> None:
    found = injected_rates.rates(faulty(tmp_path, Slip(0.1, 0.1), Slip(0.1, 0.1)))
    for model in ("natural", "faults"):
        assert [rate.fate for rate in found[model]] == ["recovered", "inherited", "compounded"]
        assert all(rate.agrees for rate in found[model]), found[model]
    assert sum(rate.counted for rate in found["natural"]) == found["natural"][0].n > 200


def test_an_arm_that_does_otherwise_after_faults_is_noticed(tmp_path: Path) -> None:
    found = injected_rates.rates(faulty(tmp_path, Slip(0.1, 0.1), Slip(0.1, 0.6)))
    assert not any(rate.agrees for rate in found["natural"] if rate.fate in ("inherited", "compounded"))


def test_it_prints_no_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = faulty(tmp_path, Slip(0.1, 0.1), Slip(0.1, 0.1))
    monkeypatch.setattr(sys, "argv", ["injected_rates.py", str(run.path), "--json"])
    injected_rates.main()
    printed = capsys.readouterr().out
    assert str(tmp_path) not in printed
    data = json.loads(printed)
    assert (data["arm"], set(data["agree"])) == ("a", {"natural", "faults"})


def test_a_run_without_faults_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, tasks_of(["arith"], (2,), 3), ["a"])
    write_arm(run, "a", {"arith": Slip(0.5, 0.5)})
    monkeypatch.setattr(sys, "argv", ["injected_rates.py", str(run.path)])
    with pytest.raises(SystemExit, match="no injected faults; `qtrap inject"):
        injected_rates.main()
