"""Whether a suite can be run: everything that is wrong with it, and what the model will be sent.

A suite with rows is read whole; a procedural one is sampled. Rows of a public dataset that cannot be used are left out by
their reason, as a run does; in the user's own tasks each of them is a problem. Prompts are those of the workflow `chain`,
in which a hop has the gold values of its parents.
"""

import inspect
import os
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from qtrap_agents.config import SuiteChoice, yaml_problems
from qtrap_agents.errors import ConfigError, SuiteError
from qtrap_agents.plugins import import_function
from qtrap_agents.premises import parse_value
from qtrap_agents.suites.catalog import FILE, KINDS, PROCEDURAL, Generator, Suite, SuiteSpec, find_suite, load_suite
from qtrap_agents.suites.jsonl import schema_problems
from qtrap_agents.suites.rows import Kind, Rejected, Row, Unusable, faults, parts_of
from qtrap_agents.suites.sources import rows_of
from qtrap_agents.tools import check_tools
from qtrap_agents.types import Message, Premise, Record, Task, Value

EXAMPLES = 3
"""Tasks that are shown."""

SHOWN_HOPS = 2
"""Hops of a task that are shown."""

LONGEST_MESSAGE = 400
"""Characters of one problem."""

SHOWN_ROWS = 3
"""Rows named for each reason for which some were left out."""

SEEDS = (0, 1)
"""Seeds under which a procedural suite is sampled."""

OWN_EXTRACTOR = ":"


class Problem(Record):
    """What is wrong, in a sentence, and where: a file with its line where there is one."""

    where: str
    message: str


class LeftOut(Record):
    """Rows of a dataset that give no task for one reason; the first of them with what is wrong there."""

    reason: str
    count: int
    rows: tuple[str, ...]


class DepthCount(Record):
    """Tasks of one depth, their premises, and the longest prompt of a hop in tokens, where a tokenizer counts them."""

    depth: int
    tasks: int
    premises: int
    longest_prompt: int | None


class HopExample(Record):
    """What a hop is sent and should state. `rendered` is the prompt after the chat template, `tokens` its length."""

    premise: str
    messages: tuple[Message, ...]
    right: Value
    max_tokens: int
    rendered: str | None
    tokens: int | None


class TaskExample(Record):
    """A task as the model will see it: its first hops; `hops_in_all` says how many there are."""

    task_id: str
    depth: int
    answer: Value
    hops: tuple[HopExample, ...]
    hops_in_all: int


class Validation(Record):
    """All that was found in a suite."""

    suite: str
    source: str
    kind: str | None
    tasks: int
    depths: tuple[DepthCount, ...]
    problems: tuple[Problem, ...]
    left_out: tuple[LeftOut, ...]
    examples: tuple[TaskExample, ...]
    checkpoint: str | None
    max_tokens: int | None

    @property
    def ok(self) -> bool:
        """True where nothing is wrong."""
        return not self.problems


class Tokens(Protocol):
    """What counts and renders prompts: a `backends.tokenizer.Tokenizer`."""

    name: str

    def count(self, messages: Sequence[Message]) -> int: ...

    def render(self, messages: Sequence[Message]) -> tuple[str, int]: ...


class _Found(NamedTuple):
    """A task and where it stands."""

    task: Task
    where: str


