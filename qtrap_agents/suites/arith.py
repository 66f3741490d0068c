"""Modular arithmetic: a running number, one operation a hop. Stresses exact computation.

Hop as the model sees it: `arith: 417 + 938 =` → `355` (modulus 1000).
"""

from qtrap_agents.semantics import execute
from qtrap_agents.suites.procedural import Params, chain_task, input_of, stated, task_rng
from qtrap_agents.types import GoldPremise, Task

KINDS = {"+": "plus", "-": "minus", "*": "times"}


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index` of a chain with `depth` operations modulo `params["modulus"]` (default 1000)."""
    rng = task_rng(suite, depth, seed, index)
    modulus = int(params.get("modulus", 1000))
    value: int = rng.randrange(modulus)
    question = f"arith: start {value}"
    premises: list[GoldPremise] = []
    for step in range(1, depth + 1):
        given = input_of(step, value)
        operator = rng.choice("+-*")
        operand = rng.randrange(2, 10) if operator == "*" else rng.randrange(modulus)
        rule = f"({given.rule} {operator} {operand}) % {modulus}"
        value = int(execute(rule, dict.fromkeys(given.parents, value)))
        premises.append(stated(step, value, given.parents, rule, f"arith: {given.slot} {operator} {operand} =", KINDS[operator]))
        question += f" ; {operator} {operand}"
    return chain_task(suite, depth, seed, index, f"{question} ; all modulo {modulus}", premises)
