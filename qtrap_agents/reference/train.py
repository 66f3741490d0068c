"""Train one reference model.

    python -m qtrap_agents.reference.train --size small --seed 0 --out build/small-s0

Plain `LlamaForCausalLM`, Muon on the matrices and AdamW on the rest, bf16 autocast on a GPU, weights saved in FP16.
Needs minutes on a GPU; on a CPU use `--steps` for a shorter run. Writes the checkpoint and `training.json` (recipe,
seed, loss curve, hop accuracy by family).
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from qtrap_agents.reference.data import FAMILIES, Batch, HopSampler
from qtrap_agents.reference.tokenizer import BOS, EOS, PAD, VOCABULARY_SIZE, build_tokenizer, vocabulary

EVALUATION_SEED = 1_000_003
GROUPS = (("arith", "relate", "program"), ("track",), ("lookup",))
"""Families of about the same length share a padded batch."""


@dataclass(frozen=True)
class Recipe:
    """What decides a model. `rows` are hops of each family in a step; learning rates peak after `warmup` steps."""

    hidden: int
    layers: int
    ffn: int
    steps: int
    rows: int = 512
    muon_lr: float = 0.02
    adam_lr: float = 0.003
    warmup: int = 100
    flat: float = 0.4


SIZES = {
    "small": Recipe(hidden=128, layers=3, ffn=256, steps=24_000),
    "base": Recipe(hidden=256, layers=4, ffn=768, steps=16_000),
}


def build_model(recipe: Recipe) -> LlamaForCausalLM:
    """An untrained plain Llama of that shape: head size 64, tied embeddings."""
    ids = vocabulary()
    heads = recipe.hidden // 64
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.ffn,
            num_hidden_layers=recipe.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=64,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=ids[BOS],
            eos_token_id=ids[EOS],
            pad_token_id=ids[PAD],
        )
    )


def train(recipe: Recipe, seed: int, device: str, log_every: int = 500) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """Train and return the model (FP32) with its loss curve."""
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    model = build_model(recipe).to(device)
    step_loss = torch.compile(_loss, dynamic=False) if device == "cuda" else _loss
    sampler = HopSampler(seed + 1, device)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=device == "cuda"),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe)) for optimizer in optimizers]
    curve: list[dict[str, float]] = []
    started = time.perf_counter()
    for step in range(recipe.steps):
        losses = []
        for group in GROUPS:
            batch = join([sampler.batch(family, recipe.rows) for family in group])
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                loss = step_loss(model, batch.tokens, batch.answer) * len(group) / len(FAMILIES)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        if step % log_every == 0 or step == recipe.steps - 1:
            row = {"step": step, "loss": round(float(sum(losses)), 6), "seconds": round(time.perf_counter() - started, 1)}
            if step % (2 * log_every) == 0:
                row |= hop_accuracy(model, device, 1024)
            curve.append(row)
            print(json.dumps(row), flush=True)
    return model, curve


def join(batches: list[Batch]) -> Batch:
    """One batch of several, padded on the right to the longest."""
    width = max(batch.tokens.shape[1] for batch in batches)
    pad = vocabulary()[PAD]
    grow = torch.nn.functional.pad
    tokens = [grow(batch.tokens, (0, width - batch.tokens.shape[1]), value=pad) for batch in batches]
    answer = [grow(batch.answer, (0, width - batch.answer.shape[1])) for batch in batches]
    return Batch(torch.cat(tokens), torch.cat(answer))


@torch.no_grad()
def hop_accuracy(model: LlamaForCausalLM, device: str, rows: int) -> dict[str, float]:
    """Share of fresh hops whose whole answer, end of text included, is the greedy one; by family."""
    sampler = HopSampler(EVALUATION_SEED, device)
    accuracy = {}
    for family in FAMILIES:
        right = total = 0
        for start in range(0, rows, 2048):
            batch = sampler.batch(family, min(2048, rows - start))
            guesses = model(batch.tokens).logits[:, :-1].argmax(-1)
            wrong = (guesses != batch.tokens[:, 1:]) & (batch.answer[:, 1:] == 1)
            right += int((~wrong.any(1)).sum())
            total += len(batch.tokens)
        accuracy[family] = right / total
    return accuracy


def _loss(model: LlamaForCausalLM, tokens: Tensor, answer: Tensor) -> Tensor:
    logits = model(tokens).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    weight = answer[:, 1:].flatten().float()
    return (losses * weight).sum() / weight.sum()


def _rate(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    flat = recipe.flat * recipe.steps
    return 1.0 if step < flat else max(0.0, (recipe.steps - step) / (recipe.steps - flat))


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    changes = {name: getattr(options, name) for name in ("steps", "rows") if getattr(options, name)}
    recipe = Recipe(**{**asdict(SIZES[options.size]), **changes})
    started = time.perf_counter()
    model, curve = train(recipe, options.seed, options.device)
    model = model.half()
    model.save_pretrained(options.out)
    build_tokenizer().save_pretrained(options.out)
    report = {
        "size": options.size,
        "seed": options.seed,
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started, 1),
        "hop_accuracy_fp16": hop_accuracy(model.to(options.device), options.device, 20_480),
        "curve": curve,
    }
    (options.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: report[key] for key in ("seconds", "hop_accuracy_fp16")}), flush=True)


if __name__ == "__main__":
    main()
