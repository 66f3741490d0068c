import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from qtrap_agents.errors import StoreError
from qtrap_agents.report.inspection import (
    compare_traces,
    export_trace,
    find_task,
    inspect_trace,
    list_traces,
    pair_json,
    trace_json,
    traces_json,
)
from qtrap_agents.report.inspection_view import render_pair, render_trace, render_traces
from qtrap_agents.store import RunDirectory
from qtrap_agents.types import Hop, Premise, Task, Value

from .conftest import draw, make_run, make_trace, printed, write_arm

FAILED = "arith-d8-s0-0003"


def test_failed_traces_of_an_arm(run: RunDirectory) -> None:
    found = list_traces(run, arm="awq", failed=True, limit=3)
    assert (found.total, [row.task_id for row in found.rows]) == (8, [f"arith-d8-s0-000{index}" for index in range(3)])
    row = found.rows[0]
    assert (row.correct, row.first_status, row.first_origin) == (False, "wrong", "own")
    assert row.first_error is not None
    assert row.collapse_hop is not None
    assert (row.first_error.id, row.first_error.position, row.collapse_hop.id) == ("s3", 3, "s3")
    assert row.answer != row.gold


def test_filters_and_order(run: RunDirectory) -> None:
    found = list_traces(run, depth=2, suite="program", limit=None)
    assert {(row.depth, row.suite) for row in found.rows} == {(2, "program")}
    assert [row.arm for row in found.rows] == ["fp16"] * 10 + ["awq"] * 10
    assert list_traces(run, limit=None).total == 100


def test_the_second_serving_of_the_baseline_is_listed_where_it_is_asked_for(run: RunDirectory) -> None:
    tasks = tuple(run.tasks().values())
    write_arm(run, "fp16+again", [make_trace(run, "fp16+again", task) for task in tasks])
    assert {row.arm for row in list_traces(run, limit=None).rows} == {"fp16", "awq", "gptq"}
    found = list_traces(run, arm="fp16+again", limit=None)
    assert ({row.arm for row in found.rows}, found.total) == ({"fp16+again"}, 40)
    assert inspect_trace(run, tasks[0].id, "fp16+again").trace.arm == "fp16+again"


def test_an_error_is_not_a_wrong_answer(run: RunDirectory) -> None:
    row = list_traces(run, arm="gptq", failed=True).rows[0]
    assert (row.correct, row.error, row.first_error) == (None, "request timed out", None)
    text = printed(lambda console: render_traces(list_traces(run, arm="gptq", failed=True), console))
    assert "! error" in text
    assert "request timed out" in text


def test_the_list_says_what_it_leaves_out_and_what_comes_next(run: RunDirectory) -> None:
    text = printed(lambda console: render_traces(list_traces(run, arm="awq", failed=True, limit=2), console))
    assert "8 failed traces" in text
    assert "3 (s3) wrong  own" in text
    assert "the first 2 of 8; --limit shows more" in text
    assert f"next: qtrap inspect {run.path} arith-d8-s0-0000 --arm awq" in text
    empty = list_traces(run, arm="fp16", failed=True)
    assert printed(lambda console: render_traces(empty, console)).strip() == "no failed traces fit"
    assert json.loads(json.dumps(traces_json(empty)))["total"] == 0


def test_unknown_names(run: RunDirectory) -> None:
    with pytest.raises(StoreError, match=r"unknown arm 'agw': did you mean 'awq'\?"):
        list_traces(run, arm="agw")
    with pytest.raises(StoreError, match=r"unknown suite of this run 'aritm': did you mean 'arith'\?"):
        list_traces(run, suite="aritm")
    with pytest.raises(StoreError, match="no task of this run has depth 7; its depths: 2, 8"):
        list_traces(run, depth=7)
    with pytest.raises(StoreError, match=r"unknown task 'arith-d8-s0-00O3': did you mean 'arith-d8-s0-00"):
        find_task(run, "arith-d8-s0-00O3")
    with pytest.raises(StoreError, match=r"unknown task 'zzz': `qtrap inspect .*` lists them"):
        find_task(run, "zzz")
    with pytest.raises(StoreError, match=r"'arith-d8' fits 10 tasks \(arith-d8-s0-0000, "):
        find_task(run, "arith-d8")
    with pytest.raises(StoreError, match=r"arm 'gptq' has no trace of 'program-d2-s0-0000' yet; `qtrap run --resume"):
        inspect_trace(run, "program-d2-s0-0000", "gptq")


