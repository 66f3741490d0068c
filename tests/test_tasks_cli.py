"""`qtrap tasks` as a user meets it: every problem with its line, what the model will see, and templates that are sound."""

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import scripts
from scripts import qtrap

from qtrap_agents.backends.tokenizer import Tokenizer
from qtrap_agents.cli import main
from qtrap_agents.config import SuiteChoice
from qtrap_agents.errors import ArmError, ConfigError, SuiteError
from qtrap_agents.paths import REFERENCE_CHECKPOINTS
from qtrap_agents.report.validation_view import render_validation, validation_json
from qtrap_agents.store import RunDirectory
from qtrap_agents.suites.catalog import list_suites, load_suite
from qtrap_agents.suites.template import write_template
from qtrap_agents.types import Message
from qtrap_agents.validation import Validation, validate

S1 = {"id": "s1", "value": 9, "rule": "16 - 3 - 4", "instruction": "16 - 3 - 4 ="}
S2 = {"id": "s2", "value": 18, "depends_on": ["s1"], "rule": "s1 * 2", "instruction": "{s1} * 2 ="}
SPEC = {"name": "mine", "title": "t", "skill": "s", "kind": "jsonl", "path": "tasks.jsonl", "parser": "int"}
DRAWN = {"name": "drawn", "title": "t", "skill": "s", "kind": "procedural", "parser": "int"}
MODEL = str(REFERENCE_CHECKPOINTS / "small" / "fp16")
STATUS = Path("/proc/self/status")


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "t1", "question": "How many?", "answer": 18, "premises": [S1, S2]} | changes


def suite(folder: Path, *lines: Any, **changes: Any) -> Path:
    """A suite of the user's own with these lines: objects, text or bytes."""
    folder.mkdir(exist_ok=True)
    scripts.write_yaml(folder / "suite.yaml", SPEC | changes)
    parts = (
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode() for line in lines
    )
    (folder / "tasks.jsonl").write_bytes(b"\n".join(parts))
    return folder


def drawn(folder: Path, module: str, code: str, **changes: Any) -> Path:
    """A procedural suite with this body of `generate`; modules of different suites need different names."""
    text = "from qtrap_agents.suites.arith import generate as arith\n\ndef generate(suite, depth, seed, index, params):\n"
    (folder / f"{module}.py").write_text(text + "".join(f"    {line}\n" for line in code.split("\n")))
    scripts.write_yaml(folder / "suite.yaml", DRAWN | {"generator": f"{module}:generate"} | changes)
    return folder


def check(folder: Path, **options: Any) -> Validation:
    return validate(SuiteChoice(name=str(folder / "suite.yaml")), **options)


def told(found: Validation) -> list[tuple[str, str]]:
    """Problems by line; the file alone where there is none."""
    return [(problem.where.rpartition("/")[2], problem.message) for problem in found.problems]


def test_a_sound_suite(tmp_path: Path) -> None:
    found = check(suite(tmp_path, row(), row(id="t2", premises=[S1], answer=9)))
    assert found.ok
    assert [(count.depth, count.tasks, count.premises, count.longest_prompt) for count in found.depths] == [
        (1, 1, 1, None),
        (2, 1, 2, None),
    ]
    assert [example.task_id for example in found.examples] == ["t2", "t1"]


