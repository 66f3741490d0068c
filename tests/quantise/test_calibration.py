"""Calibration texts are what the model will see: prompts of the suite with gold answers, or the user's own."""

import asyncio
import json
from pathlib import Path

import pytest

from qtrap_agents.config import SuiteChoice
from qtrap_agents.errors import ConfigError
from qtrap_agents.quantise.calibration import calibration_rows, file_rows, suite_rows
from qtrap_agents.suites.catalog import load_suite


def test_hops_of_a_suite_with_gold_answers() -> None:
    rows = asyncio.run(suite_rows("arith", 40))
    assert len(rows) == 40
    suite = load_suite(SuiteChoice(name="arith"))
    for row in rows:
        system, user, answer = row["messages"]
        assert (system["role"], system["content"]) == ("system", suite.system)
        assert (user["role"], answer["role"]) == ("user", "assistant")
        left, sign, right = user["content"].removeprefix("arith: ").removesuffix(" =").split()
        value = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign]
        assert int(answer["content"]) == value % int(str(suite.spec.params["modulus"]))
    assert len({row["messages"][1]["content"] for row in rows}) > 30


def test_an_answer_in_json_where_the_suite_asks_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    task = {
        "id": "t", "question": "q", "answer": 3,
        "premises": [{"id": "a", "text": "a", "value": 3, "instruction": "Say three."}],
    }  # fmt: skip
    (folder / "tasks.jsonl").write_text(json.dumps(task) + "\n")
    spec = "name: plain\ntitle: t\nskill: s\nkind: jsonl\npath: tasks.jsonl\nparser: int\n"
    (folder / "suite.yaml").write_text(spec)
    (plain,) = asyncio.run(suite_rows(str(folder), 5))
    assert plain["messages"][-1] == {"role": "assistant", "content": "3"}
    (folder / "suite.yaml").write_text(spec + "output: json\n")
    (as_json,) = asyncio.run(suite_rows(str(folder), 5))
    assert json.loads(as_json["messages"][-1]["content"]) == {"value": 3}


def test_sources_share_the_samples(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("one\n\ntwo\nlines\n\n\nthree\n")
    rows = asyncio.run(calibration_rows(["arith", str(file)], 5))
    assert [row.get("text") for row in rows] == [None, None, None, "one", "two\nlines"]


def test_rows_of_a_jsonl_file(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "u", "name": "x"}, {"role": "assistant", "content": "a"}]
    file = tmp_path / "own.jsonl"
    rows = ({"text": "t"}, {"messages": chat}, {"prompt": "p", "answer": "a"}, {"question": "q", "answer": "a"})
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    plain, own, pair, problem = file_rows(file)
    assert plain == {"text": "t"}
    assert own == {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}
    assert [[message["content"] for message in row["messages"]] for row in (pair, problem)] == [["p", "a"], ["q", "a"]]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"text": "t"}\n{"question": 1}\n', r"a\.jsonl:2: needs 'text', or 'messages' with 'role' and 'content'"),
        ("a.jsonl", b'{"text": ""}\n', r"a\.jsonl:1: needs 'text'"),
        ("a.jsonl", b'{"messages": [{"role": "robot", "content": "x"}]}\n', r"a\.jsonl:1: needs 'text'"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: needs 'text'"),
        ("a.jsonl", b'{"text": \n', r"a\.jsonl:1: not valid JSON"),
        ("a.txt", b"caf\xe9", r"a\.txt: cannot be read as UTF-8 text"),
        ("a.txt", b"\n \n\n", r"a\.txt: holds no text"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=told) as caught:
        file_rows(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_huge_line_is_cut(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "word " * 1_000_000}))
    assert len(file_rows(tmp_path / "a.jsonl")[0]["text"]) == 100_000
