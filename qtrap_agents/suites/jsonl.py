"""The user's own tasks: one JSON object a line, gold premises included.

    {"id": "t1", "question": "…", "answer": 18, "premises": [
        {"id": "s1", "value": 9, "rule": "16 - 3 - 4", "instruction": "Eggs left: 16 - 3 - 4 ="},
        {"id": "s2", "value": 18, "depends_on": ["s1"], "rule": "s1 * 2", "text": "She earns 18 dollars."}]}

Of a premise, `id` (lower case) and `value` are needed; the last one states the answer, parents come before their
children. `accept` are other right values of a premise, or of the answer. `rule` is an expression over the ids in
`depends_on` (see `qtrap_agents.semantics`); without one, a wrong value cannot be told to be inherited. `instruction` is
what the hop is told, with `{s1}` where the value of `s1` goes. Without one it is made: from `text` with the value blanked
out (`She earns ___ dollars.`), else from the rule (`{s1} * 2 =`), and parents it does not mention are put before it. `kind`
is the sort of step, any word: reports count causal hops by it. `tools` of a task are those that the workflow `react` may
call (see `qtrap_agents.tools`); a premise that states a call has a `kind` that begins with `call`.
"""

import re
from collections.abc import Sequence

from pydantic import Field, ValidationError

from qtrap_agents.config import describe, describe_all
from qtrap_agents.errors import SuiteError
from qtrap_agents.semantics import RuleError, normalise
from qtrap_agents.suites.rows import Form, Row, Unusable, gold
from qtrap_agents.tools import check_tools
from qtrap_agents.types import GoldPremise, Record, Task, Value

GOLD = "what the file gives"

_ID = r"^[a-z][a-z0-9_]*$"
_LONGEST_RULE = 100_000
_EXAMPLE = '{"id": …, "question": …, "answer": …, "premises": [{"id": …, "value": …}]}'


class _PremiseRow(Record):
    id: str = Field(pattern=_ID)
    value: Value | bool
    accept: tuple[Value, ...] = ()
    text: str | None = None
    depends_on: tuple[str, ...] = ()
    rule: str | None = Field(default=None, max_length=_LONGEST_RULE)
    instruction: str | None = None
    kind: str = ""


class _TaskRow(Record):
    id: str = Field(min_length=1)
    question: str
    answer: Value | bool
    accept: tuple[Value, ...] = ()
    premises: tuple[_PremiseRow, ...] = Field(min_length=1)
    tools: dict[str, dict[str, Value]] = Field(default_factory=dict)
    metadata: dict[str, Value] = Field(default_factory=dict)


def task(row: Row, form: Form) -> Task:
    """The task of a line; its depth is the number of its gold premises.

    Raises:
        SuiteError: names the file, the line, the field and the remedy.
    """
    found = _parsed(row)
    where = f"{row.where}: field 'answer'"
    premises = tuple(_premise(premise, form.parser, f"{row.where}: premise '{premise.id}'") for premise in found.premises)
    for problem in check_tools(found.tools):
        raise SuiteError(f"{row.where}: field 'tools': {problem}")
    return Task(
        id=found.id,
        suite=form.suite,
        question=found.question,
        answer=_normal(found.answer, form.parser, where),
        accept=tuple(_normal(value, form.parser, where) for value in found.accept),
        tools=found.tools,
        premises=premises,
        depth=len(premises),
        metadata=found.metadata,
    )


def schema_problems(row: Row) -> list[str]:
    """Everything that keeps a line from having the fields of a task, a sentence each."""
    try:
        _TaskRow.model_validate(row.fields)
    except ValidationError as error:
        return describe_all(error, row.where, _TaskRow, {})
    return []


def _parsed(row: Row) -> _TaskRow:
    try:
        return _TaskRow.model_validate(row.fields)
    except ValidationError as error:
        raise SuiteError(f"{describe(error, row.where, _TaskRow, {})}; write a task as {_EXAMPLE}") from error


def _premise(row: _PremiseRow, parser: str, where: str) -> GoldPremise:
    value = _normal(row.value, parser, f"{where}: field 'value'")
    instruction = _default_instruction(row) if row.instruction is None else row.instruction
    if not instruction.strip():
        raise SuiteError(f"{where}: field 'instruction' is missing, and there is no rule or text with the value to make it from")
    return GoldPremise(
        id=row.id,
        text=row.text if row.text is not None else f"{row.id} = {value}",
        value=value,
        accept=tuple(_normal(value, parser, f"{where}: field 'accept'") for value in row.accept),
        depends_on=row.depends_on,
        rule=row.rule,
        instruction=instruction,
        kind=row.kind,
    )


def _normal(value: Value | bool, parser: str, where: str) -> Value:
    """In normal form; text in the form that the parsers for phrases and truth values read it in."""
    try:
        if parser in ("phrase", "boolean") and isinstance(value, str | bool):
            return gold(str(value), parser)
        return normalise(value)
    except (RuleError, Unusable) as error:
        raise SuiteError(f"{where}: {error}; write a number or text") from None


def _default_instruction(row: _PremiseRow) -> str:
    shown = re.compile(rf"(?<!\w){re.escape(str(row.value))}(?!\w|[.,]\d)", re.IGNORECASE)
    if row.text and shown.search(row.text):
        instruction = shown.sub("___", row.text)
    elif row.rule:
        instruction = re.sub(r"\b[a-z]\w*\b", lambda word: _slot(word[0], row.depends_on), row.rule) + " ="
    else:
        return ""
    unseen = [parent for parent in row.depends_on if f"{{{parent}}}" not in instruction]
    known = ", ".join(f"{parent} = {{{parent}}}" for parent in unseen)
    return f"Given {known}: {instruction}" if known else instruction


def _slot(word: str, parents: Sequence[str]) -> str:
    return f"{{{word}}}" if word in parents else word
