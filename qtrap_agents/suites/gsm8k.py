"""GSM8K: `<<9*2=18>>` annotations become a premise DAG. Rows have `question` and `answer`, as in the original files.

Every annotation is a premise `s1`, `s2`, … whose rule is its expression with the numbers that are earlier results
replaced by their ids: after `<<16-3-4=9>>`, `<<9*2=18>>` becomes `s1 * 2`. The annotations do not say which numbers
are results, so a number is taken for one by value:

    not among the results so far                              a constant
    equal to a result that no later step has used yet         the latest such result
    equal to used results only, and absent from the question  the latest of them
    equal to used results only, and given in the question     a constant

This is ambiguous where a given number happens to equal a fresh result. Which of two equal results is meant changes
who is blamed for a wrong premise, never the gold values.

One problem in fourteen of the test split ends in a step without annotation. Then, in this order, and named in the
task's metadata as `closed_by`:

    equation    `99 + 5 = $104`: the plain equations of the solution are read too
    unknown     `4c - 2 = 10`, `c = 3`: a linear equation in one letter, solved
    rounding    "6.75 … round up … 7"
    cents       the question asks for cents and the last result is in dollars
    earlier     an earlier annotation states the answer: the steps after it are left out

Except for `earlier`, the closing step must use an earlier result. Where nothing leads to the answer the problem is
rejected with a reason.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from qtrap_agents.premises import FRACTION, NUMBER, to_number
from qtrap_agents.semantics import RuleError, execute, same_value
from qtrap_agents.suites.rows import Form, Kind, Reading, Row, Unusable, read, text_of
from qtrap_agents.suites.sources import Source, rows_of
from qtrap_agents.types import GoldPremise, Task

GOLD = "every step, with rules"

BLANK = "___"
"""What a hop has to fill in."""

_BROKEN = "annotation that does not compute"
_ANNOTATION = re.compile(r"<<([^<>]*)>>")
_MIXED = re.compile(r"(?<![0-9./])([0-9]+) ([0-9]+)/([1-9][0-9]*)(?![0-9/])")
_LEADING = re.compile(r"(?:[\s,;]|\.(?![0-9]))*")
_EQUALS = re.compile(r"(?:=|\bequals\b)\s*(?=[-−$.0-9])")
_TOKEN = re.compile(rf"(?P<number>{NUMBER.pattern})|(?P<sign>[-+*/()])|(?P<word>[A-Za-z]+)|(?P<other>\S)")
_SYMBOLS = str.maketrans({"−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "÷": "/", "⁄": "/", "[": "(", "]": ")"})
_SPOKEN = {"plus": "+", "minus": "-", "times": "*", "divided by": "/", "multiplied by": "*"}
_COUNTS = {
    "one": 1, "once": 1, "two": 2, "twice": 2, "double": 2, "half": 2, "couple": 2, "three": 3, "triple": 3, "thrice": 3,
    "four": 4, "quarter": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "dozen": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "hundred": 100,
}  # fmt: skip


KINDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided"}


class _Step(NamedTuple):
    """One equation: `tokens` give `value`, and `blank` is the span of that value in `sentence`.

    Tokens are numbers, operators, brackets and function names; with an unknown `?` and `=` they are an equation.
    """

    tokens: tuple[str, ...]
    value: int | float
    decimals: int
    sentence: str
    blank: tuple[int, int]


class _Operand(NamedTuple):
    value: int | float
    parent: str | None


def parse_gsm8k(path: Path, suite: str = "gsm8k") -> Reading:
    """All problems of a local file, without a suite around them. Raises SuiteError where it cannot be read."""
    return read(Kind(task, GOLD), rows_of(Source(path)), Form(suite, "number"))


def task(row: Row, form: Form) -> Task:
    """The task of a problem with `question` and `answer`. Raises Unusable where no premise DAG leads to its answer."""
    question, solution = text_of(row.fields, "question"), text_of(row.fields, "answer")
    answer = _final_answer(solution)
    body = solution.rpartition("####")[0]
    if "<<" not in body:
        raise Unusable("no <<…>> annotation")
    premises, closed_by = _lead_to(answer, question, body)
    return Task(
        id=f"{form.suite}-{row.number:05d}",
        suite=form.suite,
        question=question,
        answer=answer,
        premises=tuple(premises),
        depth=len(premises),
        metadata={"closed_by": closed_by},
    )


def _final_answer(solution: str) -> int | float:
    marked = solution.rpartition("####")[2] if "####" in solution else ""
    match = NUMBER.search(marked)
    value = to_number(match[0]) if match else None
    if value is None:
        raise Unusable("no number after '####'")
    return value


def _given(question: str) -> set[int | float]:
    """The numbers that the question states in digits or words."""
    digits = (to_number(match[0]) for match in NUMBER.finditer(question))
    words = (_COUNTS.get(word) for word in re.findall(r"[a-z]+", question.casefold()))
    return {value for value in (*digits, *words) if value is not None}


def _lead_to(answer: int | float, question: str, body: str) -> tuple[list[GoldPremise], str]:
    """The premises that end in the answer, and what closes them (see the top of this file)."""
    given = _given(question)
    annotated = _steps(body, with_equations=False)
    if same_value(annotated[-1].value, answer):
        return _premises(annotated, given), "annotation"
    for closed_by, steps in _closings(answer, question, body):
        for numbers in (given, set[int | float]()):
            premises = _premises(steps, numbers)
            if premises[-1].depends_on:
                return premises, closed_by
    if cut := _up_to(answer, annotated):
        return _premises(cut, given), "earlier"
    last = annotated[-1].value
    raise Unusable("no way to the answer", f"the last annotation gives {last}, and no equation leads from it to {answer}")


def _closings(answer: int | float, question: str, body: str) -> Iterator[tuple[str, list[_Step]]]:
    """Ways to go on from the annotations to the answer, the plainest first."""
    steps = _steps(body, with_equations=True)
    if found := _up_to(answer, steps):
        yield "equation", found
    for solved in _solved(answer, body):
        yield "unknown", [*steps, solved]
    for rounded in _rounded(answer, steps[-1].value, body):
        yield "rounding", [*steps, rounded]
    last = steps[-1].value
    if re.search(r"\bcents?\b", question) and same_value(round(last * 100, 9), answer):
        sentence = f"{last} dollars in cents: "
        yield "cents", [*steps, _Step((repr(last), "*", "100"), answer, 0, sentence, (len(sentence), len(sentence)))]


def _solved(answer: int | float, body: str) -> Iterator[_Step]:
    """Linear equations of the solution whose unknown, a single letter, is the answer."""
    for letter in dict.fromkeys(re.findall(r"\b([A-Za-z])\s*=\s*\$?[0-9]", body)):
        for line in body.split("\n"):
            plain = _take_out(line)[0]
            for match in _EQUALS.finditer(plain):
                number = NUMBER.match(plain, match.end())
                left = _expression_before(plain[: match.start()], letter)
                if number is None or "?" not in left or len(left) == 1:
                    continue
                shown = f"{' '.join(left).replace('?', letter)} = {number[0]}, so {letter} = "
                tokens = (*left, "=", _plain_number(number[0]))
                step = _Step(tokens, answer, 9, shown, (len(shown), len(shown)))
                if _holds(step):
                    yield step


def _rounded(answer: int | float, last: int | float, body: str) -> Iterator[_Step]:
    """A sentence that rounds the last result up or down to the answer."""
    for line in body.split("\n"):
        plain = _take_out(line)[0]
        stated = [match for match in NUMBER.finditer(plain) if same_value(to_number(match[0]), answer)]
        for function in ("ceil(", "floor("):
            tokens = (function, repr(last), ")")
            if stated and re.search(r"\bround", plain, re.IGNORECASE) and same_value(_evaluate(tokens), answer):
                yield _Step(tokens, answer, 0, plain, _blank(stated[-1]))


def _up_to(answer: int | float, steps: Sequence[_Step]) -> list[_Step]:
    """The steps up to the last one that states the answer; none where no step does."""
    ends = [index for index, step in enumerate(steps, 1) if same_value(step.value, answer)]
    return list(steps[: ends[-1]]) if ends else []


def _steps(body: str, *, with_equations: bool) -> list[_Step]:
    steps: list[_Step] = []
    for line in body.split("\n"):
        plain, annotations = _take_out(line)
        found = {at: _annotated(annotation, plain, at) for at, annotation in annotations.items()}
        if with_equations:
            plain = plain if annotations else _MIXED.sub(_decimal, plain)
            taken = {step.blank for step in found.values()}
            found |= {step.blank[0]: step for step in _equations(plain) if step.blank not in taken}
        steps += _sentences([found[at] for at in sorted(found)])
    return steps


def _decimal(mixed: re.Match[str]) -> str:
    """`1 1/2` → `1.5`"""
    return repr(round(int(mixed[1]) + int(mixed[2]) / int(mixed[3]), 9))


def _take_out(line: str) -> tuple[str, dict[int, str]]:
    """The line without annotations, and each annotation by the place where it stood."""
    line = line.replace("{", "(").replace("}", ")")
    plain, annotations, end = "", {}, 0
    for match in _ANNOTATION.finditer(line):
        plain += line[end : match.start()]
        annotations[len(plain)] = match[1]
        end = match.end()
    return plain + line[end:], annotations


def _annotated(annotation: str, plain: str, at: int) -> _Step:
    left, equals, right = annotation.rpartition("=")
    if not equals:
        raise Unusable(_BROKEN, f"<<{annotation}>> has no '='")
    number = (FRACTION if "/" in right else NUMBER).match(plain, at)
    blank = _blank(number) if number else (at, at)
    value = _evaluate(_tokens(right))
    if value is None:
        raise Unusable(_BROKEN, f"the result of <<{annotation}>> is not a number")
    for tokens in (_tokens(left), _tokens(re.sub(r"([0-9.]+)\s*%", r"(\1/100)", left))):
        step = _Step(tokens, value, _decimals(right), plain, blank)
        if _holds(step):
            return step
    raise Unusable(_BROKEN, f"the expression of <<{annotation}>> does not give {right.strip()}")


def _blank(number: re.Match[str]) -> tuple[int, int]:
    return number.start() + number[0].startswith("$"), number.end()


def _equations(plain: str) -> Iterator[_Step]:
    """The plain equations of a line that hold and compute something; of `a = b = 5` the first side that does."""
    lefts: list[tuple[str, ...]] = []
    start = 0
    for match in _EQUALS.finditer(plain):
        number = NUMBER.match(plain, match.end())
        lefts.append(_expression_before(plain[start : match.start()]))
        start = match.end()
        value = to_number(number[0]) if number else None
        if number is None or value is None:
            continue
        steps = (_Step(left, value, _decimals(number[0]), plain, _blank(number)) for left in lefts)
        holding = [step for step in steps if sum(map(_is_number, step.tokens)) > 1 and _holds(step)]
        if holding:
            yield holding[0]
            lefts.clear()


def _sentences(steps: Sequence[_Step]) -> Iterator[_Step]:
    """Give each of several steps in one line its own part of it."""
    start = 0
    for index, step in enumerate(steps):
        end = step.blank[1] if index + 1 < len(steps) else len(step.sentence)
        leading = _LEADING.match(step.sentence, start, end)
        offset = leading.end() if leading else start
        yield step._replace(sentence=step.sentence[offset:end], blank=(step.blank[0] - offset, step.blank[1] - offset))
        chained = step.sentence[step.blank[1] :].lstrip()[:1] in ("+", "-", "*", "/", "×")
        start = step.blank[0] if chained else step.blank[1]


def _tokens(expression: str) -> tuple[str, ...]:
    """Numbers, operators and brackets of an expression; units, `$`, `%` and thousands commas dropped."""
    text = re.sub(r"(?<=[0-9).\s])[xX](?=[\s$(.0-9])", "*", expression.translate(_SYMBOLS))
    found = [(match.lastgroup, match[0]) for match in _TOKEN.finditer(text)]
    return tuple(_plain_number(text) if kind == "number" else text for kind, text in found if kind in ("number", "sign"))


def _plain_number(text: str) -> str:
    """A number as Python writes it: `.50` → `0.5`, `1,234` → `1234`."""
    value = to_number(text)
    return "nan" if value is None else repr(value)


def _is_number(token: str) -> bool:
    return token[-1].isdigit()


def _expression_before(text: str, unknown: str = "") -> tuple[str, ...]:
    """The arithmetic that ends where the text ends, units between its numbers dropped, or nothing.

    Read from the right: a number must be followed by an operator; words may stand after a number, not before one.
    The letter `unknown` counts as a number and is written `?`.
    """
    taken: list[str] = []
    wants_operator, depth = False, 0
    for kind, token, touches in reversed(_prose_tokens(text, unknown)):
        if kind == "other" or (kind == "word" and wants_operator):
            break
        if kind == "word":
            continue
        if kind == "number" or token == ")":
            if wants_operator and not (touches and (token == ")" or taken[-1] in "(?")):
                break
            taken += ["*", token] if wants_operator else [token]
            wants_operator, depth = kind == "number", depth + (token == ")")
        elif not wants_operator or (token == "(" and not depth):
            break
        else:
            taken.append(token)
            wants_operator, depth = token == "(", depth - (token == "(")
    while taken and taken[-1] in "+*/":
        taken.pop()
    return tuple(reversed(taken)) if not depth else ()


def _prose_tokens(text: str, unknown: str) -> list[tuple[str, str, bool]]:
    """Kind, text, and whether the token touches the next one."""
    text = text.translate(_SYMBOLS).replace("%", "")
    for spoken, sign in _SPOKEN.items():
        text = re.sub(rf"\b{spoken}\b", sign, text)
    text = re.sub(r"/\s*(?=[A-Za-z])", " ", text)
    text = re.sub(r"(?<=[\s0-9)])[xX]\s+(?=[$(.0-9])", "* ", text)
    text = re.sub(r"(?<=/ )([0-9]+/[0-9]+)", r"(\1)", text)
    matches = list(_TOKEN.finditer(text))
    touching = [match.end() == after.start() for match, after in pairwise(matches)] + [False]
    return [(*_prose_token(match, unknown), touches) for match, touches in zip(matches, touching, strict=False)]


def _prose_token(match: re.Match[str], unknown: str) -> tuple[str, str]:
    if match.lastgroup == "number":
        return "number", _plain_number(match[0])
    return ("number", "?") if match[0] == unknown else (match.lastgroup or "other", match[0])


def _formula(parts: Sequence[str]) -> str:
    """The parts as an expression; an equation in `?` is solved: linear, so two points of its left side are enough."""
    text = " ".join(parts).replace("( ", "(").replace(" )", ")")
    left, equals, right = text.partition(" = ")
    if not equals:
        return text
    at_zero, at_one = (f"({left.replace('?', number)})" for number in "01")
    return f"({right} - {at_zero}) / ({at_one} - {at_zero})"


def _evaluate(tokens: Sequence[str]) -> int | float | None:
    try:
        value = execute(_formula(tokens), {})
    except RuleError:
        return None
    return None if isinstance(value, str) else value


def _decimals(result: str) -> int:
    return len(result.strip().partition(".")[2].rstrip(" $%")) if "/" not in result else 9


def _holds(step: _Step) -> bool:
    """The expression gives the stated result, rounded as it is written."""
    value = _evaluate(step.tokens)
    return value is not None and (same_value(value, step.value) or same_value(round(value, step.decimals), step.value))


def _premises(steps: Sequence[_Step], given: set[int | float]) -> list[GoldPremise]:
    """Link the steps: decide for every number whether it is an earlier result."""
    premises: list[GoldPremise] = []
    used: set[str] = set()
    for index, step in enumerate(steps, 1):
        operands = [_operand(token, premises, used, given) for token in step.tokens if _is_number(token)]
        parents = tuple(dict.fromkeys(operand.parent for operand in operands if operand.parent))
        premises.append(
            GoldPremise(
                id=f"s{index}",
                text=step.sentence.strip(),
                value=step.value,
                depends_on=parents,
                rule=_rule(step, operands),
                instruction=_instruction(step, operands),
                kind=_kind(step),
            )
        )
    return premises


def _operand(token: str, premises: Sequence[GoldPremise], used: set[str], given: set[int | float]) -> _Operand:
    """The latest unused result of that value, else a used one unless the question gives the number, else a constant."""
    value = float(token) if "." in token or "e" in token else int(token)
    equal = [premise.id for premise in premises if same_value(premise.value, value)]
    fresh = [name for name in equal if name not in used]
    if not fresh and value in given:
        return _Operand(value, None)
    if not equal:
        return _Operand(value, None)
    parent = (fresh or equal)[-1]
    used.add(parent)
    return _Operand(value, parent)


def _rule(step: _Step, operands: Sequence[_Operand]) -> str:
    names = iter(operands)
    parts = [(next(names).parent or token) if _is_number(token) else token for token in step.tokens]
    rule = _formula(parts)
    value = _evaluate(step.tokens)
    return rule if same_value(value, step.value) else f"round({rule}, {step.decimals})"


def _kind(step: _Step) -> str:
    """`plus`, `minus`, `times` or `divided`; `several` operators, or `none`."""
    found = {KINDS[token] for token in step.tokens if token in KINDS}
    return next(iter(found)) if len(found) == 1 else "several" if found else "none"


def _instruction(step: _Step, operands: Sequence[_Operand]) -> str:
    """The sentence with its result blanked out and earlier results as `{id}` slots.

    The numbers before the blank are aligned with the operands from the right. Any other number that equals the
    result is blanked too, so that the sentence does not tell it; one that equals a parent becomes its slot.
    """
    left = list(operands)
    constants = [operand.value for operand in operands if not operand.parent]
    slots = {operand.value: operand.parent for operand in operands if operand.parent and operand.value not in constants}
    text = BLANK + _fill(step.sentence[step.blank[1] :], step.value, [], constants, slots)
    head = step.sentence[: step.blank[0]]
    return (_fill(head, step.value, left, constants, slots) + text).strip()


def _fill(
    text: str,
    result: int | float,
    operands: list[_Operand],
    constants: Sequence[int | float],
    slots: dict[int | float, str],
) -> str:
    """Replace the numbers of a text from the right; `operands` are used up from their end."""
    for match in reversed(list(NUMBER.finditer(text))):
        value = to_number(match[0])
        new = None
        if value is None:
            continue
        if operands and same_value(operands[-1].value, value):
            if parent := operands.pop().parent:
                new = f"{{{parent}}}"
        elif "/" in (text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]):
            continue
        elif value in slots:
            new = f"{{{slots[value]}}}"
        elif same_value(value, result) and value not in constants:
            new = BLANK
        if new:
            text = text[: match.start() + match[0].startswith("$")] + new + text[match.end() :]
    return text