def test_a_task_by_an_unambiguous_beginning(tmp_path: Path) -> None:
    run = make_run(tmp_path, draw(count=1), ("fp16",))
    assert find_task(run, "arith-d8").id == "arith-d8-s0-0000"


def test_a_trace_as_a_tree(run: RunDirectory) -> None:
    view = inspect_trace(run, FAILED, "awq")
    text = printed(lambda console: render_trace(view, console))
    gold = {premise.id: premise.value for premise in view.task.premises}
    assert f"{FAILED} on awq: ✗ wrong · chain · 8 hops · 100.0 ms · 88 + 24 tokens" in text
    assert "✗ hop_003 ← hop_002 · 4.0 ms · 11 + 3 tokens" in text
    assert f"s2 = {gold['s2']} · ✓ match" in text
    assert f"s3 = {(int(gold['s3']) + 1) % 97} · ✗ wrong (own) · gold {gold['s3']}" in text
    assert "✗ wrong (inherited)" in text
    assert "prompt      arith: " in text
    assert "logic collapse from s3 on" in text
    assert "blast radius: 5 of 5 premises downstream" in text


def test_without_an_arm_the_first_that_failed_is_shown(run: RunDirectory) -> None:
    view = inspect_trace(run, FAILED)
    assert (view.trace.arm, view.others) == ("awq", {"fp16": "right", "gptq": "right"})
    text = printed(lambda console: render_trace(view, console))
    assert "other arms: fp16 right, gptq right" in text
    assert f"{FAILED} --arm awq --against fp16" in text
    assert inspect_trace(run, "arith-d8-s0-0009").trace.arm == "fp16"


def test_trace_json_and_exports(run: RunDirectory) -> None:
    data = json.loads(json.dumps(trace_json(inspect_trace(run, FAILED, "awq"))))
    assert (data["outcome"], data["collapse"]["blast_radius"]) == ("wrong", 1.0)
    assert data["premises"][2]["origin"] == "own"
    assert len(data["trace"]["hops"]) == 8
    assert len(json.loads(export_trace(run, FAILED, "awq"))["nodes"]) == 8
    assert ElementTree.fromstring(export_trace(run, FAILED, "awq", "graphml")).tag.endswith("graphml")


def test_two_arms_side_by_side(run: RunDirectory) -> None:
    view = compare_traces(run, FAILED, "awq", "fp16")
    gold = int(view.task.premise("s3").value)
    first = view.first_difference
    assert first is not None
    assert first.id == "s3"
    assert view.words == f"first difference: s3: fp16 {gold}, awq {(gold + 1) % 97}, gold {gold}"
    text = printed(lambda console: render_pair(view, console))
    assert f"{FAILED}: fp16 right, awq wrong" in text
    assert text.count("◀ first difference") == 1
    assert "prompt, both" in text
    assert "completion, awq" in text
    data = json.loads(json.dumps(pair_json(view)))
    assert (data["first_difference"], data["pairs"][0]["differs"], data["pairs"][2]["differs"]) == ("s3", False, True)


def test_two_arms_that_agree(run: RunDirectory) -> None:
    view = compare_traces(run, "arith-d2-s0-0001", "awq", "fp16")
    assert view.words == "no difference: both arms state the same values"
    assert "◀" not in printed(lambda console: render_pair(view, console))


