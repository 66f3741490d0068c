"""`debate`: what the agents read, who decides, and whose premises count."""

from collections.abc import Sequence

import driven
import pytest
from driven import LINE, OPEN, drew, run, values

from qtrap_agents.analysis.collapse import analyse
from qtrap_agents.types import Message, Sampling

RIGHT, WRONG = "s1 = 3\ns2 = 6\ns3 = 5", "s1 = 3\ns2 = 7\ns3 = 6"


def debate(first: Sequence[str], second: Sequence[str], judge: str = "") -> driven.Script:
    """What the agents write round by round, and what the judge says."""

    def script(messages: Sequence[Message], sampling: Sampling) -> str:
        if "Which agent is right" in messages[-1].content:
            return judge
        turn, agent = divmod(drew(sampling), 2)
        return (first, second)[agent][turn]

    return script


def test_equal_answers_need_no_judge() -> None:
    course = run(LINE, debate([WRONG, RIGHT], [RIGHT, RIGHT]), "debate")
    assert {hop.id for hop in course.hops} == {f"agent_{name}.round_{turn}" for name in "ab" for turn in (1, 2)}
    assert {hop.role for hop in course.hops} == {"agent"}
    (verdict,) = course.decisions
    assert (verdict.parents, course.answer) == (("agent_a.round_2", "agent_b.round_2"), 5)


def test_agents_read_each_other_from_the_second_round_on() -> None:
    course = run(LINE, debate([WRONG, RIGHT], [RIGHT, RIGHT]), "debate")
    first, second = (driven.hop(course, name) for name in ("agent_a.round_1", "agent_a.round_2"))
    assert (first.parents, second.parents) == ((), ("agent_a.round_1", "agent_b.round_1"))
    asked = second.messages[-1].content
    assert asked.index("Your answer so far:\ns1 = 3\ns2 = 7") < asked.index("Another agent answered:\ns1 = 3\ns2 = 6")
    other = driven.hop(course, "agent_b.round_2").messages[-1].content
    assert other.index("Your answer so far:\ns1 = 3\ns2 = 6") < other.index("Another agent answered:\ns1 = 3\ns2 = 7")


@pytest.mark.parametrize(
    ("judge", "answer", "value"),
    [("B", 5, "b"), ("Agent A is sloppy, so B.", 5, "b"), ("A", 6, "a"), ("neither", 6, None), ("", 6, None)],
)
def test_a_judge_decides_and_its_choice_is_what_counts(judge: str, answer: int, value: str | None) -> None:
    course = run(LINE, debate([WRONG], [RIGHT], judge), "debate", rounds=1)
    assert course.answer == answer
    assert driven.hop(course, "judge").parents == ("agent_a.round_1", "agent_b.round_1")
    assert values(course)["judged"] == value
    facts = analyse(driven.trace_of(course, LINE, float(answer == 5)), LINE)
    assert (facts.match, facts.wrong) == ((3, 0) if answer == 5 else (1, 2))


def test_two_agents_without_an_answer_are_no_crash() -> None:
    course = run(LINE, debate(["?"], ["!"], "B"), "debate", rounds=1)
    assert (course.answer, course.error) == (None, None)


def test_a_task_without_gold_premises() -> None:
    course = run(OPEN, debate(["answer = 8"], ["answer = 9"], "A"), "debate", rounds=1)
    assert course.answer == 8


def test_ten_rounds_are_in_order() -> None:
    course = run(LINE, debate([WRONG] * 9 + [RIGHT], [WRONG] * 10, "A"), "debate", rounds=10)
    assert course.answer == 5


def test_a_suite_that_answers_in_json() -> None:
    spec = driven.ARITH.spec.model_copy(update={"output": "json"})
    suite = driven.ARITH.model_copy(update={"spec": spec})
    said = ['{"s1": 3, "s2": 6, "s3": 5}']
    course = run(LINE, debate(said, said), "debate", rounds=1, suite=suite)
    assert (course.answer, values(course)) == (5, {"s1": 3, "s2": 6, "s3": 5})
    asked = course.hops[0]
    assert asked.sampling is not None
    assert asked.sampling.json_schema is not None
    assert "own line" not in asked.messages[-1].content
    single = run(OPEN, lambda messages, sampling: '{"value": 8}', "vote", k=2, suite=suite)
    assert single.answer == 8
    assert "last line" not in single.hops[0].messages[-1].content
