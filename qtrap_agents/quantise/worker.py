"""Quantises one checkpoint with llm-compressor. Runs by itself, in the interpreter that has it: `python -I worker.py JOB.json`.

Imports nothing of qtrap, which need not be installed there. The job is a JSON object with the fields of `Job`. Progress goes
to stdout as lines that begin with `MARK`; what the user can put right is one line that begins with `WRONG`, and exit code 3.
The checkpoint is compressed-tensors `pack-quantized`: linear layers packed, the output layer, norms and embeddings left in
the dtype of the model. 3 bits are stored in a container of 4 (levels −4 … 3), because engines have no kernels for packed 3-bit
weights.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import torch

MARK, WRONG = "qtrap:", "qtrap-error:"
CONTAINER_BITS = {3: 4, 4: 4, 8: 8}
"""Bits of a weight -> bits that it is stored in."""
PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")
IGNORED = ("lm_head",)
HALVES = ("float16", "bfloat16")
PACKED = ".weight_packed"


class Job(TypedDict):
    """What is wanted.

    `model` is a directory or a hub id (then `revision` counts), `out` the directory to write, `calibration` a JSONL file of
    chats (`messages`) or texts (`text`), None for round-to-nearest, `group_size` −1 for one scale per row, `max_length` tokens
    of one calibration text at most, `report` the file that gets `Report`.
    """

    model: str
    revision: str | None
    out: str
    method: str
    bits: int
    group_size: int
    calibration: str | None
    max_length: int
    report: str


class Report(TypedDict):
    """What was done: versions of packages, calibration texts and their tokens."""

    versions: dict[str, str]
    texts: int
    tokens: int


class WrongInput(Exception):
    """One sentence for the user."""


def run(job: Job) -> Report:
    """Write the quantised checkpoint. Raises WrongInput."""
    import torch

    if not torch.cuda.is_available():  # llm-compressor pins host memory even where no accelerator exists
        torch.Tensor.pin_memory = lambda self, *_, **__: self  # type: ignore[method-assign]
    tell("loading the model")
    model, tokenizer = load(job)
    encoded = [encode(tokenizer, row, job["max_length"]) for row in rows(job["calibration"])]
    tokens = sum(map(len, encoded))
    tell(
        f"quantising to {job['bits']} bits with {job['method']}"
        + (f" on {len(encoded)} texts, {tokens} tokens" if tokens else "")
    )
    compress(model, job, encoded)
    tell("writing the checkpoint")
    model.save_pretrained(job["out"], save_compressed=True)
    out = Path(job["out"])
    finish(out, job["bits"], kept_in(job))
    bring_along(job["model"], out, tokenizer)
    return Report(versions={name: importlib.metadata.version(name) for name in PACKAGES}, texts=len(encoded), tokens=tokens)


def load(job: Job) -> tuple[Any, Any]:
    """Model and tokenizer. Without an accelerator in float32: the search of AWQ overflows in float16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = "auto" if torch.cuda.is_available() else "float32"
    model = AutoModelForCausalLM.from_pretrained(job["model"], revision=job["revision"], dtype=dtype)
    if getattr(model.config, "quantization_config", None):
        raise WrongInput(f"{job['model']} is quantised already; name the 16-bit checkpoint that it was made from")
    names = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and name not in IGNORED]
    for name in names:
        width = model.get_submodule(name).in_features
        if job["group_size"] > 0 and width % job["group_size"]:
            raise WrongInput(f"layer {name} has {width} inputs, which groups of {job['group_size']} do not divide")
    return model, AutoTokenizer.from_pretrained(job["model"], revision=job["revision"])


def kept_in(job: Job) -> str:
    """The dtype that the config of the unquantised model names."""
    from transformers import AutoConfig

    return str(AutoConfig.from_pretrained(job["model"], revision=job["revision"]).dtype).removeprefix("torch.")


def rows(calibration: str | None) -> list[dict[str, Any]]:
    """The calibration texts of the job."""
    if calibration is None:
        return []
    return [json.loads(line) for line in Path(calibration).read_text(encoding="utf-8").splitlines()]


def encode(tokenizer: Any, row: dict[str, Any], limit: int) -> list[int]:
    """Token ids of a chat as the model sees it, answers included, or of a plain text."""
    if "messages" not in row:
        ids: list[int] = tokenizer(row["text"])["input_ids"]
        return ids[:limit]
    if not tokenizer.chat_template:
        raise WrongInput(
            "the tokenizer has no chat template; add chat_template to its tokenizer_config.json, or calibrate on texts"
        )
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    chat: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return chat[:limit]


