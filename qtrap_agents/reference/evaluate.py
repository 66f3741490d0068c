"""Success per hop and per chain of checkpoints, by family: the figures of the model card.

    python -m qtrap_agents.reference.evaluate CHECKPOINT [CHECKPOINT …] --hops 2000 --chains 100

Hops are taken from suite tasks of depth 32 with their gold parents filled in (teacher-forced); chains of 32 hops run on
their own statements, as the `chain` workflow does. Answered greedily in float32 by `transformers` on the CPU and judged
as `qtrap` judges. Prints one JSON line per checkpoint.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qtrap_agents.config import SuiteChoice
from qtrap_agents.premises import parse_value
from qtrap_agents.reference.data import FAMILIES
from qtrap_agents.semantics import same_value
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import Premise, Value
from qtrap_agents.workflows.hop import instruction

SEED = 7_000
"""Seed of the evaluation tasks; no run or calibration uses it."""


DEPTH = 32

Asker = Callable[[list[str]], list[Value | None]]
"""Prompts to stated values."""


def open_asker(checkpoint: Path, suite: Suite, batch: int = 256) -> Asker:
    """A function that answers prompts with that checkpoint, `batch` at a time."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    @torch.no_grad()
    def answer(prompts: list[str]) -> list[str]:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
        tokens = model.generate(**inputs, max_new_tokens=suite.spec.max_tokens, do_sample=False)
        return list(tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    def ask(prompts: list[str]) -> list[Value | None]:
        parts = [prompts[first : first + batch] for first in range(0, len(prompts), batch)]
        return [parse_value(text, suite.parser) for part in parts for text in answer(part)]

    return ask


def hop_success(suite: Suite, ask: Asker, count: int) -> tuple[int, int]:
    """Right hops and all hops, each with right parents."""
    asked: list[tuple[str, Value]] = []
    for task in suite.tasks([DEPTH], [SEED], -(-count // DEPTH)):
        stated = {premise.id: Premise(id=premise.id, text=premise.text, value=premise.value) for premise in task.premises}
        asked += [(instruction(task, gold, stated, suite.spec.show_question), gold.value) for gold in task.premises]
    asked = asked[:count]
    values = ask([prompt for prompt, _ in asked])
    return sum(same_value(value, gold) for value, (_, gold) in zip(values, asked, strict=True)), len(asked)


def chain_success(suite: Suite, ask: Asker, count: int) -> tuple[int, int]:
    """Right answers and all chains; all chains take their steps together."""
    tasks = list(suite.tasks([DEPTH], [SEED + 1], count))
    stated: list[dict[str, Premise]] = [{} for _ in tasks]
    for step in range(DEPTH):
        golds = [task.premises[step] for task in tasks]
        shown = zip(tasks, golds, stated, strict=True)
        values = ask([instruction(task, gold, known, suite.spec.show_question) for task, gold, known in shown])
        for gold, known, value in zip(golds, stated, values, strict=True):
            known[gold.id] = Premise(id=gold.id, text="" if value is None else str(value), value=value)
    right = sum(same_value(known[task.premises[-1].id].value, task.answer) for task, known in zip(tasks, stated, strict=True))
    return right, len(tasks)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--hops", type=int, default=2000, help="hops of each family")
    parser.add_argument("--chains", type=int, default=100, help="chains of each family")
    options = parser.parse_args()
    for checkpoint in options.checkpoints:
        row: dict[str, object] = {"checkpoint": "/".join(checkpoint.parts[-2:])}
        for family in FAMILIES:
            suite = load_suite(SuiteChoice(name=family))
            ask = open_asker(checkpoint, suite)
            hops, chains = hop_success(suite, ask, options.hops), chain_success(suite, ask, options.chains)
            row[family] = {"hops_right": hops[0], "hops": hops[1], "chains_right": chains[0], "chains": chains[1]}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
