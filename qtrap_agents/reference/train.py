"""Train one reference model.

    python -m qtrap_agents.reference.train --size small --seed 0 --out build/small-s0-stage1
    python -m qtrap_agents.reference.train --size small --seed 0 --stage 2 --start build/small-s0-stage1 --out build/small-s0

Plain `LlamaForCausalLM`, Muon on the matrices and AdamW on the rest, bf16 autocast on a GPU, weights saved in FP16.
Needs minutes on a GPU; on a CPU use `--steps` and `--shrink` for a smaller run. Writes the checkpoint and
`training.json` (recipe, seed, loss curve, hop accuracy by family).
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from qtrap_agents.reference.data import FAMILIES, Batch, HopSampler
from qtrap_agents.reference.tokenizer import BOS, EOS, PAD, VOCABULARY_SIZE, build_tokenizer, vocabulary

EVALUATION_SEED = 1_000_003
CHUNK = 32
"""Steps whose hops are drawn at once: drawing is many small kernels, so few large draws keep a GPU busy."""


LOG_EVERY = 500

EVEN = {"arith": 512, "relate": 512, "lookup": 512, "track": 512, "program": 512, "recall": 256}
FINISH = {"arith": 384, "relate": 64, "lookup": 384, "track": 128, "program": 128, "recall": 384}


@dataclass(frozen=True)
class Recipe:
    """What decides a model: shape, steps, rows of each family in a step, learning rates (peak, after `warmup`)."""

    hidden: int
    layers: int
    ffn: int
    steps: int
    rows: dict[str, int]
    muon_lr: float
    adam_lr: float = 0.003
    warmup: int = 100
    flat: float = 0.4


SMALL = Recipe(hidden=128, layers=3, ffn=256, steps=16_000, rows=EVEN, muon_lr=0.008)
BASE = Recipe(hidden=256, layers=4, ffn=768, steps=11_000, rows={f: n * 5 // 8 for f, n in EVEN.items()}, muon_lr=0.006)
RECIPES = {
    ("small", 1): SMALL,
    ("small", 2): replace(SMALL, steps=5_000, rows=FINISH, muon_lr=0.006),
    ("base", 1): BASE,
    ("base", 2): replace(BASE, steps=4_500, rows=FINISH, muon_lr=0.01, flat=0.6),
}
"""(size, stage). Stage 1 learns all families evenly, stage 2 starts from it and finishes arithmetic and lookup."""


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


class Muon:
    """Momentum with orthogonalised updates for matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    Matrices of one shape are stacked into one batched product, because `torch.optim.Muon` launches thousands of small
    kernels a step at these sizes. The update is scaled to the size of an AdamW update (arXiv 2502.16982).
    """

    def __init__(self, matrices: list[torch.nn.Parameter], momentum: float = 0.95):
        shapes = sorted({tuple(matrix.shape) for matrix in matrices})
        self.groups = [[matrix for matrix in matrices if tuple(matrix.shape) == shape] for shape in shapes]
        self.buffers = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups]
        self.momentum = momentum

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update with that learning rate; gradients are dropped afterwards."""
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradient = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
            buffer.lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp_(buffer, self.momentum))
            scale = 0.2 * max(group[0].shape) ** 0.5
            torch._foreach_add_(list(group), list(update.to(group[0].dtype).unbind()), alpha=-lr * scale)
            for matrix in group:
                matrix.grad = None


def orthogonalise(stack: Tensor, iterations: int = 5) -> Tensor:
    """Nearest orthogonal matrices of a stack (n, rows, columns) by Newton-Schulz iteration in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = stack.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


def train(model: LlamaForCausalLM, recipe: Recipe, seed: int, device: str, judged: int = 1024) -> list[dict[str, float]]:
    """Train the model (FP32) in place and return its loss curve, with the accuracy on `judged` hops of each family."""
    torch.set_float32_matmul_precision("high")
    model.to(device)
    step_loss = torch.compile(_loss, dynamic=False) if device == "cuda" else _loss
    muon = Muon([p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n])
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    adam = torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=device == "cuda")
    curve: list[dict[str, float]] = []
    started = time.perf_counter()
    try:
        for step, batch in enumerate(training_batches(recipe, seed, device)):
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                loss = step_loss(model, batch.tokens, batch.answer)
            loss.backward()  # type: ignore[no-untyped-call]
            rate = _rate(step, recipe)
            muon.step(recipe.muon_lr * rate)
            adam.param_groups[0]["lr"] = recipe.adam_lr * rate
            adam.step()
            adam.zero_grad(set_to_none=True)
            if step % LOG_EVERY == 0 or step == recipe.steps - 1:
                row = {"step": step, "loss": round(float(loss.detach()), 6), "seconds": round(time.perf_counter() - started, 1)}
                curve.append(row | hop_accuracy(model, device, judged))
                print(json.dumps(curve[-1]), flush=True)
    except KeyboardInterrupt:
        print("interrupted: saving the model as it is; its curve ends early", flush=True)
    return curve


def training_batches(recipe: Recipe, seed: int, device: str) -> Iterator[Batch]:
    """One batch a step: the recipe's rows of every family, all padded to one width."""
    sampler = HopSampler(seed + 1, device)
    for first in range(0, recipe.steps, CHUNK):
        parts = [sampler.batch(family, CHUNK * rows) for family, rows in recipe.rows.items()]
        width = max(part.tokens.shape[1] for part in parts)
        chunks = [_split(_widen(part, width)) for part in parts]
        for index in range(min(CHUNK, recipe.steps - first)):
            yield Batch(torch.cat([c.tokens[index] for c in chunks]), torch.cat([c.answer[index] for c in chunks]))


def _split(batch: Batch) -> Batch:
    return Batch(*(part.reshape(CHUNK, -1, part.shape[1]) for part in (batch.tokens, batch.answer)))


def _widen(batch: Batch, width: int) -> Batch:
    missing = (0, width - batch.tokens.shape[1])
    grow = torch.nn.functional.pad
    return Batch(grow(batch.tokens, missing, value=vocabulary()[PAD]), grow(batch.answer, missing))


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
    parser.add_argument("--size", choices=["small", "base"], required=True)
    parser.add_argument("--stage", type=int, choices=[1, 2], default=1)
    parser.add_argument("--start", type=Path, help="checkpoint to go on from (stage 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="other number of steps than the recipe's")
    parser.add_argument("--shrink", type=int, default=1, help="divide the hops of a step and of the evaluation by this (CPU)")
    options = parser.parse_args()
    recipe = RECIPES[options.size, options.stage]
    rows = {family: max(1, count // options.shrink) for family, count in recipe.rows.items()}
    recipe = replace(recipe, rows=rows, steps=options.steps or recipe.steps)
    started = time.perf_counter()
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM.from_pretrained(options.start, dtype=torch.float32) if options.start else build_model(recipe)
    curve = train(model, recipe, 100 * options.stage + options.seed, options.device, 1024 // options.shrink)
    model = model.half()
    model.save_pretrained(options.out)
    build_tokenizer().save_pretrained(options.out)
    report = {
        "size": options.size,
        "stage": options.stage,
        "seed": options.seed,
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started, 1),
        "hop_accuracy_fp16": hop_accuracy(model.to(options.device), options.device, 20_480 // options.shrink),
        "curve": curve,
    }
    (options.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: report[key] for key in ("seconds", "hop_accuracy_fp16")}), flush=True)


if __name__ == "__main__":
    main()
