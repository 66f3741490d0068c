"""Program tracing over a real DAG: most lines use two earlier results.

Hop as the model sees it: `program: 41 plus 73 =` → `14` (modulus 100). Lines draw one operand from the last few
results, so errors can die out in `min` and `max`, or spread along several paths. Now and then it is a fresh constant:
without these a deep program ends at 0, where `min` and `times` would keep it.
"""

import random

from qtrap_agents.semantics import execute
from qtrap_agents.suites.procedural import Params, chain_task, stated, task_rng
from qtrap_agents.types import GoldPremise, Task, Value

OPERATIONS = {
    "plus": "({a} + {b}) % {modulus}",
    "minus": "({a} - {b}) % {modulus}",
    "times": "({a} * {b}) % {modulus}",
    "max": "max({a}, {b})",
    "min": "min({a}, {b})",
}


FRESH = 0.25
"""Share of the lines whose second operand is a constant."""


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index`: a program of `depth` lines modulo `params["modulus"]` (default 100).

    Each line uses the line before it and one of the `params["window"]` (default 4) lines before that; the first
    lines and every fourth one, on average, use a constant instead.
    """
    rng = task_rng(suite, depth, seed, index)
    modulus, window = int(params.get("modulus", 100)), int(params.get("window", 4))
    values: dict[str, Value] = {}
    premises: list[GoldPremise] = []
    for step in range(1, depth + 1):
        operands = _operands(rng, step, modulus, window)
        name = rng.choice(tuple(OPERATIONS))
        rule = OPERATIONS[name].format(a=operands[0], b=operands[1], modulus=modulus)
        parents = tuple(dict.fromkeys(operand for operand in operands if operand in values))
        value = execute(rule, {parent: values[parent] for parent in parents})
        first, second = (f"{{{operand}}}" if operand in values else operand for operand in operands)
        premises.append(stated(step, value, parents, rule, f"program: {first} {name} {second} =", name))
        values[f"s{step}"] = value
    lines = (f"{premise.id} = {premise.rule}" for premise in premises)
    return chain_task(suite, depth, seed, index, "program: " + " ; ".join(lines), premises)


def _operands(rng: random.Random, step: int, modulus: int, window: int) -> list[str]:
    """Two operands in random order: the last line, and an earlier one or a constant."""
    constant = str(rng.randrange(modulus))
    last = f"s{step - 1}" if step > 1 else str(rng.randrange(modulus))
    fresh = step <= 2 or rng.random() < FRESH
    earlier = constant if fresh else f"s{rng.randrange(max(1, step - 1 - window), step - 1)}"
    operands = [last, earlier]
    rng.shuffle(operands)
    return operands
