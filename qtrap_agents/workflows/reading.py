"""How an answer is to be written, and what is read from it: free text or JSON, the same for every workflow.

With `output: json` a hop is told to answer with `{"value": …}`, and generation is held to the schema of that object where
the arm can do so. One answer with all steps is an object with one key for each gold premise. What is not whole JSON, be
it cut off or be it prose, states nothing: its value is None.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from qtrap_agents.extraction import extract
from qtrap_agents.premises import parse_value
from qtrap_agents.suites.catalog import Suite
from qtrap_agents.types import Message, Premise, Task, Value

JSON_TOKENS = 16
"""What an object may take beside the values in it."""

OBJECTS_TRIED = 64
"""Braces from which JSON is tried, so that a text of nothing but braces is read in linear time."""

VALUE = "value"

_DECODER = json.JSONDecoder()


class Form(NamedTuple):
    """JSON that answers are to be written as: `told` in the prompt, held to `schema`.

    `key` is where the answer of an example of the suite goes; without it examples stay as they were written.
    """

    told: str
    schema: str
    key: str | None = None


def value_form(suite: Suite) -> Form | None:
    """How a hop states one value; None where the suite wants text."""
    return _value_form(suite.parser) if suite.spec.output == "json" else None


def steps_form(suite: Suite, task: Task) -> Form | None:
    """How one answer states every gold premise of a task, or its answer where it has none; None where the suite wants text."""
    if suite.spec.output != "json":
        return None
    return _steps_form(tuple(premise.id for premise in task.premises) or ("answer",), suite.parser)


def answer_tokens(suite: Suite, form: Form | None) -> int:
    """How many tokens a hop may write."""
    return suite.spec.max_tokens + (JSON_TOKENS if form else 0)


def messages_of(suite: Suite, prompt: str, form: Form | None = None, node: str | None = None) -> tuple[Message, ...]:
    """What the model is sent: the suite's system message and examples, where it has them, and the user message.

    A `node` that the suite has a system message of its own for gets that one and no examples.
    """
    own = None if node is None else suite.system_of(node)
    system, examples = (suite.system, suite.examples) if own is None else (own, ())
    return (
        *((Message(role="system", content=system),) if system else ()),
        *(turn for example in examples for turn in _turns(suite, example.prompt, example.answer, form)),
        Message(role="user", content=_told(prompt, form)),
    )


def read_value(text: str, suite: Suite) -> Value | None:
    """The value that the completion of a hop states, or None where it states none."""
    if suite.spec.output != "json":
        return parse_value(text, suite.parser)
    found = json_object(text, VALUE)
    if found is None or (VALUE not in found and len(found) != 1):
        return None
    return _value(found.get(VALUE, next(iter(found.values()))), suite.parser)


def read_steps(text: str, suite: Suite, task: Task) -> list[Premise]:
    """The premises that one completion states, in their order: from text by the extractor of the suite.

    Raises:
        ExtractionError: the user's own extractor failed.
        ConfigError: it cannot be imported.
    """
    if suite.spec.output != "json":
        return list(extract(text, task, suite).premises)
    stated = json_object(text) or {}
    return [
        Premise(id=name, text=f"{name}: {json.dumps(value, ensure_ascii=False)}", value=_value(value, suite.parser))
        for name, value in stated.items()
    ]


def json_object(text: str, key: str | None = None) -> dict[str, Any] | None:
    """The first JSON object in a text that has the key, else the first one with anything in it; None where there is none.

    Fences and words around it are passed over. Never raises, whatever the text.
    """
    first, start = None, text.find("{")
    for _ in range(OBJECTS_TRIED):
        if start < 0:
            break
        found, end = _decoded(text, start)
        if found and (key is None or key in found):
            return found
        first = first or found
        start = text.find("{", end)
    return first


def _decoded(text: str, start: int) -> tuple[dict[str, Any] | None, int]:
    """The object that begins at a brace, and where to go on."""
    try:
        found, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start + 1
    return found, end


@lru_cache(maxsize=64)
def _value_form(parser: str) -> Form:
    told = f'Answer with a JSON object {{"{VALUE}": …}}, where … is {_words(parser)}.'
    return Form(told, _schema({VALUE: parser}), VALUE)


@lru_cache(maxsize=512)
def _steps_form(ids: tuple[str, ...], parser: str) -> Form:
    keys = ", ".join(json.dumps(name, ensure_ascii=False) for name in ids)
    told = f"Answer with a JSON object that has the {'keys' if len(ids) > 1 else 'key'} {keys}"
    order = f", in this order, each of them {_words(parser)}." if len(ids) > 1 else f", which is {_words(parser)}."
    return Form(told + order, _schema(dict.fromkeys(ids, parser)))


def _schema(parsers: Mapping[str, str]) -> str:
    """JSON schema of an object with these keys, all of them required, and no others."""
    properties = {name: _type(parser) for name, parser in parsers.items()}
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False},
        ensure_ascii=False,
    )


def _type(parser: str) -> dict[str, Any]:
    kind, _, count = parser.partition(":")
    if kind in ("int", "number", "boolean"):
        return {"type": "integer" if kind == "int" else kind}
    if kind != "words":
        return {"type": "string"}
    return {"type": "array", "items": {"type": "string"}} | ({"minItems": int(count), "maxItems": int(count)} if count else {})


def _words(parser: str) -> str:
    """What a value is called in a prompt."""
    kind, _, count = parser.partition(":")
    known = {"int": "a whole number", "number": "a number", "boolean": "true or false", "word": "one word in quotes"}
    return known.get(kind) or (f"a list of {f'{count} ' if count else ''}words" if kind == "words" else "a text in quotes")


def _value(stated: Any, parser: str) -> Value | None:
    """A value of a JSON object, by the parser of the suite."""
    parts = stated if isinstance(stated, list) else [stated]
    if not parts or not all(isinstance(part, str | int | float) for part in parts):
        return None
    return parse_value(" ".join(part if isinstance(part, str) else json.dumps(part) for part in parts), parser)


def _turns(suite: Suite, prompt: str, answer: str, form: Form | None) -> Sequence[Message]:
    return (
        Message(role="user", content=_told(prompt, form if form and form.key else None)),
        Message(role="assistant", content=_written(suite, answer, form)),
    )


def _told(prompt: str, form: Form | None) -> str:
    return f"{prompt}\n{form.told}" if form else prompt


def _written(suite: Suite, answer: str, form: Form | None) -> str:
    """An example's answer in the form that is asked for: an object stays, a bare value is put into one."""
    if form is None or form.key is None or json_object(answer, form.key) is not None:
        return answer
    return json.dumps({form.key: _as_json(answer, suite.parser)}, ensure_ascii=False)


def _as_json(answer: str, parser: str) -> Any:
    """An example's value in its JSON type; text that the parser cannot read stays text."""
    value = parse_value(answer, parser)
    kind = parser.partition(":")[0]
    if value is None or kind in ("text", "phrase"):
        return answer
    if kind == "boolean":
        return value == "true"
    return str(value).split() if kind == "words" else value
