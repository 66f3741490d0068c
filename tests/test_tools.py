"""Tools give the same for the same argument, and every failure is one sentence."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtrap_agents import tools
from qtrap_agents.errors import ToolError
from qtrap_agents.tools import MOST_HUNG, Call, acall, call, check_tools, describe, parse_call
from qtrap_agents.types import Value

HELD: dict[str, dict[str, Value]] = {
    "calculator": {},
    "table": {"pen/price": 3, "pen/stock": 12, "Red cup/price": 4.5, "red cup/made by": "Bako"},
    "store": {"k17": "pen", "K 18": 40},
    "test_tools:shout": {},
    "test_tools:whispers": {},
    "test_tools:fails": {},
    "test_tools:leaves": {},
    "test_tools:hangs": {},
    "test_tools:long": {},
    "test_tools:listed": {},
}
RELEASED = threading.Event()


def shout(argument: str) -> str:
    """The argument in capitals.

    Not shown.
    """
    return f"{argument.upper()}!"


async def whispers(argument: str) -> str:
    await asyncio.sleep(0)
    return argument.lower()


def fails(argument: str) -> int:
    raise RuntimeError(f"no such city {argument}")


def leaves(argument: str) -> int:
    raise SystemExit(3)


def hangs(argument: str) -> int:
    RELEASED.wait()
    return 1


def long(argument: str) -> str:
    return "x" * 5_000


def listed(argument: str) -> list[int]:
    return [1]


@pytest.fixture
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tools may take 20 ms; whatever still hangs afterwards is let go."""
    monkeypatch.setattr(tools, "TOOL_TIMEOUT_S", 0.02)
    RELEASED.clear()
    yield
    RELEASED.set()
    while any(thread.name.startswith("tool ") for thread in threading.enumerate()):
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("calculator", "12 * 7", 84),
        ("calculator", "expression=(2 + 3)^2 / 2 =", 12.5),
        ("calculator", "$1,200 × 3", 3600),
        ("calculator", "max(1, 200)", 200),
        ("calculator", "-7 % 5", 3),
        ("calculator", "1.5e3 - 0.1", 1499.9),
        ("calculator", "2 ** 900 % 7", 1),
        ("table", "pen, price", 3),
        ("table", 'row="Pen", column = "Stock"', 12),
        ("table", "RED   CUP/price", 4.5),
        ("table", "red cup, made by", "bako"),
        ("store", " 'K17' ", "pen"),
        ("store", "key=k 18", 40),
        ("Store", "k17", "pen"),
        ("shout", "ok", "ok!"),
        ("test_tools:shout", "ok", "ok!"),
        ("whispers", "Ok", "ok"),
    ],
)
def test_what_a_tool_gives(name: str, argument: str, value: Value) -> None:
    assert call(HELD, name, argument) == value
    assert asyncio.run(acall(HELD, name, argument)) == value


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("tabel", "pen, price", "unknown tool 'tabel': did you mean 'table'?"),
        ("table", "pan, price", "table: unknown row 'pan': did you mean 'pen'?"),
        ("table", "pen, cost", "table: unknown column 'cost': known: made by, price, stock."),
        ("table", "pen, made by", "table: there is no value in row and column 'pen/made by'"),
        ("table", "pen", "table: 'pen' is not one row and one column"),
        ("table", "pen, price, 3", "is not one row and one column"),
        ("store", "k19", "store: unknown key 'k19': did you mean 'k17'?"),
        ("calculator", "12 * x", "'12 * x' is not arithmetic; give arithmetic such as"),
        ("calculator", "12 *", "calculator: invalid syntax"),
        ("calculator", "", "is not arithmetic"),
        ("calculator", "1 / 0", "calculator: division by zero"),
        ("calculator", "9 ** 9 ** 9", "is too large"),
        ("calculator", "1" * 201, "longer than 200 characters"),
        ("calculator", "(" * 150 + ")" * 150, "calculator: "),
        ("calculator", "1, 2", "a premise value must be a number or text, not tuple"),
        ("calculator", "__import__('os')", "is not arithmetic"),
        ("fails", "Bonn", "fails: the tool raised RuntimeError: no such city Bonn"),
        ("leaves", "", "leaves: the tool raised SystemExit: 3"),
        ("long", "", "long: the tool gave 5,000 characters; at most 2,000 are passed on"),
        ("listed", "", "listed: a premise value must be a number or text, not list; return a number or text"),
    ],
)
def test_a_failure_is_one_sentence(name: str, argument: str, message: str) -> None:
    with pytest.raises(ToolError) as caught:
        call(HELD, name, argument)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ToolError) as again:
        asyncio.run(acall(HELD, name, argument))
    assert str(again.value) == str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", "tool 'no_such_module:f' cannot be imported"),
        ("test_tools:HELD", "tool 'test_tools:HELD' is not a function"),
        ("search", "unknown tool 'search': known: calculator, store, table. A tool of your own is named module:function."),
    ],
)
def test_tools_that_there_are_not(name: str, message: str) -> None:
    with pytest.raises(ToolError, match=f"^{message[:20]}") as caught:
        call({name: {}}, name, "x")
    assert message in str(caught.value)
    with pytest.raises(ToolError):
        describe({name: {}})
    assert any(message in problem for problem in check_tools({name: {}}))


