"""JSON in a text: objects and lists that are the whole text, begin a line or fill a fenced block.

{"s1": 41, "total": "6 * 7 = 42"}                    each key names a value
[{"step": 1, "value": 3, "expression": "1 + 2"}]     an object with a value field is one step
[41, 42]                                              the values in order, where the list is all there is
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_BLOCK = re.compile(r"^[ \t]{0,20}([{\[])", re.MULTILINE)
_FENCE = re.compile(r"(?:\A|```[a-zA-Z]{0,10}[ \t]{0,10}\n?)\s*\Z")
_MOST_BLOCKS = 50
_DEEPEST = 20
_LABELS = ("step", "id", "name", "premise")
_VALUES = ("value", "result", "output", "conclusion", "answer")
_EXPRESSIONS = ("expression", "equation", "calculation", "formula", "operation")
_DECODER = json.JSONDecoder()


class Field(NamedTuple):
    """A named value in a block of JSON; `start` and `end` are its place in the text, `block` that of the whole block."""

    name: str
    value: int | float | str
    shown: str
    start: int
    end: int
    block: tuple[int, int]


def fields(text: str) -> list[Field]:
    """All named values of a text, in order. Never raises on a text; JSON that does not parse is left to other readers."""
    found: list[Field] = []
    end = tried = 0
    for match in _BLOCK.finditer(text):
        start = match.start(1)
        if start < end:
            continue
        tried += 1
        if tried > _MOST_BLOCKS:
            break
        try:
            content, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict) or _FENCE.search(text[max(0, start - 40) : start]) or any(map(_is_object, content)):
            found += _Walk(text, start, end).fields(content, "", 0)
    return found


def _is_object(node: Any) -> bool:
    return isinstance(node, dict)


class _Walk:
    """Goes through a block in the order of its text, so that every value is looked for behind the one before."""

    def __init__(self, text: str, start: int, end: int) -> None:
        self._text, self._at, self._block = text, start, (start, end)

    def fields(self, node: Any, name: str, depth: int) -> Iterator[Field]:
        """The named values below a node."""
        if depth > _DEEPEST:
            return
        if isinstance(node, list):
            for number, inner in enumerate(node, 1):
                yield from self.fields(inner, f"s{number}", depth + 1)
        elif isinstance(node, dict):
            yield from self._object(node, name, depth)
        elif isinstance(node, int | float | str):
            yield self._field(name, node, str(node), None)

    def _object(self, node: dict[str, Any], name: str, depth: int) -> Iterator[Field]:
        key = next((key for key in _VALUES if isinstance(node.get(key), int | float | str)), None)
        label = next((node[known] for known in _LABELS if isinstance(node.get(known), int | str)), None)
        expression = next((node[known] for known in _EXPRESSIONS if isinstance(node.get(known), str)), None)
        if key is not None and (label is not None or expression is not None):
            named = name if label is None else f"s{label}" if isinstance(label, int) else label.casefold()
            value = node[key]
            yield self._field(named, value, str(value) if expression is None else f"{expression} = {value}", key)
            return
        for inner_name, inner in node.items():
            if isinstance(inner, int | float | str):
                yield self._field(inner_name.casefold(), inner, str(inner), inner_name)
            else:
                yield from self.fields(inner, inner_name.casefold(), depth + 1)

    def _field(self, name: str, value: int | float | str, shown: str, key: str | None) -> Field:
        """With its place: behind its key, or where its own text stands next; the whole block where neither is found."""
        sought = json.dumps(value if key is None else key, ensure_ascii=False)
        at = self._text.find(sought, self._at, self._block[1])
        if at < 0:
            return Field(name, value, shown, *self._block, self._block)
        if key is not None:
            colon = re.compile(r"\s*:\s*").match(self._text, at + len(sought))
            at = colon.end() if colon else at
        try:
            end = _DECODER.raw_decode(self._text, at)[1]
        except (ValueError, RecursionError):
            end = at + len(sought)
        self._at = end
        quoted = isinstance(value, str) and end - at >= 2
        return Field(name, value, shown, at + quoted, end - quoted, self._block)
