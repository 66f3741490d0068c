"""A tree of sums: numbers are combined in pairs, the results in pairs again, and so on. Steps of one level are independent.

Hop as the model sees it: `arith: 417 + 938 =` → `355` (modulus 1000), the words of the family `arith`.
"""

from collections import deque

from qtrap_agents.semantics import execute
from qtrap_agents.suites.arith import KINDS
from qtrap_agents.suites.procedural import Params, chain_task, stated, task_rng
from qtrap_agents.types import GoldPremise, Task, Value


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index`: `depth` sums and differences of `depth` + 1 numbers modulo `params["modulus"]` (default 1000).

    The premises stand level by level; there are about log2(`depth` + 1) levels.
    """
    rng = task_rng(suite, depth, seed, index)
    modulus = int(params.get("modulus", 1000))
    waiting = deque(str(rng.randrange(modulus)) for _ in range(depth + 1))
    values: dict[str, Value] = {}
    premises: list[GoldPremise] = []
    for step in range(1, depth + 1):
        left, right, operator = waiting.popleft(), waiting.popleft(), rng.choice("+-")
        parents = tuple(operand for operand in (left, right) if operand in values)
        rule = f"({left} {operator} {right}) % {modulus}"
        value = execute(rule, {parent: values[parent] for parent in parents})
        shown = (f"{{{operand}}}" if operand in values else operand for operand in (left, right))
        premises.append(stated(step, value, parents, rule, f"arith: {f' {operator} '.join(shown)} =", KINDS[operator]))
        values[f"s{step}"] = value
        waiting.append(f"s{step}")
    lines = (f"{premise.id} = {premise.rule}" for premise in premises)
    return chain_task(suite, depth, seed, index, "tree: " + " ; ".join(lines), premises)
