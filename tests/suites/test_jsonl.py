"""The user's own tasks: defaults that make sense, and every mistake named with its line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from qtrap_agents.errors import SuiteError
from qtrap_agents.suites.catalog import KINDS
from qtrap_agents.suites.rows import Form, read
from qtrap_agents.suites.sources import Source, rows_of
from qtrap_agents.types import Task

S1 = {"id": "s1", "value": 9, "rule": "16 - 3 - 4", "instruction": "16 - 3 - 4 =", "kind": "minus"}
S2 = {"id": "s2", "value": 18, "depends_on": ["s1"], "rule": "s1 * 2", "text": "She earns 18 dollars, 180 a week and 18.5 no."}


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "t1", "question": "?", "answer": 18, "premises": [S1, S2]} | changes


def write(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def read_jsonl(path: Path, suite: str, parser: str) -> tuple[Task, ...]:
    return read(KINDS["jsonl"], rows_of(Source(path)), Form(suite, parser)).tasks


def instruction(tmp_path: Path, **changes: Any) -> str:
    task = read_jsonl(write(tmp_path, row(premises=[S1, S2 | changes])), "mine", "number")[0]
    return task.premises[1].instruction


def test_a_good_file(tmp_path: Path) -> None:
    path = write(
        tmp_path, "\ufeff" + json.dumps(row(metadata={"level": 2})), "", row(id="t2", premises=[S1 | {"value": 9.0}, S2]), ""
    )
    first, second = read_jsonl(path, "mine", "int")
    assert [premise.kind for premise in first.premises] == ["minus", ""]
    assert (first.id, first.suite, first.depth, first.answer, first.metadata) == ("t1", "mine", 2, 18, {"level": 2})
    assert first.premise("s1").text == "s1 = 9"
    assert second.premise("s1").value == 9


def test_default_instructions(tmp_path: Path) -> None:
    assert instruction(tmp_path) == "Given s1 = {s1}: She earns ___ dollars, 180 a week and 18.5 no."
    assert instruction(tmp_path, text=None) == "{s1} * 2 ="
    assert instruction(tmp_path, text="Nothing said") == "{s1} * 2 ="
    assert instruction(tmp_path, text="Twice {s1} is 18", rule=None) == "Twice {s1} is ___"
    assert instruction(tmp_path, instruction="double {s1}") == "double {s1}"


def test_words_are_values_too(tmp_path: Path) -> None:
    premise = {"id": "who", "value": "Ann  Lee", "text": "It was Ann  Lee."}
    task = read_jsonl(write(tmp_path, row(answer="ann lee", premises=[premise])), "mine", "words")[0]
    assert task.answer == task.premise("who").value == "ann lee"
    assert task.premise("who").instruction == "It was ___."


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "found list"),
        ({"id": "t1"}, "field 'question': field required"),
        (row(anser=1), "unknown field 'anser': did you mean 'answer'?"),
        (row(answer=None), "field 'answer"),
        (row(answer=float("inf")), "field 'answer'"),
        (row(answer=17), "the last premise is 18, the answer is 17"),
        (row(premises=[]), "field 'premises'"),
        (row(premises=[S1 | {"id": "S 1"}]), "field 'premises.0.id'"),
        (row(premises=[S1 | {"valu": 1}]), "unknown field 'valu'"),
        (row(premises=[S1, S1, S2]), "premise id 's1' is used twice"),
        (row(premises=[S2]), "premise 's2' depends on ['s1']"),
        (row(premises=[S1 | {"depends_on": ["s2"]}, S2]), "depend on each other in a circle: s1 <- s2 <- s1"),
        (row(premises=[S1, S2 | {"rule": "s1 * 3"}]), "the rule gives 27, the gold value is 18"),
        (row(premises=[S1, S2 | {"depends_on": []}]), "'s1' is not defined"),
        (row(premises=[S1, S2 | {"instruction": "double {s7}"}]), "uses {s7}, which is not in its depends_on"),
        (row(premises=[{"id": "s2", "value": 18}]), "field 'instruction' is missing"),
        (row(answer="red", premises=[{"id": "s1", "value": "red", "text": "red"}]), "'red' cannot be read from a completion"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, bad: Any, message: str) -> None:
    path = write(tmp_path, row(id="t0"), bad)
    with pytest.raises(SuiteError) as caught:
        read_jsonl(path, "mine", "number")
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tools_of_a_task(tmp_path: Path) -> None:
    tools = {"calculator": {}, "table": {"pen/price": 3}, "store": {"k17": "pen"}}
    assert read_jsonl(write(tmp_path, row(tools=tools)), "mine", "number")[0].tools == tools
    with pytest.raises(SuiteError, match=r":1: field 'tools': table: 'pen' is no 'row/column'"):
        read_jsonl(write(tmp_path, row(tools={"table": {"pen": 3}})), "mine", "number")


def test_rules_and_values_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"field 'premises\.1\.rule': string should have at most 100000 characters") as caught:
        read_jsonl(write(tmp_path, row(premises=[S1, S2 | {"rule": "1+" * 60_000 + "1"}])), "mine", "number")
    assert len(str(caught.value)) < 1_000
    long = {"id": "s1", "value": "a" * 20_000, "instruction": "?"}
    with pytest.raises(SuiteError, match=r"value too long: premise 's1' has more than 10,000 characters; shorten it"):
        read_jsonl(write(tmp_path, row(answer="a" * 20_000, premises=[long])), "mine", "text")


def test_names_and_truth_values_are_stored_as_they_are_read(tmp_path: Path) -> None:
    name = {"id": "who", "value": "The Old Mill", "accept": ["Old mill!"], "instruction": "Where?"}
    place = read_jsonl(write(tmp_path, row(answer="the old mill", accept=["a mill"], premises=[name])), "mine", "phrase")[0]
    assert (place.answer, place.premise("who").value, place.premise("who").accept) == ("old mill", "old mill", ("old mill",))
    assert place.accept == ("mill",)
    rows = [
        row(id=str(value), answer=value, premises=[{"id": "s1", "value": value, "instruction": "?"}]) for value in (True, "No")
    ]
    assert [task.answer for task in read_jsonl(write(tmp_path, *rows), "mine", "boolean")] == ["true", "false"]


def test_a_task_id_is_used_once(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r":3: id used twice: 't1' is already that of an earlier task; rename one"):
        read_jsonl(write(tmp_path, row(), "", row()), "mine", "number")


def test_missing_empty_and_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    with pytest.raises(SuiteError, match="no such file"):
        read_jsonl(path, "mine", "number")
    path.write_text("\n\n")
    assert read_jsonl(path, "mine", "number") == ()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="cannot be read as UTF-8"):
        read_jsonl(path, "mine", "number")
    path.unlink()
    with pytest.raises(SuiteError, match="cannot be loaded"):
        read_jsonl(tmp_path, "mine", "number")
