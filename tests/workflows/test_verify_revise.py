"""`verify_revise`: what is sent back, how often, and that the trace tells."""

from collections.abc import Sequence

import driven
import pytest
from driven import LINE, OPEN, drew, right, run, values

from qtrap_agents.analysis.collapse import analyse
from qtrap_agents.analysis.roles import Checks, checks
from qtrap_agents.config import Limits, SuiteChoice
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.types import Message, Sampling
from qtrap_agents.workflows.drive import Course


def drawn(*said: int) -> driven.Script:
    """Step s2 gives these values draw by draw; the others are right."""

    def script(messages: Sequence[Message], sampling: Sampling) -> str:
        name = messages[-1].content.split()[0]
        return str(said[drew(sampling)]) if name == "s2" else right(messages, sampling)

    return script


def verdicts(course: Course) -> list[str]:
    return [f"{made.id} {made.premises[0].value}" for made in course.decisions if made.id.startswith("hop_002")]


@pytest.mark.parametrize(
    ("said", "hops", "told", "answer"),
    [
        ((6, 6), ["hop_002", "hop_002.check_1"], ["hop_002.verdict_1 accepted"], 5),
        (
            (7, 6, 6),
            ["hop_002", "hop_002.check_1", "hop_002.revision_1"],
            ["hop_002.verdict_1 sent back", "hop_002.verdict_2 accepted"],
            5,
        ),
        (
            (6, 7, 8, 6),
            ["hop_002", "hop_002.check_1", "hop_002.revision_1", "hop_002.check_2", "hop_002.revision_2", "hop_002.check_3"],
            ["hop_002.verdict_1 sent back", "hop_002.verdict_2 sent back", "hop_002.verdict_3 kept"],
            8,
        ),
    ],
)
def test_a_value_that_was_drawn_twice_stands(said: tuple[int, ...], hops: list[str], told: list[str], answer: int) -> None:
    course = run(LINE, drawn(*said, 9, 10, 11), "verify_revise", max_revisions=2)
    assert course.error is None
    assert [hop.id for hop in course.hops if hop.id.startswith("hop_002")] == hops
    assert verdicts(course) == told
    assert course.answer == answer


def test_the_checker_works_from_the_same_premises_without_the_statement() -> None:
    course = run(LINE, drawn(6, 6), "verify_revise")
    first, check = driven.hop(course, "hop_002"), driven.hop(course, "hop_002.check_1")
    assert check.messages == first.messages
    assert (check.node, check.parents, check.premises[0].id) == ("check", ("hop_001",), "check_s2")
    assert first.sampling is None
    assert check.sampling is not None
    assert (check.sampling.temperature, check.sampling.seed) == (0.7, driven.STEP)
    assert driven.hop(course, "hop_003").parents == ("hop_002",)


def test_later_hops_are_given_the_revision_and_the_engine_judges_it() -> None:
    course = run(LINE, drawn(7, 6, 6), "verify_revise")
    assert driven.hop(course, "hop_003").messages[-1].content == "s3 from 6 ="
    assert driven.hop(course, "hop_003").parents == ("hop_002.revision_1",)
    facts = analyse(driven.trace_of(course, LINE, 1.0), LINE)
    assert (facts.match, facts.wrong, facts.first_error) == (3, 0, None)


def test_what_the_checker_was_worth_can_be_read_from_the_trace() -> None:
    found = run(LINE, drawn(7, 6, 6), "verify_revise")
    false = run(LINE, drawn(6, 7, 6), "verify_revise")
    missed = run(LINE, drawn(7, 7), "verify_revise")
    assert checks(driven.trace_of(found, LINE), LINE) == Checks(checked=4, faulty=1, detected=1)
    assert checks(driven.trace_of(false, LINE), LINE) == Checks(checked=4, false_alarms=1)
    assert checks(driven.trace_of(missed, LINE), LINE) == Checks(checked=3, faulty=1)
    assert missed.answer == 6
    assert checks(driven.trace_of(run(LINE, right, "chain"), LINE), LINE) is None


def test_without_revisions_the_verdict_is_only_noted() -> None:
    course = run(LINE, drawn(7, 6), "verify_revise", max_revisions=0)
    assert verdicts(course) == ["hop_002.verdict_1 kept"]
    assert course.answer == 6


