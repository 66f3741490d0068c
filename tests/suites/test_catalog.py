"""Suites are found, loaded and drawn from; every mistake is one sentence."""

import json
from pathlib import Path

import pytest

from qtrap_agents.config import SuiteChoice
from qtrap_agents.errors import ConfigError, QtrapError, SuiteError
from qtrap_agents.premises import parse_value
from qtrap_agents.semantics import check_task
from qtrap_agents.suites.catalog import KINDS, SuiteSpec, list_suites, load_suite
from qtrap_agents.types import GoldPremise, Task, Value

PROCEDURAL = ("arith", "relate", "lookup", "track", "program", "prontoqa_gen")
SPEC = "name: mine\ntitle: Mine\nskill: none\n"


def choice(name: str, **params: Value) -> SuiteChoice:
    return SuiteChoice(name=name, params=params)


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.yaml").write_text(text, encoding="utf-8")
    return folder


def write_tasks(folder: Path, depths: list[int]) -> Path:
    write(folder, SPEC + "kind: jsonl\npath: tasks.jsonl\nparser: int\n")
    rows = [
        {
            "id": f"t{number}",
            "question": "?",
            "answer": 1,
            "premises": [{"id": f"s{k}", "value": 1, "rule": "1"} for k in range(depth)],
        }
        for number, depth in enumerate(depths)
    ]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def odd_task(suite: str, depth: int, seed: int, index: int, params: dict[str, Value]) -> Task:
    """A generator whose gold value contradicts its rule."""
    premise = GoldPremise(id="s1", text="", value=1, rule="1 + 1")
    return Task(id="t", suite=suite, question="", answer=1, premises=(premise,), depth=depth)


def no_task(suite: str, depth: int, seed: int, index: int, params: dict[str, Value]) -> str:
    """A generator that returns something else."""
    return "no task"


def test_all_shipped_suites_are_listed() -> None:
    assert {suite.name for suite in list_suites()} >= {*PROCEDURAL, *KINDS, "example_jsonl"} - {"jsonl"}


@pytest.mark.parametrize("name", PROCEDURAL)
def test_equal_counts_for_each_depth_and_seed(name: str) -> None:
    tasks = list(load_suite(choice(name)).tasks((2, 8), (0, 1), 3))
    assert [(task.depth, task.seed) for task in tasks] == [(2, 0)] * 3 + [(2, 1)] * 3 + [(8, 0)] * 3 + [(8, 1)] * 3
    assert len({task.id for task in tasks}) == 12
    assert {task.suite for task in tasks} == {name}


@pytest.mark.parametrize("name", [*PROCEDURAL, "example_jsonl"])
def test_a_task_does_not_depend_on_how_many_are_drawn(name: str) -> None:
    suite = load_suite(choice(name))
    many = {task.id: task for task in suite.tasks((1, 4), (0, 1), 5)}
    few = list(suite.tasks((4,), (0,), 2))
    assert few
    assert all(many[task.id] == task for task in few)


def test_parameters_reach_the_generator_the_parser_and_the_system_message() -> None:
    track = load_suite(choice("track", places=3))
    assert track.parser == "words:3"
    assert len(str(next(track.tasks((1,), (0,), 1)).answer).split()) == 3
    arith = load_suite(choice("arith", modulus=7))
    assert arith.system == "All numbers are modulo 7. Answer with the number only."
    assert all(0 <= int(task.answer) < 7 for task in arith.tasks((3,), (0,), 10))


def test_the_example_is_sound_and_shows_natural_depths() -> None:
    suite = load_suite(choice("example_jsonl"))
    tasks = list(suite.tasks((2,), (5, 6), 100))
    assert [check_task(task) for task in tasks] == [[]] * 8
    assert {task.depth for task in tasks} == {3, 4, 5}
    assert {task.seed for task in tasks} == {5}
    assert suite.rejected() == ()


def test_depths_and_limits_of_a_file(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "mine", [1, 2, 2, 3, 2])
    natural = load_suite(choice(str(folder))).tasks((2, 9), (0,), 2)
    wanted = load_suite(choice(str(folder / "suite.yaml"), depths="wanted")).tasks((2, 9), (0,), 2)
    assert [task.id for task in natural] == ["t0", "t1", "t2", "t3"]
    assert [task.id for task in wanted] == ["t1", "t2"]