def validate(
    choice: SuiteChoice,
    depths: Sequence[int] = (1, 4, 16),
    limit: int = 20,
    tokenizer: Tokens | None = None,
    max_tokens: int | None = None,
) -> Validation:
    """Check a suite and show what it makes.

    Args:
        choice: its name, or the path of its directory or `suite.yaml`, and parameters as in a run.
        depths: at which a procedural suite is sampled; others have the depths they have.
        limit: tasks for each depth and seed of a procedural suite.
        tokenizer: renders the examples and counts tokens.
        max_tokens: the context that a prompt and its answer must fit into; needs the tokenizer.

    Raises:
        SuiteError: no such suite or parameter. ConfigError: `max_tokens` without a tokenizer.
        ArmError: the tokenizer has no chat template.
    """
    if max_tokens is not None and tokenizer is None:
        raise ConfigError("--max-tokens needs --checkpoint, whose tokenizer counts the tokens of the prompts")
    path = find_suite(choice.name)
    if path.suffix not in (".yaml", ".yml"):
        missing = "no such directory" if not path.exists() else "is no suite"
        raise SuiteError(f"{path}: {missing}; give the directory of a suite, its {FILE}, or its name")
    if wrong := yaml_problems(path, SuiteSpec):
        return _unreadable(path, wrong)
    suite = load_suite(choice)
    problems, left_out = _Problems(), list[Rejected]()
    for message in _of_the_spec(suite):
        problems.add(_near(str(suite.source)), message)
    found = list(_distinct(_tasks(suite, depths, limit, problems, left_out), problems))
    counted = _count(suite, found, tokenizer, max_tokens, problems)
    return Validation(
        suite=suite.name,
        source=_near(str(suite.source)),
        kind=suite.spec.kind,
        tasks=len(found),
        depths=counted,
        problems=problems.all(),
        left_out=_by_reason(left_out),
        examples=tuple(_example(suite, one.task, tokenizer) for one in _chosen(found)),
        checkpoint=None if tokenizer is None else tokenizer.name,
        max_tokens=max_tokens,
    )


class _Problems:
    """Collects problems, none of them long; the same one of several drawn tasks is told once, with the first of its cases."""

    def __init__(self) -> None:
        self._cases: dict[tuple[str, str], list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._cases)

    def add(self, where: str, message: str, case: str = "") -> None:
        """Note a problem; `case` is the drawn task that has it."""
        text = " ".join(message[: 2 * LONGEST_MESSAGE].split())
        if len(text) > LONGEST_MESSAGE or len(message) > 2 * LONGEST_MESSAGE:
            text = f"{text[:LONGEST_MESSAGE]} … ({len(message):,} characters in all)"
        self._cases.setdefault((where, text), []).append(case)

    def all(self) -> tuple[Problem, ...]:
        """In the order in which they were found."""
        return tuple(
            Problem(where=where, message=text + (f" ({_cases(cases)})" if cases[0] else ""))
            for (where, text), cases in self._cases.items()
        )


def _cases(cases: Sequence[str]) -> str:
    return cases[0] + (f" and {len(cases) - 1:,} more" if len(cases) > 1 else "")


def _unreadable(path: Path, wrong: Sequence[str]) -> Validation:
    """The findings of a `suite.yaml` that cannot be read."""
    problems = _Problems()
    for sentence in wrong:
        where, message = _split(sentence, str(path))
        problems.add(_near(where), message)
    return Validation(
        suite=path.parent.name, source=_near(str(path)), kind=None, tasks=0, depths=(), problems=problems.all(),
        left_out=(), examples=(), checkpoint=None, max_tokens=None,
    )  # fmt: skip


def _split(sentence: str, source: str) -> tuple[str, str]:
    """`file:3: what is wrong` as where and what."""
    rest = sentence.removeprefix(source)
    number, _, message = rest.removeprefix(":").partition(": ")
    if rest != sentence and (number.isdigit() or not number):
        return f"{source}:{number}" if number else source, message
    return source, rest.removeprefix(": ") if rest != sentence else sentence


def _near(where: str) -> str:
    """A path below the working directory, as the user would write it."""
    return where.removeprefix(f"{Path.cwd()}{os.sep}")


def _of_the_spec(suite: Suite) -> Iterator[str]:
    """What is wrong with the fields of a `suite.yaml` beyond their form."""
    spec = suite.spec
    for number, example in enumerate(suite.examples, 1):
        if spec.output == "text" and parse_value(example.answer, suite.parser) is None:
            yield f"field 'examples': the parser '{suite.parser}' reads no value in answer {number}, {example.answer!r}"
    if OWN_EXTRACTOR in spec.extractor:
        try:
            import_function(spec.extractor, "field 'extractor':", SuiteError, suite.source.parent)
        except SuiteError as error:
            yield str(error)