class Reader:
    """A model as checker: says what it is told to, step by step, and answers a revision rightly."""

    def __init__(self, *said: str) -> None:
        self.said = list(said)
        self.prompts: list[str] = []

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        prompt = messages[-1].content
        self.prompts.append(prompt)
        if "Answer `right` or `wrong`" in prompt or "first wrong one" in prompt:
            return self.said.pop(0)
        lines = prompt.splitlines()
        if lines[0].startswith("s2 ") and len(lines) == 1:
            return "7"
        return right([Message(role="user", content=lines[0])], sampling)


def test_a_model_objects_and_the_hop_is_asked_with_the_objection() -> None:
    script = Reader("right", "That is wrong:\n3 * 2 is 6.", "Yes, right.", "right")
    course = run(LINE, script, "verify_revise", check="model")
    assert course.answer == 5
    assert verdicts(course) == ["hop_002.verdict_1 sent back", "hop_002.verdict_2 accepted"]
    asked = driven.hop(course, "hop_002.revision_1").messages[-1].content
    assert asked.splitlines()[1:] == ["Your earlier answer was sent back: That is wrong: 3 * 2 is 6.", "Answer again."]
    look = driven.hop(course, "hop_002.check_1")
    assert "Stated: s2 = 7" in look.messages[-1].content
    assert look.parents == ("hop_001", "hop_002")
    assert [premise.value for premise in look.premises] == ["wrong"]


@pytest.mark.parametrize(
    ("said", "word"),
    [("not right at all", "kept"), ("No.", "kept"), ("It is correct", "accepted"), ("hm", "unreadable"), ("", "unreadable")],
)
def test_verdicts_in_words(said: str, word: str) -> None:
    course = run(LINE, Reader("right", said, "right"), "verify_revise", check="model", max_revisions=0)
    assert verdicts(course) == [f"hop_002.verdict_1 {word}"]
    found = checks(driven.trace_of(course, LINE), LINE)
    assert found is not None
    assert (found.faulty, found.detected, found.unreadable) == (1, int(word == "kept"), int(word == "unreadable"))


def test_a_look_at_the_end_goes_back_to_the_first_wrong_step() -> None:
    script = Reader("S2 is wrong.", "none")
    course = run(LINE, script, "verify_revise", check="model", when="end")
    assert [hop.id for hop in course.hops] == [
        "hop_001", "hop_002", "hop_003", "check_1", "hop_002.revision_1", "hop_003.revision_1", "check_2",
    ]  # fmt: skip
    assert [(made.id, made.premises[0].id, made.premises[0].value) for made in course.decisions] == [
        ("verdict_1", "verdict_s2", "sent back"),
        ("verdict_2", "verdict_all", "accepted"),
    ]
    assert course.answer == 5
    assert "sent back" not in driven.hop(course, "hop_003.revision_1").messages[-1].content
    found = checks(driven.trace_of(course, LINE), LINE)
    assert found == Checks(checked=2, faulty=1, detected=1)


def test_the_looks_are_bounded() -> None:
    course = run(LINE, Reader("s1", "s1", "s1"), "verify_revise", check="model", when="end", max_revisions=2)
    assert [made.premises[0].value for made in course.decisions] == ["sent back", "sent back", "kept"]
    assert [hop.id for hop in course.hops].count("check_3") == 1


def test_a_task_without_gold_premises_is_checked_too() -> None:
    course = run(OPEN, lambda messages, sampling: "answer = 8", "verify_revise")
    assert (course.answer, course.error) == (8, None)
    assert values(course)["verdict_answer"] == "accepted"


def test_the_most_revisions_end_within_the_usual_limit() -> None:
    depth = 16
    task = next(load_suite(SuiteChoice(name="arith")).tasks((depth,), (0,), 1))
    never = iter(range(10**6))
    course = run(task, lambda messages, sampling: str(next(never)), "verify_revise", max_revisions=10)
    assert course.error is None
    assert len(course.hops) == depth * 22
    assert Limits().steps_for(1_000) >= 33 * 1_000
