"""What the procedural families share: seeded generators and the shape of a chain task."""

import random
from collections.abc import Sequence

from qtrap_agents.types import GoldPremise, Task, Value

Params = dict[str, Value]


def task_rng(suite: str, depth: int, seed: int, index: int) -> random.Random:
    """The random stream of one task: independent of how many tasks are drawn and in which order."""
    return random.Random(f"{suite}/{depth}/{seed}/{index}")


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