def _tasks(suite: Suite, depths: Sequence[int], limit: int, problems: _Problems, left_out: list[Rejected]) -> Iterator[_Found]:
    """The tasks of a suite without faults; what is wrong with the others goes to `problems` and `left_out`."""
    if suite.spec.kind == PROCEDURAL:
        yield from _generated(suite, depths, limit, problems)
        return
    kind = KINDS[suite.spec.kind]
    found = False
    for part in _rows(suite, kind, problems):
        outcome = part if isinstance(part, Rejected) else _read(suite, kind, part, problems)
        if isinstance(outcome, Task) and not isinstance(part, Rejected):
            found = True
            yield _Found(outcome, _near(part.where))
        elif isinstance(outcome, Rejected) and kind.strict:
            problems.add(_near(outcome.where), outcome.reason)
        elif isinstance(outcome, Rejected):
            left_out.append(outcome)
    if not found and not problems:
        problems.add(
            _near(str(suite.source)), f"there is no task in {_near(str(suite.data()))}; give data of the kind '{suite.spec.kind}'"
        )


def _rows(suite: Suite, kind: Kind, problems: _Problems) -> Iterator[Row | Rejected]:
    """The rows of a suite; what keeps its data from being read is a problem."""
    try:
        yield from parts_of(kind, rows_of(suite.data()))
    except SuiteError as error:
        problems.add(_near(str(suite.source)), str(error))


def _read(suite: Suite, kind: Kind, row: Row, problems: _Problems) -> Task | Rejected | None:
    """The task of a row; None where its problems were told."""
    where = _near(row.where)
    if suite.spec.kind == "jsonl" and (wrong := schema_problems(row)):
        for sentence in wrong:
            problems.add(where, sentence.removeprefix(f"{row.where}: "))
        return None
    try:
        task = kind.task(row, suite.form)
    except Unusable as reason:
        return Rejected(row.number, reason.kind, reason.detail, row.where)
    except SuiteError as error:
        problems.add(where, str(error).removeprefix(f"{row.where}: "))
        return None
    wrong_gold = list(faults(task, suite.parser))
    if not wrong_gold:
        return task
    if not kind.strict:
        return Rejected(row.number, wrong_gold[0].kind, wrong_gold[0].detail, row.where)
    for fault in wrong_gold:
        problems.add(where, str(fault))
    return None


def _distinct(found: Iterator[_Found], problems: _Problems) -> Iterator[_Found]:
    """Tasks with an id of their own."""
    places: dict[str, str] = {}
    for one in found:
        if one.task.id in places:
            problems.add(
                one.where, f"field 'id': '{one.task.id}' is already that of the task in {places[one.task.id]}; rename one"
            )
            continue
        places[one.task.id] = one.where
        yield one


def _generated(suite: Suite, depths: Sequence[int], limit: int, problems: _Problems) -> Iterator[_Found]:
    try:
        generate = suite.generator()
    except SuiteError as error:
        problems.add(_near(str(suite.source)), str(error).removeprefix(f"{suite.source}: "))
        return
    file, line = _source(generate)
    where = f"{_near(file)}:{line}" if line else _near(file)
    for depth in depths:
        for seed in SEEDS:
            for index in range(limit):
                task = _one(suite, generate, (depth, seed, index), where, problems)
                if task is not None:
                    yield _Found(task, where)


def _one(suite: Suite, generate: Generator, arguments: tuple[int, int, int], where: str, problems: _Problems) -> Task | None:
    """One task of a generator, without faults; None where it has some."""
    depth, seed, index = arguments
    asked = f"depth {depth}, seed {seed}, index {index}"
    try:
        task, again = (generate(suite.name, depth, seed, index, dict(suite.spec.params)) for _ in range(2))
    except Exception as error:  # whatever a generator of the user's own does
        problems.add(_raised_at(generate, error) or where, f"raised {type(error).__name__}: {error}", asked)
        return None
    wrong = list(_wrong(suite, task, again, depth))
    for message in wrong:
        problems.add(where, message, asked)
    return None if wrong else task


def _wrong(suite: Suite, task: Any, again: Any, depth: int) -> Iterator[str]:
    """What a generator may get wrong besides raising."""
    if not isinstance(task, Task):
        yield f"gave {type(task).__name__}; it must return a Task"
        return
    if task != again:
        yield "gave two different tasks for the same arguments; draw from `task_rng(suite, depth, seed, index)` only"
    if task.suite != suite.name or task.depth != depth:
        yield f"gave a task of suite '{task.suite}' and depth {task.depth}; pass on the suite and depth that it is called with"
    yield from (str(fault) for fault in faults(task, suite.parser))
    yield from check_tools(task.tools)


