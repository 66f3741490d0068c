"""The four verbs as a user types them, on scripted arms."""

import json
from pathlib import Path

import pytest
import scripts
from scripts import qtrap


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = scripts.config("solve", "noisy", suites=["arith", "program"], depths=[4, 8], tasks_per_depth=15)
    return scripts.go(chosen, tmp_path_factory.mktemp("verbs")).path


def test_replay(run: Path) -> None:
    made = qtrap("replay", run, "--json", cwd=run.parent)
    assert made.returncode == 0, made.stderr
    chains = json.loads(made.stdout)["total"]["chains"]
    assert chains["failed"] > 0
    assert chains["saved_by_one_repair"]["n"] == chains["failed"]
    again = qtrap("replay", run, "--stored", "--show", "1", cwd=run.parent)
    assert again.returncode == 0, again.stderr
    assert "next: qtrap inspect" in again.stdout


def test_inject_then_localise(run: Path) -> None:
    injected = qtrap("inject", run, "--kind", "digit", cwd=run.parent)
    assert injected.returncode == 0, injected.stderr
    assert "60 faults in chains of solve" in injected.stdout
    assert f"next: qtrap localise {run} --faults digit-at-random-s0" in injected.stderr
    found = qtrap("localise", run, "--json", cwd=run.parent)
    assert found.returncode == 0, found.stderr
    scores = json.loads(found.stdout)["total"]["localisers"]
    assert scores["replay"]["exact_share"]["share"] == 1.0
    assert scores["random"]["exact_share"]["share"] < 1.0


def test_localise_in_a_file_without_gold(run: Path) -> None:
    found = qtrap("localise", run / "arms" / "noisy" / "traces.jsonl", cwd=run.parent)
    assert found.returncode == 0, found.stderr
    assert "contradict themselves" in found.stdout


def test_an_arm_without_log_probabilities_is_diagnosed_without_tokens(run: Path) -> None:
    made = qtrap("diagnose", run, "--arm", "noisy", cwd=run.parent)
    assert made.returncode == 0, made.stderr
    assert "token level: not measured" in made.stdout
    assert "own" in made.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inject", "{run}", "--at", "nowhere"), "--at nowhere: give a hop from 1, or one of random, first, middle, last"),
        (("inject", "{run}", "--at", "9"), "no chain of"),
        (("inject", "{run}", "--depth", "4"), "a stored run takes no --depths"),
        (("replay", "{run}", "--arm", "solve"), "arm 'solve' is the baseline"),
        (("replay", "{run}", "--task", "arith-d9"), "task 'arith-d9' has no stored chain"),
        (("diagnose", "{run}", "--arm", "nosy"), "did you mean 'noisy'"),
        (("localise", "{run}", "--faults", "many"), "unknown set of faults 'many'"),
        (("localise", "nowhere"), "not a run directory"),
    ],
)
def test_bad_input_is_one_sentence(run: Path, words: tuple[str, ...], message: str) -> None:
    refused = qtrap(*(word.format(run=run) for word in words), cwd=run.parent)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
