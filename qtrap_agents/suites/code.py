"""Code tracing: small Python programs, executed by Python itself line by line for the gold state.

Premise `k` is the value that the `k`-th executed assignment gives, loops counted each time round. Its parents are the
assignments that last gave the variables it reads; its rule is the expression of that line with the variables replaced by
those premises. An `if` reads its condition and both branches, because a wrong condition takes the other one: its rule is the
conditional expression. Variables of a loop are not premises: every round names its number.

Hop as the model sees it, itself a program whose output is the premise:

    a = 41
    i = 2
    a = (a * 3 + i) % 100
    print(a)

Values are small whole numbers and words of at most eight letters. Every assignment reads the one before it, so all of them
bear on the answer. The programs are made here and call nothing but `len`, `max`, `min` and `abs`; they are run with plain
`exec`, which is no sandbox for programs of others.
"""

import ast
import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from qtrap_agents.semantics import normalise
from qtrap_agents.suites.procedural import Params, chain_task, task_rng
from qtrap_agents.types import GoldPremise, Task, Value

NUMBERS = ("a", "b", "c", "d")
WORDS = ("v", "w")
"""Variables that hold numbers, and those that hold words."""

LITERALS = ("lantern", "harbour", "velvet", "copper", "marble", "orchid", "tunnel", "window")

LEAST_MODULUS = 10

FRESH = 0.25
"""Share of the expressions whose other operand is a constant although there is another variable."""

LOOP, BRANCH = 0.2, 0.25
"""Shares of loops and of branches among the statements, where they fit."""

_CALLED = {"len": len, "max": max, "min": min, "abs": abs}


class Read(NamedTuple):
    """A variable as an assignment found it: the number of the assignment that gave it, and its value."""

    number: int
    value: Value


