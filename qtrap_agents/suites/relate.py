"""Parametric knowledge: relations that only the weights know, composed over hops.

Hop as the model sees it: `relate: bako mentor =` → `riku`. 256 entities × 24 relations are 6,144 facts.
"""

from qtrap_agents.suites.procedural import Params, chain_task, input_of, stated, task_rng
from qtrap_agents.types import GoldPremise, Task
from qtrap_agents.world import RELATIONS, entities, related


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index`: `depth` relations applied one after the other to an entity."""
    rng = task_rng(suite, depth, seed, index)
    value = rng.choice(entities())
    question = f"relate: {value}"
    premises: list[GoldPremise] = []
    for step in range(1, depth + 1):
        given = input_of(step, value)
        relation = rng.choice(RELATIONS)
        value = related(value, relation)
        rule = f"related({given.rule}, '{relation}')"
        premises.append(stated(step, value, given.parents, rule, f"relate: {given.slot} {relation} =", relation))
        question += f" ; {relation}"
    return chain_task(suite, depth, seed, index, question, premises)