def test_search_folders_are_looked_through_in_order(tmp_path: Path) -> None:
    write(tmp_path / "a" / "mine", SPEC + "kind: gsm8k\n")
    write(tmp_path / "b" / "mine", SPEC.replace("Mine", "Other") + "kind: gsm8k\n")
    folders = (tmp_path / "nothing", tmp_path / "a", tmp_path / "b")
    assert load_suite(choice("mine"), folders).spec.title == "Mine"
    assert [suite.spec.title for suite in list_suites(folders)] == ["Mine"]


def test_own_suites_are_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tasks(tmp_path / "tasks" / "mine", [1])
    monkeypatch.chdir(tmp_path)
    assert load_suite(choice("mine")).file_tasks()[0].id == "t0"
    assert load_suite(choice("./tasks/mine")).file_tasks()[0].id == "t0"


def test_the_path_of_a_run_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"question": "Ann has 3 eggs and buys 4.", "answer": "3+4=<<3+4=7>>7\n#### 7"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert [task.answer for task in load_suite(choice("gsm8k", path="own.jsonl")).tasks((1,), (0,), 10)] == [7]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (choice("arth"), "unknown suite 'arth': did you mean 'arith'?"),
        (choice("./nowhere"), "nowhere: no such file"),
        (choice("arith", modulu=7), "suite 'arith': unknown parameter 'modulu': did you mean 'modulus'?"),
        (choice("arith", path="x"), "unknown parameter 'path'"),
        (choice("arith", modulus="ten"), "parameter 'modulus' must be like 1000, not 'ten'"),
        (choice("arith", modulus=2.5), "parameter 'modulus' must be like 1000, not 2.5"),
        (choice("arith", modulus=0), "no task of depth 2 with {'modulus': 0}"),
        (choice("lookup", rows=1000), "no task of depth 2 with {'rows': 1000}"),
        (choice("lookup", rows=0), "no task of depth 2 with {'rows': 0}"),
        (choice("gsm8k"), "suite 'gsm8k' needs data: add 'params: {path: FILE}'"),
        (choice("gsm8k", path="nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (choice("gsm8k", depths="some"), "parameter 'depths' must be 'natural' or 'wanted', not 'some'"),
    ],
)
def test_wrong_choices_are_named(wrong: SuiteChoice, message: str) -> None:
    with pytest.raises(QtrapError) as caught:
        list(load_suite(wrong).tasks((2,), (0,), 1))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SPEC + "kind: procedurale\n", "suite.yaml:4: field 'kind'"),
        (SPEC + "kind: gsm8\n", "unknown kind of suite 'gsm8': did you mean 'gsm8k'?"),
        (SPEC + "kind: gsm8k\npath: x\ndataset: y\n", "'path' and 'dataset' exclude each other; keep one"),
        (SPEC + "kind: jsonl\n", "a jsonl suite needs 'path: tasks.jsonl'"),
        (SPEC + "kind: procedural\n", "a procedural suite needs 'generator: module:function'"),
        (SPEC + "kind: gsm8k\nparser: floot\n", "suite.yaml:5: field 'parser'"),
        (SPEC + "kind: gsm8k\nmax_token: 5\n", "unknown field 'max_token': did you mean 'max_tokens'?"),
        (SPEC + "kind: gsm8k\nwords: 3\n", "'words' goes with 'parser: words'"),
        (SPEC + "kind: gsm8k\nparser: words\nwords: places\n", "unknown parameter in 'words' 'places'"),
        ("name: [", "not valid YAML"),
    ],
)
def test_wrong_suite_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite(choice(str(write(tmp_path / "mine", text))))
    assert message in str(caught.value)
    assert "suite.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ("nowhere.at.all:generate", "'nowhere.at.all:generate' cannot be imported"),
        ("qtrap_agents.suites.arith:generat", "'qtrap_agents.suites.arith:generat' cannot be imported"),
        ("qtrap_agents.suites.track:OBJECTS", "is not a function"),
        (f"{__name__}:no_task", "it must return a Task"),
        (f"{__name__}:odd_task", "the rule gives 2, the gold value is 1"),
    ],
)
def test_wrong_generators_are_named(tmp_path: Path, generator: str, message: str) -> None:
    folder = write(tmp_path / "mine", SPEC + f"kind: procedural\ngenerator: {generator}\n")
    with pytest.raises(SuiteError) as caught:
        list(load_suite(choice(str(folder))).tasks((1,), (0,), 1))
    assert message in str(caught.value)


