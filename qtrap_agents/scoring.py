"""Was the answer right: exact match after normalisation, then equality in mathematics or of normalised text.

    gold is a number        the same number; text that is nothing but one (`1,200`, `$18.00`, `1/2`) counts as it, and so does an
                            expression of the same value: `\\frac{1}{2}`, `2\\sqrt{9}`, `50\\%` for 50 and for 0.5
    gold is an expression   an equal one: `2\\sqrt{2}` is `\\sqrt{8}`
    gold is text            the same without case, punctuation and the articles a, an, the, as SQuAD compares answers

An answer is also right if it is so for another answer that the task accepts (`Task.accept`). Expressions are compared by
`math-verify` where the plain comparison says no. Its own timeouts are signals, which threads cannot use, so what is handed to
it is bounded instead: `LONGEST` characters, numbers and the signs and commands of arithmetic only, small exponents.
"""

import logging
import re
from functools import lru_cache

from qtrap_agents.premises import parse_value, phrase
from qtrap_agents.semantics import RuleError, normalise, same_value
from qtrap_agents.types import Task, Value

LONGEST = 80
"""Characters of an expression that is compared as mathematics."""

_EXPRESSION = re.compile(
    r"(?:[-0-9+*/^().,{}\[\]$%×·÷−√π ]|\\(?:d?frac|sqrt|pi|times|cdot|div|left|right|[%$!,; ()\[\]])|sqrt|pi){1,80}"
)
_POWER = re.compile(r"\^|\*\*")
_SMALL_POWER = re.compile(r"(?:\^|\*\*) ?[({]? ?-?[0-9]{1,2}(?:/[0-9]{1,2})?(?![0-9.]) ?[)}]?(?! ?(?:\^|\*\*|!))")
_SIGNS = re.compile(r"\\|[/^*+√π%×{]|sqrt|pi")


def score(answer: Value | None, task: Task) -> float:
    """1.0 where the answer is the task's or another that it accepts, else 0.0; no answer and NaN are wrong.

    Never raises, and takes no longer for a long answer than to read it.
    """
    if answer is None:
        return 0.0
    return float(any(_equal(answer, gold) for gold in (task.answer, *task.accept)))


def _equal(answer: Value, accepted: Value) -> bool:
    gold = normalise(accepted)
    if isinstance(answer, str):
        return _text_equals(answer, gold)
    try:
        return same_value(normalise(answer), gold) or (isinstance(gold, str) and _same_mathematics(repr(answer), gold))
    except RuleError:
        return False


def _text_equals(answer: str, gold: Value) -> bool:
    if not isinstance(gold, str):
        return same_value(_bare_number(answer), gold) or _same_mathematics(repr(gold), answer)
    if normalise(answer) == gold or (phrase(answer) == phrase(gold) and not _is_expression(gold)):
        return True
    return _same_mathematics(answer, gold)


def _bare_number(text: str) -> Value | None:
    return None if any(letter.isalpha() or letter == "=" for letter in text) else parse_value(text, "number")


def _same_mathematics(side: str, expression: str) -> bool:
    """Whether both have one value; the expression must be more than digits, for which the plain comparison is enough."""
    return _is_expression(expression) and _is_bounded(side) and _verified(side.strip(), expression.strip())


def _is_expression(text: str) -> bool:
    return _is_bounded(text) and _SIGNS.search(text) is not None


def _is_bounded(text: str) -> bool:
    """Short, of arithmetic alone, with at least one digit, and with at most two powers, each of a small literal."""
    if len(text) > LONGEST or not _EXPRESSION.fullmatch(text) or not any(letter.isdigit() for letter in text):
        return False
    powers = len(_POWER.findall(text))
    return powers <= 2 and powers == len(_SMALL_POWER.findall(text))


@lru_cache(maxsize=4096)
def _verified(side: str, expression: str) -> bool:
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    sides = [parse(f"${text.strip('$')}$", parsing_timeout=None) for text in (expression, side)]
    return all(sides) and bool(verify(*sides, timeout_seconds=None))
