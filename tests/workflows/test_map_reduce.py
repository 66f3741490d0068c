"""`map_reduce`: what is asked at once, and whose premises it is given."""

from collections.abc import Sequence

import driven
from driven import DIAMOND, OPEN, right, run, values

from qtrap_agents.config import SuiteChoice
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.types import Hop, Message, Sampling
from qtrap_agents.workflows.map_reduce import parts_of


class AtOnce:
    """Answers rightly and keeps how many requests were in flight together."""

    def __init__(self) -> None:
        self.waiting = 0
        self.most: list[int] = []

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        import asyncio

        self.waiting += 1
        await asyncio.sleep(0.01)
        self.most.append(self.waiting)
        self.waiting -= 1
        return right(messages, sampling)


def test_premises_without_each_other_are_asked_at_once() -> None:
    diamond = DIAMOND.model_copy(update={"premises": DIAMOND.premises})
    script = AtOnce()
    course = run(diamond, script, "map_reduce")
    assert (course.error, values(course)) == (None, {"s1": 3, "s2": 2, "s3": 5, "s4": 6})
    assert script.most == [2, 1, 1, 1]
    assert course.answer == 6


def test_the_hops_form_the_gold_graph() -> None:
    course = run(DIAMOND, right, "map_reduce")
    assert {hop.id: hop.parents for hop in course.hops} == {
        "hop_001": (),
        "hop_002": (),
        "hop_003": ("hop_001", "hop_002"),
        "hop_004": ("hop_003",),
    }
    assert {hop.role for hop in course.hops} == {"hop"}


def test_it_states_what_a_chain_states_on_a_tree() -> None:
    suite = load_suite(SuiteChoice(name="tree"))
    import scripts

    for task in suite.tasks((1, 2, 7, 31), (0,), 3):
        course = run(task, scripts.solve, "map_reduce", suite=suite)
        assert values(course) == {premise.id: premise.value for premise in task.premises}
        assert course.answer == task.answer


class Splitter:
    """Splits into these questions, answers each with its length, and merges by counting what it is told."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.merged = ""

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        prompt = messages[-1].content
        if "independent questions" in prompt:
            return "\n".join(self.lines)
        if "Answer only this part" in prompt:
            return str(len(prompt.rpartition(": ")[2]))
        self.merged = prompt
        return "8"


def ids(hops: Sequence[Hop]) -> list[str]:
    return [hop.id for hop in hops]


def test_a_question_is_split_and_its_parts_are_merged() -> None:
    script = Splitter("1. How many pens?", "- **How many cups?**", "and that is all")
    course = run(OPEN, script, "map_reduce")
    assert ids(course.hops) == ["split", "part_001", "part_002", "merge"]
    assert values(course) == {
        "question_1": "How many pens?", "question_2": "How many cups?", "part_1": 14, "part_2": 14, "answer": 8,
    }  # fmt: skip
    assert script.merged.splitlines()[1:4] == ["Known:", "How many pens? 14", "How many cups? 14"]
    assert driven.hop(course, "part_001").parents == ("split",)
    assert driven.hop(course, "merge").parents == ("part_001", "part_002")
    assert course.answer == 8


def test_a_question_that_is_not_split_is_merged_from_nothing() -> None:
    script = Splitter("I would rather not")
    course = run(OPEN, script, "map_reduce")
    assert ids(course.hops) == ["split", "merge"]
    assert "Known" not in script.merged
    assert course.answer == 8


def test_over_the_question_the_answer_still_has_its_gold_id() -> None:
    course = run(DIAMOND, Splitter("1. one", "2. two", "3. three"), "map_reduce", over="question", max_parts=2)
    assert ids(course.hops) == ["split", "part_001", "part_002", "merge"]
    assert course.hops[-1].premises[0].id == "s4"


def test_parts_are_numbered_or_bulleted_lines() -> None:
    text = "Sure:\n1) first\n 2. second\n* third\n10: tenth\n3 is no number of a line\n-\n"
    assert parts_of(text) == ["first", "second", "third", "tenth"]
    assert parts_of("1. " + "x" * 10**6) == ["x" * 500]
