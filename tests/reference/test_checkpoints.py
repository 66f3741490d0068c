"""The shipped reference models are what their card says, and the code that made them runs."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import unpack_from_int32
from safetensors.torch import load_file

from qtrap_agents.config import SuiteChoice
from qtrap_agents.paths import REFERENCE_CHECKPOINTS
from qtrap_agents.reference.card import card, checksums
from qtrap_agents.reference.data import FAMILIES
from qtrap_agents.reference.evaluate import chain_success, hop_success, open_asker
from qtrap_agents.reference.quantise import GROUP, calibration_chats
from qtrap_agents.suites.catalog import load_suite

ARMS = [f"{size}/{arm}" for size in ("small", "base") for arm in ("fp16", "gptq", "awq", "rtn3")]
HERE = REFERENCE_CHECKPOINTS.parent


def test_checksums_are_those_of_the_files() -> None:
    stored = json.loads((REFERENCE_CHECKPOINTS / "checksums.json").read_text())
    assert stored == checksums()
    assert set(stored) == {f"{arm}/model.safetensors" for arm in ARMS}


def test_card_is_the_measured_one() -> None:
    rows = [json.loads(line) for line in (HERE / "evaluation.jsonl").read_text().splitlines()]
    assert (HERE / "MODEL_CARD.md").read_text() == card(rows)
    seeds = {row["checkpoint"].split("/")[0] for row in rows if row["checkpoint"].startswith("small")}
    assert len(seeds) >= 3


def test_fp16_weights_fit_the_package() -> None:
    assert sum((REFERENCE_CHECKPOINTS / size / "fp16" / "model.safetensors").stat().st_size for size in ("small", "base")) < 16e6


@pytest.mark.parametrize("size", ["small", "base"])
def test_shapes_suit_gpu_kernels(size: str) -> None:
    config = json.loads((REFERENCE_CHECKPOINTS / size / "fp16" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert all(config[name] % 128 == 0 for name in ("hidden_size", "intermediate_size", "vocab_size"))
    assert config["head_dim"] == 64


@pytest.mark.parametrize("arm", [arm for arm in ARMS if "fp16" not in arm])
def test_quantised_arms_hold_packed_weights(arm: str) -> None:
    tensors = load_file(REFERENCE_CHECKPOINTS / arm / "model.safetensors")
    layers = {name.removesuffix(".weight_packed") for name in tensors if name.endswith(".weight_packed")}
    config = json.loads((REFERENCE_CHECKPOINTS / arm / "config.json").read_text())
    assert len(layers) == 7 * config["num_hidden_layers"]
    assert not layers & {name.removesuffix(".weight") for name in tensors}


def test_fp16_solves_every_family_and_three_bits_do_not() -> None:
    small = REFERENCE_CHECKPOINTS / "small"
    wreck = 0
    for family in FAMILIES:
        suite = load_suite(SuiteChoice(name=family))
        right, total = hop_success(suite, open_asker(small / "fp16", suite), 160)
        assert right >= total - 1
        wreck += hop_success(suite, open_asker(small / "rtn3", suite), 160)[0]
    assert wreck < 0.9 * 5 * 160


def test_chains_fail_more_often_than_their_hops() -> None:
    suite = load_suite(SuiteChoice(name="relate"))
    ask = open_asker(REFERENCE_CHECKPOINTS / "small" / "gptq", suite)
    hops, chains = hop_success(suite, ask, 320), chain_success(suite, ask, 20)
    assert chains[0] / chains[1] < hops[0] / hops[1]


def test_three_bit_codes_use_eight_levels() -> None:
    small = REFERENCE_CHECKPOINTS / "small"
    tensors, original = (load_file(small / arm / "model.safetensors") for arm in ("rtn3", "fp16"))
    layer = "model.layers.0.mlp.up_proj"
    codes = unpack_from_int32(tensors[f"{layer}.weight_packed"], 4, original[f"{layer}.weight"].shape)
    assert set(codes.unique().tolist()) <= set(range(-4, 4))
    restored = codes.float().unflatten(1, (-1, GROUP)) * tensors[f"{layer}.weight_scale"].float()[..., None]
    error = (restored.flatten(1) - original[f"{layer}.weight"].float()).abs()
    step = tensors[f"{layer}.weight_scale"].float().repeat_interleave(GROUP, 1)
    assert torch.all(error <= 0.51 * step)


def test_calibration_covers_the_families_equally() -> None:
    texts = [json.loads(line)["messages"][0]["content"] for line in calibration_chats().splitlines()]
    counts = [sum(text.startswith(f"{family}:") for text in texts) for family in FAMILIES]
    assert sum(counts) == len(texts) == 512
    assert max(counts) - min(counts) <= 1


def test_training_command_writes_a_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qtrap_agents.reference.train", "--size", "small", "--steps", "3", "--shrink", "64"]
    start = ["--stage", "2", "--start", str(REFERENCE_CHECKPOINTS / "small" / "fp16"), "--device", "cpu"]
    subprocess.run([*command, *start, "--out", str(tmp_path / "model")], check=True, capture_output=True, timeout=300)
    report = json.loads((tmp_path / "model" / "training.json").read_text())
    assert [row["step"] for row in report["curve"]] == [0, 2]
    assert report["curve"][0]["relate"] > 0.99
    digest = hashlib.sha256((tmp_path / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert digest != checksums()["small/fp16/model.safetensors"]
