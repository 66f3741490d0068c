"""Modular arithmetic: a running number, one operation a hop. Stresses exact computation.

Hop as the model sees it: `arith: 417 + 938 =` → `355` (modulus 1000).
"""

from qtrap_agents.semantics import execute
from qtrap_agents.suites.procedural import Params, chain_task, task_rng
from qtrap_agents.types import GoldPremise, Task


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index` of a chain with `depth` operations modulo `params["modulus"]` (default 1000)."""
    rng = task_rng(suite, depth, seed, index)
    modulus = int(params.get("modulus", 1000))
    value: int = rng.randrange(modulus)
    question, previous = f"arith: start {value}", str(value)
    premises: list[GoldPremise] = []
    for step in range(1, depth + 1):
        operator = rng.choice("+-*")
        operand = rng.randrange(2, 10) if operator == "*" else rng.randrange(modulus)
        rule = f"({previous} {operator} {operand}) % {modulus}"
        parents = (f"s{step - 1}",) if step > 1 else ()
        value = int(execute(rule, {parents[0]: value} if parents else {}))
        slot = f"{{s{step - 1}}}" if step > 1 else previous
        premises.append(
            GoldPremise(
                id=f"s{step}",
                text=f"s{step} = {value}",
                value=value,
                depends_on=parents,
                rule=rule,
                instruction=f"arith: {slot} {operator} {operand} =",
            )
        )
        question += f" ; {operator} {operand}"
        previous = f"s{step}"
    return chain_task(suite, depth, seed, index, f"{question} ; all modulo {modulus}", premises)
