"""State tracking: a row of objects, one move a hop.

Hop as the model sees it: `track: key cup pen map hat coin ; swap 2 4 =` → `key map pen cup hat coin`.
"""

import random

from qtrap_agents.semantics import execute
from qtrap_agents.suites.procedural import Params, chain_task, input_of, stated, task_rng
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
        given = input_of(step, value)
        kind, places_moved = _move(rng, places)
        rule = f"{kind}({', '.join([given.rule, *places_moved])})"
        value = str(execute(rule, dict.fromkeys(given.parents, value)))
        move = " ".join([kind, *places_moved])
        premises.append(stated(step, value, given.parents, rule, f"track: {given.slot} ; {move} =", kind))
        question += f" ; {move}"
    return chain_task(suite, depth, seed, index, question, premises)


def _move(rng: random.Random, places: int) -> tuple[str, list[str]]:
    """A kind of move and its arguments."""
    kind = rng.choice(("swap", "rotate", "flip"))
    if kind == "swap":
        return kind, [str(place) for place in rng.sample(range(1, places + 1), 2)]
    return kind, [str(rng.randrange(1, places))] if kind == "rotate" else []
