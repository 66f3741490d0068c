"""Local, deterministic tools that an agent may call.

A task names its tools and what they hold:

    tools: {calculator: {}, table: {"pen/price": 3, "pen/stock": 12}, store: {"k17": "pen"}}

    calculator(expression)    the number that an arithmetic expression gives (see `semantics.calculate`)
    table(row, column)        the value held under `row/column`
    store(key)                the value held under that key
    module:function           a function of the user's own, async or not, called with the argument as text; it holds nothing,
                              and a model calls it by the name of the function

A model calls one with a line in one of these forms, which `parse_call` reads: `table(pen, price)`, `table: pen, price`,
`{"tool": "table", "argument": "pen, price"}`. Names and keys are compared without regard to case, spacing and quotes.

The user's own functions run in a thread of their own, for at most `TOOL_TIMEOUT_S`. Python cannot end a thread: one that
hangs is left behind, holds no worker of the run and does not keep the process alive at its end. Once `MOST_HUNG` calls of
one function hang at the same time, it is not called again until one of them returns.
"""

import asyncio
import inspect
import json
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from qtrap_agents.errors import ToolError as ToolError
from qtrap_agents.errors import unknown
from qtrap_agents.plugins import import_function
from qtrap_agents.semantics import RuleError, calculate, normalise
from qtrap_agents.types import Value

Tools = Mapping[str, Mapping[str, Value]]

TOOL_TIMEOUT_S = 10.0
"""Seconds that a function of the user's own may take."""

MOST_HUNG = 8
"""Calls of one function that may hang before it is no longer called."""

LONGEST_RESULT = 2_000
"""Characters of text that a function of the user's own may give."""

BUILT_IN = ("calculator", "table", "store")

_LONGEST_LINE = 2_000
_MOST_NAMED = 24
_QUOTES = " \t`\"'"
_MARKS = _QUOTES + "*"
_NAME = r"[A-Za-z_][\w.]{0,63}(?::[A-Za-z_]\w{0,63})?"
_LEAD = r"[\s>*_`#-]*(?:(?:action|call|tool|tool call|function)[ \t]*[*_`]*[:=][ \t]*)?[*_`]*"
_PARENTHESES = re.compile(rf"{_LEAD}({_NAME})\((.*)\)[*_`.;]*\s*$", re.IGNORECASE)
_COLON = re.compile(rf"{_LEAD}({_NAME})[*_`]*[ \t]*:[ \t]+(\S.*)$", re.IGNORECASE)
_LINE = re.compile(r"[^\s].*")
_OBJECT = re.compile(r"\{.*\}")
_LEADS = {"action", "call", "tool", "function"}
_KEYWORD = re.compile(r"^[A-Za-z_]\w*\s*=\s*(?=\S)")


class Call(NamedTuple):
    """A tool and the argument that it is called with, as the model wrote them."""

    tool: str
    argument: str

    def __str__(self) -> str:
        """The canonical form `table(pen, price)`: casefolded, without quotes and without spaces around operators."""
        parts = (re.sub(r"\s*([^\w\s.])\s*", r"\1", part) for part in _parts(self.argument, ","))
        return f"{self.tool.casefold()}({', '.join(parts)})"


def parse_call(text: str, names: Collection[str] = ()) -> Call | None:
    """The first call in a text: a line of its own in one of the three forms, bullets and bold marks allowed.

    Args:
        names: tools that there are. With them, a line `word: …` is a call only where `word` is one of them; the other two
            forms are calls of whatever they name.
    """
    found = find_call(text, names)
    return found[0] if found else None


def find_call(text: str, names: Collection[str] = ()) -> tuple[Call, int, int] | None:
    """The call that `parse_call` reads, with start and end of its line in the text."""
    known = _known(names)
    for line in _LINE.finditer(text):
        found = _call_in(line[0][:_LONGEST_LINE].strip(), known)
        if found is not None:
            return found, *line.span()
    return None


