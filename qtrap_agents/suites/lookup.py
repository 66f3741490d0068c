"""In-context lookup: every hop carries its own table, the previous answer is the key.

Hop as the model sees it: `lookup: bako riku , zumi bako , riku zumi ; zumi =` → `bako`. All tables of a task are
permutations of the same names, so a wrong key still has a value and the error can be followed.
"""

from qtrap_agents.suites.procedural import Params, chain_task, input_of, stated, task_rng
from qtrap_agents.types import GoldPremise, Task
from qtrap_agents.world import LOOKUP_NAMES, entities


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index`: `depth` lookups in tables of `params["rows"]` pairs (default 10)."""
    rng = task_rng(suite, depth, seed, index)
    names = rng.sample(entities()[:LOOKUP_NAMES], int(params.get("rows", 10)))
    value = rng.choice(names)
    question = f"lookup: start {value}"
    premises: list[GoldPremise] = []
    for step in range(1, depth + 1):
        given = input_of(step, value)
        keys, targets = rng.sample(names, len(names)), rng.sample(names, len(names))
        table = dict(zip(keys, targets, strict=True))
        rows = " , ".join(f"{key} {target}" for key, target in table.items())
        value = table[value]
        premises.append(
            stated(step, value, given.parents, f"{table!r}[{given.rule}]", f"lookup: {rows} ; {given.slot} =", "lookup")
        )
        question += f" ; {rows}"
    return chain_task(suite, depth, seed, index, question, premises)
