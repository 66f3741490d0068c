"""Shapes are those of the published models, and any config.json of their kinds is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from qtrap_agents.backends.random_weights import FORMATS, model_config
from qtrap_agents.errors import ConfigError
from qtrap_agents.shapes import SHAPES, load_shape

PARAMETERS = {
    "qwen2.5-0.5b": 0.494e9,
    "qwen2.5-1.5b": 1.544e9,
    "qwen2.5-7b": 7.616e9,
    "qwen2.5-14b": 14.77e9,
    "llama-3.1-8b": 8.030e9,
    "mistral-7b": 7.248e9,
}
"""As on the model cards."""


def test_every_shape_has_as_many_weights_as_the_model() -> None:
    assert SHAPES.keys() == PARAMETERS.keys()
    for name, count in PARAMETERS.items():
        assert load_shape(name).parameters == pytest.approx(count, rel=1e-3), name


@pytest.mark.parametrize(("name", "kib"), [("qwen2.5-7b", 56), ("qwen2.5-14b", 192), ("llama-3.1-8b", 128)])
def test_keys_and_values_of_a_token(name: str, kib: int) -> None:
    assert load_shape(name).cache_bytes_per_token == kib * 1024


def test_layers_of_grouped_attention() -> None:
    shape = load_shape("qwen2.5-7b")
    assert shape.head_dim == 128
    assert shape.linear_layers["self_attn.q_proj"] == (3584, 3584)
    assert shape.linear_layers["self_attn.k_proj"] == shape.linear_layers["self_attn.v_proj"] == (3584, 512)
    assert shape.linear_layers["mlp.down_proj"] == tuple(reversed(shape.linear_layers["mlp.up_proj"])) == (18_944, 3584)
    assert len(shape.linear_layers) == 7


def test_only_the_qwen_kind_has_biases() -> None:
    assert load_shape("qwen2.5-0.5b").biased == ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    assert load_shape("llama-3.1-8b").biased == load_shape("mistral-7b").biased == ()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_config_that_we_write_is_read_back_from_file_and_folder(tmp_path: Path, kind: Any) -> None:
    for name, shape in SHAPES.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(model_config(shape, kind)))
        assert load_shape(str(folder)) == load_shape(str(folder / "config.json")) == shape


def written(folder: Path, **changes: Any) -> str:
    """A config.json with changes; None removes a field."""
    fields = model_config(SHAPES["llama-3.1-8b"], "fp16") | changes
    (folder / "config.json").write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return str(folder / "config.json")


def test_fields_that_configs_leave_out_have_defaults(tmp_path: Path) -> None:
    assert not load_shape(written(tmp_path, tie_word_embeddings=None)).tie_word_embeddings
    assert load_shape(written(tmp_path, max_position_embeddings=4096)).max_position_embeddings == 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "config.json: not the config.json of a decoder: hidden_size; give a Qwen2, Llama or Mistral one"),
        ({"vocab_size": "many"}, "config.json: not the config.json of a decoder: vocab_size"),
        ({"head_dim": 64}, "config.json: head_dim 64 is not hidden_size / num_attention_heads"),
        ({"model_type": "bert"}, "model_type 'bert' has no random checkpoint; known: qwen2, llama, mistral"),
    ],
)
def test_a_config_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_shape(written(tmp_path, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", '"words"'])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json: not the config\.json of a decoder"):
        load_shape(str(file))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen2.5-7", "unknown shape 'qwen2.5-7': did you mean 'qwen2.5-7b'? A path to a config.json works too."),
        ("zzz", "unknown shape 'zzz': known: llama-3.1-8b, mistral-7b, "),
        ("nowhere/config.json", "nowhere/config.json: not the config.json of a decoder: "),
    ],
)
def test_an_unknown_shape_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_shape(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: not the config\.json of a decoder"):
        load_shape(str(tmp_path))