def call(tools: Tools, name: str, argument: str) -> Value:
    """What a tool gives for an argument, normalised. Waits for a function of the user's own.

    Raises:
        ToolError: no such tool, key or arithmetic; the function raised, hung or gave no value.
    """
    full = _tool(tools, name)
    if ":" not in full:
        return _built_in(full, tools[full], argument)
    future = _started(full, argument)
    try:
        return _result(full, future.result(TOOL_TIMEOUT_S))
    except TimeoutError:
        raise _late(full, future) from None


async def acall(tools: Tools, name: str, argument: str) -> Value:
    """`call` for a workflow: other tasks go on while a function of the user's own is waited for."""
    full = _tool(tools, name)
    if ":" not in full:
        return _built_in(full, tools[full], argument)
    future = _started(full, argument)
    try:
        return _result(full, await asyncio.wait_for(asyncio.wrap_future(future), TOOL_TIMEOUT_S))
    except TimeoutError:
        raise _late(full, future) from None


def describe(tools: Tools) -> str:
    """A line for each tool, for a prompt: how it is called and what it knows.

    Raises:
        ToolError: a tool is of no kind, or a function cannot be imported.
    """
    return "\n".join(_described(name, held) for name, held in tools.items())


def check_tools(tools: Tools) -> list[str]:
    """What is wrong with the tools of a task; empty where nothing is. Imports the user's own functions."""
    problems = []
    for name, held in tools.items():
        try:
            _described(name, held)
        except ToolError as error:
            problems.append(str(error))
        if name == "table":
            problems.extend(f"table: '{key}' is no 'row/column'" for key in held if len(_parts(key, "/")) != 2)
        elif held and name not in BUILT_IN:
            problems.append(f"{name}: a function of your own holds nothing; remove its entries")
    return problems


def _described(name: str, held: Mapping[str, Value]) -> str:
    if name == "calculator":
        return "calculator(expression): the number that an arithmetic expression gives, such as calculator(12 * (7 + 5))"
    if name == "table":
        places = [key.partition("/") for key in held]
        rows, columns = (_listed(place[side] for place in places) for side in (0, 2))
        return f"table(row, column): the value in that place; rows: {rows}; columns: {columns}"
    if name == "store":
        return f"store(key): the value noted under that key; keys: {_listed(held)}"
    function = import_function(_kind(name), "tool", ToolError)
    told = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    return f"{_short(name)}(argument){f': {told}' if told else ''}"


