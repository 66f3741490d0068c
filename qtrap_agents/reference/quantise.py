"""Quantise a reference model with llm-compressor, in an environment of its own (its pins clash with vLLM's).

    pip install torch llmcompressor==0.14.0.1        # separate environment
    python -m qtrap_agents.reference.quantise --model build/small-s2 --out qtrap_agents/reference/checkpoints/small

Writes `fp16`, `gptq`, `awq` and `rtn3` beside each other. GPTQ and AWQ are llm-compressor's own, 4 bits, group size
128, output layer left alone, calibrated on `calibration.jsonl` (512 hops, equally from the five families). `rtn3` is
the visible wreck: round-to-nearest onto the 8 levels of 3 bits, stored in a 4-bit container, because vLLM serves no
packed 3-bit weights on every device.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from qtrap_agents.reference.tokenizer import build_tokenizer

CALIBRATION = Path(__file__).parent / "calibration.jsonl"
GROUP = 128
LEVELS_3_BIT = 3.5
"""Half the width of the 3-bit grid -4 … 3, as the 4-bit grid -8 … 7 has 7.5."""


def calibration_texts() -> list[str]:
    """Chat texts of the calibration hops, answers included."""
    tokenizer = build_tokenizer()
    rows = [json.loads(line) for line in CALIBRATION.read_text().splitlines()]
    chats = [[{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["answer"]}] for row in rows]
    return [str(tokenizer.apply_chat_template(chat, tokenize=False)) for chat in chats]


def quantise(model: Path, out: Path, method: str) -> None:
    """Write one quantised checkpoint with llm-compressor (`gptq`, `awq` or `rtn`, all W4A16 in groups of 128)."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    if not torch.cuda.is_available():  # llm-compressor pins host memory even where no accelerator exists
        torch.Tensor.pin_memory = lambda self, *_, **__: self  # type: ignore[method-assign]
    tokenizer = build_tokenizer()
    encoded = [tokenizer(text, add_special_tokens=False) for text in calibration_texts()]
    data = Dataset.from_list([{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]} for row in encoded])
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32")  # float16 overflows in the search of AWQ
    oneshot(
        model=loaded,
        dataset=data,
        recipe=_recipe(method),
        max_seq_length=64,
        num_calibration_samples=len(encoded),
        output_dir=str(out),
    )
    tokenizer.save_pretrained(out)
    _to_float16(out)


def _to_float16(checkpoint: Path) -> None:
    """Store scales, norms and embeddings in FP16, as the unquantised checkpoint does."""
    from safetensors.torch import load_file, save_file

    file, config = checkpoint / "model.safetensors", checkpoint / "config.json"
    tensors = {name: value.half() if value.dtype == torch.float32 else value for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float16"}, indent=2) + "\n")


def _recipe(method: str) -> Any:
    from llmcompressor.modifiers.awq import AWQModifier
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    if method == "gptq":
        return GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"])
    if method == "awq":
        return AWQModifier(targets=["Linear"], scheme="W4A16_ASYM", ignore=["lm_head"])
    return QuantizationModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"])


def coarsen(model: Path, checkpoint: Path) -> None:
    """Replace the weights of a symmetric 4-bit round-to-nearest checkpoint by their 3-bit rounding, in place."""
    from compressed_tensors.compressors import pack_to_int32
    from safetensors.torch import load_file, save_file

    file = checkpoint / "model.safetensors"
    tensors, original = load_file(file), load_file(model / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".weight_packed")]:
        layer = name.removesuffix(".weight_packed")
        groups = original[f"{layer}.weight"].float().unflatten(1, (-1, GROUP))
        scale = (groups.abs().amax(-1, keepdim=True) / LEVELS_3_BIT).half().float()
        codes = (groups / scale).round().clamp(-4, 3).flatten(1)
        tensors[name] = pack_to_int32(codes.to(torch.int8), 4)
        tensors[f"{layer}.weight_scale"] = scale.squeeze(-1).to(tensors[f"{layer}.weight_scale"].dtype)
    save_file(tensors, file, metadata={"format": "pt"})
    recipe = checkpoint / "recipe.yaml"
    recipe.write_text(f"# then rounded to nearest onto 3 bits (levels -4 … 3) in the 4-bit container\n{recipe.read_text()}")


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="trained checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the arms")
    options = parser.parse_args()
    base = options.out / "fp16"
    base.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json", "model.safetensors", "training.json"):
        shutil.copy(options.model / name, base / name)
    build_tokenizer().save_pretrained(base)
    for method in ("gptq", "awq", "rtn"):
        quantise(base, options.out / method, method)
    shutil.rmtree(options.out / "rtn3", ignore_errors=True)
    (options.out / "rtn").rename(options.out / "rtn3")
    coarsen(base, options.out / "rtn3")


if __name__ == "__main__":
    main()
