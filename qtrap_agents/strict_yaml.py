"""YAML files as strict records: every mistake named by file, line and field."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.types import Record

Model = TypeVar("Model", bound=Record)

_TYPES = ("int", "float", "str", "bool")
"""What pydantic adds to the place of a value that fits none of its types."""

_LONGEST_SHOWN = 200
"""Characters of a wrong value that a message shows."""


class Misplaced(ValueError):
    """A mistake inside the value that a validator looks at; `place` leads there, such as `(2, "arm")` in a list of records."""

    def __init__(self, place: tuple[int | str, ...], message: str) -> None:
        super().__init__(message)
        self.place = place


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into a strict record.

    Raises:
        ConfigError: names the file, the line, the field and the remedy.
    """
    data, lines = read_yaml(path)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error, str(path), model, lines)) from error


def yaml_problems(path: Path, model: type[Record]) -> list[str]:
    """Everything that keeps `load_yaml` from reading a file, a sentence each; empty where nothing does."""
    try:
        data, lines = read_yaml(path)
        model.model_validate(data)
    except ConfigError as error:
        return [str(error)]
    except ValidationError as error:
        return describe_all(error, str(path), model, lines)
    return []


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[Hashable, ...], int]]:
    """The fields of a file, and the line of every one. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `qtrap list` shows what is there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        lines = _lines(node) if node is not None else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_yaml_line(error)}: not valid YAML: {_first_line(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: expected fields such as 'name: …', found {type(data).__name__}")
    return data, lines


def describe(error: ValidationError, source: str, model: type[Record], lines: Mapping[tuple[Hashable, ...], int]) -> str:
    """One sentence for the first validation error, with its line where it is known."""
    return _described(error.errors()[0], source, model, lines)


def describe_all(
    error: ValidationError, source: str, model: type[Record], lines: Mapping[tuple[Hashable, ...], int]
) -> list[str]:
    """The same for every validation error; of a value that may be of several types, one sentence."""
    found: dict[tuple[int | str, ...], str] = {}
    for one in error.errors():
        place = one["loc"][:-1] if one["loc"] and one["loc"][-1] in _TYPES else one["loc"]
        found.setdefault(place, _described(one, source, model, lines))
    return list(found.values())


def _described(first: ErrorDetails, source: str, model: type[Record], lines: Mapping[tuple[Hashable, ...], int]) -> str:
    union = bool(first["loc"]) and first["loc"][-1] in _TYPES
    place = tuple(first["loc"][:-1] if union else first["loc"])
    inner = (first.get("ctx") or {}).get("error")
    if isinstance(inner, Misplaced):
        place = (*place, *inner.place)
    line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
    where = f"{source}:{line}" if line else source
    field = ".".join(str(part) for part in place) or "file"
    if first["type"] == "extra_forbidden":
        siblings = _fields_at(model, place[:-1])
        return f"{where}: {unknown('field', str(place[-1]), siblings) if siblings else f'unknown field {field!r}; remove it'}"
    message = "must be a number or text" if union else first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = "" if isinstance(given, (dict, list)) else f", not {_short(given)}"
    return f"{where}: field '{field}': {message[0].lower()}{message[1:]}{shown if first['type'] != 'value_error' else ''}"


def _short(value: object) -> str:
    text = repr(value[:_LONGEST_SHOWN] if isinstance(value, str) else value)
    return f"{text[:_LONGEST_SHOWN]} …" if len(text) > _LONGEST_SHOWN else text


def _fields_at(model: type[Record], place: Sequence[int | str]) -> Sequence[str]:
    """Names of the fields that belong at a place; none where anything may stand."""
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields[part].annotation
        kinds = [kind for kind in (field, *get_args(field)) if isinstance(kind, type) and issubclass(kind, Record)]
        if not kinds:
            return ()
        model = kinds[0]
    return tuple(model.model_fields)


def _lines(node: yaml.Node, place: tuple[Hashable, ...] = ()) -> dict[tuple[Hashable, ...], int]:
    """Line number (from 1) of every field, by its path."""
    found: dict[tuple[Hashable, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            if inner in found:
                problem = f"field '{key.value}' stands twice; keep one"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            found[inner] = key.start_mark.line + 1
            found |= _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = (*place, index)
            found[inner] = value.start_mark.line + 1
            found |= _lines(value, inner)
    return found


def _yaml_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def _first_line(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or str(error).splitlines()[0])
