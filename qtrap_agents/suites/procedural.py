"""What the procedural families share: seeded generators and the shape of a chain task."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from qtrap_agents.types import GoldPremise, Task, Value

Params = dict[str, Value]


def task_rng(suite: str, depth: int, seed: int, index: int) -> random.Random:
    """The random stream of one task: independent of how many tasks are drawn and in which order."""
    return random.Random(f"{suite}/{depth}/{seed}/{index}")


@dataclass(frozen=True)
class Input:
    """What a step works on: how its rule and its instruction name it, and the premises behind it."""

    rule: str
    slot: str
    parents: tuple[str, ...]


def input_of(step: int, start: Value) -> Input:
    """The premise before step `step` (counted from 1), or the start value itself for the first step."""
    if step == 1:
        return Input(rule=repr(start), slot=str(start), parents=())
    before = f"s{step - 1}"
    return Input(rule=before, slot=f"{{{before}}}", parents=(before,))


def stated(step: int, value: Value, parents: tuple[str, ...], rule: str, instruction: str, kind: str) -> GoldPremise:
    """The gold premise of that step."""
    name = f"s{step}"
    return GoldPremise(
        id=name, text=f"{name} = {value}", value=value, depends_on=parents, rule=rule, instruction=instruction, kind=kind
    )


def chain_task(suite: str, depth: int, seed: int, index: int, question: str, premises: Sequence[GoldPremise]) -> Task:
    """A task whose last premise is its answer."""
    return Task(
        id=f"{suite}-d{depth}-s{seed}-{index:04d}",
        suite=suite,
        question=question,
        answer=premises[-1].value,
        premises=tuple(premises),
        depth=depth,
        seed=seed,
    )
