"""Critical scale and batch from reports of `qtrap bench`: a law that is known is found again, and stands beside the crossings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import critical_fit
import pytest
from critical_fit import Bench, compare, read

from qtrap_agents.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "traces" / "examples"
PHI_S, SECONDS_PER_BYTE = 1e-3, 4e-13
SIZES, PLACES = (500_000_000, 8_000_000_000), (1, 16, 64)
CRITICAL = PHI_S / SECONDS_PER_BYTE / 1.5
"""12 bits saved of a weight are 1.5 bytes."""


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "interval": {"low": 0.99 * value, "high": 1.01 * value}, "n": 3}


def cell(arm: str, concurrency: int, step_s: float, base_s: float) -> dict[str, Any]:
    """Mean time between tokens, and what follows from it."""
    spread = {"n": 9, "mean": step_s, "p50": step_s, "p90": step_s, "p99": step_s}
    place = {"arm": arm, "prompt_tokens": 32, "new_tokens": 8, "concurrency": concurrency}
    figures = {"output_tokens_per_s": estimate(concurrency / step_s), "request_s": estimate(8 * step_s)}
    ratio = None if arm == "fp16" else estimate(step_s / base_s)
    return {**place, **figures, "inter_token": spread, "time": ratio, "cor_latency": 0.0, "throughput": None}


def report(parameters: int, dtype: str = "float16") -> dict[str, Any]:
    """An arm that crosses its weights once a step and casts for as long as ever."""
    base_s = 2e-3 + 16 / 8 * parameters * SECONDS_PER_BYTE
    own_s = base_s - 12 / 8 * parameters * SECONDS_PER_BYTE + PHI_S
    cells = [cell(arm, place, step, base_s) for place in PLACES for arm, step in (("fp16", base_s), ("awq", own_s))]
    identities = {
        "fp16": {"activation_dtype": dtype, "weight_bytes": 2 * parameters, "bits": None},
        "awq": {"activation_dtype": dtype, "weight_bytes": parameters // 2, "bits": 4},
    }
    found = {"baseline": "fp16", "arms": ["fp16", "awq"], "identities": identities, "cells": cells}
    return {**found, "crossings": [], "hardware": "none"}


@pytest.fixture
def benches(tmp_path: Path) -> list[Bench]:
    paths = [tmp_path / f"{size}.json" for size in SIZES]
    for path, size in zip(paths, SIZES, strict=True):
        path.write_text(json.dumps(report(size)))
    return [read(path) for path in paths]


def test_the_law_behind_the_times_is_found_and_no_other_explains_them(benches: list[Bench]) -> None:
    arm = compare(benches)["awq"]
    forms = {form["form"]: form for form in arm["forms"]}
    assert arm["sizes"] == list(SIZES)
    assert forms["once"]["r2"] == pytest.approx(1)
    assert forms["once"]["phi_s"]["value"] == pytest.approx(PHI_S)
    assert [figure["value"] for figure in forms["once"]["critical_parameters"].values()] == [pytest.approx(CRITICAL)] * 3
    assert max(forms["printed"]["r2"], forms["consistent"]["r2"]) < 0.99
    assert forms["once"]["critical_batch"] == dict.fromkeys(SIZES)


def test_the_measured_crossing_stands_beside_it(benches: list[Bench]) -> None:
    crossings = compare(benches)["awq"]["size_crossings"]
    assert [crossing["concurrency"] for crossing in crossings] == list(PLACES)
    assert all(crossing["starts"] and crossing["certain"] for crossing in crossings)
    assert all((crossing["below"], crossing["above"]) == SIZES for crossing in crossings)
    assert all(crossing["parameters"] == pytest.approx(CRITICAL, rel=0.35) for crossing in crossings)


def test_a_baseline_without_16_bits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(report(SIZES[0], "float32")))
    with pytest.raises(ConfigError, match=r"bench\.json: baseline 'fp16' is not in 16 bits"):
        read(path)


def test_what_is_committed_can_be_read() -> None:
    examples = sorted(EXAMPLES.glob("h100-bench-qwen2.5-*.json"))
    command = [sys.executable, critical_fit.__file__, *map(str, examples)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["hardware"] == ["NVIDIA H100 80GB HBM3"]
    assert {form["form"] for arm in found["arms"].values() for form in arm["forms"]} == {"printed", "consistent", "once"}
