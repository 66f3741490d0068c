"""`qtrap profile` from stored phases: shares, sentences on casting, what is missing."""

import json
from pathlib import Path

import pytest

from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.config import ArmConfig, BenchConfig
from qtrap_agents.errors import StoreError
from qtrap_agents.measures import KernelTime, PhaseProfile
from qtrap_agents.report.profile import profile_json, profile_report
from qtrap_agents.report.profile_view import render_profile
from qtrap_agents.store import Journal
from qtrap_agents.types import ArmIdentity, Verification

from .conftest import printed

KERNELS = {
    "nf4": {"void kDequantizeBlockwise<__half>": 0.3, "nvjet_sm90": 0.2},
    "awq": {"void marlin::Marlin<4>": 0.3},
    "fp16": {"nvjet_sm90": 0.3},
}


def stored(out: Path, repeats: int = 2) -> BenchDirectory:
    arms = tuple(ArmConfig(name=name, checkpoint=f"random:{name}", backend="transformers") for name in KERNELS)
    config = BenchConfig(name="profile", arms=arms, baseline="fp16", concurrency=(4,), repeats=2, shape="qwen2.5-7b")
    directory = BenchDirectory.create(out, config, {"cpu": "C", "cores": 2, "command": "qtrap profile"})
    with Journal(directory.profiles_path) as lines:
        for arm, kernels in KERNELS.items():
            for repeat in range(repeats):
                for phase in ("prefill", "decode"):
                    lines.append(
                        PhaseProfile.model_validate(
                            {
                                "arm": arm, "phase": phase, "device": "cuda", "concurrency": 4, "prompt_tokens": 256,
                                "new_tokens": 64, "repeat": repeat, "wall_s": 1.0,
                                "kernels": tuple(KernelTime(name=n, calls=1, time_s=t) for n, t in kernels.items()),
                            }
                        )
                    )  # fmt: skip
    verification = Verification(status="contradicted", reason="claims 4 bits and holds 16")
    directory.write_identity("awq", ArmIdentity(backend="vllm", checkpoint="w", verification=verification))
    return directory


def test_casting_fused_and_dense(tmp_path: Path) -> None:
    report = profile_report(stored(tmp_path))
    text = " ".join(printed(lambda console: render_profile(report, console, kernels=True), 160).split())
    assert (
        "nf4, prefill, 4 in flight: cor_kernel 1.50 [1.50, 1.50]: of casting and products together 60.0 % is casting (n = 2)"
        in text
    )
    assert "awq, decode, 4 in flight: fused: products unpack in registers, cor_kernel is not defined" in text
    assert "fp16, decode, 4 in flight: nothing is unpacked" in text
    assert "void kDequantizeBlockwise<__half> dequantisation 1 300 ms" in text


def test_an_arm_that_is_not_what_it_claims_is_marked(tmp_path: Path) -> None:
    text = " ".join(printed(lambda console: render_profile(profile_report(stored(tmp_path)), console), 160).split())
    assert "warning: awq: contradicted: claims 4 bits and holds 16" in text
    assert text.count("awq (unverified)") == 3


def test_json_has_every_phase(tmp_path: Path) -> None:
    data = json.loads(json.dumps(profile_json(profile_report(stored(tmp_path)))))
    phases = {(phase["arm"], phase["phase"]): phase for phase in data["phases"]}
    assert phases["nf4", "decode"]["cor_kernel"]["value"] == pytest.approx(1.5)
    assert phases["nf4", "decode"]["casting_share"] == pytest.approx(0.6)
    assert phases["awq", "prefill"]["cor_kernel"] is None
    assert (data["done"], data["total"]) == (12, 12)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    found = profile_report(stored(tmp_path, repeats=1))
    assert found.warnings[0].startswith(f"6 of 12 phases measured; `qtrap profile --resume {found.path}`")
    with pytest.raises(StoreError, match="nothing was profiled"):
        profile_report(stored(tmp_path / "b", repeats=0))
