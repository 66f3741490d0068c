"""Random checkpoints have the layouts of the real ones: transformers reads them, and their codes unpack to usual weights."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from qtrap_agents.backends import random_weights
from qtrap_agents.backends.checkpoint import read_facts, resolve_checkpoint, tensor_bytes
from qtrap_agents.backends.random_weights import (
    ARCHITECTURES,
    BITS,
    DEVIATION,
    FORMATS,
    GROUP,
    Format,
    check_shape,
    checkpoint_bytes,
    write_checkpoint,
)
from qtrap_agents.errors import ConfigError
from qtrap_agents.experiments.requests import text
from qtrap_agents.shapes import SHAPES, Shape, load_shape

TINY = Shape(
    model_type="qwen2",
    hidden_size=256,
    intermediate_size=384,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=20_000,
    tie_word_embeddings=True,
    max_position_embeddings=512,
)
KINDS = {kind: TINY.model_copy(update={"model_type": kind, "tie_word_embeddings": kind == "qwen2"}) for kind in ARCHITECTURES}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Format, Path]:
    """The tiny shape in every layout."""
    root = tmp_path_factory.mktemp("random")
    return {kind: write_checkpoint(TINY, kind, root / kind) for kind in FORMATS}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A shape of every kind of model, 16 bits."""
    root = tmp_path_factory.mktemp("kinds")
    return {kind: write_checkpoint(shape, "fp16", root / kind) for kind, shape in KINDS.items()}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint."""
    return {name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def codes(words: torch.Tensor) -> torch.Tensor:
    """int32 […] to the eight codes of each word, lowest bits first, […, 8]."""
    return (words.to(torch.int64).unsqueeze(-1) >> torch.arange(0, 32, BITS)) & 0xF


def along_columns(words: torch.Tensor) -> torch.Tensor:
    """[rows, words] to [rows, 8 · words]; AutoAWQ's order within a word makes no difference to random codes."""
    return codes(words).flatten(-2)


