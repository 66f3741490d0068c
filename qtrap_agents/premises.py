"""Completion text to premises: what did the hop state?

Every function takes any text, megabytes of repeated tokens included, in linear time and never raises on it: a value
that cannot be found is `None`. The parsers, named in `suite.yaml`:

    int      a whole number; `041` is 41, `3.5` is no value
    number   any number: `1,234.50` is 1234.5, `-$5`, `.5`, `1/2`, `2e3`; `50%` is 50
    word     one word, casefolded
    words    a row of words without punctuation, casefolded; `words:6` looks for a row of exactly six
    text     everything, casefolded, without the marks around it

A terse model writes the value and nothing else; a talkative one wraps it. So a first line that holds only the value
counts first, then in this order: `\\boxed{…}`, `#### …`, "answer is …", what follows the last `=`, the last number or
word. A first line of several different numbers and nothing else states no value.
"""

import re
from collections.abc import Iterator

from qtrap_agents.semantics import RuleError, normalise
from qtrap_agents.types import Premise, Value

NUMBER = re.compile(
    r"(?:(?<![\w)\]])(?<![\w)\]] )[-−–])?\$?"
    r"(?<![A-Za-z_0-9])(?<![0-9]\.)"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]+)?"
)
"""A number in running text: sign only where no operand stands before it, digits inside a word (`s3`) left out."""

FRACTION = re.compile(NUMBER.pattern + r"(?:/[1-9][0-9]*)?")
"""A number or a fraction of one."""

_LONGEST_NUMBER = 40
_LONGEST_STATEMENT = 2_000
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_MODULUS = re.compile(r"\(?\bmod(?:ulo)?[ \t]+[0-9]+\)?(?![ \t]*[=≡])", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}\n]*)\}")
_ANSWER = re.compile(r"\b(?:answer|result)\b(?: is\b|:| =)", re.IGNORECASE)
_EMPHASISED = re.compile(r"\*\*([^*\n]+)\*\*|\"([^\"\n]+)\"|`([^`\n]+)`|“([^“”\n]+)”")
_MARKS = " \t\r\n*_`\"'“”‘’.,;:!$"
_BULLETS = " \t\r>*_`#+-•\\($.)0123456789"
_SPLIT = re.compile(r"[;\n]|,[ \t]*(?=s_?[0-9]+[ \t]*[=:])", re.IGNORECASE)
_STEP = re.compile(
    r"(?:step[ \t]*#?|s[_ ]?\{?)([0-9]{1,9})\}?[\s*_`)\\$]*(?:=|:|->|→|≡|\bis\b|\.(?=\s))|"
    r"([a-z][a-z0-9_]{0,63})[*_`)\\$]*\s{0,8}=",
    re.IGNORECASE,
)


def parse_value(text: str, parser: str) -> Value | None:
    """The value that a completion states, normalised, or None where it states none.

    Args:
        text: the completion, of any length.
        parser: `int`, `number`, `word`, `words`, `words:<count>` or `text`.

    Raises:
        ValueError: there is no such parser; nothing in `text` makes it raise.
    """
    kind, _, count = parser.partition(":")
    if kind in ("int", "number"):
        value = _stated_number(text)
        return None if kind == "int" and isinstance(value, float) else value
    if kind == "word":
        return _stated_word(text)
    if kind == "words":
        return _stated_row(text, int(count) if count else None)
    if kind == "text":
        return _text(text.strip(_MARKS))
    raise ValueError(f"unknown value parser '{parser}': known are int, number, word, words, words:<count>, text")


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


def _mentioned(text: str, name: str, found: dict[str, Premise]) -> tuple[str, ...]:
    words = (re.sub(r"^s_([0-9])", r"s\1", word.casefold()) for word in _WORD.findall(text))
    return tuple(dict.fromkeys(word for word in words if word in found and word != name))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _marked(text: str) -> Iterator[str]:
    """What stands behind the marks of an answer, most trusted first, each up to the end of its line."""
    boxed = [match[1] for match in _BOXED.finditer(text)]
    yield from boxed[-1:]
    if "####" in text:
        yield _first_line(text.rpartition("####")[2])
    ends = [match.end() for match in _ANSWER.finditer(text)]
    if ends:
        yield _first_line(text[ends[-1] :])
    equals = max(text.rfind("="), text.rfind("≡"))
    if equals >= 0:
        yield _first_line(text[equals + 1 :])


def _stated_number(text: str) -> int | float | None:
    text = _MODULUS.sub("", text)
    first = _first_line(text)
    if not re.search(r"[^\W\d_]|[=≡+*{]", FRACTION.sub("", first)):
        values = {to_number(number) for number in FRACTION.findall(first)}
        if values:
            return values.pop() if len(values) == 1 else None
    for segment in _marked(text):
        match = FRACTION.search(segment)
        if match:
            return to_number(match[0])
    numbers = FRACTION.findall(text)
    return to_number(numbers[-1]) if numbers else None


def _stated_word(text: str) -> str | None:
    words = _words(_first_line(text))
    if len(words) == 1:
        return words[0]
    emphasised = ["".join(groups) for groups in _EMPHASISED.findall(text)]
    for segment in (*_marked(text), *emphasised[-1:]):
        clause = _words(re.split(r"[.,;:!?(\n]", segment.strip(_MARKS), maxsplit=1)[0])
        if clause:
            return clause[-1]
    everything = _words(text)
    return everything[-1] if everything else None


def _stated_row(text: str, count: int | None) -> str | None:
    first, last = _first_line(text), text.strip().rpartition("\n")[2]
    marked = list(_marked(text))
    behind = [line.rpartition(mark)[2] for line in (first, last) for mark in (":", " is ", " are ") if mark in line]
    rows = [_words(segment) for segment in (first, *marked, *behind, last)]
    fitting = [row for row in rows if len(row) == count]
    default = _words([*marked, *behind, first][0])
    return " ".join(fitting[0] if fitting else default) or None


def _words(text: str) -> list[str]:
    words = (word.strip("_").casefold() for word in _WORD.findall(text))
    return [word for word in words if word]


def _text(text: str) -> str | None:
    return " ".join(text.split()).casefold() or None
