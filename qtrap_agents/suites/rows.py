"""Rows of a dataset become tasks: what a reader gets, how it says no, and what every task of a file must hold.

A reader is a function from one row to one task; `Kind` names it together with the gold that its data has. A row that
cannot be used is left out and counted by its reason, it never ends a run. The user's own tasks are `strict`: there the
first such row is an error that names its line.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from qtrap_agents.errors import SuiteError
from qtrap_agents.premises import parse_value, phrase
from qtrap_agents.semantics import check_task, same_value
from qtrap_agents.types import Task, Value

LONGEST_VALUE = 10_000
"""Characters that a gold value may have."""

_SLOT = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class Row(NamedTuple):
    """One row: its number (line of a text file, else counted from 1), where it stands, and its fields."""

    number: int
    where: str
    fields: Mapping[str, Any]


class Rejected(NamedTuple):
    """A row that was left out: its number, the reason that it shares with others, what it is here, and where it stands."""

    line: int
    kind: str
    detail: str = ""
    where: str = ""

    @property
    def reason(self) -> str:
        """Why, with what is wrong in this very row."""
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class Form(NamedTuple):
    """What a reader must know of its suite: the name, the value parser, and the parameters of the run."""

    suite: str
    parser: str
    params: Mapping[str, Value] = {}


class Reading(NamedTuple):
    """All of a dataset: its tasks in order and what was left out."""

    tasks: tuple[Task, ...]
    rejected: tuple[Rejected, ...]

    def summary(self) -> str:
        """`12 of 2,417 rows left out: 10 unanswerable, 2 cyclic gold`; empty where nothing was."""
        if not self.rejected:
            return ""
        counts = Counter(row.kind for row in self.rejected)
        reasons = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
        return f"{len(self.rejected):,} of {len(self.tasks) + len(self.rejected):,} rows left out: {reasons}"


class Unusable(Exception):
    """This row gives no task: the reason, in words that other rows share, and what it is here."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.detail = kind, detail


def whole(row: Row) -> Iterator[Row]:
    """A row that is one task."""
    yield row


class Kind(NamedTuple):
    """How a dataset is read: `parts` are the rows in a row, such as the questions about one text, `task` reads one.

    `gold` says in a few words which intermediate values the data has.
    """

    task: Callable[[Row, Form], Task]
    gold: str
    parts: Callable[[Row], Iterator[Row]] = whole
    strict: bool = False


def read(kind: Kind, rows: Iterable[Row | Rejected], form: Form) -> Reading:
    """All tasks of a dataset, each checked, in its order.

    Raises:
        SuiteError: a parameter is wrong, or a row of a strict kind cannot be used: names its line.
    """
    tasks: dict[str, Task] = {}
    rejected: list[Rejected] = []
    for part in parts_of(kind, rows):
        found = part if isinstance(part, Rejected) else _task(kind, part, form)
        if isinstance(found, Task) and found.id in tasks:
            found = Rejected(part[0], "id used twice", f"'{found.id}' is already that of an earlier task; rename one", part.where)
        if isinstance(found, Task):
            tasks[found.id] = found
        elif kind.strict:
            raise SuiteError(f"{found.where}: {found.reason}")
        else:
            rejected.append(found)
    return Reading(tuple(tasks.values()), tuple(rejected))


def parts_of(kind: Kind, rows: Iterable[Row | Rejected]) -> Iterator[Row | Rejected]:
    """The rows of a file, the tasks in one row each on their own; a row that cannot be taken apart is rejected."""
    for row in rows:
        if isinstance(row, Rejected):
            yield row
            continue
        try:
            yield from kind.parts(row)
        except Unusable as reason:
            yield Rejected(row.number, reason.kind, reason.detail, row.where)


def _task(kind: Kind, row: Row, form: Form) -> Task | Rejected:
    try:
        task = kind.task(row, form)
        check(task, form.parser)
    except Unusable as reason:
        return Rejected(row.number, reason.kind, reason.detail, row.where)
    return task


def check(task: Task, parser: str) -> None:
    """Gold must be a DAG that its rules agree with, in values that completions can be read to. Raises Unusable."""
    for fault in faults(task, parser):
        raise fault


