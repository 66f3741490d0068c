"""The whole path on real parts: the CLI, LangGraph, vLLM, and the shipped model with its really quantised weights."""

import hashlib
from pathlib import Path

import psutil
import pytest
import scripts
from scripts import by_task, qtrap

from qtrap_agents.backends.factory import resolve_checkpoint
from qtrap_agents.report.comparison import compare_runs
from qtrap_agents.store import RunDirectory
from qtrap_agents.types import ArmIdentity

pytestmark = pytest.mark.vllm

ARMS = ("fp16", "gptq", "awq")
LAYERS = 12
ENGINE = {"max_model_len": 256, "max_num_seqs": 64, "kv_cache_gib": 0.25}


def settings(folder: Path, *arms: str, **changes: object) -> Path:
    """The quickstart, smaller."""
    content = {
        "suites": ["arith", "relate", "program"],
        "depths": [2, 4],
        "tasks_per_depth": 8,
        "concurrency": 48,
        "engine": ENGINE,
        **changes,
    }
    served = [{"name": arm, "checkpoint": f"reference:small/{arm}", "backend": "vllm"} for arm in arms]
    return scripts.write_yaml(folder / "run.yaml", {**content, "arms": served})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Three families on three arms, through the command line."""
    folder = tmp_path_factory.mktemp("run")
    result = qtrap("run", settings(folder, *ARMS), cwd=folder, timeout_s=500)
    assert result.returncode == 0, result.stderr
    return RunDirectory.open(folder / result.stdout.strip())


def identity_of(run: RunDirectory, arm: str) -> ArmIdentity:
    """What the arm said about itself, checked against the file that it must have loaded."""
    identity = run.identity(arm)
    assert identity is not None
    checkpoint = resolve_checkpoint(f"reference:small/{arm}")
    assert isinstance(checkpoint, Path)
    assert identity.checksum == hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert "running engine" in identity.source
    return identity


def test_every_task_is_stored_once_for_every_arm(run: RunDirectory) -> None:
    assert run.arms() == ARMS
    assert len(run.tasks()) == 3 * 2 * 8
    for arm in ARMS:
        traces = by_task(run, arm).values()
        assert [trace.error for trace in traces if trace.error] == []
        assert all(len(trace.hops) == trace.depth for trace in traces)


def test_the_baseline_solves_its_tasks(run: RunDirectory) -> None:
    traces = by_task(run, "fp16").values()
    assert sum(trace.correct for trace in traces) >= 0.95 * len(traces)


def test_the_baseline_holds_no_packed_layer(run: RunDirectory) -> None:
    identity = identity_of(run, "fp16")
    assert (identity.quantisation, identity.quantised_modules, identity.linear_modules) == (None, 0, LAYERS)
    assert not identity.is_quantised


@pytest.mark.parametrize("arm", ["gptq", "awq"])
def test_a_quantised_arm_holds_packed_layers_only(run: RunDirectory, arm: str) -> None:
    identity, baseline = identity_of(run, arm), identity_of(run, "fp16")
    assert (identity.quantisation, identity.bits) == (arm, 4)
    assert identity.quantised_modules == identity.linear_modules == sum(identity.kernels.values()) == LAYERS
    assert identity.weight_bytes is not None
    assert baseline.weight_bytes is not None
    assert identity.weight_bytes < baseline.weight_bytes
    assert (identity.activation_dtype, identity.kv_cache_dtype) == (baseline.activation_dtype, baseline.kv_cache_dtype)


def test_the_baseline_served_again_is_the_same_model_in_a_new_process(run: RunDirectory) -> None:
    first, again = run.identity("fp16"), run.identity("fp16+again")
    assert first is not None
    assert again is not None
    assert again.model_dump(exclude={"source", "notes"}) == first.model_dump(exclude={"source", "notes"})
    assert len(by_task(run, "fp16+again")) == len(run.tasks())
    report = compare_runs([run])
    assert report.warnings == ()
    assert report.comparison.floor is not None
    assert report.comparison.floor.counts.n == len(run.tasks())
    assert report.again is not None
    assert report.again.hops.same_words > 0.9 * sum(task.depth for task in run.tasks().values())
    assert report.again.hops.differing <= 0.02 * report.again.hops.same_words


def test_hops_tell_their_tokens_and_times(run: RunDirectory) -> None:
    for arm in ARMS:
        for hop in (hop for trace in run.traces(arm) for hop in trace.hops):
            completion = hop.completion
            assert len(completion.token_ids) == completion.completion_tokens > 0
            assert completion.prompt_tokens > 0
            assert completion.ttft_s is not None
            assert 0 < completion.ttft_s <= completion.latency_s


def test_attempts_tell_what_they_took(run: RunDirectory) -> None:
    for arm in ARMS:
        totals = run.totals(arm)
        assert totals.attempts == 1
        assert totals.startup_s is not None
        assert totals.startup_s > 0
        assert totals.wall_s is not None
        assert totals.wall_s > 0


def test_kill_9_in_mid_run_leaves_no_process_and_is_resumed(tmp_path: Path) -> None:
    config = settings(tmp_path, "fp16", depths=[8], tasks_per_depth=100, concurrency=32)
    with scripts.start_qtrap("run", config, cwd=tmp_path) as process:
        try:
            scripts.wait_for_traces(tmp_path, 20, process)
            children = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
        process.communicate(timeout=60)
    assert children
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert (len(gone), alive) == (len(children), [])
    (path,) = (tmp_path / "traces").iterdir()
    run = RunDirectory.open(path)
    before = list(run.traces("fp16"))
    assert 20 <= len(before) < 300

    result = qtrap("run", "--resume", path, cwd=tmp_path, timeout_s=300)
    assert result.returncode == 0, result.stderr
    traces = by_task(run, "fp16")
    assert len(traces) == 300
    assert list(run.traces("fp16"))[: len(before)] == before
    assert {trace.attempt for trace in traces.values()} == {1, 2}
    assert run.totals("fp16").attempts == 2