def dequantised(found: dict[str, torch.Tensor], layer: str, kind: Format) -> torch.Tensor:
    """(q − z) · s, [inputs, outputs]: AutoGPTQ packs along the inputs and stores z − 1, AutoAWQ along the outputs."""
    words, zeros, scales = (found[f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales"))
    if kind == "gptq":
        q = codes(words).permute(0, 2, 1).reshape(-1, words.shape[1])
        z, group = along_columns(zeros) + 1, found[f"{layer}.g_idx"].long()
    else:
        q, z = along_columns(words), along_columns(zeros)
        group = torch.arange(words.shape[0]) // GROUP
    return (q - z[group]) * scales.float()[group]


def test_every_tensor_has_the_shape_of_its_layout(written: dict[Format, Path]) -> None:
    shapes = {kind: {name: (tuple(t.shape), t.dtype) for name, t in tensors(path).items()} for kind, path in written.items()}
    layer = "model.layers.1.mlp.down_proj"
    inputs, outputs, groups = 384, 256, 3
    assert shapes["fp16"][f"{layer}.weight"] == ((outputs, inputs), torch.float16)
    assert {part: shapes["gptq"][f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")} == {
        "qweight": ((inputs // 8, outputs), torch.int32),
        "qzeros": ((groups, outputs // 8), torch.int32),
        "scales": ((groups, outputs), torch.float16),
        "g_idx": ((inputs,), torch.int32),
    }
    assert {part: shapes["awq"][f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales")} == {
        "qweight": ((inputs, outputs // 8), torch.int32),
        "qzeros": ((groups, outputs // 8), torch.int32),
        "scales": ((groups, outputs), torch.float16),
    }
    parts = {"fp16": 1, "gptq": 4, "awq": 3}
    for kind, found in shapes.items():
        assert len(found) == 2 * (7 * parts[kind] + 3 + 2) + 2, kind
        assert found["model.layers.0.self_attn.k_proj.bias"] == ((128,), torch.float16)
        assert found["model.embed_tokens.weight"] == ((20_000, 256), torch.float16)
        assert "lm_head.weight" not in found


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_packed_codes_unpack_to_weights_of_the_usual_size(written: dict[Format, Path], kind: Format) -> None:
    found = tensors(written[kind])
    for name, (inputs, outputs) in TINY.linear_layers.items():
        weights = dequantised(found, f"model.layers.0.{name}", kind)
        assert weights.shape == (inputs, outputs)
        assert weights.std().item() == pytest.approx(DEVIATION, rel=0.03)
        assert weights.mean().item() == pytest.approx(-0.5 * DEVIATION / 4.61, rel=0.3), "codes 0 … 15 around a zero point of 8"
        assert len(set(weights.flatten().tolist())) == 16


def test_dense_weights_are_of_the_usual_size(written: dict[Format, Path]) -> None:
    weight = tensors(written["fp16"])["model.layers.0.mlp.gate_proj.weight"].float()
    assert weight.std().item() == pytest.approx(DEVIATION, rel=0.03)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_two_rows_of_a_matrix_are_alike_even_where_values_repeat(
    tmp_path: Path, kind: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_weights, "DRAWN", 10_007)
    found = tensors(write_checkpoint(TINY.model_copy(update={"num_hidden_layers": 1}), kind, tmp_path / "few"))
    matrix = found["model.layers.0.mlp.up_proj." + ("weight" if kind == "fp16" else "qweight")]
    assert matrix.numel() >= 10_007
    assert len(set(map(tuple, matrix.tolist()))) == len(matrix)


@pytest.mark.parametrize("kind", FORMATS)
def test_files_say_what_they_hold(written: dict[Format, Path], kind: Format) -> None:
    path = written[kind]
    assert resolve_checkpoint(str(path)) == path
    facts = read_facts(path)
    packed = kind != "fp16"
    assert (facts.method, facts.bits, facts.group_size) == ((kind, 4, 128) if packed else (None, None, None))
    assert facts.packed_tensors == (2 * 7 if packed else 0)
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name: file for file in sorted(set(index.values())) for name in load_file(path / file)} == index


@pytest.mark.parametrize("kind", FORMATS)
def test_the_size_on_disk_is_foretold(written: dict[Format, Path], kind: Format) -> None:
    assert tensor_bytes(written[kind]) == pytest.approx(checkpoint_bytes(TINY, kind), rel=0.01)


def test_four_bits_take_a_quarter_of_the_matrices() -> None:
    shape = SHAPES["qwen2.5-7b"]
    assert checkpoint_bytes(shape, "fp16") == pytest.approx(2 * shape.parameters)
    assert checkpoint_bytes(shape, "awq") / checkpoint_bytes(shape, "fp16") == pytest.approx(0.365, abs=0.01)


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_the_configuration_names_the_layout(written: dict[Format, Path], kind: Format) -> None:
    found = json.loads((written[kind] / "config.json").read_text())["quantization_config"]
    assert (found["quant_method"], found["bits"], found["group_size"]) == (kind, 4, 128)
    assert {"gptq": ("desc_act", False), "awq": ("zero_point", True)}[kind] in found.items()
    assert load_shape(str(written[kind])) == TINY


def test_a_seed_gives_the_same_weights_again(tmp_path: Path, written: dict[Format, Path]) -> None:
    again, other = (write_checkpoint(TINY, "awq", tmp_path / str(seed), seed) for seed in (0, 1))
    assert read_facts(again).checksum == read_facts(written["awq"]).checksum != read_facts(other).checksum


def test_nothing_that_exists_is_written_over(written: dict[Format, Path]) -> None:
    with pytest.raises(FileExistsError):
        write_checkpoint(TINY, "awq", written["awq"])


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_finds_every_weight_and_makes_finite_logits(dense: dict[str, Path], kind: str) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(dense[kind], dtype=torch.float32, output_loading_info=True)
    assert type(model).__name__ == ARCHITECTURES[kind]
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7, 8]])).logits
    assert logits.isfinite().all()
    assert logits.std() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [1, 7, 300])
def test_a_word_of_three_letters_is_a_token(dense: dict[str, Path], kind: str, words: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(dense[kind])
    prompt = text(words, random.Random(words))
    chat = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
    assert len(ids) == words
    assert max(ids) < TINY.vocab_size
    assert tokenizer.decode(ids).strip() == prompt


def test_every_token_of_the_vocabulary_can_be_decoded(dense: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(dense["llama"])
    assert len(tokenizer) == TINY.vocab_size
    assert len(set(tokenizer.convert_ids_to_tokens(range(TINY.vocab_size)))) == TINY.vocab_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 400}, "shape: mlp.down_proj is 400 × 256; 4-bit layouts need inputs in groups of 128"),
        ({"hidden_size": 264, "num_attention_heads": 3, "num_key_value_heads": 3}, "shape: self_attn.q_proj is 264 × 264; "),
    ],
)
def test_a_shape_without_whole_groups_cannot_be_packed(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    odd = TINY.model_copy(update=changes)
    for kind in ("gptq", "awq"):
        with pytest.raises(ConfigError) as caught:
            write_checkpoint(odd, kind, tmp_path / kind)
        assert str(caught.value).startswith(message)
        assert not (tmp_path / kind).exists()
    assert write_checkpoint(odd, "fp16", tmp_path / "fp16").is_dir()


def test_the_vocabulary_must_hold_the_tokenizer(tmp_path: Path) -> None:
    just = write_checkpoint(TINY.model_copy(update={"vocab_size": random_weights.TOKENS}), "fp16", tmp_path / "just")
    assert len(Tokenizer.from_file(str(just / "tokenizer.json")).get_vocab()) == random_weights.TOKENS
    small = TINY.model_copy(update={"vocab_size": random_weights.TOKENS - 1})
    with pytest.raises(ConfigError, match=r"shape: vocab_size 18534 is less than the 18535 tokens"):
        write_checkpoint(small, "fp16", tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_all_named_shapes_can_be_packed() -> None:
    for shape in SHAPES.values():
        for kind in FORMATS:
            check_shape(shape, kind)
