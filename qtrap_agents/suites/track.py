"""State tracking: a row of objects, one move a hop.

Hop as the model sees it: `track: key cup pen map hat coin ; swap 2 4 =` → `key map pen cup hat coin`.
"""

from qtrap_agents.semantics import execute
from qtrap_agents.suites.procedural import Params, chain_task, task_rng
from qtrap_agents.types import GoldPremise, Task
from qtrap_agents.world import OBJECTS


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index`: `depth` moves over a row of `params["places"]` objects (default 6)."""
    rng = task_rng(suite, depth, seed, index)
    places = int(params.get("places", 6))
    value = " ".join(rng.sample(OBJECTS, places))
    question = f"track: {value}"
    premises: list[GoldPremise] = []
    for step in range(1, depth + 1):
        previous = f"s{step - 1}" if step > 1 else f"'{value}'"
        slot = f"{{s{step - 1}}}" if step > 1 else value
        kind = rng.choice(("swap", "rotate", "flip"))
        if kind == "swap":
            arguments = rng.sample(range(1, places + 1), 2)
        else:
            arguments = [rng.randrange(1, places)] if kind == "rotate" else []
        rule = f"{kind}({', '.join([previous, *map(str, arguments)])})"
        value = str(execute(rule, {previous: value} if step > 1 else {}))
        move = " ".join([kind, *map(str, arguments)])
        premises.append(
            GoldPremise(
                id=f"s{step}",
                text=f"s{step} = {value}",
                value=value,
                depends_on=(f"s{step - 1}",) if step > 1 else (),
                rule=rule,
                instruction=f"track: {slot} ; {move} =",
            )
        )
        question += f" ; {move}"
    return chain_task(suite, depth, seed, index, question, premises)
