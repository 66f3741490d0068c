"""What the model is sent and how its answer is read: few-shot examples, and answers written as JSON."""

import asyncio
import json
from pathlib import Path
from typing import Any

import driven
import jsonic
import pytest
import scripts
from hypothesis import given, settings
from hypothesis import strategies as st

from qtrap_agents.config import SuiteChoice
from qtrap_agents.evidence import Reply
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.experiments.replays import Chains, choose, run_replays
from qtrap_agents.report.comparison import RunComparison, compare_runs, comparison_json
from qtrap_agents.report.comparison_view import render_comparison
from qtrap_agents.report.inspection import inspect_trace, trace_json
from qtrap_agents.report.inspection_view import render_trace
from qtrap_agents.store import RunDirectory, read_lines
from qtrap_agents.suites.catalog import Example, Suite, load_suite
from qtrap_agents.types import Completion, Message, Sampling, Value
from qtrap_agents.workflows.reading import json_object, messages_of, read_steps, read_value, steps_form, value_form

SHOWN = (Example(prompt="9 + 9 modulo {modulus} =", answer="18"), Example(prompt="1 + 1 =", answer='{"value": 2}'))


def suite(**changes: Any) -> Suite:
    """Arithmetic with some fields of its `suite.yaml` changed."""
    return driven.ARITH.model_copy(update={"spec": driven.ARITH.spec.model_copy(update=changes)})


def in_json(parser: str = "int", **changes: Any) -> Suite:
    """The same, answered in JSON."""
    return suite(parser=parser, output="json", **changes)


