"""Replays and faults on workflows whose hops are drawn several times."""

import asyncio
from pathlib import Path

import pytest
import scripts

from qtrap_agents.errors import ConfigError
from qtrap_agents.evidence import REPLAYS, Replay
from qtrap_agents.experiments.inject import FaultPlan, draw_faults, run_faults
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.experiments.replays import Chains, choose, run_replays
from qtrap_agents.report.replays import replay_report
from qtrap_agents.store import RunDirectory, read_lines


def made(folder: Path, workflow: dict[str, object]) -> RunDirectory:
    """A right arm and one that is always wrong on some prompts."""
    return scripts.go(
        scripts.config("solve", "noisy", suites=["arith"], depths=[4], tasks_per_depth=8, workflow=workflow), folder
    )


@pytest.mark.parametrize("workflow", [{"name": "vote", "k": 3}, {"name": "verify_revise"}])
def test_chains_are_replayed_from_their_samples(tmp_path: Path, workflow: dict[str, object]) -> None:
    run = made(tmp_path, workflow)
    chains, bench = Chains.of(run, "noisy"), Bench.set_up(run, scripts.Listener())
    assert asyncio.run(run_replays(run, bench, "noisy", choose(chains), chains)) == []
    report = replay_report(run, "noisy")
    assert report.profile.total.outcomes.failed > 0
    assert report.profile.total.hops.again_other == 0
    replays = list(read_lines(run.path / "replays" / "noisy" / REPLAYS, Replay))
    assert replays
    assert {made.trace.error for made in replays} == {None}


def test_a_fault_is_found_and_sent_back_by_a_checker_that_works_it_out(tmp_path: Path) -> None:
    run = made(tmp_path, {"name": "verify_revise"})
    plan = FaultPlan(kinds=("off-by-one",))
    asyncio.run(run_faults(run, Bench.set_up(run, scripts.Listener()), plan.name, draw_faults(run, plan).faults))
    replays = list(read_lines(run.faults_path(plan.name) / REPLAYS, Replay))
    assert len(replays) == 8
    for replay in replays:
        hop_id = replay.changes[0].hop_id
        told = [decision.premises[0].value for decision in replay.trace.decisions if decision.id.startswith(f"{hop_id}.")]
        assert told == ["sent back", "accepted"]
        assert replay.trace.correct


def test_a_vote_takes_no_fault_and_says_why(tmp_path: Path) -> None:
    run = made(tmp_path, {"name": "vote", "k": 3})
    with pytest.raises(ConfigError, match="none of its hops alone states a gold premise, so there is none to spoil") as caught:
        draw_faults(run, FaultPlan(kinds=("off-by-one",)))
    assert "\n" not in str(caught.value)
