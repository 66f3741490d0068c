"""Premises from free text: what a model that writes prose states, and which gold premises these are.

`extractor` in `suite.yaml` says how one answer with several premises is read:

    steps             lines `s3 = 41` (see `premises.parse_steps`), matched with gold by their names
    prose             any text, read by `extraction.statements` and aligned by `extraction.align`
    module:function   the user's own: takes `(text: str, task: Task)` and returns premises (`Premise` records)
"""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

from qtrap_agents.errors import ConfigError, ExtractionError
from qtrap_agents.extraction.align import align
from qtrap_agents.extraction.statements import Statement, statements
from qtrap_agents.plugins import import_function
from qtrap_agents.premises import NUMBER, parse_steps, to_number
from qtrap_agents.suites.catalog import Suite
from qtrap_agents.types import Premise, Record, Task, Value


class Aligned(Record):
    """A statement and the gold premise that it states; `premise_id` is its id."""

    premise_id: str
    statement: Statement


class Alignment(Record):
    """What one text states.

    `premises` are in the order of the text: gold ids where a statement was aligned, `x1`, `x2`, … for the others, which are
    `unaligned_statements` too. Where a text states a premise several times, `aligned` has all statements and `premises` the
    last. `unaligned_gold` are the ids of the gold premises that the whole conversation does not state.
    """

    premises: tuple[Premise, ...]
    aligned: tuple[Aligned, ...] = ()
    unaligned_statements: tuple[Statement, ...] = ()
    unaligned_gold: tuple[str, ...] = ()


class _Named(NamedTuple):
    """The id of the premise that a statement states, None where it only repeats the question, and its value as it is meant."""

    id: str | None
    value: Value
    is_gold: bool


def extract(text: str, task: Task, suite: Suite) -> Alignment:
    """The premises of one answer, by the extractor of the suite.

    Raises:
        ExtractionError: the user's extractor raised or returned something else than premises.
        ConfigError: it cannot be imported.
    """
    extractor = suite.spec.extractor
    if extractor == "prose":
        return extract_all([text], task, suite.parser)[0]
    premises = parse_steps(text, suite.parser) if extractor == "steps" else _own(extractor, text, task, suite.source.parent)
    stated = {premise.id for premise in premises}
    return Alignment(
        premises=tuple(premises),
        unaligned_gold=tuple(gold.id for gold in task.premises if gold.id not in stated),
    )


def extract_all(texts: Sequence[str], task: Task, parser: str) -> tuple[Alignment, ...]:
    """The premises of all texts of one conversation, aligned together; one alignment for each text.

    Never raises on a text.

    Args:
        texts: what the model wrote, one text for each call, in order.
        parser: how values are read, such as `number` (see `qtrap_agents.premises`).

    Raises:
        ValueError: there is no such parser.
    """
    found = statements(texts, parser, task.question)
    named = _names(found, task)
    stated = {name.id for name in named}
    missing = tuple(gold.id for gold in task.premises if gold.id not in stated)
    return tuple(_alignment(source, found, named, missing) for source in range(len(texts)))


def _own(extractor: str, text: str, task: Task, folder: Path) -> Sequence[Premise]:
    """Call the user's function; whatever it does wrong is named with it."""
    function = import_function(extractor, "extractor", ConfigError, folder)
    try:
        premises = list(function(text, task))
    except Exception as error:  # the user's own code: belongs on the trace
        raise ExtractionError(f"extractor '{extractor}' raised {type(error).__name__}: {error}") from error
    for premise in premises:
        if not isinstance(premise, Premise):
            raise ExtractionError(f"extractor '{extractor}' returned {type(premise).__name__}; it must return Premise records")
    return premises


def _repeats_the_question(statement: Statement, given: Container[Value | None]) -> bool:
    """A number without an expression that the question gives."""
    return statement.kind in ("claim", "equation") and statement.expression is None and statement.value in given


def _names(found: Sequence[Statement], task: Task) -> list[_Named]:
    """An id for every statement; equal values without gold share one."""
    given = {to_number(match[0]) for match in NUMBER.finditer(task.question)}
    matches = {match.statement: match for match in align(found, task.premises)}
    ids = {gold.id for gold in task.premises}
    fresh = (name for number in range(1, len(ids) + len(found) + 2) if (name := f"x{number}") not in ids)
    others: dict[Value, str] = {}
    named: list[_Named] = []
    for index, statement in enumerate(found):
        if (match := matches.get(index)) is not None:
            named.append(_Named(task.premises[match.gold].id, match.value, True))
        elif statement.kind == "answer" and not task.premises:
            named.append(_Named("answer", statement.value, False))
        elif _repeats_the_question(statement, given):
            named.append(_Named(None, statement.value, False))
        else:
            if statement.value not in others:
                others[statement.value] = next(fresh)
            named.append(_Named(others[statement.value], statement.value, False))
    return named


def _alignment(source: int, found: Sequence[Statement], named: Sequence[_Named], missing: tuple[str, ...]) -> Alignment:
    here = [(statement, name) for statement, name in zip(found, named, strict=True) if statement.source == source]
    premises: dict[str, Premise] = {}
    for statement, (name, value, _) in here:
        if name is not None:
            parents = dict.fromkeys(parent for place in statement.derived_from if (parent := named[place].id) not in (None, name))
            earlier = premises[name].depends_on if name in premises else ()
            premises[name] = Premise(
                id=name, text=statement.text, value=value, depends_on=tuple(filter(None, parents)) or earlier
            )
    return Alignment(
        premises=tuple(premises.values()),
        aligned=tuple(Aligned(premise_id=name.id, statement=statement) for statement, name in here if name.id and name.is_gold),
        unaligned_statements=tuple(statement for statement, name in here if name.id and not name.is_gold),
        unaligned_gold=missing,
    )