def _listed(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f", … ({len(distinct)} in all)" if len(distinct) > _MOST_NAMED else ""
    return ", ".join(distinct[:_MOST_NAMED]) + more


def _kind(name: str) -> str:
    """The name of a tool that there can be. Raises ToolError."""
    if name in BUILT_IN or ":" in name:
        return name
    raise ToolError(f"{unknown('tool', name, BUILT_IN)} A tool of your own is named module:function.")


def _short(name: str) -> str:
    return name.rpartition(":")[2]


def _known(names: Iterable[str]) -> set[str]:
    return {form.casefold() for name in names for form in (name, _short(name))}


def _tool(tools: Tools, name: str) -> str:
    """The full name of a tool, given as the model wrote it."""
    wanted = name.strip(_MARKS).casefold()
    for full in tools:
        if wanted in (full.casefold(), _short(full).casefold()):
            return _kind(full)
    raise ToolError(unknown("tool", name, (_short(full) for full in tools)))


def _built_in(name: str, held: Mapping[str, Value], argument: str) -> Value:
    if name == "calculator":
        try:
            return calculate(_KEYWORD.sub("", argument.strip(_QUOTES)).strip(_QUOTES))
        except RuleError as error:
            reason = str(error.__cause__ or error).splitlines()[0][:120]
            raise ToolError(f"calculator: {reason}; give arithmetic such as 12 * (7 + 5)") from error
    return _looked_up(name, held, argument)


def _looked_up(name: str, held: Mapping[str, Value], argument: str) -> Value:
    if name == "store":
        keys = {_bare(key): value for key, value in held.items()}
        wanted = [_bare(argument), _bare(_KEYWORD.sub("", argument))]
    else:
        keys = {"/".join(_parts(key, "/")): value for key, value in held.items()}
        places = argument.split("," if "," in argument else "/")
        if len(places) != 2:
            raise ToolError(f"table: '{argument[:80]}' is not one row and one column; call it as table(row, column)")
        wanted = ["/".join(_bare(part) for part in places), "/".join(_bare(_KEYWORD.sub("", part.strip())) for part in places)]
    for key in wanted:
        if key in keys:
            return normalise(keys[key])
    raise ToolError(f"{name}: {_unknown_key(wanted[1][:80], name, keys)}")


def _unknown_key(wanted: str, name: str, keys: Mapping[str, Value]) -> str:
    if name == "store":
        return unknown("key", wanted, keys)
    for kind, side in (("row", 0), ("column", 2)):
        known = {key.partition("/")[side] for key in keys}
        part = wanted.partition("/")[side]
        if part not in known:
            return unknown(kind, part, known)
    return f"there is no value in row and column '{wanted}'"


def _bare(part: str) -> str:
    """A part of an argument as keys are compared: no quotes, single spaces, casefolded."""
    return " ".join(part.strip(_MARKS).split()).casefold()


def _parts(text: str, separator: str) -> list[str]:
    return [_bare(part) for part in text.split(separator)]


_hung: Counter[str] = Counter()
_hung_lock = threading.Lock()


def _started(name: str, argument: str) -> "Future[Any]":
    """The result to come of a function of the user's own."""
    function = import_function(name, "tool", ToolError)
    if _hung[name] >= MOST_HUNG:
        raise ToolError(f"{_short(name)}: {MOST_HUNG} earlier calls still hang, so it is not called; make the function return")
    future: Future[Any] = Future()

    def work() -> None:
        try:
            given = function(argument)
            future.set_result(asyncio.run(given) if inspect.iscoroutine(given) else given)
        except BaseException as error:  # whatever a user's function raises, SystemExit too, is an error of this call
            future.set_exception(ToolError(f"{_short(name)}: the tool raised {type(error).__name__}: {str(error)[:200]}"))

    future.set_running_or_notify_cancel()
    threading.Thread(target=work, name=f"tool {name}", daemon=True).start()
    return future


def _late(name: str, future: "Future[Any]") -> ToolError:
    """The error of a call that takes too long; it counts as hung until the function returns."""
    with _hung_lock:
        _hung[name] += 1
    future.add_done_callback(lambda _: _returned(name))
    return ToolError(f"{_short(name)}: the tool did not return within {TOOL_TIMEOUT_S:g} s")


def _returned(name: str) -> None:
    with _hung_lock:
        _hung[name] -= 1


def _result(name: str, value: object) -> Value:
    try:
        result = normalise(value)
    except RuleError as error:
        raise ToolError(f"{_short(name)}: {error}; return a number or text") from error
    if isinstance(result, str) and len(result) > LONGEST_RESULT:
        raise ToolError(f"{_short(name)}: the tool gave {len(result):,} characters; at most {LONGEST_RESULT:,} are passed on")
    return result


def _call_in(line: str, known: set[str]) -> Call | None:
    if (match := _OBJECT.search(line)) and (found := _from_json(match[0])):
        return found
    if match := _PARENTHESES.match(line):
        return Call(match[1], match[2].strip())
    match = _COLON.match(line)
    if match and (match[1].casefold() in known if known else match[1].casefold() not in _LEADS):
        return Call(match[1], match[2].strip().strip("`"))
    return None


def _from_json(text: str) -> Call | None:
    """`{"tool": …, "argument": …}`, also with the keys that models were taught: name, function, arguments, input."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    names = [data[key] for key in ("tool", "name", "function", "action") if isinstance(data.get(key), str)]
    arguments = [data[key] for key in ("argument", "arguments", "input", "args") if key in data]
    return Call(names[0], _flat(arguments[0] if arguments else "")) if names else None


def _flat(argument: object) -> str:
    if isinstance(argument, dict):
        return _flat(list(argument.values()))
    return ", ".join(_flat(part) for part in argument) if isinstance(argument, list) else str(argument)