def test_all_problems_of_all_lines_are_told(tmp_path: Path) -> None:
    found = check(
        suite(
            tmp_path,
            row(),
            row(),
            "",
            row(id="c", premises=[S1 | {"depends_on": ["s2"]}, S2]),
            row(id="m", answer=7, premises=[S1, S2 | {"rule": "s1 * 3", "instruction": "{s1} {s8} {s9}"}]),
            {"id": 3, "questio": "q", "answer": None, "premises": []},
            "not json",
            "[1]",
            row(id="f", answer=1.5, premises=[{"id": "s1", "value": 1.5, "instruction": "?"}]),
            row(id="x", tools={"tabel": {"a": 1}}),
            row(id="l", answer="y" * 20_000, premises=[{"id": "s1", "value": "y" * 20_000, "instruction": "?"}]),
        )
    )
    problems = told(found)
    assert [where for where, _ in problems] == [
        f"tasks.jsonl:{line}" for line in (2, 4, 5, 5, 5, 5, 6, 6, 6, 6, 6, 7, 8, 9, 10, 11)
    ]
    for (_, message), part in zip(
        problems,
        (
            "'t1' is already that of the task in",
            "in a circle: s1 <- s2 <- s1",
            "the rule gives 27",
            "the answer is 7",
            "{s8}",
            "{s9}",
            "field 'id': input should be a valid string, not 3",
            "field 'question': field required",
            "field 'answer': must be a number or text, not None",
            "field 'premises'",
            "did you mean 'question'?",
            "not valid JSON",
            "found list",
            "cannot be read from a completion by the parser 'int'",
            "did you mean 'table'?",
            "more than 10,000 characters",
        ),
        strict=True,
    ):  # fmt: skip
        assert part in message
    assert (found.tasks, [example.task_id for example in found.examples]) == (1, ["t1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no task in"),
        (b"\n \n", "there is no task in"),
        (json.dumps(row()).encode("utf-16"), "cannot be read as UTF-8 text"),
        (json.dumps(row(question="Café"), ensure_ascii=False).encode("latin-1"), "cannot be read as UTF-8 text"),
        (b"\x00\xff\x00", "cannot be read as UTF-8 text"),
        (b"[" * 200_000, "not valid JSON"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    found = check(suite(tmp_path, content))
    (problem,) = found.problems
    assert message in problem.message
    assert "\n" not in problem.message
    assert (found.tasks, found.examples) == (0, ())


@pytest.mark.skipif(not STATUS.is_file(), reason="the peak memory of a process is read from Linux's /proc")
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("form", ["noise", "value"])
def test_a_line_of_50_megabytes(tmp_path: Path, form: str, first: bool) -> None:
    """Found in bounded memory, and told in a short sentence. (`ru_maxrss` would count what the test process itself has used.)"""
    size = 50_000_000
    long = b"x" * size if form == "noise" else json.dumps(row(answer="v" * size)).encode()
    folder = suite(tmp_path, *([long] if first else [row(), long]))
    code = (
        "import sys; from qtrap_agents.config import SuiteChoice; from qtrap_agents.validation import validate\n"
        "found = validate(SuiteChoice(name=sys.argv[1]))\n"
        f"peak = next(line.split()[1] for line in open('{STATUS}') if line.startswith('VmHWM'))\n"
        "print(*found.problems, peak, sep='\\n')"
    )
    result = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=tmp_path)
    problem, kibibytes = result.stdout.splitlines()
    assert f"tasks.jsonl:{1 if first else 2}'" in problem
    assert "line of more than 10,000,000 characters" in problem
    assert int(kibibytes) < 600_000


def test_a_suite_file_with_several_mistakes(tmp_path: Path) -> None:
    folder = suite(tmp_path, row(), parser="itn", max_tokens=0, titel="T")
    text = (folder / "suite.yaml").read_text().replace("title: t\n", "")
    (folder / "suite.yaml").write_text(text)
    problems = told(check(folder))
    lines = {line.split(":")[0]: number for number, line in enumerate(text.split("\n"), 1)}
    assert [(where, message.split(":")[0]) for where, message in problems] == [
        ("suite.yaml", "field 'title'"),
        (f"suite.yaml:{lines['parser']}", "field 'parser'"),
        (f"suite.yaml:{lines['max_tokens']}", "field 'max_tokens'"),
        (f"suite.yaml:{lines['titel']}", "unknown field 'titel'"),
    ]


@pytest.mark.parametrize("extractor", ["prosa", "a:b:c", "module:", ""])
def test_extractors_that_are_none(tmp_path: Path, extractor: str) -> None:
    (problem,) = told(check(suite(tmp_path, row(), extractor=extractor)))
    assert problem[0].startswith("suite.yaml:")
    assert problem[1].startswith("field 'extractor': string should match pattern")


def test_the_other_fields_of_a_suite_are_tried(tmp_path: Path) -> None:
    examples = [{"prompt": "1 + 1 =", "answer": "2"}, {"prompt": "1 + 2 =", "answer": "three"}]
    found = check(suite(tmp_path, row(), examples=examples, extractor="no_such:find"))
    assert [message for _, message in told(found)] == [
        "field 'examples': the parser 'int' reads no value in answer 2, 'three'",
        "field 'extractor': 'no_such:find' cannot be imported: No module named 'no_such'; give it as module:function",
    ]


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [
        (
            "if index == 1:\n    raise KeyError('no row')\nreturn arith(suite, depth, seed, index, {})",
            "raised KeyError: 'no row' (d",
            5,
        ),
        ("return arith(suite, depth, seed, index, None)", "raised AttributeError", 4),
        ("return 7", "gave int; it must return a Task (depth 1, seed 0, index 0 and 19 more)", 3),
        ("return arith(suite, depth + 1, seed, index, {})", "gave a task of suite 'drawn' and depth 2", 3),
        ("task = arith(suite, depth, seed, index, {})\nreturn task.model_copy(update={'answer': -5})", "the answer is -5", 3),
        ("return arith(suite, depth, seed, 7, {})", "is already that of the task in", 3),
        ("import random\nreturn arith(suite, depth, random.getrandbits(60), index, {})", "two different tasks for the same", 3),
        (
            "task = arith(suite, depth, seed, index, {})\n"
            "return task.model_copy(update={'tools': {'store': {}, 'no_such_module:f': {}}})",
            "tool 'no_such_module:f' cannot be imported",
            3,
        ),
    ],
)
def test_generators_that_go_wrong(tmp_path: Path, request: pytest.FixtureRequest, code: str, message: str, line: int) -> None:
    module = f"generator_{zlib.crc32(request.node.name.encode())}"
    found = check(drawn(tmp_path, module, code), depths=[1], limit=10)
    assert told(found)[0][0] == f"{module}.py:{line}"
    assert message in told(found)[0][1]


