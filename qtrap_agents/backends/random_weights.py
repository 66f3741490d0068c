"""Checkpoints of random weights in the real FP16, GPTQ and AWQ layouts, for benches without a download.

Speed and energy do not depend on the values as long as they are not all alike. vLLM's dummy loader would do for FP16 and AWQ
but silently serves GPTQ unquantised, and bitsandbytes needs real tensors. Every layer of the model gets the same random
values under its own names; a matrix repeats some three million of them. Layouts: AutoGPTQ (symmetric, no act-order) and
AutoAWQ `gemm`, 4 bits, groups of 128.
"""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Literal

from qtrap_agents.errors import ConfigError
from qtrap_agents.shapes import Shape

if TYPE_CHECKING:
    import torch

Format = Literal["fp16", "gptq", "awq"]

FORMATS: tuple[Format, ...] = ("fp16", "gptq", "awq")
BITS, GROUP = 4, 128
PER_WORD = 32 // BITS
DEVIATION = 0.005
"""Standard deviation of the weights, small because random 4-bit weights have a mean, which adds up over layers."""
NIBBLE_DEVIATION = 4.61
DRAWN = 3_000_017
"""Values that are drawn for a matrix before they repeat; a prime, so that no two rows are alike."""
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
QUANTISATION = {
    "gptq": {"quant_method": "gptq", "desc_act": False, "sym": True, "lm_head": False, "checkpoint_format": "gptq"},
    "awq": {"quant_method": "awq", "version": "gemm", "zero_point": True},
}
TEMPLATE = "{{ ' ' ~ messages[0]['content'] }}"
END = "<end>"
TOKENS = 1 + 256 + 26 + 26**2 + 26**3
"""Of the tokenizer: end, bytes, and words of one, two and three letters."""


def checkpoint_bytes(shape: Shape, kind: Format) -> int:
    """About how many bytes the checkpoint takes on disk."""
    matrices = shape.num_hidden_layers * sum(inputs * outputs for inputs, outputs in shape.linear_layers.values())
    packed = matrices // 2 + matrices // GROUP * 2
    return 2 * (shape.parameters - matrices) + (2 * matrices if kind == "fp16" else packed)


