"""Completion text to premises: what did the hop state?

Every function takes any text, megabytes of repeated tokens included, in linear time and never raises on it: a value
that cannot be found is `None`. The parsers, named in `suite.yaml`:

    int      a whole number; `041` is 41, `3.5` is no value
    number   any number: `1,234.50` is 1234.5, `-$5`, `.5`, `1/2`, `2e3`; `50%` is 50
    word     one word, casefolded
    words    a row of words without punctuation, casefolded; `words:6` looks for a row of exactly six
    text     everything, casefolded, without the marks around it
    phrase   a name or short answer as SQuAD compares them: casefolded, without punctuation and the articles a, an, the
    boolean  `true` or `false`; yes and no are read as them
    any      a tool call in its canonical form, such as `table(pen, price)`, else a number, else a word

A terse model writes the value and nothing else; a talkative one wraps it. So a first line that holds only the value
counts first, then in this order: `\\boxed{…}`, `#### …`, "answer is …", what follows the last `=`, the last number or
word. A first line of several different numbers and nothing else states no value.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qtrap_agents.semantics import RuleError, normalise
from qtrap_agents.tools import BUILT_IN, find_call
from qtrap_agents.types import Premise, Value

NUMBER = re.compile(
    r"(?:(?<![\w)\]])(?<![\w)\]] )[-−–])?\$?"
    r"(?<![A-Za-z0-9])(?<![A-Za-z0-9]_)(?<![A-Za-z0-9]__)(?<![0-9]\.)"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]+)?"
)
"""A number in running text: sign only where no operand stands before it, digits inside a word (`s3`, `s_3`) left out."""

FRACTION = re.compile(NUMBER.pattern + r"(?:/[1-9][0-9]*)?")
"""A number or a fraction of one."""

_LONGEST_NUMBER = 40
_LONGEST_STATEMENT = 2_000
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_MODULUS = re.compile(r"\(?\bmod(?:ulo)?[ \t]+[0-9]+\)?(?![ \t]*[=≡])", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}\n]*)\}")
_ANSWER = re.compile(r"\b(?:answer|result)\b(?: is\b|:| =)", re.IGNORECASE)
_EMPHASISED = re.compile(r"\*\*([^*\n]+)\*\*|\"([^\"\n]+)\"|`([^`\n]+)`|“([^“”\n]+)”")
_EDGES = "_'’-"
"""Not of a word where nothing of it stands before or behind them."""
_MARKS = " \t\r\n*_`\"'“”‘’.,;:!$"
_BULLETS = " \t\r>*_`#+-•\\($.)0123456789"
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_TRUTH = re.compile(r"\b(?:(yes|true)|(no(?=\W*(?:$|\n)|[ \t]*[.,;:!*])|false))\b", re.IGNORECASE)
_SPLIT = re.compile(r"[;\n]|,[ \t]*(?=s_?[0-9]+[ \t]*[=:])", re.IGNORECASE)
_STEP = re.compile(
    r"(?:step[ \t]*#?|s[_ ]?\{?)([0-9]{1,9})\}?[\s*_`)\\$]*(?:=|:|->|→|≡|\bis\b|\.(?=\s))|"
    r"([a-z][a-z0-9_]{0,63})[*_`)\\$]*\s{0,8}=",
    re.IGNORECASE,
)


class _Part(NamedTuple):
    """A part of a text and the place in it where the part begins."""

    text: str
    start: int = 0

    def part(self, start: int, end: int | None = None) -> "_Part":
        return _Part(self.text[start:end], self.start + start)

    def strip(self, marks: str | None = None) -> "_Part":
        rest = self.text.lstrip(marks)
        return _Part(rest.rstrip(marks), self.start + len(self.text) - len(rest))

    def first_line(self) -> "_Part":
        stripped = self.strip()
        return _Part(stripped.text.partition("\n")[0].rstrip(), stripped.start)


class _Found(NamedTuple):
    """A value and where it stands."""

    value: Value
    start: int
    end: int


def parse_value(text: str, parser: str) -> Value | None:
    """The value that a completion states, normalised, or None where it states none.

    Args:
        text: the completion, of any length.
        parser: `int`, `number`, `word`, `words`, `words:<count>`, `text`, `phrase`, `boolean` or `any`.

    Raises:
        ValueError: there is no such parser; nothing in `text` makes it raise.
    """
    found = _stated(_Part(text), parser)
    return found.value if found else None


def value_span(text: str, value: Value, parser: str) -> tuple[int, int] | None:
    """Where in a completion, or in one statement of `parse_steps`, the value stands that was parsed from it.

    Returns:
        Start and end as offsets in characters (`text[start:end]` is the value as it was written, a `$` or a sign
        included), or None where the parser reads another value from this text.

    Raises:
        ValueError: there is no such parser.
    """
    step = _STEP.match(text)
    for start in (0, step.end()) if step else (0,):
        found = _stated(_Part(text[start:], start), parser)
        if found is not None and found.value == value:
            return found.start, found.end
    return None


def parse_steps(text: str, parser: str) -> list[Premise]:
    """The premises of a completion that writes them all, in the order in which they first appear.

    A statement is `s3 = 41`, `s3: 41`, `step 3: x = 41` or `name = 41`, one a line or separated by `;`, bullets and
    bold marks allowed; ids are casefolded and `step 3` is `s3`. Of several statements of one id the last with a value
    counts, so a model may correct itself. `depends_on` are the earlier ids that the statement mentions. Other lines
    are passed over; a statement is read up to its first 2,000 characters.
    """
    found: dict[str, Premise] = {}
    for piece in _SPLIT.split(text):
        statement = piece.lstrip(_BULLETS)[:_LONGEST_STATEMENT].rstrip()
        match = _STEP.match(statement)
        if match is None:
            continue
        name = f"s{int(match[1])}" if match[1] else match[2].casefold()
        value = parse_value(statement[match.end() :], parser)
        if value is not None or name not in found:
            parents = _mentioned(statement[match.end() :], name, found)
            found[name] = Premise(id=name, text=statement, value=value, depends_on=parents)
    return list(found.values())


def to_number(text: str) -> int | float | None:
    """The value of one `NUMBER` match or fraction `1/2`; None where it is infinite or longer than 40 characters."""
    if len(text) > _LONGEST_NUMBER:
        return None
    digits = re.sub(r"[,$]", "", text).replace("−", "-").replace("–", "-")
    top, _, bottom = digits.partition("/")
    try:
        whole = int(top) if re.fullmatch(r"-?[0-9]+", top) else float(top)
        value = normalise(whole / int(bottom) if bottom else whole)
    except (ValueError, RuleError, OverflowError, ZeroDivisionError):
        return None
    return None if isinstance(value, str) else value


def phrase(text: str) -> str:
    """Text as SQuAD compares answers: casefolded, punctuation and the articles a, an, the dropped, single spaces.

    Text of nothing but articles or punctuation is kept as it is, so that no two answers become equal by being emptied.
    """
    words = " ".join(_PUNCTUATION.sub("", text.casefold()).split())
    return " ".join(_ARTICLES.sub(" ", words).split()) or words or " ".join(text.split()).casefold()


def final_answer(text: str, parser: str) -> _Found | None:
    """The value behind the last mark of a final answer, and where it stands; marks are `\\boxed{…}`, `####`, "answer is".

    Raises:
        ValueError: there is no such parser; nothing in `text` makes it raise.
    """
    for segment in _answers(_Part(text)):
        found = _stated(segment, parser)
        if found is not None:
            return found
    return None


def _mentioned(text: str, name: str, found: dict[str, Premise]) -> tuple[str, ...]:
    words = (re.sub(r"^s_([0-9])", r"s\1", word.casefold()) for word in _WORD.findall(text))
    return tuple(dict.fromkeys(word for word in words if word in found and word != name))


def _stated(whole: _Part, parser: str) -> _Found | None:
    kind, _, count = parser.partition(":")
    if kind in ("int", "number"):
        found = _stated_number(whole)
        return None if found and kind == "int" and isinstance(found.value, float) else found
    if kind == "word":
        return _stated_word(whole)
    if kind == "words":
        return _stated_row(whole, int(count) if count else None)
    if kind == "text":
        return _text(whole.strip(_MARKS))
    if kind == "phrase":
        return _stated_phrase(whole)
    if kind == "boolean":
        return _stated_truth(whole)
    if kind == "any":
        return _stated_any(whole)
    known = "int, number, word, words, words:<count>, text, phrase, boolean, any"
    raise ValueError(f"unknown value parser '{parser}': known are {known}")


def _marked(whole: _Part) -> Iterator[_Part]:
    """What stands behind the marks of an answer, most trusted first, each up to the end of its line."""
    yield from _answers(whole)
    equals = max(whole.text.rfind("="), whole.text.rfind("≡"))
    if equals >= 0:
        yield whole.part(equals + 1).first_line()


def _answers(whole: _Part) -> Iterator[_Part]:
    text = whole.text
    for boxed in deque(_BOXED.finditer(text), maxlen=1):
        yield whole.part(*boxed.span(1))
    if "####" in text:
        yield whole.part(text.rindex("####") + 4).first_line()
    for answer in deque(_ANSWER.finditer(text), maxlen=1):
        yield whole.part(answer.end()).first_line()


def _stated_number(whole: _Part) -> _Found | None:
    """Read without `mod 1000`; the place found is given in the text as it was."""
    short = _MODULUS.sub("", whole.text)
    found = _plain_number(_Part(short, whole.start))
    if found is None or len(short) == len(whole.text):
        return found
    cuts = [match.span() for match in _MODULUS.finditer(whole.text)]
    start, end = (_with_cuts(place - whole.start, cuts) for place in (found.start, found.end - 1))
    return _Found(found.value, whole.start + start, whole.start + end + 1)


def _with_cuts(place: int, cuts: Sequence[tuple[int, int]]) -> int:
    """A place in a shortened text as a place in the whole text, from which `cuts` were left out."""
    for start, end in cuts:
        if start > place:
            break
        place += end - start
    return place


def _plain_number(whole: _Part) -> _Found | None:
    first = whole.first_line()
    if not re.search(r"[^\W\d_]|[=≡+*{]", FRACTION.sub("", first.text)):
        values = {to_number(number) for number in FRACTION.findall(first.text)}
        if values:
            return _number(first, FRACTION.search(first.text)) if len(values) == 1 else None
    for segment in _marked(whole):
        match = FRACTION.search(segment.text)
        if match:
            return _number(segment, match)
    return _number(whole, *deque(FRACTION.finditer(whole.text), maxlen=1))


def _number(part: _Part, match: re.Match[str] | None = None) -> _Found | None:
    value = to_number(match[0]) if match else None
    return None if match is None or value is None else _Found(value, part.start + match.start(), part.start + match.end())


def _stated_word(whole: _Part) -> _Found | None:
    first = whole.first_line()
    if _count(first) == 1:
        return _row(first)
    emphasised = [match.span(match.lastindex or 0) for match in deque(_EMPHASISED.finditer(whole.text), maxlen=1)]
    for segment in (*_marked(whole), *(whole.part(*span) for span in emphasised)):
        stripped = segment.strip(_MARKS)
        clause = stripped.part(0, len(re.split(r"[.,;:!?(\n]", stripped.text, maxsplit=1)[0]))
        if _count(clause):
            return _row(clause, last=1)
    return _row(whole, last=1)


def _stated_any(whole: _Part) -> _Found | None:
    """A call on a line of its own; a word that stands alone in the first line; else the number before the word.

    What begins with a digit is no word: where the numbers of a line contradict each other there is no value.
    """
    found = find_call(whole.text, BUILT_IN)
    if found is not None:
        call, start, end = found
        return _Found(str(call), whole.start + start, whole.start + end)
    word, number = _stated_word(whole), _stated_number(whole)
    if word is None or str(word.value)[0].isdigit():
        return number
    alone = _count(whole.first_line()) == 1
    return word if alone or number is None else number


def _stated_row(whole: _Part, count: int | None) -> _Found | None:
    stripped = whole.strip()
    first, last = stripped.first_line(), stripped.part(stripped.text.rfind("\n") + 1)
    marked = list(_marked(whole))
    marks = (":", " is ", " are ")
    behind = [line.part(line.text.rindex(mark) + len(mark)) for line in (first, last) for mark in marks if mark in line.text]
    segments = (first, *marked, *behind, last)
    default = [*marked, *behind, first][0]
    return _row(next((segment for segment in segments if _count(segment) == count), default))


def _words(part: _Part) -> Iterator[_Part]:
    words = (part.part(*match.span()).strip(_EDGES) for match in _WORD.finditer(part.text))
    return (word for word in words if word.text)


def _count(part: _Part) -> int:
    return sum(1 for _ in _words(part))


def _row(part: _Part, last: int | None = None) -> _Found | None:
    """All words of a part, or the last so many."""
    words = deque(_words(part), maxlen=last)
    if not words:
        return None
    text = " ".join(word.text.casefold() for word in words)
    return _Found(text, words[0].start, words[-1].start + len(words[-1].text))


def _text(part: _Part) -> _Found | None:
    text = " ".join(part.text.split()).casefold()
    return _Found(text, part.start, part.start + len(part.text)) if text else None


def _stated_phrase(whole: _Part) -> _Found | None:
    """Behind the mark of an answer, else the first line."""
    for part in (*_answers(whole), whole.first_line()):
        stripped = part.strip(_MARKS + "()[]{}")
        if stripped.text:
            return _Found(phrase(stripped.text), stripped.start, stripped.start + len(stripped.text))
    return None


def _stated_truth(whole: _Part) -> _Found | None:
    """A first line of nothing else, what the mark of an answer shows, the first word of the text, else the last truth value."""
    first = whole.first_line().strip(_MARKS)
    for part, match in (
        (first, _TRUTH.fullmatch(first.text)),
        *((part, _TRUTH.search(part.text)) for part in _marked(whole)),
        (first, _TRUTH.match(first.text)),
        (whole, next(iter(deque(_TRUTH.finditer(whole.text), maxlen=1)), None)),
    ):
        if match is not None:
            return _Found("true" if match[1] else "false", part.start + match.start(), part.start + match.end())
    return None
