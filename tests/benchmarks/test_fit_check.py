"""The benchmark on few experiments: intervals hold the truth as often as they claim, terms enter without reason hardly ever.

Seeds are fixed, so a failure is a change and never bad luck.
"""

import json
import subprocess
import sys
from collections.abc import Iterable

import pytest
from fit_check import SCENARIOS, check
from scipy.stats import binom

from qtrap_agents.simulation.model import Slips
from qtrap_agents.simulation.slips import Counts, fit_slips

EXPERIMENTS = 15
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize("name", ["spread", "wrong", "one rare"])
def test_intervals_hold_the_truth(name: str) -> None:
    found = check(BY_NAME[name], EXPERIMENTS)
    assert binom.sf(found.low + found.high - 1, found.intervals, 0.05) > 0.001, found
    assert binom.sf(found.false_terms - 1, EXPERIMENTS, 0.02) > 0.001, found
    if name == "wrong":
        assert found.kept["wrong_parents"] == EXPERIMENTS


def test_no_slip_reaches_to_some_slips() -> None:
    found = check(BY_NAME["none alone"], 2)
    assert found.covered == 1
    assert 1 <= found.reach[0] <= found.reach[1] <= 15


def test_intervals_without_uncertain_parameters_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def certain(counts: Counts, terms: Iterable[str]) -> Slips:
        fitted = fit_slips(counts, terms)
        size = len(fitted.terms)
        return fitted.model_copy(update={"covariance": tuple((1e-6,) * size for _ in range(size))})

    monkeypatch.setattr("fit_check.fit_slips", certain)
    assert check(BY_NAME["one family"], EXPERIMENTS).covered < 0.5


def test_the_command_prints_its_counts() -> None:
    code = "import fit_check; fit_check.SCENARIOS = fit_check.SCENARIOS[-1:]; fit_check.main()"
    command = [sys.executable, "-c", code, "--experiments", "2", "--json"]
    printed = subprocess.run(command, cwd="tests/benchmarks", capture_output=True, text=True, check=True).stdout
    [found] = json.loads(printed)
    assert (found["scenario"]["name"], found["intervals"]) == ("one family", 2)