def test_a_run_with_a_generator_that_raises_is_not_begun(tmp_path: Path) -> None:
    folder = drawn(tmp_path, "generator_that_raises", "raise RuntimeError(f'no more {seed}')")
    with pytest.raises(SuiteError) as caught:
        list(load_suite(SuiteChoice(name=str(folder))).tasks([4], [1], 1))
    assert str(caught.value).startswith(
        "suite 'drawn': 'generator_that_raises:generate' raised RuntimeError: no more 1 for depth 4, seed 1"
    )


def test_generators_that_cannot_be_imported(tmp_path: Path) -> None:
    folder = drawn(tmp_path, "generator_of_syntax", "return")
    (folder / "generator_of_syntax.py").write_text("def generate(:\n")
    assert [message.split(":")[0] for _, message in told(check(folder))] == ["field 'generator'"]
    assert "SyntaxError" in check(folder).problems[0].message
    missing = drawn(tmp_path, "generator_there", "return", generator="generator_there:generat")
    assert "has no attribute 'generat'" in check(missing).problems[0].message


def test_every_shipped_suite_that_is_drawn_is_sound() -> None:
    names = [one.name for one in list_suites() if one.spec.kind == "procedural"]
    assert {"code_trace", "tool_use", "arith"} <= set(names)
    for name in names:
        found = validate(SuiteChoice(name=name), depths=[1, 6], limit=2)
        assert (name, found.problems) == (name, ())
        assert [count.tasks for count in found.depths] == [4, 4]


