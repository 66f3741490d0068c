"""Quantise a reference model with llm-compressor, in an environment of its own (its pins clash with vLLM's).

    qtrap quantize --setup                           # makes one and prints its interpreter, here $Q
    PYTHONPATH=. $Q -m qtrap_agents.reference.quantise --model build/small-s2 --out qtrap_agents/reference/checkpoints/small

Writes `fp16`, `gptq`, `awq` and `rtn3` beside each other with the worker of `qtrap quantize`: groups of 128, output layer
left alone, calibrated on `calibration.jsonl` (512 hops, equally from the five families). `rtn3` is the visible wreck:
round-to-nearest onto the 8 levels of 3 bits, stored in a 4-bit container, because vLLM serves no packed 3-bit weights on
every device.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from qtrap_agents.quantise.worker import Job, run
from qtrap_agents.reference.tokenizer import build_tokenizer

CALIBRATION = Path(__file__).parent / "calibration.jsonl"
GROUP, LONGEST = 128, 64
ARMS = {"gptq": ("gptq", 4), "awq": ("awq", 4), "rtn3": ("rtn", 3)}
"""Name -> method and bits."""


def quantise(model: Path, out: Path, method: str, bits: int, chats: Path) -> None:
    """Write one quantised checkpoint. Raises WrongInput."""
    shutil.rmtree(out, ignore_errors=True)
    job = Job(
        model=str(model),
        revision=None,
        out=str(out),
        method=method,
        bits=bits,
        group_size=GROUP,
        calibration=str(chats) if method != "rtn" else None,
        max_length=LONGEST,
        report="",
    )
    run(job)


def calibration_chats() -> str:
    """The calibration hops, answers included, a chat on every line."""
    rows = [json.loads(line) for line in CALIBRATION.read_text().splitlines()]
    chats = [[{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["answer"]}] for row in rows]
    return "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)


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
    with tempfile.TemporaryDirectory() as folder:
        chats = Path(folder) / "chats.jsonl"
        chats.write_text(calibration_chats())
        for name, (method, bits) in ARMS.items():
            quantise(base, options.out / name, method, bits, chats)


if __name__ == "__main__":
    main()
