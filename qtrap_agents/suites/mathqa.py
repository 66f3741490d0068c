"""MathQA: word problems with a program of operations, `multiply(n0,n1)|divide(#0,const_100)|`.

Rows as in the original files and on hubs: `Problem`, `options` (`a ) 38 , b ) 27.5 , …`), `correct` (a letter) and
`linear_formula`. `n0`, `n1`, … are the numbers of the problem in their order (`1,200` is one, `1/2` are two), `#0`, `#1`, … the
results so far, `const_3_6` is 3.6. Every operation that the answer needs is a premise.

The program of a third of the problems does not lead to the chosen option; such rows are left out. The result agrees with an
option where rounding it to the decimals of the option gives the option (38 for 37.6, not for 37.4); an option `3/8` must be met
to 1e-6. Steps are rounded to four decimals, as the system message asks; problems whose answer is missed that way are left out
too. The answer is the option as it is written, and the unrounded result is accepted.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from qtrap_agents.premises import FRACTION, NUMBER, to_number
from qtrap_agents.semantics import RuleError, execute, same_value
from qtrap_agents.suites.rows import Form, Row, Unusable, task_id, text_of
from qtrap_agents.types import GoldPremise, Task, Value

GOLD = "every step, with rules"

_PI = "3.141592654"
DECIMALS = 4
"""What results are rounded to, as the system message asks."""

OPERATIONS = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "power": "{0} ** {1}",
    "sqrt": "{0} ** 0.5",
    "log": "log({0})",
    "inverse": "1 / {0}",
    "negate": "0 - {0}",
    "floor": "floor({0})",
    "max": "max({0}, {1})",
    "min": "min({0}, {1})",
    "gcd": "gcd({0}, {1})",
    "lcm": "lcm({0}, {1})",
    "reminder": "{0} % {1}",
    "factorial": "factorial({0})",
    "choose": "comb({0}, {1})",
    "permutation": "perm({0}, {1})",
    "negate_prob": "1 - {0}",
    "speed": "{0} / {1}",
    "speed_in_still_water": "({0} + {1}) / 2",
    "stream_speed": "({0} - {1}) / 2",
    "p_after_gain": "{1} * (1 + {0} / 100)",
    "original_price_before_gain": "{1} / (1 + {0} / 100)",
    "original_price_before_loss": "{1} / (1 - {0} / 100)",
    "square_area": "{0} ** 2",
    "square_perimeter": "4 * {0}",
    "square_edge_by_area": "{0} ** 0.5",
    "square_edge_by_perimeter": "{0} / 4",
    "rectangle_area": "{0} * {1}",
    "rectangle_perimeter": "2 * ({0} + {1})",
    "diagonal": "({0} ** 2 + {1} ** 2) ** 0.5",
    "rhombus_area": "{0} * {1} / 2",
    "rhombus_perimeter": "4 * {0}",
    "quadrilateral_area": "{0} * ({1} + {2}) / 2",
    "triangle_area": "{0} * {1} / 2",
    "triangle_perimeter": "{0} + {1} + {2}",
    "triangle_area_three_edges": "(({0} + {1} + {2}) * ({1} + {2} - {0}) * ({0} + {2} - {1}) * ({0} + {1} - {2})) ** 0.5 / 4",
    "circle_area": _PI + " * {0} ** 2",
    "circumface": "2 * " + _PI + " * {0}",
    "volume_cube": "{0} ** 3",
    "surface_cube": "6 * {0} ** 2",
    "cube_edge_by_volume": "{0} ** (1 / 3)",
    "volume_rectangular_prism": "{0} * {1} * {2}",
    "surface_rectangular_prism": "2 * ({0} * {1} + {0} * {2} + {1} * {2})",
    "volume_cylinder": _PI + " * {0} ** 2 * {1}",
    "surface_cylinder": "2 * " + _PI + " * {0} * ({0} + {1})",
    "volume_cone": _PI + " * {0} ** 2 * {1} / 3",
    "volume_sphere": "4 / 3 * " + _PI + " * {0} ** 3",
    "surface_sphere": "4 * " + _PI + " * {0} ** 2",
}
"""Rules of the operations in the order of their arguments; sine, cosine and tangent are not among them (degrees or radians?)."""

_STEP = re.compile(r"([a-z_]+)\((.*)\)")
_OPTION = re.compile(r"([a-e])\s*\)\s*(.*?)\s*(?:,\s*(?=[a-e]\s*\))|$)", re.DOTALL)


class _Operation(NamedTuple):
    name: str
    operands: tuple[str, ...]


class _Option(NamedTuple):
    """The number of an option and how many decimals it is written with; None for a fraction."""

    value: int | float
    decimals: int | None


def task(row: Row, form: Form) -> Task:
    """The task of a problem. Raises Unusable."""
    problem = text_of(row.fields, "Problem")
    option = _chosen(text_of(row.fields, "options"), text_of(row.fields, "correct").casefold())
    operations = _needed(_operations(text_of(row.fields, "linear_formula")))
    numbers = [str(value) for match in NUMBER.finditer(problem) if (value := to_number(match[0].lstrip("-−–"))) is not None]
    premises = _premises(operations, numbers, option)
    return Task(
        id=task_id(form, row),
        suite=form.suite,
        question=problem,
        answer=premises[-1].value,
        accept=premises[-1].accept,
        premises=tuple(premises),
        depth=len(premises),
        metadata={"category": str(row.fields.get("category") or "unknown")},
    )


def _chosen(options: str, letter: str) -> _Option:
    """The option of that letter; a hundredth of the rows spell the options like a list in Python."""
    options = re.sub(r"[\[\]'\"]", "", options)
    text = next((_joined(found[2]) for found in _OPTION.finditer(options) if found[1] == letter), None)
    match = None if text is None else FRACTION.search(text)
    value = None if match is None else to_number(match[0])
    if match is None or value is None:
        raise Unusable("chosen option without a number", repr(text))
    if len(FRACTION.findall(text or "")) > 1:
        raise Unusable("chosen option of several numbers", repr(text))
    return _Option(value, None if "/" in match[0] else len(match[0].partition(".")[2]))


def _joined(text: str) -> str:
    """Numbers that the data writes as several words (`3 / 4`, `- 5`, `1 , 200`) as one; `cm 2` and `m ^ 3` without the number."""
    text = re.sub(r"(?<=[a-z])\s*\^?\s*[23]$", "", text)
    text = re.sub(r"(?<=[0-9])\s*/\s*(?=[0-9])", "/", text)
    text = re.sub(r"(?<=[0-9])\s*,\s*(?=[0-9]{3}(?![0-9]))", ",", text)
    return re.sub(r"^-\s+(?=[0-9.])", "-", text)


def _operations(formula: str) -> list[_Operation]:
    found: list[_Operation] = []
    for step in filter(None, (part.strip() for part in formula.split("|"))):
        match = _STEP.fullmatch(step)
        if match is None:
            raise Unusable("formula that cannot be read", repr(step[:80]))
        name, operands = match[1], tuple(operand.strip() for operand in match[2].split(","))
        if name not in OPERATIONS:
            raise Unusable(f"operation {name} not supported")
        if len(operands) != len(set(re.findall(r"\{[0-2]\}", OPERATIONS[name]))):
            raise Unusable("formula that cannot be read", f"{name} with {len(operands)} operands")
        late = [operand for operand in operands if operand.startswith("#") and not _earlier(operand, len(found))]
        if late:
            raise Unusable("cyclic gold", f"step {len(found)} uses {late[0]}, which is not before it")
        found.append(_Operation(name, operands))
    if not found:
        raise Unusable("formula that cannot be read", "no operation")
    return found


def _earlier(operand: str, count: int) -> bool:
    return operand[1:].isdecimal() and int(operand[1:]) < count


def _needed(operations: Sequence[_Operation]) -> list[_Operation]:
    """The operations that the last one needs, renumbered."""
    wanted = {len(operations) - 1}
    for index in reversed(range(len(operations))):
        if index in wanted:
            wanted |= {int(operand[1:]) for operand in operations[index].operands if operand.startswith("#")}
    places = {f"#{old}": f"#{new}" for new, old in enumerate(sorted(wanted))}
    kept = (operations[index] for index in sorted(wanted))
    return [_Operation(name, tuple(places.get(operand, operand) for operand in operands)) for name, operands in kept]


def _premises(operations: Sequence[_Operation], numbers: Sequence[str], option: _Option) -> list[GoldPremise]:
    """The steps, each rounded to four decimals, and the option at their end."""
    steps: list[GoldPremise] = []
    for operation in operations:
        steps.append(_premise(operation, numbers, steps))
    *before, last = steps
    rule = OPERATIONS[operations[-1].name].format(*(_operand(operand, numbers) for operand in operations[-1].operands))
    exact = _value(rule, before)
    if same_value(exact, option.value):
        value, rule = last.value, last.rule or ""
    elif option.decimals is not None and same_value(_value(rule := f"round({rule}, {option.decimals})", before), option.value):
        value = option.value
    else:
        raise Unusable("formula that does not lead to the chosen option", f"it gives {exact}, the option is {option.value}")
    also = tuple(dict.fromkeys(other for other in (last.value, exact) if other != value))
    return [*before, last.model_copy(update={"value": value, "accept": also, "rule": rule, "text": f"{last.id} = {value}"})]


def _premise(operation: _Operation, numbers: Sequence[str], steps: Sequence[GoldPremise]) -> GoldPremise:
    operands = [_operand(operand, numbers) for operand in operation.operands]
    rule = OPERATIONS[operation.name].format(*operands)
    value = _value(rule, steps)
    if value != _value(rounded := f"round({rule}, {DECIMALS})", steps):
        rule, value = rounded, _value(rounded, steps)
    name = f"s{len(steps) + 1}"
    parents = tuple(dict.fromkeys(operand for operand in operands if operand.startswith("s")))
    slot = "({%s})" if "**" in OPERATIONS[operation.name] else "{%s}"
    shown = OPERATIONS[operation.name].format(*(slot % operand if operand in parents else operand for operand in operands))
    return GoldPremise(
        id=name,
        text=f"{name} = {value}",
        value=value,
        depends_on=parents,
        rule=rule,
        instruction=f"{operation.name.replace('_', ' ')}: {shown} =",
        kind=operation.name,
    )


def _value(rule: str, steps: Sequence[GoldPremise]) -> Value:
    try:
        return execute(rule, {step.id: step.value for step in steps})
    except RuleError as error:
        raise Unusable("formula without a value", str(error)) from None


def _operand(operand: str, numbers: Sequence[str]) -> str:
    """An operand as it stands in a rule: `#0` is `s1`, `n0` and `const_100` are numbers."""
    if operand.startswith("#"):
        return f"s{int(operand[1:]) + 1}"
    if match := re.fullmatch(r"n([0-9]{1,3})", operand):
        if int(match[1]) >= len(numbers):
            raise Unusable("number that the problem does not have", f"{operand} of {len(numbers)} numbers")
        return numbers[int(match[1])]
    named = {"const_pi": _PI, "const_deg_to_rad": "0.017453293"}
    if operand in named:
        return named[operand]
    value = to_number(operand.removeprefix("const_").replace("_", "."))
    if value is None or not re.fullmatch(r"(?:const_)?[0-9._]+", operand):
        raise Unusable("formula that cannot be read", f"operand {operand!r}")
    return str(value)