def test_rows_of_a_dataset_are_left_out_by_reason(tmp_path: Path) -> None:
    rows = [
        {"question": "Two and three?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
        {"question": "?", "answer": "#### 5"},
        {"question": "?", "answer": "#### 6"},
        {"question": "?"},
    ]
    found = check(suite(tmp_path, *rows, kind="gsm8k", parser="number"))
    assert (found.ok, found.tasks) == (True, 1)
    assert sum(reason.count for reason in found.left_out) == 3
    assert found.left_out[0].count == 2
    assert found.left_out[0].rows[0].endswith("tasks.jsonl:2")
    assert "left out: 2 rows: " in scripts.printed(lambda console: render_validation(found, console))
    (problem,) = check(suite(tmp_path, rows[1], kind="gsm8k", parser="number")).problems
    assert "there is no task in" in problem.message


def test_prompts_are_those_of_the_model(tmp_path: Path) -> None:
    examples = [{"prompt": "1 + 1 =", "answer": "2"}]
    folder = suite(tmp_path, row(), system="Count modulo {m}.", params={"m": 7}, examples=examples, show_question=True)
    found = check(folder, tokenizer=Tokenizer(MODEL))
    (example,) = found.examples
    second = example.hops[1]
    assert [(message.role, message.content) for message in second.messages] == [
        ("system", "Count modulo 7."), ("user", "1 + 1 ="), ("assistant", "2"), ("user", "How many?\n9 * 2 ="),
    ]  # fmt: skip
    assert (second.right, second.max_tokens) == (18, 16)
    assert second.rendered is not None
    assert second.rendered.endswith("9 * 2 = <|assistant|>")
    assert second.tokens == Tokenizer(MODEL).count(second.messages)
    assert found.depths[0].longest_prompt == max(hop.tokens or 0 for hop in example.hops)


def test_prompts_over_the_context_are_problems(tmp_path: Path) -> None:
    long = S1 | {"instruction": "1 + " * 60 + "1 ="}
    folder = suite(tmp_path, row(), row(id="t2", premises=[long, S2]))
    with pytest.raises(ConfigError, match="--max-tokens needs --checkpoint"):
        check(folder, max_tokens=64)
    found = check(folder, tokenizer=Tokenizer(MODEL), max_tokens=64)
    (problem,) = told(found)
    assert problem[0] == "tasks.jsonl:2"
    assert "hop 's1': its prompt has 125 tokens and its answer may have 16" in problem[1]
    assert check(folder, tokenizer=Tokenizer(MODEL), max_tokens=141).ok


def test_tokenizers_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ArmError, match=r"no tokenizer\.json"):
        Tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArmError, match="its tokenizer cannot be read"):
        Tokenizer(str(tmp_path))
    assert Tokenizer("reference:small/fp16").count([Message(role="user", content="1 + 1 =")]) > 4


