"""Faults of known place and size: which wrong value a premise can take, by kind of fault and kind of value."""

import random
import re
from collections.abc import Iterator, Sequence

from qtrap_agents.evidence import FaultKind
from qtrap_agents.semantics import consequence, is_right
from qtrap_agents.types import GoldPremise, Task, Value

ALL_KINDS: tuple[FaultKind, ...] = ("off-by-one", "digit", "name", "drop", "swap")
_MODULUS = re.compile(r"%\s*(\d+)\s*$")
_QUOTED = re.compile(r"'(\w+)'")


def possible(premise: GoldPremise, task: Task, kind: FaultKind, draw: random.Random) -> Value | None:
    """A wrong value that such a fault makes of a gold premise; None where the kind does not fit, and always for `drop`.

    - `off-by-one`: a whole number one more or less, around the modulus where its rule has one.
    - `digit`: one digit of a whole number is another.
    - `swap`: two neighbouring digits of a whole number, or two words of a row, change places.
    - `name`: a word is another one that the rules or gold values of the task use; in a row, one word stands twice.
    - `drop`: nothing readable is left.

    The value is one that a hop could have stated: the rules of the premises that depend on it can be executed on it, and
    it keeps within the modulus of the task and above 0 where its gold values do.
    """
    candidates = [value for value in _candidates(premise, task, kind) if not is_right(value, premise)]
    children = [child for child in task.premises if premise.id in child.depends_on and child.rule is not None]
    gold = {known.id: known.value for known in task.premises} if children else {}
    for value in draw.sample(candidates, len(candidates)):
        known = gold | {premise.id: value}
        if all(consequence(child, {name: known[name] for name in child.depends_on}) is not None for child in children):
            return value
    return None


def _candidates(premise: GoldPremise, task: Task, kind: FaultKind) -> list[Value]:
    """Values of that kind in a fixed order, the right one perhaps among them."""
    value = premise.value
    if kind == "drop" or isinstance(value, float):
        return []
    if isinstance(value, int):
        bound = max((modulus for gold in task.premises if (modulus := _modulus(gold))), default=None)
        near = _near(value, _modulus(premise)) if kind == "off-by-one" else _digits(value, kind)
        floor = min((gold.value for gold in task.premises if isinstance(gold.value, int)), default=0)
        return [number for number in near if (floor < 0 or number >= 0) and (bound is None or number < bound)]
    return _rows(value) if kind == "swap" else _names(value, task) if kind == "name" else []


def _modulus(premise: GoldPremise) -> int | None:
    found = _MODULUS.search(premise.rule or "")
    return int(found[1]) if found else None


def _near(value: int, modulus: int | None) -> list[int]:
    return [number % modulus if modulus else number for number in (value - 1, value + 1)]


def _digits(value: int, kind: FaultKind) -> list[int]:
    digits, sign = str(abs(value)), "-" if value < 0 else ""
    texts: Iterator[str] = iter(())
    if kind == "digit":
        texts = (digits[:i] + other + digits[i + 1 :] for i in range(len(digits)) for other in "0123456789")
    elif kind == "swap":
        texts = (digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :] for i in range(len(digits) - 1))
    return [int(sign + text) for text in texts]


def _rows(value: str) -> list[Value]:
    words = value.split()
    return [_exchanged(words, i, j) for i in range(len(words)) for j in range(i)]


def _exchanged(words: Sequence[str], first: int, second: int) -> str:
    other = list(words)
    other[first], other[second] = words[second], words[first]
    return " ".join(other)


def _names(value: str, task: Task) -> list[Value]:
    words = value.split()
    if len(words) > 1:
        return [" ".join((*words[:i], word, *words[i + 1 :])) for i in range(len(words)) for word in words]
    stated = [premise.value for premise in task.premises if isinstance(premise.value, str)]
    named = [word.casefold() for premise in task.premises for word in _QUOTED.findall(premise.rule or "")]
    kinds = {premise.kind for premise in task.premises}
    return list(dict.fromkeys(word for word in (*stated, *named) if " " not in word and word not in kinds))
