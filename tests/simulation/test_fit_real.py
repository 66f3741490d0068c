"""`qtrap fit` on a real run of the shipped model and its really quantised weights."""

import json
from pathlib import Path

import pytest
import scripts
from scripts import qtrap

from qtrap_agents.simulation.model_file import load_model

pytestmark = pytest.mark.vllm


def test_a_real_run_of_the_shipped_model(tmp_path: Path) -> None:
    arms = [{"name": arm, "checkpoint": f"reference:small/{arm}", "backend": "vllm"} for arm in ("fp16", "rtn3")]
    config = {
        "suites": ["arith", "program", "track"],
        "depths": [2, 4],
        "tasks_per_depth": 40,
        "concurrency": 64,
        "noise_floor": False,
        "engine": {"max_model_len": 256, "max_num_seqs": 64, "kv_cache_gib": 0.25},
        "arms": arms,
    }
    made = qtrap("run", scripts.write_yaml(tmp_path / "run.yaml", config), cwd=tmp_path, timeout_s=500)
    assert made.returncode == 0, made.stderr
    run = tmp_path / made.stdout.strip()
    result = qtrap("fit", run, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    fp16, rtn3 = json.loads(result.stdout)["arms"]
    assert sum(family["own"] for family in fp16["families"]) <= 5
    for family in rtn3["families"]:
        assert family["own"] > 10
        interval, rate = family["own_interval"], family["fitted"]["own"]["value"]
        assert interval["low"] < rate < interval["high"]
    model = load_model(run / "model.yaml")
    cost = model.arm("rtn3").costs["arith"]
    assert cost.hops == 240
    assert cost.prompt_tokens > 5
    assert cost.latency_s is not None
    assert (model.arm("rtn3").weight_bytes or 0) < (model.arm("fp16").weight_bytes or 0)