class Executed(NamedTuple):
    """An assignment as it was executed: its statement (an `if` with its branches), the variable, and the value given.

    `reads` are the variables that it reads, `loop` the loop variables among them with their numbers.
    """

    statement: ast.stmt
    variable: str
    value: Value
    reads: Mapping[str, Read]
    loop: Mapping[str, int]


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index`: a program of `depth` executed assignments modulo `params["modulus"]` (default 100)."""
    modulus = int(params.get("modulus", 100))
    if modulus < LEAST_MODULUS:
        raise ValueError(f"'modulus' must be {LEAST_MODULUS} or more, not {modulus}")
    source = program(task_rng(suite, depth, seed, index), depth, modulus)
    premises = [premise(number, step) for number, step in enumerate(trace(source), 1)]
    question = (
        "Trace this Python program. s1 is the value that the first executed assignment gives, s2 that of the second, and so "
        f"on; in a loop every round counts.\n\n{source}\n\nThe answer is the value of the last assignment, s{depth}."
    )
    return chain_task(suite, depth, seed, index, question, premises)


def program(rng: random.Random, depth: int, modulus: int) -> str:
    """Source text of a program that executes `depth` assignments, every one of which reads the one before it."""
    writer = _Writer(rng, modulus)
    while writer.executed < depth:
        writer.write(depth - writer.executed)
    return "\n".join(writer.lines)


def trace(source: str) -> Iterator[Executed]:
    """Run a program of assignments, `if` with one assignment a branch, and `for … in range(…)`, one statement at a time.

    Raises:
        ValueError: there is another statement in it, or the branches of an `if` give different variables.
    """
    yield from _run(ast.parse(source).body, {}, {})


def premise(number: int, step: Executed) -> GoldPremise:
    """The gold premise of an executed assignment."""
    names: dict[str, ast.expr] = {name: ast.Name(f"s{read.number}", ast.Load()) for name, read in step.reads.items()}
    names |= {name: ast.Constant(value) for name, value in step.loop.items()}
    own = ast.parse(ast.unparse(_expression(step.statement)), mode="eval")
    rule = _Renamed(names).visit(own)
    return GoldPremise(
        id=f"s{number}",
        text=f"s{number}: {step.variable} = {step.value}",
        value=step.value,
        depends_on=tuple(f"s{earlier}" for earlier in sorted({read.number for read in step.reads.values()})),
        rule=ast.unparse(rule),
        instruction=_instruction(step),
        kind=_kind(step),
    )


def _run(body: list[ast.stmt], state: dict[str, Read], loop: dict[str, int]) -> Iterator[Executed]:
    """Execute statements; `state` is what every variable holds and is changed."""
    for statement in body:
        if isinstance(statement, ast.For):
            for value in _evaluated(statement.iter, {"range": range}):
                yield from _run(statement.body, state, {**loop, ast.unparse(statement.target): value})
        else:
            yield _assigned(statement, state, loop)


def _evaluated(expression: ast.expr, called: Mapping[str, object]) -> list[int]:
    return list(eval(ast.unparse(expression), {"__builtins__": called}))


def _assigned(statement: ast.stmt, state: dict[str, Read], loop: Mapping[str, int]) -> Executed:
    """Execute one assignment or `if`, and note which premise its variable now has."""
    variable = _target(statement)
    names = sorted({node.id for node in ast.walk(_expression(statement)) if isinstance(node, ast.Name)})
    space: dict[str, object] = {name: read.value for name, read in state.items()}
    space.update(loop)
    exec(compile(ast.Module([statement], []), "program", "exec"), {"__builtins__": _CALLED}, space)
    reads = {name: state[name] for name in names if name in state and name not in loop}
    number = max((read.number for read in state.values()), default=0) + 1
    state[variable] = Read(number, normalise(space[variable]))
    return Executed(statement, variable, state[variable].value, reads, {name: loop[name] for name in names if name in loop})


def _target(statement: ast.stmt) -> str:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AugAssign(target=ast.Name(id=name)):
            return name
        case ast.If(body=[then], orelse=[other]) if _target(then) == _target(other):
            return _target(then)
    raise ValueError(f"'{ast.unparse(statement)[:60]}' is neither an assignment nor an 'if' that gives one variable either way")


def _expression(statement: ast.stmt) -> ast.expr:
    """What the variable is given, as one expression."""
    match statement:
        case ast.AugAssign(target=ast.Name(id=name), op=operator, value=value):
            return ast.BinOp(ast.Name(name, ast.Load()), operator, value)
        case ast.If(test=test, body=[then], orelse=[other]):
            return ast.IfExp(test, _expression(then), _expression(other))
        case ast.Assign(value=value):
            return value
    raise ValueError(f"'{ast.unparse(statement)[:60]}' gives no value")


class _Renamed(ast.NodeTransformer):
    """Variables replaced by what stands for them; names of functions stay."""

    def __init__(self, names: Mapping[str, ast.expr]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._names.get(node.id, node)


def _instruction(step: Executed) -> str:
    """The statement with the variables that it reads before it, slots in place of their values, and a `print`."""
    lines = [
        f"{name} = '{{s{read.number}}}'" if isinstance(read.value, str) else f"{name} = {{s{read.number}}}"
        for name, read in step.reads.items()
    ]
    lines += [f"{name} = {value}" for name, value in step.loop.items()]
    return "\n".join([*lines, ast.unparse(step.statement), f"print({step.variable})"])


def _kind(step: Executed) -> str:
    nodes = list(ast.walk(_expression(step.statement)))
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if isinstance(step.statement, ast.If):
        return "branch"
    if isinstance(step.value, str):
        return "word"
    if "len" in called:
        return "length"
    return "index" if any(isinstance(node, ast.List) for node in nodes) else "choice" if called else "arithmetic"


class _Writer:
    """Writes a program from top to bottom; `last` is the variable that was assigned last and must be read next."""

    def __init__(self, rng: random.Random, modulus: int) -> None:
        self.lines: list[str] = []
        self.executed = 0
        self._rng = rng
        self._modulus = modulus
        self._known: set[str] = set()
        self._last: str | None = None

    def write(self, room: int) -> None:
        """One more statement that executes at most `room` assignments."""
        chance = self._rng.random()
        if self._last is None:
            self._assign(*self._first())
        elif chance < LOOP and room >= 2:
            self._loop(self._last, room)
        elif chance < LOOP + BRANCH:
            self._branch(self._last)
        else:
            self._assign(*self._from(self._last))

    def _assign(self, variable: str, line: str) -> None:
        self._wrote(variable, [line])

    def _wrote(self, variable: str, lines: list[str], executed: int = 1) -> None:
        self.lines += lines
        self.executed += executed
        self._known.add(variable)
        self._last = variable

    def _first(self) -> tuple[str, str]:
        if self._rng.random() < 0.3:
            word = self._rng.choice(WORDS)
            return word, f"{word} = '{self._rng.choice(LITERALS)}'[{self._rng.randrange(1, 4)}:]"
        number = self._rng.choice(NUMBERS)
        return number, f"{number} = ({self._constant()} * {self._rng.randrange(3, 10)} + {self._constant()}) % {self._modulus}"

    def _from(self, last: str) -> tuple[str, str]:
        """A plain assignment that reads `last`."""
        if last in NUMBERS and self._rng.random() < 0.1:
            return last, f"{last} += {self._rng.randrange(1, 10)}"
        stays = self._rng.random() < 0.75
        if (last in NUMBERS) == stays:
            number = self._rng.choice(NUMBERS)
            return number, f"{number} = {self._number(last)}"
        word = self._rng.choice(WORDS)
        return word, f"{word} = {self._word(last)}"

    def _loop(self, last: str, room: int) -> None:
        """Two to four rounds over one or two assignments; the last one of a round gives `last` again."""
        body, assignments = self._number_round(last, room) if last in NUMBERS else ([self._word_round(last)], 1)
        rounds = self._rng.randrange(2, min(4, room // assignments) + 1)
        header = self._rng.choice((f"for i in range({rounds}):", f"for i in range(1, {rounds + 1}):"))
        self._wrote(last, [header, *(f"    {line}" for line in body)], rounds * assignments)

    def _number_round(self, last: str, room: int) -> tuple[list[str], int]:
        """Lines of a round, and how many assignments it executes."""
        factor, other, modulus = self._rng.choice((3, 7, 9)), self._other(last, NUMBERS), self._modulus
        shape = self._rng.choice(("scaled", "sum", "two", "if"))
        if shape == "two" and room >= 4:
            middle = self._rng.choice([name for name in NUMBERS if name != last])
            self._known.add(middle)
            return [f"{middle} = ({last} + i * {factor}) % {modulus}", f"{last} = ({middle} * 3 + {other}) % {modulus}"], 2
        if shape == "if":
            even, odd = f"{last} = {last} // 2 + i", f"{last} = ({last} * {factor} + i) % {modulus}"
            return [f"if {last} % 2 == 0:", f"    {even}", "else:", f"    {odd}"], 1
        added = f"{last} * {factor} + i" if shape == "scaled" else f"{last} + i * {other}"
        return [f"{last} = ({added}) % {modulus}"], 1

    def _word_round(self, last: str) -> str:
        literal = self._rng.choice(LITERALS)
        return f"{last} = " + self._rng.choice((f"{last}[i:] + {last}[:i]", f"{last}[1:] + '{literal}'[i]"))

    def _branch(self, last: str) -> None:
        """An `if` over `last`; both branches give the same variable."""
        to_number = (last in NUMBERS) == (self._rng.random() < 0.75)
        variable = self._rng.choice(NUMBERS if to_number else WORDS)
        then, other = (self._number(last) if to_number else self._word(last) for _ in range(2))
        condition = self._condition(last)
        self._wrote(variable, [f"if {condition}:", f"    {variable} = {then}", "else:", f"    {variable} = {other}"])

    def _condition(self, last: str) -> str:
        if last in NUMBERS:
            other = self._other(last, NUMBERS)
            return self._rng.choice((f"{last} > {other}", f"{last} % 2 == 0", f"{last} < {self._modulus // 2}"))
        other = self._other(last, WORDS)
        return self._rng.choice((f"'{self._rng.choice('aeo')}' in {last}", f"len({last}) > 4", f"{last} < {other}"))

    def _number(self, last: str) -> str:
        """An expression that reads `last` and gives a number."""
        other, modulus, factor = self._other(last, NUMBERS), self._modulus, self._rng.choice((3, 7, 9))
        if last in WORDS:
            return f"(len({last}) * {factor} + {other}) % {modulus}"
        row = ", ".join(self._constant() for _ in range(4))
        return self._rng.choice((
            f"({last} + {other}) % {modulus}", f"({last} - {other}) % {modulus}", f"({last} * {factor} + {other}) % {modulus}",
            f"max({last}, {other})", f"min({last}, {other})", f"abs({last} - {other})",
            f"[{row}][{last} % 4]", f"({last} // 2 + {other}) % {modulus}",
        ))  # fmt: skip

    def _word(self, last: str) -> str:
        """An expression that reads `last` and gives a word."""
        word, literal = self._other(last, WORDS), self._rng.choice(LITERALS)
        if last in NUMBERS:
            turned = f"{word}[{last} % len({word}):] + {word}[:{last} % len({word})]"
            return self._rng.choice((turned, f"'{literal}'[{last} % 4:]", f"'{literal}'[{last} % 6] + {word}[1:]"))
        places = self._rng.randrange(1, 3)
        turned, mixed = f"{last}[{places}:] + {last}[:{places}]", f"'{literal}'[{places}] + {last}[1:]"
        return self._rng.choice((turned, mixed, f"{last}[::-1]", f"{last}[:3] + {word}[-3:]"))

    def _other(self, last: str, names: tuple[str, ...]) -> str:
        """Another variable of that sort, or a constant."""
        known = sorted((self._known & set(names)) - {last})
        if known and self._rng.random() > FRESH:
            return self._rng.choice(known)
        return self._constant() if names == NUMBERS else f"'{self._rng.choice(LITERALS)}'"

    def _constant(self) -> str:
        return str(self._rng.randrange(1, self._modulus))
