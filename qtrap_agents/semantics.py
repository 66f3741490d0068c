"""Executable gold semantics: a rule is an expression over parent premises, such as `(s1 + 417) % 1000`.

Rules are data, stored with every task, so an analysis can ask much later what a step would have given from wrong
parents. They are evaluated by `simpleeval` (no attribute access, no imports, bounded powers) with the functions in
`FUNCTIONS`. Numbers come back normalised: whole ones as `int`, others as `float` rounded to nine digits.
"""

import ast
import math
import re
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import simpleeval

from qtrap_agents.types import GoldPremise, Task, Value
from qtrap_agents.world import related

_LARGEST = 1e300
_LARGEST_POWER_BITS = 10_000
_LONGEST_EXPRESSION = 200
_ARITHMETIC = re.compile(r"(?:[\s0-9.,+\-*/%()]|(?<=[0-9.])e(?=[-+0-9])|abs|max|min|round|floor|ceil)+")
_TYPED = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**", "$": ""})


class RuleError(ValueError):
    """The rule has no value for these parents: unknown name, key not in the table, division by zero."""


def normalise(value: object) -> Value:
    """The canonical form of a premise value. Raises RuleError for anything but text and finite numbers below 1e300."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        if abs(value) > _LARGEST:
            raise RuleError("the value is larger than 1e300")
        return value
    if isinstance(value, float):
        if not abs(value) <= _LARGEST:
            raise RuleError(f"value {value} is not a finite number below 1e300")
        rounded = round(value, 9)
        return int(rounded) if rounded.is_integer() else rounded
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    raise RuleError(f"a premise value must be a number or text, not {type(value).__name__}")


def same_value(left: Value | None, right: Value | None) -> bool:
    """Equality of two normalised values: whole numbers and text exactly, others up to rounding (1e-6 relative)."""
    if left == right:
        return left is not None
    if isinstance(left, float) or isinstance(right, float):
        return isinstance(left, int | float) and isinstance(right, int | float) and _close(left, right)
    return False


def is_right(stated: Value | None, gold: GoldPremise) -> bool:
    """Whether a stated value is the gold one, or another that the task accepts."""
    return any(same_value(stated, value) for value in (gold.value, *gold.accept))


def _close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-9)


def swap(row: str, first: int, second: int) -> str:
    """Exchange two places (counted from 1) in a row of words."""
    words = row.split()
    words[first - 1], words[second - 1] = words[second - 1], words[first - 1]
    return " ".join(words)


def rotate(row: str, places: int) -> str:
    """Move the first `places` words to the end."""
    words = row.split()
    return " ".join(words[places:] + words[:places])


def flip(row: str) -> str:
    """The row of words backwards."""
    return " ".join(reversed(row.split()))


def text(*parts: Value) -> str:
    """The parts written one after the other, numbers as they are shown: `text("table(", s1, ",price)")`."""
    return "".join(str(part) for part in parts)


def argument(call: str) -> str:
    """What stands in the parentheses of a tool call. Raises ValueError where the text is none."""
    match = re.fullmatch(r"[\w.:]+\((.*)\)", call)
    if match is None:
        raise ValueError(f"'{call[:40]}' is no tool call")
    return match[1]


def calculate(expression: str) -> Value:
    """The number that an arithmetic expression gives, as a person would type it.

    Numbers, `+ - * / // % **`, parentheses, and abs, max, min, round, floor, ceil; `×`, `÷`, `^`, a final `=` and commas in
    `1,200` are understood. At most 200 characters, powers of at most 10,000 bits.

    Raises:
        RuleError: it is no such expression, or has no value.
    """
    if len(expression) > _LONGEST_EXPRESSION:
        raise RuleError(f"the expression is longer than {_LONGEST_EXPRESSION} characters")
    typed = expression.translate(_TYPED).casefold().strip().removesuffix("=").strip()
    if not re.search(r"[a-z]{3}", typed):
        typed = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", typed)
    if not _ARITHMETIC.fullmatch(typed):
        raise RuleError(f"'{expression}' is not arithmetic")
    value = execute(typed, {})
    if isinstance(value, str):
        raise RuleError(f"'{expression}' gives no number")
    return value


def _power(base: float, exponent: float) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent * base.bit_length() > _LARGEST_POWER_BITS:
        raise RuleError(f"{base} ** {exponent} is too large")
    return base**exponent


def factorial(number: int) -> int:
    """The factorial of a whole number up to 170. Raises ValueError, TypeError."""
    return math.perm(_countable(number, 170))


def comb(number: int, chosen: int) -> int:
    """How many ways there are to choose so many of up to 1,000, in any order. Raises ValueError, TypeError."""
    return math.comb(_countable(number, 1000), chosen)


def perm(number: int, chosen: int) -> int:
    """How many ways there are to choose so many of up to 1,000, one after the other. Raises ValueError, TypeError."""
    return math.perm(_countable(number, 1000), chosen)


def _countable(number: int, largest: int) -> int:
    if number > largest:
        raise ValueError(f"{number} is more than {largest}")
    return number


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "len": len,
    "max": max,
    "min": min,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "log": math.log,
    "gcd": math.gcd,
    "lcm": math.lcm,
    "factorial": factorial,
    "comb": comb,
    "perm": perm,
    "swap": swap,
    "rotate": rotate,
    "flip": flip,
    "related": related,
    "text": text,
    "argument": argument,
    "calculate": calculate,
}


class _Evaluator(threading.local):
    """One for each thread: it holds the names it works on, and building one takes longer than most rules."""

    def __init__(self) -> None:
        self._rules = simpleeval.EvalWithCompoundTypes(functions=dict(FUNCTIONS))
        self._rules.nodes.pop(ast.Attribute)
        self._rules.operators[ast.Pow] = _power

    def value(self, rule: str, names: Mapping[str, Value]) -> object:
        outer, self._rules.names = self._rules.names, dict(names)
        try:
            value: object = self._rules.eval(rule, previously_parsed=_parse(rule))
        finally:
            self._rules.names = outer
        return value


_EVALUATOR = _Evaluator()


@lru_cache(maxsize=4096)
def _parse(rule: str) -> Any:
    return simpleeval.EvalWithCompoundTypes.parse(rule)


def execute(rule: str, parents: Mapping[str, Value]) -> Value:
    """The value that the rule gives for these parent values.

    Raises:
        RuleError: the rule is malformed or has no value here.
    """
    try:
        return normalise(_EVALUATOR.value(rule, parents))
    except RuleError:
        raise
    except Exception as error:  # any failure inside a user's expression means the same: no value
        raise RuleError(f"rule '{rule}' has no value for {dict(parents)}: {error}") from error


def consequence(premise: GoldPremise, parents: Mapping[str, Value]) -> Value | None:
    """What the step would rightly state from these (possibly wrong) parents, or None where that is undefined."""
    if premise.rule is None:
        return None
    try:
        return execute(premise.rule, parents)
    except RuleError:
        return None


def check_task(task: Task) -> list[str]:
    """Contradictions between a task's gold values, dependencies and rules; empty where there are none."""
    problems: list[str] = []
    known: dict[str, Value] = {}
    for premise in task.premises:
        missing = [parent for parent in premise.depends_on if parent not in known]
        if missing:
            problems.append(f"premise '{premise.id}' depends on {missing}, which is not stated before it")
        elif premise.rule is not None:
            problems.extend(_check_rule(premise, {parent: known[parent] for parent in premise.depends_on}))
        if premise.id in known:
            problems.append(f"premise id '{premise.id}' is used twice")
        known[premise.id] = premise.value
    if task.premises and not same_value(task.premises[-1].value, task.answer):
        problems.append(f"the last premise is {task.premises[-1].value!r}, the answer is {task.answer!r}")
    return problems


def _check_rule(premise: GoldPremise, parents: dict[str, Value]) -> list[str]:
    try:
        value = execute(premise.rule or "", parents)
    except RuleError as error:
        return [f"premise '{premise.id}': {error}"]
    if same_value(value, premise.value):
        return []
    return [f"premise '{premise.id}': the rule gives {value!r}, the gold value is {premise.value!r}"]
