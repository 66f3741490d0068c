"""Equations in running text: `9 * 2 = $18`, `12/2=6 eggs`, `a = b = 5`, `20% of 50 is 10`, `2 times 5 equals 10`.

A sentence is read as tokens. Of every `=` (or "equals", or "is" behind an expression) the number that follows is the value
and the arithmetic before it, read from the right, the expression: words may stand behind a number as its unit, and up to
three between an operator and its number. `50% of 20` multiplies. A side that is no arithmetic, such as `total` or `x`, gives
the value a name and no expression.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from qtrap_agents.premises import NUMBER, to_number
from qtrap_agents.semantics import RuleError, execute, same_value

Number = int | float

LONGEST_EXPRESSION = 64
"""Tokens of an expression that are read, counted from its end."""

_SIDES = 8
"""Sides of a chain `a = b = c` that are looked at."""

_UNITS, _UNIT_WORDS = 3, 8
"""Words between an operator and its number, and behind a number."""

_TOKEN = re.compile(rf"(?P<number>{NUMBER.pattern})|(?P<sign>[-+*/^()])|(?P<equals>[=≈≡])|(?P<word>[^\W\d_]+)|(?P<other>\S)")
_SYMBOLS = str.maketrans({"−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "÷": "/", "⁄": "/", "[": "(", "]": ")", "`": " "})
_TIMES = re.compile(r"(?<=[\s0-9)%])[xX](?=[ \t]{0,4}[$(.0-9])")
_BOLD = re.compile(r"(?<![0-9) ])\*\*|\*\*(?![0-9( ])|\*\*(?=[0-9.,]{1,20}\*\*)")
_LATEX = re.compile(r"\\(?:times|cdot|div|left|right|text|mathrm|quad|approx|[$()\[\],;! ])")
_LATEX_SIGNS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "\\approx": "=", "\\$": "$"}
_FRACTION = re.compile(r"\\d?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}")
_ASIDE = re.compile(r"\([^\W\d_][^()0-9\n]{0,40}\)")
_GROUPED = re.compile(r"[0-9]{1,3}(?:\{,\}[0-9]{3})+")
_SPOKEN = {"plus": "+", "minus": "-", "times": "*", "divided by": "/", "multiplied by": "*"}
_SPOKEN_SIGN = re.compile(
    r"\b(?:plus|minus|divided by|multiplied by)\b|\btimes(?=[ \t]{1,4}(?:the[ \t]{1,4})?[$(.0-9])", re.IGNORECASE
)
_IS = {"equals", "equal", "is", "are", "was", "were", "makes", "gives", "totals"}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "tenth": 10}
_MULTIPLES = {"twice": 2, "double": 2, "triple": 3, "thrice": 3}


class Token(NamedTuple):
    """A token and its place; a number has its value, and `percent` where `%` follows."""

    kind: str
    text: str
    start: int
    end: int
    value: Number | None = None
    percent: bool = False


class Equation(NamedTuple):
    """A value, its place in the text, and what it was computed from.

    `operands` are the numbers of the expression in order; `expression` is None where the side before the value is no
    arithmetic. `name` is the word that the value is given to, such as `total`, or None.
    """

    value: Number
    start: int
    end: int
    percent: bool
    expression: str | None
    operands: tuple[Number, ...]
    name: str | None


def plain(text: str) -> str:
    """The text with LaTeX, bold marks and the many signs of arithmetic written in one way; every place stays the same."""
    text = _FRACTION.sub(lambda found: f"({found[1]})/({found[2]})".ljust(len(found[0])), text)
    text = _LATEX.sub(lambda found: _LATEX_SIGNS.get(found[0], " ").rjust(len(found[0])), text)
    text = _GROUPED.sub(lambda found: found[0].replace("{,}", ",").rjust(len(found[0])), text)
    text = _BOLD.sub("  ", text).translate(_SYMBOLS).replace(">=", "≥≥").replace("<=", "≤≤")
    text = _ASIDE.sub(lambda found: " " * len(found[0]), text)
    return _TIMES.sub("*", text)


def tokens(text: str, start: int = 0) -> list[Token]:
    """The tokens of a `plain` text that begins at `start`."""
    spoken = _SPOKEN_SIGN.sub(lambda found: _SPOKEN[found[0].casefold()].ljust(len(found[0])), text)
    found: list[Token] = []
    for match in _TOKEN.finditer(spoken):
        kind, value = match.lastgroup or "other", None
        if kind == "number" and (value := to_number(match[0])) is None:
            kind = "other"
        token = Token(kind, match[0], start + match.start(), start + match.end(), value)
        if found and found[-1].value is not None and token.text.casefold() in ("%", "percent"):
            found[-1] = found[-1]._replace(percent=True)
        else:
            found.append(token)
    return _mixed(_without_units(found))


def _without_units(found: Sequence[Token]) -> list[Token]:
    """`$20/hour` and `65-minute` without the sign."""
    beside = zip([None, *found], found, [*found[1:], None], strict=False)
    return [token for before, token, after in beside if after is None or after.kind != "word" or not _joins(before, token, after)]


def _joins(before: Token | None, token: Token, after: Token) -> bool:
    """Whether a sign before a word is no arithmetic."""
    if token.text == "-":
        return before is not None and before.end == token.start and token.end == after.start
    return token.text == "/"


def _mixed(found: list[Token]) -> list[Token]:
    """`1 1/2` as one number."""
    whole: list[Token] = []
    for token in found:
        whole.append(token)
        if len(whole) < 4 or [part.kind for part in whole[-4:]] != ["number", "number", "sign", "number"]:
            continue
        first, top, slash, bottom = whole[-4:]
        touching = top.end == slash.start and slash.end == bottom.start and top.start == first.end + 1
        if slash.text == "/" and touching and isinstance(first.value, int) and top.value and bottom.value:
            value = round(first.value + top.value / bottom.value, 9)
            whole[-4:] = [Token("number", first.text, first.start, bottom.end, value)]
    return whole


def equations(found: Sequence[Token]) -> Iterator[Equation]:
    """The equations of the tokens of one sentence, in order.

    Of `a = b = 5` the first side that gives the value is the expression; in `10 * 5 = 50 + 20 = 70`, which is two equations,
    50 is a value of its own.
    """
    begin, sides = 0, list[Sequence[Token]]()
    for index, token in enumerate(found):
        soft = token.kind == "word" and token.text.casefold() in _IS
        if not soft and token.kind != "equals":
            continue
        side = found[max(begin, index - 4 * LONGEST_EXPRESSION) : index]
        right = _result(found, index + 1)
        if soft and (right is None or not _computes(_expression(side), right[0])):
            continue
        sides = [*sides[1 - _SIDES :], side]
        begin = index + 1
        if right is None:
            continue
        number, goes_on = right
        equation = _equation(sides, number)
        if not goes_on or (equation.expression is not None and holds(equation.expression, number)):
            sides = []
            if _says_something(equation, side, number):
                yield equation


def _result(found: Sequence[Token], index: int) -> tuple[Token, bool] | None:
    """The number behind an equals sign, a fraction `1/5` taken for one, and whether arithmetic goes on behind it."""
    words = 0
    while index < len(found) and words <= _UNITS and (found[index].kind == "word" or found[index].text in "($"):
        words += 1
        index += 1
    if index >= len(found) or found[index].value is None:
        return None
    number, rest = found[index], found[index + 1 : index + 4]
    if len(rest) >= 2 and rest[0].text == "/" and rest[1].value and rest[0].start == number.end:
        behind = rest[2] if len(rest) > 2 else None
        value = round((number.value or 0) / rest[1].value, 9)
        goes_on = behind is not None and behind.kind in ("sign", "equals")
        whole = Token("number", number.text, number.start, rest[1].end, int(value) if value == int(value) else value)
        return (number, True) if goes_on else (whole, False)
    for token in rest[: _UNITS + 1]:
        if token.kind == "equals":
            return number, not words
        if token.kind != "word":
            return number, token.text in tuple("+-*/^")
    return number, False


def _equation(sides: Sequence[Sequence[Token]], number: Token) -> Equation:
    expressions = [expression for side in sides if len(_operands(expression := _expression(side))) > 1]
    written = [_written(expression) for expression in expressions]
    chosen = next((index for index, text in enumerate(written) if holds(text, number)), len(written) - 1)
    names = [side[-1].text.casefold() for side in sides if side and side[-1].kind == "word"]
    return Equation(
        value=number.value or 0,
        start=number.start,
        end=number.end,
        percent=number.percent,
        expression=written[chosen] if written else None,
        operands=tuple(token.value for token in expressions[chosen] if token.value is not None) if written else (),
        name=names[0] if names and not written else None,
    )


def _says_something(equation: Equation, side: Sequence[Token], number: Token) -> bool:
    """Neither a unit (`1 hour = 60 minutes`, a lone number before the sign) nor a condition on an unknown (`3x + 2 = 8`)."""
    if equation.expression is not None:
        return not _has_unknown(side) or holds(equation.expression, number)
    return not any(token.value is not None or token.kind == "sign" for token in side)


def _has_unknown(side: Sequence[Token]) -> bool:
    """Whether a single letter is a part of the arithmetic that ends a side: touches a number, or stands beside a sign."""
    expression = _expression(side)
    first = next((index for index, token in enumerate(side) if expression and token.start == expression[0].start), 0)
    part = side[max(0, first - 2) :]
    for before, token, after in zip([None, *part], part, [*part[1:], None], strict=False):
        if token.kind != "word" or len(token.text) > 1:
            continue
        if before is not None and (
            before.text in ("+", "-", "*", "/") or (before.value is not None and before.end == token.start)
        ):
            return True
        if after is not None and after.text in ("+", "-", "*", "/"):
            return True
    return False


def _computes(expression: Sequence[Token], number: Token) -> bool:
    """Two numbers at least; a lone fraction, as in `3/4 of it is 12`, only where it gives the number."""
    numbers = len(_operands(expression))
    fraction = (
        numbers == 2 and [token.text for token in expression[1:-1]] == ["/"] and expression[0].end + 1 == expression[2].start
    )
    return numbers > 1 and (not fraction or holds(_written(expression), number))


def _operands(expression: Sequence[Token]) -> list[Number]:
    return [token.value for token in expression if token.value is not None]


def _expression(side: Sequence[Token]) -> list[Token]:
    """The arithmetic at the end of a side, from left to right; empty where there is none."""
    taken: list[Token] = []
    index, depth = len(side) - 1, 0
    wants_operator = False
    last = index
    while index >= 0 and len(taken) < LONGEST_EXPRESSION and last - index <= _UNIT_WORDS:
        token, size = side[index], len(taken)
        if token.kind == "word":
            operator = _word_operator(side, index, wants_operator)
            if operator:
                taken += operator
                wants_operator = taken[-1].value is not None
                index -= operator[-1].text.casefold() in _PARTS
            elif wants_operator and not _between(side, index):
                break
        elif token.value is not None or token.text == ")":
            if wants_operator:
                if not (taken[-1].start - token.end <= 1 and (token.text == ")" or taken[-1].text == "(")):
                    break
                taken.append(Token("sign", "*", token.end, token.end))
            taken.append(token)
            depth += token.text == ")"
            wants_operator = token.value is not None
        elif token.kind != "sign" or (token.text == "(" and not depth):
            break
        else:
            if token.text != "(" and not wants_operator and taken:
                break
            if taken:
                taken.append(token)
                depth -= token.text == "("
                wants_operator = token.text == "("
        last = index if len(taken) > size else last
        index -= 1
    while taken and taken[-1].text in ("+", "*", "/", "^"):
        taken.pop()
    return taken[::-1] if not depth else []


def _word_operator(side: Sequence[Token], index: int, wants_operator: bool) -> list[Token]:
    """`of` behind a percentage or a fraction multiplies; `half of`, `twice` are a number besides. From right to left."""
    if not wants_operator:
        return []
    word, before = side[index].text.casefold(), side[index - 1] if index else None
    place = (side[index].start, side[index].end)
    times = Token("sign", "*", *place)
    if word in _MULTIPLES:
        return [times, Token("number", word, *place, _MULTIPLES[word])]
    if word != "of" or before is None:
        return []
    if before.text.casefold() in _PARTS:
        return [times, Token("number", before.text, *place, round(1 / _PARTS[before.text.casefold()], 9))]
    return [times] if before.percent or _is_fraction(side, index - 1) else []


def _is_fraction(side: Sequence[Token], index: int) -> bool:
    return index >= 2 and side[index - 1].text == "/" and side[index].value is not None and side[index - 2].value is not None


def _between(side: Sequence[Token], index: int) -> bool:
    """Whether the words that end here stand between an operator and its number."""
    for back in range(index, max(-1, index - _UNITS), -1):
        if side[back].kind == "sign":
            return side[back].text not in ("(", ")")
        if side[back].kind != "word" or _word_operator(side, back, True):
            return back < index and side[back].kind == "word"
    return False


def _written(expression: Sequence[Token]) -> str:
    parts = (_number(token) if token.value is not None else "**" if token.text == "^" else token.text for token in expression)
    return " ".join(parts).replace("( ", "(").replace(" )", ")")


def _number(token: Token) -> str:
    return f"({token.value!r} / 100)" if token.percent else repr(token.value)


def holds(expression: str, number: Token) -> bool:
    """Whether the expression gives the number, rounded as it is written, or as a percentage."""
    computed = evaluate(expression)
    if computed is None or number.value is None:
        return False
    decimals = len(number.text.partition(".")[2]) if number.end - number.start == len(number.text) else 9
    return any(
        same_value(value, number.value) or same_value(round(value, decimals), number.value)
        for value in (computed, *((computed * 100,) if number.percent else ()))
    )


@lru_cache(maxsize=4096)
def evaluate(expression: str) -> Number | None:
    """The value of an expression of numbers alone; None where it has none."""
    try:
        value = execute(expression, {})
    except RuleError:
        return None
    return None if isinstance(value, str) else value
