"""Tool use: every step is a call and its result, both gold premises, so a wrong argument is told from a wrong result.

A chain of two steps as the model sees it, hop by hop (modulus 20):

    tools: call for the price of cup =                        →  table(cup, price)
    tools: table: cup price 7 , cup stock 3 , … ; {s1} =      →  7
    tools: call for {s2} plus 15 , modulo 20 =                →  calculator((7 + 15) % 20)
    tools: {s3} =                                             →  2

The rule of a call writes it down from the results that it takes as arguments, and the rule of a result executes the call
that was written: a result that follows from a wrong call is inherited, a wrong call after right results is its own error.
Tables hold a number or an item in every place and the store an item under every number below the modulus, so a wrong
argument mostly still has a result and the error can be followed.

`chain` asks for both premises in turn, with what the tool holds in the prompt; `react` has the model call `Task.tools`.
Depth counts premises: where it is odd, the first call is given by the question and only its result is asked for.
"""

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qtrap_agents.semantics import execute
from qtrap_agents.suites.procedural import Params, chain_task, task_rng
from qtrap_agents.tools import Call
from qtrap_agents.types import GoldPremise, Task, Value
from qtrap_agents.world import OBJECTS

COLUMNS = ("price", "stock", "partner")
"""What the table tells of an item; its partner is another item."""

OPERATORS = {"+": "plus", "-": "minus", "*": "times"}

WINDOW = 6
"""Premises back from which a calculation takes its other number."""

FRESH = 0.3
"""Share of the calculations whose other number is a constant."""

Tools = dict[str, dict[str, Value]]


