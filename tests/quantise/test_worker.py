"""The parts of the worker that need no quantiser: codes in another container, dtypes, texts."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import pack_to_int32, unpack_from_int32
from safetensors.torch import load_file, save_file

from qtrap_agents.quantise import worker
from qtrap_agents.quantise.worker import WrongInput, encode, finish, repack


def test_codes_of_three_bits_move_into_containers_of_four() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-4, 4, (48, 96), generator=generator, dtype=torch.int8)
    zeros = torch.randint(-4, 4, (48, 3), generator=generator, dtype=torch.int8)
    tensors = {
        "a.weight_packed": pack_to_int32(codes, 3),
        "a.weight_zero_point": pack_to_int32(zeros, 3, packed_dim=0),
        "a.weight_shape": torch.tensor([48, 96]),
    }
    repack(tensors, 3, 4)
    assert torch.equal(unpack_from_int32(tensors["a.weight_packed"], 4, (48, 96)), codes)
    assert torch.equal(unpack_from_int32(tensors["a.weight_zero_point"], 4, (48, 3), packed_dim=0), zeros)


@pytest.mark.parametrize(("dtype", "kept"), [("float16", "float16"), ("bfloat16", "bfloat16"), ("float32", "float16")])
def test_floats_are_kept_as_the_model_was(tmp_path: Path, dtype: str, kept: str) -> None:
    config = {"dtype": dtype, "quantization_config": {"config_groups": {"group_0": {"weights": {"num_bits": 4}}}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"norm": torch.ones(4), "packed": torch.ones(2, dtype=torch.int32)}, tmp_path / "model.safetensors")
    finish(tmp_path, 4, dtype)
    tensors = load_file(tmp_path / "model.safetensors")
    assert (tensors["norm"].dtype, tensors["packed"].dtype) == (getattr(torch, kept), torch.int32)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == kept


class Tokenizer(SimpleNamespace):
    """A token for each character, and which special ones were asked for."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [0] * add_special_tokens + [ord(letter) for letter in text]}

    def apply_chat_template(self, messages: list[dict[str, Any]], tokenize: bool) -> str:
        assert not tokenize
        return "".join(f"<{message['role'][0]}>{message['content']}" for message in messages)


def test_a_chat_is_encoded_as_the_model_sees_it() -> None:
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    tokenizer = Tokenizer(chat_template="any")
    assert "".join(map(chr, encode(tokenizer, chat, 99))) == "<u>q<a>a", "the template writes the special tokens itself"
    assert encode(tokenizer, {"text": "ab"}, 99) == [0, 97, 98]
    assert encode(tokenizer, {"text": "ab"}, 2) == [0, 97]
    with pytest.raises(WrongInput, match="no chat template"):
        encode(Tokenizer(chat_template=None), chat, 99)


def test_it_runs_without_qtrap() -> None:
    """As a child it is given by its path, to an interpreter that need not have qtrap."""
    code = (
        "import runpy, sys; sys.modules['qtrap_agents'] = None; "
        "print(sorted(runpy.run_path(sys.argv[1])['CONTAINER_BITS'].items()))"
    )
    shown = subprocess.run([sys.executable, "-I", "-c", code, worker.__file__], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[(3, 4), (4, 4), (8, 8)]"
