"""Was the answer right: exact match after normalisation."""

from qtrap_agents.premises import parse_value
from qtrap_agents.semantics import RuleError, normalise, same_value
from qtrap_agents.types import Task, Value


def score(answer: Value | None, task: Task) -> float:
    """1.0 where the answer is the task's, else 0.0; no answer and NaN are wrong.

    Case and spacing of text do not count. Where the gold answer is a number, text that is nothing but that number
    (`"1,200"`, `"$18.00"`) counts as it, because a user's own graph may hand over text.
    """
    if answer is None:
        return 0.0
    gold = normalise(task.answer)
    if isinstance(answer, str) and not isinstance(gold, str):
        return float(same_value(_bare_number(answer), gold))
    try:
        return float(same_value(normalise(answer), gold))
    except RuleError:
        return 0.0


def _bare_number(text: str) -> Value | None:
    return None if any(letter.isalpha() or letter == "=" for letter in text) else parse_value(text, "number")