class _Step(NamedTuple):
    """A call to make: the tool, the parts of its argument (constants and premise ids), and what it is for, in words."""

    tool: str
    argument: tuple[str, ...]
    wanted: str
    swapped: tuple[str, ...] = ()


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index`: `depth` premises over a table of `params["rows"]` items (default 6), modulo `params["modulus"]` (20).

    `params["shown"]`: `question` (default) puts what the tools hold into the question; with `tools` it is found by calling
    them only. A hop of `chain` is shown it in any case.
    """
    if params.get("shown", "question") not in ("question", "tools"):
        raise ValueError(f"'shown' must be 'question' or 'tools', not {params['shown']!r}")
    rng = task_rng(suite, depth, seed, index)
    tools = _tools(rng, int(params.get("rows", 6)), int(params.get("modulus", 20)))
    results = {tool: _results(tool, held) for tool, held in tools.items()}
    premises: list[GoldPremise] = []
    while len(premises) < depth:
        step = _step(rng, premises, tools)
        given = len(premises) == 0 and depth % 2 == 1
        if not given:
            premises.append(_call(premises, step))
        premises.append(_result(premises, step, tools, results[step.tool], given))
    task = chain_task(suite, depth, seed, index, _question(premises, tools, params), premises)
    return task.model_copy(update={"tools": tools})


def _tools(rng: random.Random, rows: int, modulus: int) -> Tools:
    items = rng.sample(OBJECTS, rows)
    ring = rng.sample(items, rows)
    partners = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    table: dict[str, Value] = {}
    for item in items:
        table |= {f"{item}/price": rng.randrange(modulus), f"{item}/stock": rng.randrange(modulus)}
        table[f"{item}/partner"] = partners[item]
    return {"calculator": {}, "table": table, "store": {str(key): rng.choice(items) for key in range(modulus)}}


def _step(rng: random.Random, premises: Sequence[GoldPremise], tools: Tools) -> _Step:
    """What comes after the last result: something is looked up under it, or it is calculated with."""
    if premises and isinstance(premises[-1].value, int):
        return _store_step(premises[-1].id) if rng.random() < 0.35 else _sum_step(rng, premises, len(tools["store"]))
    items = list(dict.fromkeys(key.split("/")[0] for key in tools["table"]))
    row, column = premises[-1].id if premises else rng.choice(items), rng.choice(COLUMNS)
    return _Step("table", (row, ",", column), f"the {column} of {_slot(row, premises)}")


def _store_step(number: str) -> _Step:
    return _Step("store", (number,), f"what the store holds under {{{number}}}")


def _sum_step(rng: random.Random, premises: Sequence[GoldPremise], modulus: int) -> _Step:
    numbers = [premise.id for premise in premises[-WINDOW:-1] if isinstance(premise.value, int)]
    other = rng.choice(numbers) if numbers and rng.random() > FRESH else str(rng.randrange(1, modulus))
    first, second = rng.sample((premises[-1].id, other), 2)
    operator = rng.choice(tuple(OPERATORS))
    words = f"{_slot(first, premises)} {OPERATORS[operator]} {_slot(second, premises)} , modulo {modulus}"
    swapped = () if operator == "-" else ("(", second, operator, first, f")%{modulus}")
    return _Step("calculator", ("(", first, operator, second, f")%{modulus}"), words, swapped)


def _slot(part: str, premises: Sequence[GoldPremise]) -> str:
    return f"{{{part}}}" if part in {premise.id for premise in premises} else part


def _call(premises: Sequence[GoldPremise], step: _Step) -> GoldPremise:
    """The premise that states a call; a sum or product with its numbers exchanged is as right."""
    known = {premise.id: premise.value for premise in premises}
    name = f"s{len(premises) + 1}"
    value = _written(step.tool, step.argument, known)
    return GoldPremise(
        id=name,
        text=f"{name} = {value}",
        value=value,
        accept=tuple({_written(step.tool, step.swapped, known)} - {value}) if step.swapped else (),
        depends_on=tuple(dict.fromkeys(part for part in step.argument if part in known)),
        rule=_rule(step, known),
        instruction=f"tools: call for {step.wanted} =",
        kind=f"call_{step.tool}",
    )


def _written(tool: str, parts: Sequence[str], known: Mapping[str, Value]) -> str:
    return str(Call(tool, "".join(str(known.get(part, part)) for part in parts)))


def _rule(step: _Step, known: Mapping[str, Value]) -> str:
    """An expression that writes the call in its canonical form from the results that it takes."""
    parts = [f"{step.tool}(", *(", " if part == "," else part for part in step.argument), ")"]
    return f"text({', '.join(part if part in known else repr(part) for part in parts)})"


def _results(tool: str, held: Mapping[str, Value]) -> str:
    """What every call of a tool gives, as a literal; empty for the calculator."""
    return repr({str(Call(tool, key.replace("/", ","))): value for key, value in held.items()}) if held else ""


def _result(premises: Sequence[GoldPremise], step: _Step, tools: Tools, results: str, given: bool) -> GoldPremise:
    """The premise that states what the call before it gives; the very first call may be `given` by the question."""
    name = f"s{len(premises) + 1}"
    known = {} if given else {premises[-1].id: premises[-1].value}
    call = _written(step.tool, step.argument, {}) if given else premises[-1].id
    written = repr(call) if given else call
    rule = f"{results}[{written}]" if results else f"calculate(argument({written}))"
    value = execute(rule, known)
    shown = f"{_shown(step.tool, tools)} ; " if results else ""
    return GoldPremise(
        id=name,
        text=f"{name} = {value}",
        value=value,
        depends_on=tuple(known),
        rule=rule,
        instruction=f"tools: {shown}{call if given else f'{{{call}}}'} =",
        kind=step.tool,
    )


def _shown(tool: str, tools: Tools) -> str:
    """What a tool holds, on one line."""
    return f"{tool}: " + " , ".join(f"{key.replace('/', ' ')} {value}" for key, value in tools[tool].items())


def _question(premises: Sequence[GoldPremise], tools: Tools, params: Params) -> str:
    lines = []
    for premise in premises:
        asked = premise.instruction.removeprefix("tools: ").removesuffix(" =").replace("{", "").replace("}", "")
        lines.append(f"{premise.id} = {asked if premise.kind.startswith('call_') else _told(premise, asked)}")
    data = [_shown(tool, tools) for tool in ("table", "store")] if params.get("shown", "question") == "question" else []
    return "\n".join(["tools: " + " ; ".join(lines), *data])


def _told(premise: GoldPremise, asked: str) -> str:
    return f"result of {asked.rpartition(' ; ')[2]}"