def write_checkpoint(shape: Shape, kind: Format, directory: Path, seed: int = 0) -> Path:
    """Write tokenizer, one safetensors file a layer and, last, config.json into a new directory; returns it.

    Raises:
        ConfigError: a layer cannot be packed in groups of 128, or the vocabulary is too small.
        OSError: the disk is full or not writable.
    """
    import torch
    from safetensors.torch import save_file

    check_shape(shape, kind)
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    index: dict[str, str] = {}
    layer = _layer(shape, kind, generator)
    parts = [({f"model.layers.{n}.{name}": t for name, t in layer.items()}, n) for n in range(shape.num_hidden_layers)]
    for tensors, number in (*parts, (_outer(shape, generator), shape.num_hidden_layers)):
        file = f"model-{number + 1:05d}-of-{shape.num_hidden_layers + 1:05d}.safetensors"
        save_file(tensors, directory / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    _write_json(directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    write_tokenizer(directory, shape.vocab_size)
    _write_json(directory / "config.json", model_config(shape, kind))
    return directory


def check_shape(shape: Shape, kind: Format) -> None:
    """Raises ConfigError where the vocabulary has no room for our tokenizer, or a matrix no whole groups or words."""
    if shape.vocab_size < TOKENS:
        raise ConfigError(
            f"shape: vocab_size {shape.vocab_size} is less than the {TOKENS} tokens of random checkpoints; raise it"
        )
    if kind != "fp16":
        _check_groups(shape)


def _check_groups(shape: Shape) -> None:
    for name, (inputs, outputs) in shape.linear_layers.items():
        if inputs % GROUP or outputs % PER_WORD:
            raise ConfigError(f"shape: {name} is {inputs} × {outputs}; 4-bit layouts need inputs in groups of {GROUP}")


def model_config(shape: Shape, kind: Format) -> dict[str, object]:
    """The contents of config.json."""
    config: dict[str, object] = shape.model_dump() | {
        "architectures": [ARCHITECTURES[shape.model_type]],
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "torch_dtype": "float16",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "use_sliding_window": False,
        "sliding_window": None,
    }
    if kind in QUANTISATION:
        config["quantization_config"] = QUANTISATION[kind] | {"bits": BITS, "group_size": GROUP}
    return config


def write_tokenizer(directory: Path, vocabulary: int) -> None:
    """A byte-level tokenizer under which every word of three letters is one token; the chat template adds nothing.

    Byte-level BPE, because transformers gives models of the Qwen2 kind that tokenizer whatever the files say.

    Raises:
        OSError: the directory is not writable.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merges = [(begin, letter) for begin in _beginnings() for letter in ascii_lowercase]
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    tokens = [END, *words, *(f"t{number}" for number in range(len(words) + 1, vocabulary))]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(directory / "tokenizer.json"))
    named = {"eos_token": END, "pad_token": END, "model_max_length": 32_768}
    _write_json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "TokenizersBackend", "chat_template": TEMPLATE, **named},
    )


def _beginnings() -> Iterator[str]:
    """A space, which byte-level tokenizers write as Ġ, with no, one or two letters after it."""
    for length in range(3):
        yield from ("Ġ" + "".join(letters) for letters in product(ascii_lowercase, repeat=length))


def _layer(shape: Shape, kind: Format, generator: "torch.Generator") -> "dict[str, torch.Tensor]":
    """One decoder layer, by the names within it."""
    import torch

    pack = {"fp16": _dense, "gptq": _gptq, "awq": _awq}[kind]
    tensors = {
        f"{name}.{part}": tensor
        for name, (inputs, outputs) in shape.linear_layers.items()
        for part, tensor in pack(inputs, outputs, generator)
    }
    for name in shape.biased:
        tensors[f"{name}.bias"] = torch.zeros(shape.linear_layers[name][1], dtype=torch.float16)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{norm}.weight"] = torch.ones(shape.hidden_size, dtype=torch.float16)
    return tensors


def _outer(shape: Shape, generator: "torch.Generator") -> "dict[str, torch.Tensor]":
    """Embeddings, the last norm, and the output matrix where it is one of its own."""
    import torch

    tensors = {
        "model.embed_tokens.weight": _normal(shape.vocab_size, shape.hidden_size, generator),
        "model.norm.weight": torch.ones(shape.hidden_size, dtype=torch.float16),
    }
    if not shape.tie_word_embeddings:
        tensors["lm_head.weight"] = _normal(shape.vocab_size, shape.hidden_size, generator)
    return tensors


def _dense(inputs: int, outputs: int, generator: "torch.Generator") -> "Iterator[tuple[str, torch.Tensor]]":
    yield "weight", _normal(outputs, inputs, generator)


def _gptq(inputs: int, outputs: int, generator: "torch.Generator") -> "Iterator[tuple[str, torch.Tensor]]":
    """Words hold eight inputs of one output; the zero point 8 is stored as 7."""
    import torch

    yield "qweight", _words(inputs // PER_WORD, outputs, generator)
    yield "qzeros", torch.full((inputs // GROUP, outputs // PER_WORD), 0x77777777, dtype=torch.int32)
    yield "scales", _scales(inputs, outputs)
    yield "g_idx", torch.arange(inputs, dtype=torch.int32) // GROUP


def _awq(inputs: int, outputs: int, generator: "torch.Generator") -> "Iterator[tuple[str, torch.Tensor]]":
    """Words hold eight outputs of one input; the zero point is 8."""
    import torch

    eights = 0x88888888 - 2**32
    yield "qweight", _words(inputs, outputs // PER_WORD, generator)
    yield "qzeros", torch.full((inputs // GROUP, outputs // PER_WORD), eights, dtype=torch.int32)
    yield "scales", _scales(inputs, outputs)


def _normal(rows: int, columns: int, generator: "torch.Generator") -> "torch.Tensor":
    import torch

    drawn = torch.empty(DRAWN, dtype=torch.float32).normal_(0, DEVIATION, generator=generator).half()
    return _tiled(drawn, rows, columns)


def _words(rows: int, columns: int, generator: "torch.Generator") -> "torch.Tensor":
    import torch

    drawn = torch.randint(-(2**31), 2**31 - 1, (DRAWN,), dtype=torch.int32, generator=generator)
    return _tiled(drawn, rows, columns)


def _tiled(drawn: "torch.Tensor", rows: int, columns: int) -> "torch.Tensor":
    """A matrix that repeats the drawn values: drawing billions takes minutes, and nobody computes with them."""
    repeats = -(-rows * columns // drawn.numel())
    return drawn.repeat(repeats)[: rows * columns].reshape(rows, columns)


def _scales(inputs: int, outputs: int) -> "torch.Tensor":
    import torch

    return torch.full((inputs // GROUP, outputs), DEVIATION / NIBBLE_DEVIATION, dtype=torch.float16)


def _write_json(file: Path, data: object) -> None:
    file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