def compress(model: Any, job: Job, encoded: list[list[int]]) -> None:
    """Replace the weights of the linear layers by quantised ones, in memory."""
    from datasets import Dataset
    from llmcompressor import oneshot

    given: dict[str, Any] = {}
    if encoded:
        rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in encoded]
        given = {
            "dataset": Dataset.from_list(rows),
            "num_calibration_samples": len(rows),
            "max_seq_length": max(map(len, encoded)),
        }
    oneshot(model=model, recipe=recipe(job["method"], job["bits"], job["group_size"]), **given)


def recipe(method: str, bits: int, group_size: int) -> Any:
    """llm-compressor's modifiers: GPTQ and round-to-nearest symmetric, AWQ with zero points."""
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    grouped = {"strategy": "group", "group_size": group_size} if group_size > 0 else {"strategy": "channel"}
    weights = {"num_bits": bits, "type": "int", "symmetric": method != "awq", "dynamic": False, **grouped}
    layers = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": list(IGNORED)}
    if method == "gptq":
        return GPTQModifier(**layers)
    if method == "rtn":
        return QuantizationModifier(**layers)
    from llmcompressor.modifiers.transform import AWQModifier

    return [AWQModifier(), QuantizationModifier(**layers)]


def finish(out: Path, bits: int, source_dtype: str) -> None:
    """Floats in the 16-bit dtype that the model was kept in (`float16` where that was wider), codes in containers for engines."""
    from safetensors.torch import load_file, save_file

    config = json.loads((out / "config.json").read_text())
    dtype = source_dtype if source_dtype in HALVES else "float16"
    for file in sorted(out.glob("*.safetensors")):
        tensors = as_dtype(load_file(file), dtype)
        if CONTAINER_BITS[bits] != bits:
            repack(tensors, bits, CONTAINER_BITS[bits])
        save_file(tensors, file, metadata={"format": "pt"})
    for group in config["quantization_config"]["config_groups"].values():
        group["weights"]["num_bits"] = CONTAINER_BITS[bits]
    (out / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2) + "\n")
    if CONTAINER_BITS[bits] != bits and (told := out / "recipe.yaml").is_file():
        told.write_text(f"# {bits} bits, stored in containers of {CONTAINER_BITS[bits]}\n{told.read_text()}")


def as_dtype(tensors: dict[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """The tensors, 32-bit floats in another dtype."""
    import torch

    wanted = getattr(torch, dtype)
    return {name: value.to(wanted) if value.dtype == torch.float32 else value for name, value in tensors.items()}


def repack(tensors: dict[str, torch.Tensor], bits: int, container: int) -> None:
    """Codes of `bits` bits in words of `container` bits, in place; zero points are packed along the rows."""
    from compressed_tensors.compressors import pack_to_int32, unpack_from_int32

    for name in [name for name in tensors if name.endswith(PACKED)]:
        layer = name.removesuffix(PACKED)
        outputs, inputs = map(int, tensors[f"{layer}.weight_shape"].tolist())
        tensors[name] = pack_to_int32(unpack_from_int32(tensors[name], bits, (outputs, inputs)), container)
        if (zeros := tensors.get(zero := f"{layer}.weight_zero_point")) is not None:
            shape = (outputs, zeros.shape[1])
            codes = unpack_from_int32(zeros, bits, shape, packed_dim=0)
            tensors[zero] = pack_to_int32(codes, container, packed_dim=0).contiguous()


def bring_along(model: str, out: Path, tokenizer: Any) -> None:
    """Tokenizer and generation settings: byte for byte those of a local model, so that arms differ in their weights only."""
    if not Path(model).is_dir():
        tokenizer.save_pretrained(out)
        return
    for file in sorted(Path(model).iterdir()):
        weights = file.name.startswith("model.safetensors") or file.name in {"config.json", "training.json"}
        if file.is_file() and file.suffix in {".json", ".jinja", ".model", ".txt"} and not weights:
            shutil.copyfile(file, out / file.name)


def tell(text: str) -> None:
    """One line of progress."""
    print(f"{MARK} {text}", flush=True)


def main() -> int:
    """Do the job of the file on the command line."""
    job: Job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        report = run(job)
    except WrongInput as error:
        print(f"{WRONG} {error}", flush=True)
        return 3
    Path(job["report"]).write_text(json.dumps(report), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
