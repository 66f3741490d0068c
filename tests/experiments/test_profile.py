"""The profile of a real model through transformers, and what cannot be profiled."""

import asyncio
from pathlib import Path

import pytest
from scripts import Listener, scripted

from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.config import ArmConfig, BenchConfig, EngineConfig
from qtrap_agents.errors import ArmError
from qtrap_agents.experiments.bench import create_bench, prepare_bench
from qtrap_agents.experiments.profile import as_profile, difference, run_profile
from qtrap_agents.measures import KernelTime
from qtrap_agents.report.profile import profile_report

pytest.importorskip("transformers")


def config(out: Path, **changes: object) -> BenchConfig:
    arm = ArmConfig(name="fp16", backend="transformers", checkpoint="reference:small/fp16")
    fields = {"arms": (arm,), "concurrency": (2,), "prompt_tokens": (16,), "new_tokens": 6, "repeats": 2, "out": str(out)}
    return BenchConfig.model_validate(fields | {"engine": EngineConfig(max_model_len=64)} | changes)


def go(directory: BenchDirectory) -> Listener:
    listener = Listener()
    asyncio.run(run_profile(directory, directory.config, listener))
    return listener


def test_a_real_model_shows_its_kernels(tmp_path: Path) -> None:
    """Prefill reads 2 × 16 tokens in one pass, decode makes five more: so many more calls of every product."""
    directory = create_bench(as_profile(prepare_bench(config(tmp_path))))
    go(directory)
    profiles = list(directory.profiles())
    assert [(profile.phase, profile.repeat) for profile in profiles] == [
        ("prefill", 0), ("decode", 0), ("prefill", 1), ("decode", 1)
    ]  # fmt: skip
    calls = {profile.phase: {kernel.name: kernel.calls for kernel in profile.kernels} for profile in profiles}
    assert calls["prefill"]["aten::mm"] > 0
    assert calls["decode"]["aten::mm"] == 5 * calls["prefill"]["aten::mm"]
    report = profile_report(directory)
    assert report.done == report.total == 4
    assert all(phase.unpacking == "none" for phase in report.phases)
    assert all(phase.busy is not None for phase in report.phases)
    again = go(directory)
    assert again.started == []
    assert len(list(directory.profiles())) == 4


def test_a_profile_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    directory = create_bench(as_profile(prepare_bench(config(tmp_path))))
    go(directory)
    lines = directory.profiles_path.read_text().splitlines(keepends=True)
    directory.profiles_path.write_text("".join(lines[:2]) + lines[2][:40])
    assert go(directory).totals == {"fp16": (2, 1)}
    assert [profile.repeat for profile in directory.profiles()] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "arm",
    [scripted("solve"), {"name": "a", "base_url": "http://localhost:1"}, {"name": "a", "checkpoint": "x", "transport": "server"}],
)
def test_kernels_out_of_reach_are_refused_at_once(tmp_path: Path, arm: dict[str, object]) -> None:
    with pytest.raises(ArmError, match="kernels can be seen in an engine of our own only"):
        as_profile(config(tmp_path, arms=(ArmConfig.model_validate(arm),)))


def test_decode_is_what_whole_answers_add() -> None:
    def kernel(name: str, calls: int, time_s: float) -> KernelTime:
        return KernelTime(name=name, calls=calls, time_s=time_s)

    whole = (kernel("mm", 30, 3.0), kernel("new", 2, 4.0), kernel("dequant", 5, 1.1), kernel("noise", 6, 0.1))
    prefill = (kernel("mm", 10, 1.0), kernel("dequant", 5, 1.0), kernel("noise", 5, 0.2))
    assert tuple(difference(whole, prefill)) == (kernel("new", 2, 4.0), kernel("mm", 20, 2.0))
