"""The benchmark on few experiments: no error rate may lie above its nominal one by more than chance, and wrong methods fail.

Bounds leave a chance of 1 in 1,000 for each rate; seeds are fixed, so a failure is a change and never bad luck.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import statistics_check
from statistics_check import Chains, Misses, Pairs, above_nominal, check_chains, check_pairs, exact_sides

EXPERIMENTS = 200


@pytest.mark.parametrize(
    "scenario",
    [
        Pairs("A/A", 400, 1, 0.03, 0.03),
        Pairs("A/A", 400, 3, 0.03, 0.03, 0.4),
        Pairs("boundary", 400, 1, 0.0225, 0.0025),
        Pairs("boundary", 400, 3, 0.0225, 0.0025, 0.4),
        Pairs("boundary", 400, 3, 0.05, 0.03, 1.0),
    ],
)
def test_wrong_verdicts_and_misses_stay_nominal(scenario: Pairs) -> None:
    found = check_pairs(scenario, EXPERIMENTS)
    assert found.scenario.truth in (0.0, -0.02)
    assert set(found.wrong) == ({"danger"} if scenario.question == "A/A" else {"safe", "danger"})
    assert not any(above_nominal(count, EXPERIMENTS) for count in found.wrong.values()), found
    used = found.misses["interval"]
    assert not above_nominal(used.low, EXPERIMENTS), found
    assert not above_nominal(used.high, EXPERIMENTS), found


def test_a_method_that_takes_pairs_of_one_task_for_independent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtrap_agents.analysis.paired.PairedSample.design_effect", 1.0)
    statistics_check._judged.cache_clear()
    try:
        found = check_pairs(Pairs("A/A", 400, 3, 0.03, 0.03, 1.0), EXPERIMENTS).misses["score"]
    finally:
        statistics_check._judged.cache_clear()
    assert above_nominal(found.low, EXPERIMENTS)
    assert above_nominal(found.high, EXPERIMENTS)


@pytest.mark.parametrize(
    ("scenario", "worst_method", "side", "rate"),
    [
        (Pairs("exact", 50, 1, 0.02, 0.0), "bootstrap", "high", 0.36),
        (Pairs("exact", 200, 1, 0.0225, 0.0025), "score", "low", 0.052),
        (Pairs("exact", 400, 1, 0.005, 0.005), "bootstrap", "low", 0.047),
    ],
)
def test_exact_rates_of_the_interval_in_use_and_of_each_method_alone(
    scenario: Pairs, worst_method: str, side: str, rate: float
) -> None:
    sides = exact_sides(scenario)
    assert max(sides["interval"]) <= 0.026
    assert getattr(sides[worst_method], side) == pytest.approx(rate, abs=0.006)


def test_enumeration_and_simulation_agree() -> None:
    scenario = Pairs("boundary", 100, 1, 0.05, 0.03)
    exact, drawn = exact_sides(scenario), check_pairs(scenario, 1_000)
    for method, misses in drawn.misses.items():
        assert (misses.low / 1_000, misses.high / 1_000) == pytest.approx(exact[method], abs=0.02)


@pytest.mark.parametrize(
    "scenario",
    [Chains((2, 8, 32), 100, 20), Chains((8,), 30, 33), Chains((2, 8, 32), 100, 20, 1.5)],
)
def test_horizon_intervals_cover(scenario: Chains) -> None:
    misses = check_chains(scenario, EXPERIMENTS).misses
    assert not above_nominal(misses.low + misses.high, EXPERIMENTS, 0.07), misses


def test_counts_of_a_scenario_add_up() -> None:
    found = check_pairs(Pairs("power", 300, 2, 0.1, 0.0, 0.5), 20)
    assert sum(found.verdicts.values()) == found.experiments == 20
    assert found.wrong == {"safe": 0}
    assert all(misses.covered + misses.low + misses.high == 20 for misses in found.misses.values())
    assert Misses(20, 3, 2).covered == 15


def test_drawn_pairs_have_the_shares_and_the_likeness_asked_for() -> None:
    scenario = Pairs("A/A", 20_000, 3, 0.2, 0.1, 0.4)
    clusters = statistics_check.draw(scenario, np.random.default_rng(0))
    assert sum(clusters.values()) == 20_000
    lost = sum(cluster.lost * count for cluster, count in clusters.items()) / 60_000
    both = sum(cluster.lost * (cluster.lost - 1) / 6 * count for cluster, count in clusters.items()) / 20_000
    assert lost == pytest.approx(0.2, abs=0.01)
    assert (both - lost**2) / (lost * (1 - lost)) == pytest.approx(0.4, abs=0.03)


def test_the_script_prints_tables_or_json() -> None:
    code = (
        "import sys, statistics_check as check; sys.argv = ['check', '--experiments', '3', *sys.argv[1:]]; "
        "check.PAIRS, check.CHAINS, check.EXACT = check.PAIRS[:1], check.CHAINS[-1:], check.EXACT[:1]; check.main()"
    )
    folder = statistics_check.__file__.rpartition("/")[0]
    text, data = (
        subprocess.run([sys.executable, "-c", code, *option], capture_output=True, text=True, check=True, cwd=folder).stdout
        for option in ([], ["--json"])
    )
    assert text.count("±") == 2 + 7 + 3
    assert json.loads(data)["pairs"][0]["experiments"] == 3
