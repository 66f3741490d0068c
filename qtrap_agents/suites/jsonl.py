"""The user's own tasks: one JSON object a line, gold premises included.

    {"id": "t1", "question": "…", "answer": 18, "premises": [
        {"id": "s1", "value": 9, "rule": "16 - 3 - 4", "instruction": "Eggs left: 16 - 3 - 4 ="},
        {"id": "s2", "value": 18, "depends_on": ["s1"], "rule": "s1 * 2", "text": "She earns 18 dollars."}]}

Of a premise, `id` (lower case) and `value` are needed; the last one states the answer, parents come before their
children. `rule` is an expression over the ids in `depends_on` (see `qtrap_agents.semantics`); without one, a wrong
value cannot be told to be inherited. `instruction` is what the hop is told, with `{s1}` where the value of `s1`
goes. Without one it is made: from `text` with the value blanked out (`She earns ___ dollars.`), else from the rule
(`{s1} * 2 =`), and parents it does not mention are put before it. `kind` is the sort of step, any word: reports count
causal hops by it.
"""

import json
import re
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pydantic import Field, ValidationError

from qtrap_agents.config import describe
from qtrap_agents.errors import SuiteError
from qtrap_agents.premises import parse_value
from qtrap_agents.semantics import RuleError, check_task, normalise, same_value
from qtrap_agents.types import GoldPremise, Record, Task, Value

_ID = r"^[a-z][a-z0-9_]*$"
_SLOT = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_EXAMPLE = '{"id": …, "question": …, "answer": …, "premises": [{"id": …, "value": …}]}'


class _PremiseRow(Record):
    id: str = Field(pattern=_ID)
    value: Value
    text: str | None = None
    depends_on: tuple[str, ...] = ()
    rule: str | None = None
    instruction: str | None = None
    kind: str = ""


class _TaskRow(Record):
    id: str = Field(min_length=1)
    question: str
    answer: Value
    premises: tuple[_PremiseRow, ...] = Field(min_length=1)
    metadata: dict[str, Value] = Field(default_factory=dict)


def read_jsonl(path: Path, suite: str, parser: str) -> tuple[Task, ...]:
    """All tasks of a file, in its order; the depth of a task is the number of its gold premises.

    Args:
        path: the file, UTF-8, one object a line; empty lines are passed over.
        suite: name of the suite, stored with every task.
        parser: how completions will be read; every gold value must survive it (see `qtrap_agents.premises`).

    Raises:
        SuiteError: names the file, the line, the field and the remedy.
    """
    lines: dict[str, int] = {}
    tasks: list[Task] = []
    for line, raw in enumerate(_read(path).split("\n"), 1):
        if not raw.strip():
            continue
        where = f"{path}:{line}"
        task = _task(_row(raw, where), suite, where)
        _check(task, parser, where)
        if task.id in lines:
            raise SuiteError(f"{where}: field 'id': '{task.id}' is already the task in line {lines[task.id]}; rename one")
        lines[task.id] = line
        tasks.append(task)
    if not tasks:
        raise SuiteError(f"{path}: no tasks; write one a line as {_EXAMPLE}")
    return tuple(tasks)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SuiteError(f"{path}: no such file; correct 'path' in suite.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _row(raw: str, where: str) -> _TaskRow:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"{where}: not valid JSON ({error}); write one task a line as {_EXAMPLE}") from None
    if not isinstance(data, dict):
        raise SuiteError(f"{where}: expected one task as {_EXAMPLE}, found {type(data).__name__}")
    try:
        return _TaskRow.model_validate(data)
    except ValidationError as error:
        raise SuiteError(f"{describe(error, where, _TaskRow, {})}; write a task as {_EXAMPLE}") from error


def _task(row: _TaskRow, suite: str, where: str) -> Task:
    premises = tuple(_premise(premise, f"{where}: premise '{premise.id}'") for premise in row.premises)
    return Task(
        id=row.id,
        suite=suite,
        question=row.question,
        answer=_normal(row.answer, f"{where}: field 'answer'"),
        premises=premises,
        depth=len(premises),
        metadata=row.metadata,
    )


def _premise(row: _PremiseRow, where: str) -> GoldPremise:
    value = _normal(row.value, f"{where}: field 'value'")
    instruction = _default_instruction(row) if row.instruction is None else row.instruction
    if not instruction.strip():
        raise SuiteError(f"{where}: field 'instruction' is missing, and there is no rule or text with the value to make it from")
    return GoldPremise(
        id=row.id,
        text=row.text if row.text is not None else f"{row.id} = {value}",
        value=value,
        depends_on=row.depends_on,
        rule=row.rule,
        instruction=instruction,
        kind=row.kind,
    )


def _normal(value: Value, where: str) -> Value:
    try:
        return normalise(value)
    except RuleError as error:
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


def _check(task: Task, parser: str, where: str) -> None:
    problem = _cycle(task) or next(iter(check_task(task)), None) or _unknown_slot(task)
    if problem:
        raise SuiteError(f"{where}: field 'premises': {problem}; correct the id, value, rule or depends_on")
    for premise in task.premises:
        if not same_value(parse_value(str(premise.value), parser), premise.value):
            raise SuiteError(
                f"{where}: premise '{premise.id}': field 'value': {premise.value!r} cannot be read from a completion by "
                f"the parser '{parser}'; choose another 'parser' in suite.yaml"
            )


def _cycle(task: Task) -> str | None:
    try:
        TopologicalSorter({premise.id: premise.depends_on for premise in task.premises}).prepare()
    except CycleError as error:
        return f"premises depend on each other in a circle: {' <- '.join(error.args[1])}"
    return None


def _unknown_slot(task: Task) -> str | None:
    for premise in task.premises:
        stray = set(_SLOT.findall(premise.instruction)) - set(premise.depends_on)
        if stray:
            return f"the instruction of '{premise.id}' uses {{{min(stray)}}}, which is not in its depends_on"
    return None
