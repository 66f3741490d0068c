"""The benchmark on a small run: it measures what it says, and the fast way finds what the plain way finds. Never timed."""

import json
import subprocess
import sys

import analysis_speed
import pytest

from qtrap_agents.analysis.attribution import HopTimes
from qtrap_agents.analysis.costs import Spending, spent
from qtrap_agents.analysis.summary import accumulate, compare_arms
from qtrap_agents.report.comparison import compare_runs
from qtrap_agents.store import RunDirectory

HOPS = 2_000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, dict[str, analysis_speed.Simulated]]:
    """A small run of the benchmark, and the truth about it."""
    path, truth = analysis_speed.write_run(tmp_path_factory.mktemp("speed"), HOPS)
    return RunDirectory.open(path), truth


def test_the_analysis_finds_what_was_simulated(
    written: tuple[RunDirectory, dict[str, analysis_speed.Simulated]],
) -> None:
    run, truth = written
    found = compare_runs([run]).comparison
    for arm, simulated in truth.items():
        summary = found.arm(arm)
        assert analysis_speed.Simulated(summary.tokens.hops, summary.failures.own, summary.correct) == simulated
        assert summary.failures.compounded == 0
    assert truth["awq"].slips > 10
    assert sum(simulated.hops for simulated in truth.values()) >= HOPS


def test_reading_in_full_with_all_tasks_in_memory_gives_the_same(
    written: tuple[RunDirectory, dict[str, analysis_speed.Simulated]],
) -> None:
    run, _ = written
    report, tasks = compare_runs([run]), run.tasks()
    plain = {arm: accumulate(run.traces(arm), tasks) for arm in run.arms()}
    costs = {summary.arm: summary.cost for summary in report.comparison.arms}
    spending = {arm: spent_on(run, arm) for arm in run.arms()}
    assert compare_arms(plain, "fp16", costs, spending=spending) == report.comparison
    assert [facts.totals for facts in report.facts] == [run.totals(arm) for arm in run.arms()]


def spent_on(run: RunDirectory, arm: str) -> Spending:
    """Seconds of every task, with all traces in memory."""
    hops = HopTimes()
    for trace in list(run.traces(arm)):
        hops.note(trace)
    return spent(hops, run.totals(arm).windows, ())[1]


def test_the_command_line_measures_in_a_fresh_process() -> None:
    command = [sys.executable, analysis_speed.__file__, "--hops", str(HOPS), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    measured = json.loads(done.stdout)
    [size] = measured["sizes"]
    assert size["hops"] >= HOPS
    assert size["tasks"] == 2 * len(analysis_speed.SUITES) * len(analysis_speed.DEPTHS) * 2
    assert 0 < size["start_bytes"] <= size["peak_bytes"]
    assert size["hops_per_s"] == size["hops"] / size["seconds"]