def faults(task: Task, parser: str) -> Iterator[Unusable]:
    """Everything that is wrong with the gold of a task."""
    if circle := _circle(task):
        yield Unusable("cyclic gold", f"premises depend on each other in a circle: {circle}; correct 'depends_on'")
        return
    for problem in (*check_task(task), *_unknown_slots(task)):
        yield Unusable("contradictory gold", f"{problem}; correct the id, value, rule or depends_on")
    for premise in task.premises:
        for value in (premise.value, *premise.accept):
            if isinstance(value, str) and len(value) > LONGEST_VALUE:
                yield Unusable("value too long", f"premise '{premise.id}' has more than {LONGEST_VALUE:,} characters; shorten it")
            elif not same_value(parse_value(str(value), parser), value):
                yield Unusable(
                    "value that the parser does not read",
                    f"premise '{premise.id}': {value!r} cannot be read from a completion by the parser '{parser}'; "
                    "choose another 'parser' in suite.yaml",
                )


def _circle(task: Task) -> str:
    try:
        TopologicalSorter({premise.id: premise.depends_on for premise in task.premises}).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return ""


def _unknown_slots(task: Task) -> Iterator[str]:
    for premise in task.premises:
        for stray in sorted(set(_SLOT.findall(premise.instruction)) - set(premise.depends_on)):
            yield f"the instruction of '{premise.id}' uses {{{stray}}}, which is not in its depends_on"


def task_id(form: Form, row: Row, *names: str) -> str:
    """`<suite>-<id>` with the dataset's own id in one of these fields, else with the number of the row."""
    own = next((str(row.fields[name]) for name in names if isinstance(row.fields.get(name), str | int)), "")
    return f"{form.suite}-{own.strip() or f'{row.number:05d}'}"


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """A field with text in it. Raises Unusable."""
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Unusable(f"field '{name}' missing or not text")
    return value.strip()


def list_of(fields: Mapping[str, Any], name: str) -> list[Any]:
    """A field with a list in it that is not empty. Raises Unusable."""
    value = _unpacked(fields.get(name))
    if not isinstance(value, list | tuple) or not value:
        raise Unusable(f"field '{name}' missing or not a list")
    return list(value)


def records_of(fields: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A field with objects in it: a list of them, or as hubs store it, an object of equally long lists. Raises Unusable."""
    value = _unpacked(fields.get(name))
    if isinstance(value, Mapping) and value and all(isinstance(column, list | tuple) for column in value.values()):
        columns = list(value.values())
        value = [dict(zip(value, cells, strict=False)) for cells in zip(*columns, strict=False)]
    if not isinstance(value, list | tuple) or not value or not all(isinstance(item, Mapping) for item in value):
        raise Unusable(f"field '{name}' missing or not a list of objects")
    return [dict(item) for item in value]


def _unpacked(value: Any) -> Any:
    """A list or object that a CSV cell holds as JSON text; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def option(form: Form, name: str, known: tuple[str, ...]) -> str:
    """A parameter that is one of a few words, the first of them where it is not set. Raises SuiteError."""
    value = form.params.get(name, known[0])
    if value not in known:
        raise SuiteError(f"suite '{form.suite}': parameter '{name}' must be one of {', '.join(known)}, not {value!r}")
    return str(value)


def gold(text: str, parser: str) -> Value:
    """A gold answer in the form in which a completion of just this text is read. Raises Unusable where that is another."""
    value = parse_value(text, parser)
    if value is None or (isinstance(value, str) and parser != "boolean" and phrase(value) != phrase(text)):
        raise Unusable("value that the parser does not read", f"{text[:80]!r} is read as {value!r} by the parser '{parser}'")
    return value


def aliases(texts: object, parser: str, but: Value) -> tuple[Value, ...]:
    """A list of other right answers as they are read, without those that no completion can be read to and without `but`."""
    found: dict[Value, None] = {}
    for text in texts if isinstance(texts, list | tuple) else ():
        try:
            found[gold(str(text), parser)] = None
        except Unusable:
            continue
    return tuple(value for value in found if value != but)