@pytest.mark.usefixtures("_short_limit")
def test_a_tool_that_hangs_is_left_behind() -> None:
    with pytest.raises(ToolError, match=r"^hangs: the tool did not return within 0\.02 s$"):
        call(HELD, "hangs", "")
    with pytest.raises(ToolError, match="did not return"):
        asyncio.run(acall(HELD, "hangs", ""))
    assert call(HELD, "shout", "still") == "still!"


@pytest.mark.usefixtures("_short_limit")
def test_a_tool_that_always_hangs_is_not_called_for_ever() -> None:
    async def many() -> list[BaseException | Value]:
        return await asyncio.gather(*(acall(HELD, "hangs", "") for _ in range(MOST_HUNG)), return_exceptions=True)

    assert all("did not return" in str(error) for error in asyncio.run(many()))
    with pytest.raises(ToolError, match="8 earlier calls still hang"):
        call(HELD, "hangs", "")
    assert sum(thread.name == "tool test_tools:hangs" for thread in threading.enumerate()) == MOST_HUNG


@pytest.mark.usefixtures("_short_limit")
def test_a_tool_that_returns_in_the_end_is_called_again() -> None:
    for _ in range(MOST_HUNG):
        with pytest.raises(ToolError, match="did not return"):
            call(HELD, "hangs", "")
    RELEASED.set()
    while any(thread.name.startswith("tool ") for thread in threading.enumerate()):
        time.sleep(0.001)
    assert call(HELD, "hangs", "") == 1


def test_the_loop_goes_on_while_a_tool_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "TOOL_TIMEOUT_S", 30.0)
    RELEASED.clear()

    async def both() -> Value:
        slow = asyncio.ensure_future(acall(HELD, "hangs", ""))
        await asyncio.sleep(0)
        RELEASED.set()
        return await slow

    assert asyncio.run(both()) == 1


@pytest.mark.parametrize(
    ("text", "tool", "argument"),
    [
        ("table(pen, price)", "table", "pen, price"),
        ("- **calculator((12 + 7) % 20)**.", "calculator", "(12 + 7) % 20"),
        ("Action: store: k17", "store", "k17"),
        ("Thought: I need the price.\nAction: `table(pen, price)`\nstore(k17)", "table", "pen, price"),
        ("table: pen, price", "table", "pen, price"),
        ('{"tool": "table", "argument": "pen, price"}', "table", "pen, price"),
        ('Call: {"name": "table", "arguments": {"row": "pen", "column": "price"}}', "table", "pen, price"),
        ('{"tool": "calculator", "input": 12}', "calculator", "12"),
        ("search(weather in Bonn)", "search", "weather in Bonn"),
        ("my.module:shout(hello)", "my.module:shout", "hello"),
    ],
)
def test_forms_of_a_call(text: str, tool: str, argument: str) -> None:
    assert parse_call(text, HELD) == Call(tool, argument)


@pytest.mark.parametrize(
    "text",
    ["", "The price: 3", "It costs 3.", "Answer: 42", "table(pen, price) = 3", "{}", '{"tool": 3}', "{" * 3_000, "Action:"],
)
def test_what_is_no_call(text: str) -> None:
    assert parse_call(text, HELD) is None


def test_without_names_every_word_with_a_colon_calls() -> None:
    assert parse_call("weather: Bonn") == Call("weather", "Bonn")
    assert parse_call("Action: Bonn") is None
    assert parse_call("weather: Bonn", HELD) is None


@pytest.mark.parametrize(
    ("tool", "argument", "form"),
    [
        ("Table", ' "Pen" ,Price', "table(pen, price)"),
        ("calculator", "( 12 + 7 ) % 20", "calculator((12+7)%20)"),
        ("calculator", "max(1,2.5)", "calculator(max(1, 2.5))"),
        ("store", "K  17", "store(k 17)"),
    ],
)
def test_the_canonical_form(tool: str, argument: str, form: str) -> None:
    assert str(Call(tool, argument)) == form


@given(st.text(max_size=300))
def test_nothing_a_model_writes_raises(text: str) -> None:
    found = parse_call(text, HELD)
    assert parse_call(text) is not None or found is None
    for name in ("calculator", "table", "store"):
        with suppress(ToolError):
            assert isinstance(call(HELD, name, text), int | float | str)


def test_a_prompt_tells_what_the_tools_know() -> None:
    lines = describe({name: HELD[name] for name in ("calculator", "table", "store", "test_tools:shout")}).split("\n")
    assert lines == [
        "calculator(expression): the number that an arithmetic expression gives, such as calculator(12 * (7 + 5))",
        "table(row, column): the value in that place; rows: pen, Red cup, red cup; columns: price, stock, made by",
        "store(key): the value noted under that key; keys: k17, K 18",
        "shout(argument): The argument in capitals.",
    ]
    assert describe({}) == ""
    assert describe({"store": {f"k{number}": 1 for number in range(30)}}).endswith("k23, … (30 in all)")


def test_problems_of_tools() -> None:
    assert check_tools(HELD) == []
    assert check_tools({"table": {"pen": 3}, "test_tools:shout": {"a": 1}}) == [
        "table: 'pen' is no 'row/column'",
        "test_tools:shout: a function of your own holds nothing; remove its entries",
    ]
