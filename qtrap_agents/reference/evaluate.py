"""Success per hop of a checkpoint, by family: the figures of the model card.

    python -m qtrap_agents.reference.evaluate CHECKPOINT [CHECKPOINT …] --hops 2000

Every hop is taken from a suite task of depth 32 with its gold parents filled in (teacher-forced), answered greedily in
float32 by `transformers` on the CPU, and judged as `qtrap` judges it. Prints one JSON line per checkpoint.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qtrap_agents.analysis.statistics import wilson
from qtrap_agents.config import SuiteChoice
from qtrap_agents.premises import parse_value
from qtrap_agents.reference.data import FAMILIES
from qtrap_agents.semantics import same_value
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import Premise, Value
from qtrap_agents.workflows.hop import instruction

SEED = 7_000
"""Seed of the evaluation tasks; no run or calibration uses it."""


def hops(suite: Suite, count: int) -> Iterator[tuple[str, Value]]:
    """`count` prompts with their gold values."""
    for task in suite.tasks([32], [SEED], -(-count // 32)):
        stated = {premise.id: Premise(id=premise.id, text=premise.text, value=premise.value) for premise in task.premises}
        for gold in task.premises[: count - 32 * int(task.id[-4:])]:
            yield instruction(task, gold, stated, suite.spec.show_question), gold.value


@torch.no_grad()
def hop_success(checkpoint: Path, count: int, batch: int = 256) -> dict[str, tuple[int, int]]:
    """Right hops and all hops by family."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    found = {}
    for family in FAMILIES:
        suite = load_suite(SuiteChoice(name=family))
        asked = list(hops(suite, count))
        right = 0
        for first in range(0, len(asked), batch):
            part = asked[first : first + batch]
            chats = [[{"role": "user", "content": prompt}] for prompt, _ in part]
            texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
            inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
            tokens = model.generate(**inputs, max_new_tokens=suite.spec.max_tokens, do_sample=False)
            answers = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            stated = [parse_value(answer, suite.parser) for answer in answers]
            right += sum(same_value(value, gold) for value, (_, gold) in zip(stated, part, strict=True))
        found[family] = (right, len(asked))
    return found


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--hops", type=int, default=2000, help="hops of each family")
    options = parser.parse_args()
    for checkpoint in options.checkpoints:
        row: dict[str, object] = {"checkpoint": checkpoint.as_posix()}
        for family, (right, total) in hop_success(checkpoint, options.hops).items():
            interval = wilson(right, total)
            row[family] = {"right": right, "hops": total, "low": interval.low, "high": interval.high}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