HOSTILE = "[red]x[/red] \x1b[31mred\x1b[0m [link=http://a]\n[/]\u202e" + "a" * 5_000


def hostile(task: Task, position: int) -> tuple[Value | None, str | None]:
    """No value, and text that tries to steer the terminal."""
    return (None, HOSTILE) if position == 2 else (None, None)


@pytest.fixture
def hostile_run(tmp_path: Path) -> RunDirectory:
    tasks = draw(depths=(2,), count=1)
    run = make_run(tmp_path, tasks, ("fp16", "awq"))
    write_arm(run, "fp16", [make_trace(run, "fp16", task) for task in tasks])
    write_arm(run, "awq", [make_trace(run, "awq", task, hostile) for task in tasks])
    return run


def test_model_text_is_shown_literally_and_cut(hostile_run: RunDirectory) -> None:
    view = inspect_trace(hostile_run, "arith", "awq")
    short = printed(lambda console: render_trace(view, console))
    assert "[red]x[/red] \\x1b[31mred\\x1b[0m" in short
    assert "⏎[/]\\u202e" in short
    assert "\x1b" not in short
    assert "more characters" in short
    assert "s2 = nothing · ∅ missing (own) · gold" in short
    assert max(map(len, short.splitlines())) <= 120
    full = printed(lambda console: render_trace(view, console, full=True))
    assert full.count("a") > 5_000
    assert "more characters" not in full


def test_side_by_side_is_as_careful(hostile_run: RunDirectory) -> None:
    view = compare_traces(hostile_run, "arith", "awq", "fp16")
    assert view.words.startswith("first difference: s2: fp16 ")
    assert "awq nothing, gold" in view.words
    for full in (False, True):
        text = printed(lambda console, full=full: render_pair(view, console, full))  # type: ignore[misc]
        assert "[red]x[/red]" in text
        assert "\x1b" not in text


def test_a_trace_that_ended_in_an_error(run: RunDirectory) -> None:
    text = printed(lambda console: render_trace(inspect_trace(run, "arith-d2-s0-0000", "gptq"), console))
    assert "! error" in text
    assert "error: request timed out" in text
    assert "no hop stated it" in text
    assert "first error" not in text


def test_a_premise_stated_twice_counts_once(tmp_path: Path) -> None:
    task = draw(depths=(2,), count=1)[0]
    run = make_run(tmp_path, [task], ("fp16",))
    trace = make_trace(run, "fp16", task)
    extra = Premise(id="aside", text="aside = 1", value=1)
    again = Hop(id="again", node="again", completion=trace.hops[1].completion, premises=(trace.hops[1].premises[0], extra))
    write_arm(run, "fp16", [trace.model_copy(update={"hops": (*trace.hops, again)})])
    text = printed(lambda console: render_trace(inspect_trace(run, task.id, "fp16"), console))
    assert "s2 stated again by a later hop, which counts" in text
    assert "aside = 1 · ? unsupported" in text
    assert "premises not aligned: 1 stated and not in gold (aside)\n" in text


def test_what_could_not_be_aligned_is_told(tmp_path: Path) -> None:
    task = draw(depths=(2,), count=1)[0]
    run = make_run(tmp_path, [task], ("fp16",))
    trace = make_trace(run, "fp16", task)
    extra = tuple(Premise(id=f"x{number}", text=f"= {number}", value=number) for number in range(1, 13))
    one = trace.hops[0].model_copy(update={"premises": (*extra, trace.hops[0].premises[0])})
    write_arm(run, "fp16", [trace.model_copy(update={"hops": (one,)})])
    view = inspect_trace(run, task.id, "fp16")
    assert trace_json(view)["unaligned"] == {"statements": [premise.id for premise in extra], "gold": ["s2"]}
    text = " ".join(printed(lambda console: render_trace(view, console)).split())
    names = ", ".join(premise.id for premise in extra[:10])
    assert f"premises not aligned: 12 stated and not in gold ({names}, …); 1 of gold and not stated (s2)" in text
