"""Replays, faults and the finder on the real engine."""

import asyncio
from pathlib import Path

import pytest
import scripts

from qtrap_agents.experiments.inject import FaultPlan, draw_faults, run_faults
from qtrap_agents.experiments.locate import run_finder
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.experiments.replays import Chains, choose, run_replays
from qtrap_agents.report.localisation import localise
from qtrap_agents.report.replays import replay_report


@pytest.mark.vllm
def test_one_full_precision_hop_saves_chains_and_faults_are_found_again(tmp_path: Path) -> None:
    """GPTQ forgets facts: FP16 in the causal hop brings the answer back, and an injected fault is named exactly."""
    arms = [{"name": arm, "checkpoint": f"reference:small/{arm}", "backend": "vllm"} for arm in ("fp16", "gptq")]
    engine = {"max_model_len": 256, "max_num_seqs": 64, "kv_cache_gib": 0.25}
    changes = {"suites": ["relate"], "depths": [4], "tasks_per_depth": 25, "concurrency": 32, "engine": engine}
    run = scripts.go(scripts.config(*arms, **changes), tmp_path)
    bench, chains = Bench.set_up(run, scripts.Listener()), Chains.of(run, "gptq")
    assert asyncio.run(run_replays(run, bench, "gptq", choose(chains), chains)) == []
    total = replay_report(run, "gptq").profile.total
    assert total.outcomes.failed > 0
    assert total.outcomes.one >= 0.5 * total.outcomes.failed
    assert total.hops.again_other <= 0.01 * total.hops.again_asked

    plan = FaultPlan(kinds=("name",), at=2)
    asyncio.run(run_faults(run, bench, plan.name, draw_faults(run, plan).faults))
    asyncio.run(run_finder(run, bench, plan.name))
    found = localise(run, plan.name).benchmark
    (replay,) = (accuracy for accuracy in found.total.accuracies if accuracy.localiser == "replay")
    assert replay.exact.n >= 20
    assert replay.exact.count >= 0.95 * replay.exact.n