def turns(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def test_examples_are_turns_between_the_system_message_and_the_question() -> None:
    assert turns(messages_of(suite(examples=SHOWN, system="Modulo {modulus}."), "2 + 2 =")) == [
        ("system", "Modulo 1000."),
        ("user", "9 + 9 modulo 1000 ="),
        ("assistant", "18"),
        ("user", "1 + 1 ="),
        ("assistant", '{"value": 2}'),
        ("user", "2 + 2 ="),
    ]


def test_a_node_with_another_job_has_its_own_system_message_and_no_examples() -> None:
    chosen = suite(examples=SHOWN, system="Number only.", roles={"plan": "Plan modulo {modulus}.", "judge": ""})
    assert turns(messages_of(chosen, "2 + 2 =", node="plan")) == [("system", "Plan modulo 1000."), ("user", "2 + 2 =")]
    assert turns(messages_of(chosen, "2 + 2 =", node="judge")) == [("user", "2 + 2 =")]
    assert messages_of(chosen, "2 + 2 =", node="check") == messages_of(chosen, "2 + 2 =")


def test_the_agent_of_tool_use_is_not_told_to_answer_with_a_call_only() -> None:
    chosen = load_suite(SuiteChoice(name="tool_use"))
    [act, _] = messages_of(chosen, "?", node="act")
    assert "calculator((7 + 15) % 20)" in act.content
    assert "answer with the call only" not in act.content


def test_every_hop_is_sent_the_examples() -> None:
    asked: list[tuple[Message, ...]] = []

    def script(messages: Any, sampling: Sampling) -> str:
        asked.append(tuple(messages))
        return driven.right(messages, sampling)

    course = driven.run(driven.LINE, script, "chain", suite=suite(examples=SHOWN))
    assert [len(messages) for messages in asked] == [6, 6, 6]
    assert [hop.messages for hop in course.hops] == asked
    assert course.answer == 5


def test_in_json_examples_and_question_tell_how_to_write_the_answer() -> None:
    chosen = in_json(examples=SHOWN, system="")
    form = value_form(chosen)
    assert form is not None
    assert form.told == 'Answer with a JSON object {"value": …}, where … is a whole number.'
    assert turns(messages_of(chosen, "2 + 2 =", form)) == [
        ("user", f"9 + 9 modulo 1000 =\n{form.told}"),
        ("assistant", '{"value": 18}'),
        ("user", f"1 + 1 =\n{form.told}"),
        ("assistant", '{"value": 2}'),
        ("user", f"2 + 2 =\n{form.told}"),
    ]


@pytest.mark.parametrize(
    ("parser", "answer", "written"),
    [
        ("boolean", "true", '{"value": true}'),
        ("words", "key cup", '{"value": ["key", "cup"]}'),
        ("phrase", "The Louvre", '{"value": "The Louvre"}'),
        ("number", "1,200.5", '{"value": 1200.5}'),
        ("int", "no number", '{"value": "no number"}'),
    ],
)
def test_an_example_s_answer_takes_the_type_of_its_parser(parser: str, answer: str, written: str) -> None:
    chosen = in_json(parser, examples=(Example(prompt="?", answer=answer),), system="")
    assert messages_of(chosen, "?", value_form(chosen))[1].content == written


@pytest.mark.parametrize(
    ("parser", "words", "kind"),
    [
        ("int", None, {"type": "integer"}),
        ("number", None, {"type": "number"}),
        ("boolean", None, {"type": "boolean"}),
        ("word", None, {"type": "string"}),
        ("phrase", None, {"type": "string"}),
        ("text", None, {"type": "string"}),
        ("words", None, {"type": "array", "items": {"type": "string"}}),
        ("words", 3, {"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 3}),
    ],
)
def test_the_schema_follows_from_the_parser(parser: str, words: int | None, kind: dict[str, Any]) -> None:
    form = value_form(in_json(parser, words=words))
    assert form is not None
    assert json.loads(form.schema) == {
        "type": "object", "properties": {"value": kind}, "required": ["value"], "additionalProperties": False,
    }  # fmt: skip


def test_a_suite_in_text_has_no_form() -> None:
    assert value_form(driven.ARITH) is None
    assert steps_form(driven.ARITH, driven.LINE) is None


def test_all_steps_in_one_object_in_the_order_of_gold() -> None:
    form = steps_form(in_json(), driven.DIAMOND)
    assert form is not None
    schema = json.loads(form.schema)
    assert list(schema["properties"]) == schema["required"] == ["s1", "s2", "s3", "s4"]
    assert form.told == (
        'Answer with a JSON object that has the keys "s1", "s2", "s3", "s4", in this order, each of them a whole number.'
    )


@pytest.mark.parametrize(
    ("parser", "text", "value"),
    [
        ("int", '{"value": 41}', 41),
        ("int", '```json\n{"value": 41}\n```', 41),
        ("int", 'I think {so}. The answer: {"value": "041"} because 3 + 4 = 7', 41),
        ("int", '{"value": 41}\n{"value": 42}', 41),
        ("int", '{"note": 3} {"value": 41}', 41),
        ("int", '{"answer": 41}', 41),
        ("int", '{"value": 41.0}', 41),
        ("int", '{"value": 3.5}', None),
        ("int", '{"value": true}', None),
        ("int", '{"value": null}', None),
        ("int", '{"value": {"x": 1}}', None),
        ("int", '{"value": 4', None),
        ("int", "41", None),
        ("int", "", None),
        ("int", "{}", None),
        ("int", '{"a": 1, "b": 2}', None),
        ("int", '{"value": ' + "9" * 5000 + "}", None),
        ("number", '{"value": -1.5e2}', -150),
        ("number", '{"value": NaN}', None),
        ("word", '{"value": "Riku"}', "riku"),
        ("words:3", '{"value": ["key", "Cup", "pen"]}', "key cup pen"),
        ("words:3", '{"value": "key cup pen"}', "key cup pen"),
        ("words:3", '{"value": []}', None),
        ("boolean", '{"value": false}', "false"),
        ("phrase", '{"value": "The Louvre!"}', "louvre"),
    ],
)
def test_a_value_is_read_from_json(parser: str, text: str, value: Value | None) -> None:
    kind, _, count = parser.partition(":")
    assert read_value(text, in_json(kind, words=int(count) if count else None)) == value


def test_text_is_read_as_before() -> None:
    assert read_value("so 40 + 1 = 41", driven.ARITH) == 41
    assert [premise.value for premise in read_steps("s1 = 3\ns2 = 6", driven.ARITH, driven.LINE)] == [3, 6]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('{}[]":,va1e \\\n'), max_size=300))
def test_no_text_makes_it_raise(text: str) -> None:
    assert read_value(text, in_json()) is None or json_object(text) is not None
    read_steps(text, in_json(), driven.LINE)


@pytest.mark.parametrize("text", ["{" * 1_000_000, '{"a":' * 300_000, '{"value": "' + "x" * 1_000_000])
def test_megabytes_that_never_end_are_no_value(text: str) -> None:
    assert read_value(text, in_json()) is None


def test_a_hop_is_held_to_the_schema_and_has_room_for_the_object() -> None:
    asked: list[Sampling] = []

    def script(messages: Any, sampling: Sampling) -> str:
        asked.append(sampling)
        line = Message(role="user", content=messages[-1].content.splitlines()[0])
        return json.dumps({"value": int(driven.right([line], sampling))})

    chosen = in_json(max_tokens=5)
    course = driven.run(driven.LINE, script, "chain", suite=chosen)
    form = value_form(chosen)
    assert form is not None
    assert (course.answer, driven.values(course)) == (5, {"s1": 3, "s2": 6, "s3": 5})
    assert {(sampling.json_schema, sampling.max_tokens) for sampling in asked} == {(form.schema, 21)}
    assert [hop.sampling for hop in course.hops] == asked


def test_cot_in_json() -> None:
    course = driven.run(driven.LINE, lambda *_: '{"s1": 3, "s2": 6, "s3": "5"}', "cot", suite=in_json())
    (hop,) = course.hops
    assert hop.messages[-1].content.startswith("the question\nAnswer with a JSON object that has the keys")
    assert (course.answer, driven.values(course)) == (5, {"s1": 3, "s2": 6, "s3": 5})


def test_cot_in_json_that_is_cut_off_states_nothing() -> None:
    said = Completion(text='{"s1": 3, "s2": 6, "s3', finish_reason="length")
    course = driven.run(driven.LINE, lambda *_: said, "cot", suite=in_json())
    assert (course.answer, course.error, course.hops[0].premises) == (None, None, ())


def test_cot_in_json_on_a_task_without_gold() -> None:
    assert driven.run(driven.OPEN, lambda *_: '{"answer": 8}', "cot", suite=in_json()).answer == 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A suite in JSON with examples; `sloppy` writes prose or half an object on some prompts."""
    folder = tmp_path_factory.mktemp("json")
    arms = [{"name": name, "backend": "scripted", "script": f"jsonic:{name}"} for name in ("right", "sloppy")]
    return scripts.go(scripts.config(*arms, suites=[jsonic.write_suite(folder)], tasks_per_depth=20), folder)


@pytest.fixture(scope="module")
def compared(run: RunDirectory) -> RunComparison:
    return compare_runs([run])


def test_parse_failures_are_counted_not_hidden(run: RunDirectory, compared: RunComparison) -> None:
    hops = [hop for trace in run.traces("sloppy") for hop in trace.hops]
    unparsed = [hop for hop in hops if hop.premises[0].value is None]
    cut = [hop for hop in unparsed if hop.completion.finish_reason == "length"]
    assert 0 < len(cut) < len(unparsed) < len(hops)
    found = compared.comparison.arm("sloppy").readings
    assert (found.hops, found.unparsed, found.cut_off) == (len(hops), len(unparsed), len(cut))
    assert compared.comparison.arm("right").readings.unparsed == 0
    told = {arm["label"]: arm["parsing"] for arm in comparison_json(compared)["arms"]}
    assert told["sloppy"]["share"] == len(unparsed) / len(hops)
    assert told["sloppy"]["interval"]["low"] < told["sloppy"]["share"] < told["sloppy"]["interval"]["high"]
    text = scripts.printed(lambda console: render_comparison(compared, console), 160)
    line = next(line for line in text.splitlines() if "hops not parsed (cut off)" in line)
    assert f"0 of {len(hops)} (0.0 %)" in line
    assert f"{len(unparsed)} of {len(hops)} ({100 * len(unparsed) / len(hops):.1f} %), {len(cut)} cut off" in line


def test_a_hop_that_was_not_parsed_says_so_in_inspect(run: RunDirectory) -> None:
    trace = next(trace for trace in run.traces("sloppy") if any(hop.premises[0].value is None for hop in trace.hops))
    view = inspect_trace(run, trace.task_id, "sloppy")
    unparsed = sum(hop.premises[0].value is None for hop in trace.hops)
    assert trace_json(view)["parsing"]["unparsed"] == unparsed
    text = scripts.printed(lambda console: render_trace(view, console), 200)
    assert text.count(" · not parsed") == unparsed
    assert f"hops not parsed: {unparsed} of {len(trace.hops)}" in text


def test_replays_ask_and_read_in_json_too(run: RunDirectory) -> None:
    chains = Chains.of(run, "sloppy")
    assert asyncio.run(run_replays(run, Bench.set_up(run, scripts.Listener()), "sloppy", choose(chains), chains)) == []
    replies = list(read_lines(Path(run.replays_path("sloppy")) / "replies.jsonl", Reply))
    ours = {(trace.task_id, hop.id): hop for trace in run.traces("sloppy") for hop in trace.hops}
    again = [reply for reply in replies if (reply.source, reply.arm) == ("sloppy", "sloppy")]
    assert again
    assert all(reply.premises[0].value == ours[reply.task_id, reply.hop_id].premises[0].value for reply in again)
    swapped = [reply for reply in replies if (reply.source, reply.arm) == ("sloppy", "right")]
    assert swapped
    assert all(isinstance(reply.premises[0].value, int) for reply in swapped)
