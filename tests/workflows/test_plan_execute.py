"""`plan_execute`: how a plan is read, what a step is given, and whose id it states."""

from collections.abc import Sequence

import driven
import pytest
from driven import LINE, OPEN, run, values

from qtrap_agents.analysis.collapse import analyse
from qtrap_agents.types import Message, Sampling, Task
from qtrap_agents.workflows.plan_execute import steps_of


class Planner:
    """Writes this plan, answers the steps in order, and the question with the last of its answers."""

    def __init__(self, plan: str, *answers: str) -> None:
        self.plan, self.answers = plan, list(answers)
        self.prompts: list[str] = []

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        self.prompts.append(messages[-1].content)
        return self.plan if len(self.prompts) == 1 else self.answers.pop(0)


def test_steps_named_like_gold_state_its_premises() -> None:
    script = Planner("s1: begin\ns2: double s1\ns3: take one away", "3", "6", "5", "5")
    course = run(LINE, script, "plan_execute")
    assert [hop.id for hop in course.hops] == ["plan", "step_001", "step_002", "step_003", "answer"]
    assert [hop.role for hop in course.hops] == ["plan", "step", "step", "step", "answer"]
    assert "such as `s1: …`, from s1 to s3." in script.prompts[0]
    assert script.prompts[2] == "the question\nKnown: s1 = 3\nDo this step only and state its result alone: double s1"
    assert script.prompts[4] == "the question\nKnown: s1 = 3; s2 = 6; s3 = 5\nState the answer alone."
    assert driven.hop(course, "step_003").parents == ("plan", "step_001", "step_002")
    assert driven.hop(course, "answer").parents == ("step_001", "step_002", "step_003")
    facts = analyse(driven.trace_of(course, LINE, 1.0), LINE)
    assert (course.answer, facts.match, facts.wrong) == (5, 3, 0)


def test_an_answer_that_contradicts_its_steps_is_an_error_of_the_answer() -> None:
    course = run(LINE, Planner("s1: a\ns2: b\ns3: c", "3", "6", "5", "7"), "plan_execute")
    facts = analyse(driven.trace_of(course, LINE, 0.0), LINE)
    assert course.answer == 7
    assert facts.first_error is not None
    assert (facts.first_error.id, facts.own) == ("s3", 1)


def test_a_plan_of_its_own_leaves_gold_premises_missing() -> None:
    course = run(LINE, Planner("7: guess", "1", "5"), "plan_execute")
    assert values(course) == {"plan_step_7": "guess", "step_7": 1, "s3": 5}
    assert analyse(driven.trace_of(course, LINE, 1.0), LINE).missing == 2


@pytest.mark.parametrize("plan", ["", "I cannot plan.", "\n" * 1000])
def test_without_a_plan_the_question_is_answered_at_once(plan: str) -> None:
    course = run(OPEN, Planner(plan, "8"), "plan_execute")
    assert ([hop.id for hop in course.hops], course.answer, course.error) == (["plan", "answer"], 8, None)


def test_a_plan_is_cut_at_max_steps() -> None:
    course = run(OPEN, Planner("\n".join(f"{n}: again" for n in range(1, 100)), *["1"] * 5), "plan_execute", max_steps=4)
    assert len(course.hops) == 6


@pytest.mark.parametrize(
    ("text", "task", "steps"),
    [
        ("1. add\n2) double", LINE, [("s1", "add"), ("s2", "double")]),
        ("**Step 2:** double\n- `S1`: add", LINE, [("s2", "double"), ("s1", "add")]),
        ("s1: add\ns1: again\ns9: more", LINE, [("s1", "add"), ("step_9", "more")]),
        ("Plan:\n1: add\nno step\n2:", OPEN, [("step_1", "add")]),
        ("step_3: x", OPEN, [("step_3", "x")]),
    ],
)
def test_plans(text: str, task: Task, steps: list[tuple[str, str]]) -> None:
    assert steps_of(text, task) == steps