def _source(function: Callable[..., Any]) -> tuple[str, int]:
    """File and line of a function, the file only where there is no line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else (str(inspect.getmodule(function)), 0)


def _raised_at(generate: Generator, error: Exception) -> str | None:
    """The last line of the generator's own file that an error went through."""
    file = _source(generate)[0]
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{_near(file)}:{lines[-1]}" if lines else None


def _count(
    suite: Suite, found: Sequence[_Found], tokenizer: Tokens | None, max_tokens: int | None, problems: _Problems
) -> tuple[DepthCount, ...]:
    """Tasks and premises of every depth, and with a tokenizer their longest prompts; prompts that do not fit are problems."""
    tasks, premises, longest = Counter[int](), Counter[int](), defaultdict[int, int](int)
    for task, where in found:
        tasks[task.depth] += 1
        premises[task.depth] += len(task.premises)
        for name, tokens, answer in _lengths(suite, task, tokenizer):
            longest[task.depth] = max(longest[task.depth], tokens)
            if max_tokens is not None and tokens + answer > max_tokens:
                problems.add(
                    where,
                    f"hop '{name}': its prompt has {tokens:,} tokens and its answer may have {answer:,}, together more than "
                    f"{max_tokens:,}; shorten it or raise engine.max_model_len",
                    f"task '{task.id}'",
                )
    return tuple(
        DepthCount(depth=depth, tasks=tasks[depth], premises=premises[depth], longest_prompt=longest.get(depth))
        for depth in sorted(tasks)
    )


def _lengths(suite: Suite, task: Task, tokenizer: Tokens | None) -> Iterator[tuple[str, int, int]]:
    """Premise, tokens of the prompt and of the answer for every hop; nothing without a tokenizer."""
    if tokenizer is not None:
        for name, messages, answer in _prompts(suite, task):
            yield name, tokenizer.count(messages), answer


def _prompts(suite: Suite, task: Task) -> Iterator[tuple[str, tuple[Message, ...], int]]:
    """What every hop of `chain` is sent when all is right so far, and how many tokens it may write."""
    from qtrap_agents.workflows.hop import instruction
    from qtrap_agents.workflows.reading import answer_tokens, messages_of, value_form

    form = value_form(suite)
    stated: dict[str, Premise] = {}
    for gold in task.premises:
        prompt = instruction(task, gold, stated, suite.spec.show_question)
        yield gold.id, messages_of(suite, prompt, form), answer_tokens(suite, form)
        stated[gold.id] = Premise(id=gold.id, text=gold.text, value=gold.value, depends_on=gold.depends_on)


def _chosen(found: Sequence[_Found]) -> list[_Found]:
    """Tasks to show: of different depths where there are, from the smallest to the largest."""
    first = {one.task.depth: one for one in reversed(found)}
    depths = sorted(first)
    spread = [depths[(len(depths) - 1) * place // (EXAMPLES - 1)] for place in range(EXAMPLES)] if depths else []
    chosen = [first[depth] for depth in dict.fromkeys(spread)]
    ids = {one.task.id for one in chosen}
    others = (one for one in found if one.task.id not in ids)
    return [*chosen, *islice(others, EXAMPLES - len(chosen))]


def _example(suite: Suite, task: Task, tokenizer: Tokens | None) -> TaskExample:
    hops = []
    for name, messages, answer in islice(_prompts(suite, task), SHOWN_HOPS):
        rendered, tokens = (None, None) if tokenizer is None else tokenizer.render(messages)
        right = task.premise(name).value
        hops.append(HopExample(premise=name, messages=messages, right=right, max_tokens=answer, rendered=rendered, tokens=tokens))
    return TaskExample(task_id=task.id, depth=task.depth, answer=task.answer, hops=tuple(hops), hops_in_all=len(task.premises))


def _by_reason(left_out: Sequence[Rejected]) -> tuple[LeftOut, ...]:
    """Rows that were left out, the most frequent reason first."""
    rows: dict[str, list[str]] = {}
    for row in left_out:
        detail = f" ({' '.join(row.detail.split())[:LONGEST_MESSAGE]})" if row.detail else ""
        rows.setdefault(row.kind, []).append(f"{_near(row.where)}{detail}")
    reasons = sorted(rows.items(), key=lambda item: -len(item[1]))
    return tuple(LeftOut(reason=reason, count=len(of_it), rows=tuple(of_it[:SHOWN_ROWS])) for reason, of_it in reasons)
