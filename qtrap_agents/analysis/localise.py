"""Where did a chain go wrong? A localiser that reads nothing but the trace itself: no task, no gold, no second arm.

Every stated premise is held against what its own hop was asked: arithmetic that ends the prompt or stands in the statement,
a table of pairs with a key, a row of words to be rearranged, and the values that earlier hops stated. The first hop that
contradicts itself is the suspicion. Where a prompt asks for something else (a fact, a move, a word problem without its
equation) nothing can be checked, and the localiser abstains rather than guess.

Only messages, premises and parents are read: completions and the notes of an experiment (`Hop.replaced`, `Hop.arm`) are not.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from qtrap_agents.premises import FRACTION, NUMBER, to_number
from qtrap_agents.semantics import RuleError, execute, same_value
from qtrap_agents.types import Hop, Premise, Record, Trace, Value

_OPERATORS = {
    "+": "+", "-": "-", "−": "-", "–": "-", "*": "*", "×": "*", "·": "*", "/": "/", "÷": "/",
    "plus": "+", "minus": "-", "times": "*", "max": "max", "min": "min",
}  # fmt: skip
_TOKEN = re.compile(rf"(?P<number>{NUMBER.pattern})|(?P<word>\w+)|(?P<sign>[-+*/−–×·÷()])|(?P<other>\S)")
_MODULUS = re.compile(r"\(?\bmod(?:ulo)?[ \t]+([0-9]{1,18})\)?", re.IGNORECASE)
_BLANK = re.compile(r"=\s*(?:\$?_{2,}|\$?\?|\$?\s*$)")
_PAIR = re.compile(r"(\w+)\s*(?:->|→|:|=)?\s+(\w+)")
_HEAD = re.compile(r"^\s*\w+\s*:\s+")
_LEAST_ROW = 3
_LONGEST = 2_000
"""Characters of a line or statement that are looked at."""


class Suspicion(Record):
    """The hop that a localiser blames, by id and by position from 1, the premise that it stated there, and why."""

    hop_id: str
    hop: int
    premise: str | None
    reason: str


class Review(Record):
    """What the trace alone tells. Of `premises` stated, `checked` could be held against anything."""

    hops: int
    premises: int
    checked: int
    suspicion: Suspicion | None


class _Finding(NamedTuple):
    """A premise that could be checked; `reason` is empty where it is consistent."""

    reason: str = ""


class _Statement(NamedTuple):
    """A premise with what its hop was asked, and the values stated before it, by premise id (as long as it is the latest)."""

    premise: Premise
    line: str
    told: str
    known: Mapping[str, Value]


def suspect(trace: Trace) -> Suspicion | None:
    """The first hop that contradicts what it was asked; None where none does or nothing can be checked."""
    return review(trace).suspicion


def review(trace: Trace) -> Review:
    """Check every premise of a trace, as far as the trace alone allows."""
    premises = checked = 0
    suspicion: Suspicion | None = None
    for position, hop, statement in _statements(trace):
        premises += 1
        finding = _examine(statement)
        checked += finding is not None
        if finding and finding.reason and suspicion is None:
            suspicion = Suspicion(hop_id=hop.id, hop=position, premise=statement.premise.id, reason=finding.reason)
    return Review(hops=len(trace.hops), premises=premises, checked=checked, suspicion=suspicion)


def _statements(trace: Trace) -> Iterator[tuple[int, Hop, _Statement]]:
    known: dict[str, Value] = {}
    for position, hop in enumerate(trace.hops, start=1):
        asked = next((message.content for message in reversed(hop.messages) if message.role == "user"), "")
        line = asked.strip().rpartition("\n")[2][-_LONGEST:]
        told = "\n".join(message.content for message in hop.messages)
        for premise in hop.premises:
            yield position, hop, _Statement(premise, line, told, known)
            known.pop(premise.id, None)
            if premise.value is not None:
                known[premise.id] = premise.value


def _examine(statement: _Statement) -> _Finding | None:
    """The first contradiction of a premise, else that it was checked, else None."""
    if statement.premise.value is None:
        return _Finding("it states nothing readable")
    checks = (_given, _asked_sum, _own_equations, _table, _row)
    findings = [finding for check in checks if (finding := check(statement)) is not None]
    return next((finding for finding in findings if finding.reason), findings[0] if findings else None)


def _given(statement: _Statement) -> _Finding | None:
    """Was the hop given what its parents stated? Looked for only where the prompt shows a parent by its id."""
    for parent in statement.premise.depends_on:
        shown = re.search(rf"(?<!\w){re.escape(parent)} = ([^;\n]+)", statement.told)
        value = statement.known.get(parent)
        if shown and value is not None and not _reads(shown[1], value):
            return _Finding(f"it was given {parent} = {_short(shown[1].strip())}, but {parent} states {_short(value)}")
    return None


def _asked_sum(statement: _Statement) -> _Finding | None:
    """The arithmetic that the prompt asks for: `417 + 938 =`, `2 * 3 = ___ eggs`, `47 max 32 = ?`."""
    blanks, stated = list(_BLANK.finditer(statement.line)), statement.premise.value
    if not blanks or isinstance(stated, str | None):
        return None
    moduli = {int(modulus) for modulus in _MODULUS.findall(statement.told)}
    expression = _expression(statement.line[: blanks[-1].start()], {})
    expected = _evaluate(expression, next(iter(moduli), 0)) if expression and len(moduli) < 2 else None
    if expected is None:
        return None
    missing = [parent for parent in statement.premise.depends_on if not _has_operand(expression, statement, parent)]
    if missing and len(statement.premise.depends_on) <= sum(map(_is_number, expression)):
        parent = missing[0]
        return _Finding(f"it was asked {_shown(expression)}, without {parent} = {_short(statement.known[parent])}")
    if _equal(expected, stated):
        return _Finding()
    modulo = f" modulo {next(iter(moduli))}" if moduli and not _compares(expression) else ""
    return _Finding(f"{_shown(expression)}{modulo} is {expected}, not {stated}")


def _has_operand(expression: Sequence[str], statement: _Statement, parent: str) -> bool:
    """True where the value of a parent stands in the question, or nothing readable was stated."""
    value = statement.known.get(parent)
    return value is None or any(same_value(to_number(token), value) for token in expression) or _reads(statement.told, value)


def _own_equations(statement: _Statement) -> _Finding | None:
    """The equations that the hop wrote itself: `step 3: 12 * 3 = 36`, `s3 = s1 + s2 = 41`."""
    text, checked = statement.premise.text[:_LONGEST], False
    if "=" not in text:
        return None
    moduli = {0, *(int(modulus) for modulus in _MODULUS.findall(statement.told + "\n" + text))}
    for match in re.finditer(r"=\s*(?=[-−$.0-9])", text):
        number = FRACTION.match(text, match.end())
        right = to_number(number[0]) if number else None
        expression = _expression(text[: match.start()], statement.known)
        values = [value for modulus in moduli if expression and (value := _evaluate(expression, modulus)) is not None]
        if number is None or right is None or not values or _goes_on(text[number.end() :]):
            continue
        checked = True
        if not any(_equal(value, right) for value in values):
            return _Finding(f"it writes {_shown(expression)} = {right}, which is {values[0]}")
    return _Finding() if checked else None


def _goes_on(rest: str) -> bool:
    """True where the right side of an equation is itself an expression, or a percentage."""
    after = rest.lstrip(" \t$")
    return after[:1] == "%" or (bool(after) and after[0] in _OPERATORS) or after.split(" ", 1)[0] in _OPERATORS


def _table(statement: _Statement) -> _Finding | None:
    """A look-up: `lookup: bako riku , zumi bako , riku zumi ; zumi =`."""
    left, mark, right = _HEAD.sub("", statement.line).rpartition(";")
    if not mark:
        return None
    pairs = [_PAIR.fullmatch(pair.strip()) for pair in left.split(",")]
    table = {pair[1].casefold(): pair[2].casefold() for pair in pairs if pair}
    key = right.strip().rstrip("=?").strip().casefold()
    if len(pairs) < 2 or len(table) < len(pairs) or not re.fullmatch(r"\w+", key):
        return None
    stated = str(statement.premise.value)
    if key in table:
        return _Finding("" if stated == table[key] else f"the table gives {table[key]} for {key}, not {_short(stated)}")
    return _Finding("" if stated in table.values() else f"{_short(stated)} does not stand in the table")


def _row(statement: _Statement) -> _Finding | None:
    """A rearranged row has the words of the row in the prompt; a row is what shares at least half of its words with it."""
    stated = Counter(str(statement.premise.value).split())
    if stated.total() < _LEAST_ROW:
        return None
    segments = (Counter(segment.casefold().split()) for segment in re.split(r"[:;,=]", statement.line))
    rows = [row for row in segments if _LEAST_ROW <= row.total() <= 2 * (row & stated).total() >= stated.total()]
    if len(rows) != 1:
        return None
    strange, lost = stated - rows[0], rows[0] - stated
    differences = [f"{_listed(words)} {what}" for words, what in ((strange, "too much"), (lost, "missing")) if words]
    return _Finding(f"its row is not that of the prompt: {'; '.join(differences)}" if differences else "")


def _expression(text: str, known: Mapping[str, Value]) -> tuple[str, ...]:
    """The arithmetic that ends where the text ends, as tokens of a rule, or nothing.

    Read from the right up to the first thing that is no part of it; arithmetic that is then cut off in front of an operator
    is not taken. Names of `known` numbers stand for their values.
    """
    tokens = list(_TOKEN.finditer(_MODULUS.sub("", text[-_LONGEST:])))
    taken: list[str] = []
    for match in reversed(tokens):
        token = _rule_token(match, known)
        if token is None or (taken and _is_number(token) and _is_number(taken[-1])):
            break
        taken.append(token)
    parts = tuple(reversed(taken))
    operands, signs = sum(map(_is_number, parts)), sum(part in _OPERATORS.values() for part in parts)
    whole = operands > 1 and signs == operands - 1 and (_is_number(parts[0]) or parts[0] == "(")
    return parts if whole and not _cut_off(tokens, len(taken)) else ()


def _cut_off(tokens: Sequence["re.Match[str]"], taken: int) -> bool:
    """True where another number, or a percent sign, touches the arithmetic from the left."""
    before = tokens[-taken - 1] if len(tokens) > taken else None
    return before is not None and (before.lastgroup == "number" or before[0] in "%^")


def _rule_token(match: "re.Match[str]", known: Mapping[str, Value]) -> str | None:
    if match.lastgroup == "number":
        value = to_number(match[0])
        return None if value is None else repr(value)
    token = _OPERATORS.get(match[0].casefold(), match[0] if match[0] in "()" else None)
    if token is None and match.lastgroup == "word":
        stated = known.get(match[0].casefold())
        return repr(stated) if isinstance(stated, int | float) else None
    return token


def _is_number(token: str) -> bool:
    return token[-1].isdigit()


def _compares(expression: Iterable[str]) -> bool:
    return any(token in ("max", "min") for token in expression)


def _evaluate(expression: Sequence[str], modulus: int) -> int | float | None:
    """The value of an expression; a modulus (0: none) holds for everything but `max` and `min`."""
    rule = " ".join(expression)
    if _compares(expression):
        if len(expression) != 3:
            return None
        rule = f"{expression[1]}({expression[0]}, {expression[2]})"
    elif modulus:
        rule = f"({rule}) % {modulus}"
    try:
        value = execute(rule, {})
    except RuleError:
        return None
    return None if isinstance(value, str) else value


def _equal(expected: int | float, stated: int | float) -> bool:
    """Equal, or rounded as the stated number is written."""
    if same_value(expected, stated):
        return True
    places = len(repr(stated).partition(".")[2]) if isinstance(stated, float) else 0
    return isinstance(expected, float) and same_value(round(expected, places), stated)


def _reads(text: str, value: Value) -> bool:
    """True where the text shows the value."""
    if isinstance(value, str):
        return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", " ".join(text.casefold().split())) is not None
    return any(same_value(to_number(number), value) for number in FRACTION.findall(text))


def _shown(expression: Sequence[str]) -> str:
    return " ".join(expression).replace("( ", "(").replace(" )", ")")


def _listed(words: Counter[str]) -> str:
    return ", ".join(map(_short, sorted(words.elements())))


def _short(value: Value) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