def test_a_suite_is_called_like_its_directory(tmp_path: Path) -> None:
    write(tmp_path / "yours", SPEC + "kind: gsm8k\n")
    with pytest.raises(SuiteError, match="call it 'yours' like its directory"):
        load_suite(choice("yours"), (tmp_path,))


GSM8K = [
    {"question": "Ann has 3 eggs and buys 4. How many?", "answer": "3+4=<<3+4=7>>7\n#### 7"},
    {"question": "Ann has 3 eggs. How many?", "answer": "#### 3"},
]


def write_rows(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_rows_that_are_left_out_are_told(tmp_path: Path) -> None:
    suite = load_suite(choice("gsm8k", path=write_rows(tmp_path / "rows.jsonl", GSM8K)))
    assert len(suite.file_tasks()) == 1
    assert suite.note() == "gsm8k: 1 of 2 rows left out: 1 no <<…>> annotation"
    assert [rejected.line for rejected in suite.rejected()] == [2]
    assert load_suite(choice("gsm8k", path=write_rows(tmp_path / "rows.jsonl", GSM8K[:1]))).note() is None
    assert load_suite(choice("arith")).note() is None


def test_a_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    suite = load_suite(choice("gsm8k", path=write_rows(path, GSM8K)))
    tasks = suite.file_tasks()
    path.unlink()
    assert suite.file_tasks() is tasks
    assert len(suite.rejected()) == 1


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (GSM8K[1:], "1 of 1 rows left out: 1 no <<…>> annotation"),
        ([{"frage": "?"}] * 3, "3 of 3 rows left out: 3 field 'question' missing or not text"),
        ([], "there are no rows"),
    ],
)
def test_a_file_without_a_usable_row_is_an_error(tmp_path: Path, rows: list[dict[str, str]], why: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(SuiteError) as caught:
        load_suite(choice("gsm8k", path=path)).file_tasks()
    assert str(caught.value) == f"{path}: no tasks for the suite 'gsm8k': {why}; give data of the kind 'gsm8k'"


def test_a_run_chooses_a_file_or_a_dataset(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", SPEC + "kind: gsm8k\ndataset: openai/gsm8k\nsubset: main\nsplit: test\n")
    chosen = load_suite(choice(str(folder), revision="abc", split="train")).spec
    assert (chosen.path, chosen.dataset, chosen.revision, chosen.split) == (None, "openai/gsm8k", "abc", "train")
    local = load_suite(choice(str(folder), path=write_rows(tmp_path / "rows.jsonl", GSM8K)))
    assert (local.spec.dataset, [task.answer for task in local.file_tasks()]) == (None, [7])
    assert load_suite(choice("example_jsonl", dataset="me/mine")).spec.path is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"path": "x", "dataset": "y"}, "parameters 'path' and 'dataset' exclude each other; give one"),
        ({"revision": 1.0}, "parameter 'revision' must be text, not 1.0; put it into quotes"),
        ({"splitt": "test"}, "unknown parameter 'splitt'"),
    ],
)
def test_wrong_sources_are_named(params: dict[str, Value], message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        load_suite(choice("gsm8k", **params))
    assert message in str(caught.value)


def test_the_shown_examples_can_be_read() -> None:
    shown = [(suite, example) for suite in list_suites() for example in suite.spec.examples]
    assert {suite.name for suite, _ in shown} >= {"mathqa", "musique", "hotpotqa", "strategyqa", "prontoqa", "proofwriter"}
    for suite, example in shown:
        assert parse_value(example.answer, suite.parser) is not None, suite.name


def test_every_suite_says_what_gold_it_has() -> None:
    gold = {suite.name: suite.gold for suite in list_suites()}
    assert gold["arith"] == gold["gsm8k"] == "every step, with rules"
    assert gold["musique"] == "answers of sub-questions, no rules"
    assert gold["strategyqa"] == "answer only: sub-questions have no answers in the data"


def test_a_spec_is_frozen_and_comes_back() -> None:
    for suite in list_suites():
        assert SuiteSpec.model_validate_json(suite.spec.model_dump_json()) == suite.spec
