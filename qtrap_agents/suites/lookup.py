"""In-context lookup: every hop carries its own table, the previous answer is the key.

Hop as the model sees it: `lookup: bako riku , zumi bako , riku zumi ; zumi =` → `bako`. All tables of a task are
permutations of the same names, so a wrong key still has a value and the error can be followed.
"""

from qtrap_agents.suites.procedural import Params, chain_task, task_rng
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
        keys, targets = rng.sample(names, len(names)), rng.sample(names, len(names))
        table = dict(zip(keys, targets, strict=True))
        rows = " , ".join(f"{key} {target}" for key, target in table.items())
        previous = f"s{step - 1}" if step > 1 else f"'{value}'"
        slot = f"{{s{step - 1}}}" if step > 1 else value
        value = table[value]
        premises.append(
            GoldPremise(
                id=f"s{step}",
                text=f"s{step} = {value}",
                value=value,
                depends_on=(f"s{step - 1}",) if step > 1 else (),
                rule=f"{table!r}[{previous}]",
                instruction=f"lookup: {rows} ; {slot} =",
            )
        )
        question += f" ; {rows}"
    return chain_task(suite, depth, seed, index, question, premises)
