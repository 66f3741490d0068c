"""A free text to the statements that it makes: value, place, and what the value was derived from.

What is read; what one reader has taken the later ones do not see:

    calculator marks   `<<48/2=24>>24`: the mark is the expression, the number behind it the statement
    JSON               see `qtrap_agents.extraction.structured`
    final answers      `#### 18`, `\\boxed{18}`, "the answer is 18": one, the last
    equations          see `qtrap_agents.extraction.arithmetic`
    claims             a sentence without an equation that concludes: "so X is Y", "which means … 7", or is a numbered step
    sentences          with a parser for text: "So Max is a dumpus." states `max is a dumpus`; `dumpus` is another reading

`MOST` statements of a text are read, from its beginning, and its final answer.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple

from qtrap_agents.extraction.arithmetic import Equation, Number, Token, equations, plain, tokens
from qtrap_agents.extraction.structured import Field, fields
from qtrap_agents.premises import final_answer, parse_value, phrase
from qtrap_agents.semantics import RuleError, normalise
from qtrap_agents.types import Record, Value

MOST = 2_000
"""Statements of one text that are read."""

_LONGEST_STATEMENT = 2_000
_LONGEST_SENTENCE = 400
_MARK = re.compile(r"<<([^<>\n]{1,200})>>")
_SENTENCE_END = re.compile(r"(?<=[.!?;])[ \t]+")
_LABEL = re.compile(
    r"[ \t>*_`#+•(\\$-]{0,20}(?:(?:step[ \t]?#?|s_?\{?)([0-9]{1,6})\}?[ \t*_`)\\$]{0,20}[:.=→-]|([0-9]{1,4})[.)](?=[ \t*_]|$))",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\b(?:so|therefore|thus|hence|consequently|altogether|in total|in all|meaning|leaving|giving|to get|to give|"
    r"(?:which|that|this) (?:means?|is|leaves|gives|makes|equals)|(?:we|you) (?:get|have)|total)\b",
    re.IGNORECASE,
)
_OPENS = re.compile(
    r"[\W\d_]{0,20}(?:(?:so|therefore|thus|hence|consequently|then|and|since|because|as|it follows that|we know that|"
    r"this means|which means)\b[ ,:]{0,4}(?:that )?){1,3}",
    re.IGNORECASE,
)
_IS = re.compile(r"\b(?:is|are|was|were|equals?|has|have|had|makes?|gives?|leaves?|gets?|costs?|be)\b", re.IGNORECASE)
_COPULA = re.compile(r"\b(?:is|are|was|were|equals)\b|[:=]", re.IGNORECASE)
_ANSWERS = {"answer", "final_answer", "final answer", "final"}

Kind = Literal["equation", "json", "claim", "answer", "sentence"]


class Statement(Record):
    """One statement of a text.

    `start` and `end` are the place of its value in text number `source` of a conversation, `text` the sentence up to there.
    `readings` are other values that it can be read as. `expression` is the arithmetic that it shows, over numbers, and
    `operands` the values that it was derived from, in order; `derived_from` are the places in the list of statements of the
    latest earlier ones with these values. `name` is what the text calls it, such as `s3` or `total`.
    """

    kind: Kind
    value: Value
    readings: tuple[Value, ...] = ()
    text: str
    source: int = 0
    start: int
    end: int
    expression: str | None = None
    operands: tuple[Value, ...] = ()
    derived_from: tuple[int, ...] = ()
    name: str | None = None


class _Line(NamedTuple):
    """A line without its label: where its content starts, and what the label calls it."""

    start: int
    end: int
    name: str | None


def statements(texts: Sequence[str], parser: str, question: str = "") -> list[Statement]:
    """The statements of the texts of one conversation, in order, with what each was derived from.

    Never raises on a text. A sentence that stands in the question is none.

    Raises:
        ValueError: there is no such parser.
    """
    given = f" {phrase(question)} "
    found = [
        statement.model_copy(update={"source": source})
        for source, text in enumerate(texts)
        for statement in sorted(_read(text, parser), key=lambda statement: (statement.start, statement.kind == "answer"))
        if statement.kind != "sentence" or f" {phrase(statement.text)} " not in given
    ]
    return _derived(found)


def _read(text: str, parser: str) -> list[Statement]:
    shown, answer = _without_marks(text), final_answer(text, parser)
    found: list[Statement] = []
    for field in fields(text)[:MOST]:
        shown = shown[: field.block[0]] + " " * (field.block[1] - field.block[0]) + shown[field.block[1] :]
        found += _of_field(field, text, parser)
    numeric = parser in ("int", "number")
    taken = (answer.start, answer.end) if answer is not None else (-1, -1)
    reader = _numeric(text, plain(shown), taken) if numeric else _verbal(text, shown, parser, taken)
    found += islice(reader, MOST)
    if answer is not None:
        start = text.rfind("\n", 0, answer.start) + 1
        for match in _SENTENCE_END.finditer(text, start, answer.start):
            start = match.end()
        found.append(_statement("answer", answer.value, text, start, answer.start, answer.end))
    return found or list(_terse(text, parser))


def _terse(text: str, parser: str) -> Iterator[Statement]:
    """A text that is a value and nothing else."""
    value = parse_value(text, parser) if len(text.split()) <= 3 else None
    if value is not None:
        stripped = text.strip()
        start = text.find(stripped)
        yield _statement("claim", value, text, start, start, start + len(stripped))


def _statement(kind: Kind, value: Value, text: str, begin: int, start: int, end: int, **more: object) -> Statement:
    shown = text[max(begin, end - _LONGEST_STATEMENT) : end].strip()
    return Statement.model_validate({"kind": kind, "value": value, "text": shown, "start": start, "end": end, **more})


def _without_marks(text: str) -> str:
    """Without calculator marks, every place unchanged: `= <<48/2=24>>24` shows `= 24`, a mark without `=` before it its sides."""
    parts, end = list[str](), 0
    for match in _MARK.finditer(text):
        before = text[max(end, match.start() - 3) : match.start()].rstrip(" $")
        number = text[match.end() : match.end() + 1]
        left, equals, _ = match[1].rpartition("=")
        kept = (
            ""
            if before.endswith("=") and number.isdigit()
            else f"{left}{equals}"
            if number and number in "$.0123456789"
            else match[1]
        )
        parts += [text[end : match.start()], f"  {kept}".ljust(len(match[0]))]
        end = match.end()
    return "".join([*parts, text[end:]]) if parts else text


def _of_field(field: Field, text: str, parser: str) -> Iterator[Statement]:
    """A field of a JSON block; a text value is read as a completion is, a plain number as it is."""
    try:
        value = parse_value(field.value, parser) if isinstance(field.value, str) else normalise(field.value)
    except RuleError:
        return
    if isinstance(field.value, bool) and parser == "boolean":
        value = str(field.value).casefold()
    shown = list(equations(tokens(plain(field.shown[:_LONGEST_STATEMENT])))) if parser in ("int", "number") else []
    more = {"expression": shown[-1].expression, "operands": shown[-1].operands} if shown else {}
    kind: Kind = "answer" if field.name in _ANSWERS else "json"
    if value is not None:
        yield _statement(kind, value, text, field.start, field.start, field.end, name=field.name, **more)


def _lines(shown: str) -> Iterator[_Line]:
    start = 0
    for line in shown.split("\n"):
        label = _LABEL.match(line)
        name = f"s{int(label[1] or label[2])}" if label else None
        yield _Line(start + (label.end() if label else 0), start + len(line), name)
        start += len(line) + 1


def _sentences(shown: str, line: _Line) -> Iterator[tuple[int, str]]:
    start = line.start
    for match in _SENTENCE_END.finditer(shown, line.start, line.end):
        yield start, shown[start : match.start()]
        start = match.end()
    if start < line.end:
        yield start, shown[start : line.end]


def _numeric(text: str, shown: str, taken: tuple[int, int]) -> Iterator[Statement]:
    """Equations, and claims where there are none."""
    stated: set[Number] = set()
    for line in _lines(shown):
        found = False
        for start, sentence in _sentences(shown, line):
            read = tokens(sentence, start)
            solved = list(equations(read))
            for equation in solved:
                stated.add(equation.value)
                yield _of_equation(equation, text, start, line.name)
            claimed = (
                None
                if any(token.kind == "equals" for token in read)
                else _claim(read, sentence, start, labelled=line.name is not None and not found)
            )
            found = found or bool(solved)
            if claimed is not None and not (taken[0] <= claimed[0].start < taken[1]):
                number, operands = claimed
                if number.value is not None and (number.value not in stated or line.name is not None):
                    found = True
                    stated.add(number.value)
                    yield _statement(
                        "claim", number.value, text, start, number.start, number.end, operands=operands, name=line.name
                    )


def _of_equation(equation: Equation, text: str, start: int, name: str | None) -> Statement:
    return _statement(
        "equation",
        equation.value,
        text,
        start,
        equation.start,
        equation.end,
        readings=(normalise(equation.value / 100),) if equation.percent else (),
        expression=equation.expression,
        operands=equation.operands,
        name=name or equation.name,
    )


def _claim(read: Sequence[Token], sentence: str, start: int, *, labelled: bool) -> tuple[Token, tuple[Number, ...]] | None:
    """The number that a concluding sentence, or a numbered step, comes to: the one behind the last verb, else the last."""
    numbers = [token for token, beside in _with_neighbours(read) if token.value is not None and not _is_operand(token, beside)]
    concludes = [match.end() for match in _CONCLUDES.finditer(sentence[-_LONGEST_STATEMENT:])]
    if not numbers or not (labelled or concludes):
        return None
    offset = start + max(0, len(sentence) - _LONGEST_STATEMENT)
    behind = [token for token in numbers if token.start >= offset + (concludes[-1] if concludes else 0)] or numbers[-1:]
    verbs = [offset + match.end() for match in _IS.finditer(sentence[-_LONGEST_STATEMENT:])]
    chosen = next((token for token in behind if verbs and token.start >= verbs[-1]), behind[-1])
    others = tuple(token.value for token in numbers if token is not chosen and token.value is not None)
    return chosen, others[-8:]


def _with_neighbours(read: Sequence[Token]) -> Iterator[tuple[Token, tuple[Token | None, Token | None]]]:
    yield from zip(read, zip([None, *read], [*read[1:], None], strict=False), strict=False)


def _is_operand(number: Token, beside: tuple[Token | None, Token | None]) -> bool:
    """Whether a number stands in arithmetic that comes to no result: beside a sign, or before an unknown such as `3x`."""
    after = beside[1]
    if any(token is not None and token.kind == "sign" and token.text not in "()" for token in beside):
        return True
    return after is not None and after.kind == "word" and len(after.text) == 1 and after.start == number.end


def _verbal(text: str, shown: str, parser: str, taken: tuple[int, int]) -> Iterator[Statement]:
    """Every sentence of a length that can be a statement."""
    for line in _lines(shown):
        for start, sentence in _sentences(shown, line):
            stripped = sentence.strip()
            begin = start + len(sentence) - len(sentence.lstrip())
            if not stripped or len(stripped) > _LONGEST_SENTENCE or begin <= taken[0] < begin + len(stripped):
                continue
            readings = _readings(stripped, parser)
            if readings:
                yield _statement(
                    "sentence", readings[0], text, begin, begin, begin + len(stripped), readings=readings[1:], name=line.name
                )


def _readings(sentence: str, parser: str) -> tuple[Value, ...]:
    """What a sentence can be taken to state, the whole or its predicate first, as the parser wants it."""
    if parser not in ("text", "phrase") and not parser.startswith("word"):
        value = parse_value(_unopened(sentence), parser)
        return () if value is None else (value,)
    whole = _unopened(sentence)
    clauses = [_unopened(clause) for clause in re.split(r", | because | since ", whole)[:8]]
    predicates = [_COPULA.split(clause)[-1] for clause in (whole, *clauses) if _COPULA.search(clause)]
    parts = [whole, *clauses, *predicates] if parser == "text" else [*predicates, whole, *clauses]
    if parser.startswith("word"):
        return _rows([whole, *predicates], parser)
    values = [parse_value(part, "text") if parser == "text" else phrase(part) for part in parts]
    values += [phrase(part) for part in predicates]
    return tuple(dict.fromkeys(value for value in values if value))


def _unopened(clause: str) -> str:
    """Without "so", "therefore" and the like before it."""
    opening = _OPENS.match(clause)
    return clause[opening.end() :] if opening else clause


def _rows(parts: Sequence[str], parser: str) -> tuple[Value, ...]:
    """Rows of as many words as the parser wants."""
    count = int(parser.partition(":")[2] or 1)
    found = (parse_value(part, parser) for part in parts)
    return tuple(dict.fromkeys(row for row in found if row is not None and len(str(row).split()) == count))


def _derived(found: Sequence[Statement]) -> list[Statement]:
    """Link every statement with the latest earlier ones whose values it shows."""
    latest: dict[Value, int] = {}
    linked: list[Statement] = []
    for place, statement in enumerate(found):
        sources = [latest.get(operand) for operand in statement.operands]
        if isinstance(statement.value, str):
            sources = [latest.get(value) for value in _mentioned(statement, latest)]
        if statement.kind == "answer" and not statement.operands:
            sources = [latest.get(statement.value)]
        origins = tuple(dict.fromkeys(source for source in sources if source is not None))
        linked.append(statement.model_copy(update={"derived_from": origins}))
        latest[statement.value] = place
    return linked


def _mentioned(statement: Statement, values: dict[Value, int]) -> list[Value]:
    """The earlier values whose words stand in a statement in a row."""
    words = phrase(statement.text[-_LONGEST_SENTENCE:]).split()
    rows = {" ".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, min(start + 9, len(words) + 1))}
    return [value for value in sorted(rows) if value in values and value != statement.value]