@pytest.mark.parametrize("kind", ["jsonl", "procedural"])
@pytest.mark.parametrize("name", ["stock", "my.first-suite", "123"])
def test_templates_are_sound(tmp_path: Path, kind: str, name: str) -> None:
    folder = write_template(name, kind, tmp_path / kind)
    found = check(folder, tokenizer=Tokenizer(MODEL), max_tokens=128)
    assert found.problems == ()
    assert found.suite == name
    tasks = list(load_suite(SuiteChoice(name=str(folder))).tasks([1, 6], [0], 3))
    assert any(len(premise.depends_on) == 2 for task in tasks for premise in task.premises)
    assert all(premise.rule for task in tasks for premise in task.premises)


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "ä", "a b"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(SuiteError, match="a name is made of"):
        write_template(name, "jsonl", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_or_hidden(tmp_path: Path) -> None:
    write_template("mine", "jsonl", tmp_path)
    (tmp_path / "mine" / "tasks.jsonl").write_text("my work")
    with pytest.raises(SuiteError, match="exists already and is not overwritten"):
        write_template("mine", "procedural", tmp_path)
    with pytest.raises(SuiteError, match="'arith' is shipped with qtrap"):
        write_template("arith", "jsonl", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SuiteError, match="cannot be written"):
        write_template("mine", "jsonl", tmp_path / "file")
    assert (tmp_path / "mine" / "tasks.jsonl").read_text() == "my work"


def test_many_problems_are_cut_on_a_terminal_only(tmp_path: Path) -> None:
    found = check(suite(tmp_path, *["{"] * 300))
    text = scripts.printed(lambda console: render_validation(found, console))
    assert text.count("not valid JSON") == 200
    assert "… and 100 more problems; --json has all of them" in text
    assert text.rstrip().endswith("300 problems; 0 tasks without any")
    assert len(validation_json(found)["problems"]) == 300


def test_text_of_a_suite_does_not_steer_the_terminal(tmp_path: Path) -> None:
    premise = {"id": "s1", "value": 18, "instruction": "\x1b[2J [bold]18[/bold] ="}
    text = scripts.printed(lambda console: render_validation(check(suite(tmp_path, row(premises=[premise]))), console))
    assert "\x1b" not in text
    assert r"\x1b[2J [bold]18[/bold] =" in text


def test_a_template_from_the_command_line_to_a_run(tmp_path: Path) -> None:
    made = qtrap("tasks", "new", "mine", cwd=tmp_path)
    assert (made.returncode, made.stdout) == (0, "tasks/mine\n")
    assert "next: qtrap tasks validate tasks/mine" in made.stderr
    valid = qtrap("tasks", "validate", "mine", cwd=tmp_path)
    assert valid.returncode == 0, valid.stderr
    assert valid.stdout.rstrip().endswith("tasks/mine/suite.yaml: 3 tasks, no problems")
    (tmp_path / "answers.py").write_text(
        "import re\ndef answer(messages, sampling):\n"
        "    asked = re.search(r'([-+*/ 0-9]+) =$', messages[-1].content)\n"
        "    return str(int(eval(asked[1]))) if asked else 'I do not know'\n"
    )
    arm = {"name": "sums", "backend": "scripted", "script": "answers:answer"}
    settings = {"name": "r", "suites": ["mine"], "depths": [2], "arms": [arm], "out": "runs"}
    ran = qtrap("run", scripts.write_yaml(tmp_path / "run.yaml", settings), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    traces = scripts.by_task(RunDirectory.open(tmp_path / ran.stdout.strip()), "sums")
    assert {name: (trace.score, trace.error) for name, trace in traces.items()} == {
        "boxes": (1.0, None),
        "shelves": (1.0, None),
        "till": (0.0, None),
    }
    again = qtrap("tasks", "new", "mine", cwd=tmp_path)
    assert (again.returncode, again.stderr.startswith("qtrap: tasks/mine: exists already")) == (2, True)


def test_problems_from_the_command_line(tmp_path: Path) -> None:
    suite(tmp_path / "mine", row(answer=17), "{")
    result = qtrap("tasks", "validate", "mine/suite.yaml", cwd=tmp_path)
    assert result.returncode == 2
    first, second = result.stdout.splitlines()[:2]
    assert first.startswith("mine/tasks.jsonl:1: contradictory gold: the last premise is 18, the answer is 17")
    assert second.startswith("mine/tasks.jsonl:2: not valid JSON")
    as_json = qtrap("tasks", "validate", "./mine", "--json", cwd=tmp_path)
    assert as_json.returncode == 2
    found = json.loads(as_json.stdout)
    assert (found["ok"], [problem["where"] for problem in found["problems"]]) == (
        False,
        ["mine/tasks.jsonl:1", "mine/tasks.jsonl:2"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("validate", "aritm"), "unknown suite 'aritm': did you mean 'arith'?"),
        (("validate", "./nothing"), "nothing: no such directory; give the directory of a suite"),
        (("validate", "arith", "--param", "rows"), "--param 'rows': give it as NAME=VALUE"),
        (("validate", "arith", "--param", "modulus=ten"), "parameter 'modulus' must be like 1000, not 'ten'"),
        (("validate", "arith", "--max-tokens", "8"), "--max-tokens needs --checkpoint"),
        (("validate", "arith", "--checkpoint", "./nowhere"), "no such directory; give a directory with config.json"),
        (("new", "../x"), "a name is made of letters"),
    ],
)
def test_one_sentence_for_each_mistake(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qtrap", "tasks", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert message in line
