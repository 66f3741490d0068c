"""`react`: calls and what they give as premises, failing calls, and the end of the loop."""

from collections.abc import Sequence

import driven
import pytest
from driven import run, values

from qtrap_agents.analysis.collapse import analyse
from qtrap_agents.config import SuiteChoice
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.types import GoldPremise, Message, Sampling, Task
from qtrap_agents.workflows.react import UNREADABLE

TOOLS = {"table": {"pen/price": 7, "cup/price": 4}, "calculator": {}}


def premise(name: str, value: int | str, depends_on: Sequence[str], rule: str, kind: str) -> GoldPremise:
    return GoldPremise(id=name, text=f"{name} = {value}", value=value, depends_on=tuple(depends_on), rule=rule, kind=kind)


SHOP = Task(
    id="t",
    suite="arith",
    question="What do two pens cost?",
    answer=14,
    tools=TOOLS,
    depth=4,
    premises=(
        premise("s1", "table(pen, price)", [], "text('table(pen, price)')", "call_table"),
        premise("s2", 7, ["s1"], "{'table(pen, price)': 7, 'table(cup, price)': 4}[s1]", "table"),
        premise("s3", "calculator(2*7)", ["s2"], "text('calculator(2*', s2, ')')", "call_calculator"),
        premise("s4", 14, ["s3"], "calculate(argument(s3))", "calculator"),
    ),
)


class Agent:
    """Says these things, step by step, and keeps what it was shown."""

    def __init__(self, *said: str) -> None:
        self.said = list(said)
        self.prompts: list[str] = []
        self.stops: set[tuple[str, ...]] = set()

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        self.prompts.append(messages[-1].content)
        self.stops.add(sampling.stop)
        return self.said.pop(0)


GOOD = ("I need the price.\nAction: table(pen, price)", "Twice that.\nAction: calculator(2 * 7)", "Answer: 14")


def test_calls_and_results_are_premises_under_their_gold_ids() -> None:
    agent = Agent(*GOOD)
    course = run(SHOP, agent, "react")
    assert values(course) == {"s1": "table(pen, price)", "s2": 7, "s3": "calculator(2*7)", "s4": 14}
    assert [(hop.id, hop.parents) for hop in course.hops] == [
        ("act_001", ()),
        ("act_002", ("tool_001",)),
        ("act_003", ("tool_001", "tool_002")),
    ]
    assert [(made.id, made.node, made.parents) for made in course.decisions] == [
        ("tool_001", "tool", ("act_001",)),
        ("tool_002", "tool", ("act_002",)),
    ]
    facts = analyse(driven.trace_of(course, SHOP, 1.0), SHOP)
    assert (course.answer, facts.match, facts.unsupported) == (14, 4, 0)


def test_the_model_is_shown_tools_and_observations_and_stopped_before_it_makes_them_up() -> None:
    agent = Agent(*GOOD)
    run(SHOP, agent, "react")
    assert "table(row, column)" in agent.prompts[0]
    assert agent.prompts[2].splitlines()[-6:] == [
        "I need the price.", "Action: table(pen, price)", "Observation: 7",
        "Twice that.", "Action: calculator(2 * 7)", "Observation: 14",
    ]  # fmt: skip
    assert agent.stops == {("\nObservation:",)}


def test_a_wrong_argument_is_an_error_of_its_own_and_what_follows_is_inherited() -> None:
    course = run(SHOP, Agent("Action: table(cup, price)", "Action: calculator(2 * 4)", "Answer: 8"), "react")
    facts = analyse(driven.trace_of(course, SHOP, 0.0), SHOP)
    assert values(course) == {"s1": "table(cup, price)", "s2": 4, "s3": "calculator(2*4)", "s4": 8}
    assert facts.first_error is not None
    assert (facts.first_error.id, facts.own, facts.inherited) == ("s1", 1, 3)


def test_a_call_that_fails_is_an_observation_without_a_value_and_can_be_made_again() -> None:
    agent = Agent("Action: table(pan, price)", *GOOD)
    course = run(SHOP, agent, "react")
    assert agent.prompts[1].splitlines()[-1].startswith("Observation: error: table: unknown row 'pan'")
    first = driven.decision(course, "tool_001").premises[0]
    assert (first.id, first.value) == ("s2", None)
    assert (values(course)["s2"], course.answer, course.error) == (7, 14, None)
    assert analyse(driven.trace_of(course, SHOP, 1.0), SHOP).match == 4


def test_nothing_readable_is_an_observation_too() -> None:
    agent = Agent("Let me think about pens.", *GOOD)
    course = run(SHOP, agent, "react")
    assert agent.prompts[1].endswith(f"Observation: {UNREADABLE}")
    assert course.hops[0].premises == ()
    assert driven.decision(course, "tool_001").premises[0].id == "observation_1"
    assert course.answer == 14


def test_a_call_made_twice_is_no_other_premise() -> None:
    course = run(SHOP, Agent(GOOD[0], GOOD[0], *GOOD[1:]), "react")
    assert values(course)["call_2"] == "table(pen, price)"
    assert values(course)["observation_2"] == 7
    assert analyse(driven.trace_of(course, SHOP, 1.0), SHOP).match == 4


def test_a_call_counts_before_the_answer_that_was_made_up_after_it() -> None:
    course = run(SHOP, Agent("Action: table(pen, price)\nSo 9.\nAnswer: 9", *GOOD[1:]), "react")
    assert len(course.hops) == 3
    assert course.answer == 14


def test_steps_are_bounded_and_the_last_one_is_told_to_answer() -> None:
    agent = Agent(*["Action: table(pen, price)"] * 3)
    course = run(SHOP, agent, "react", max_steps=3)
    assert len(course.hops) == 3
    assert agent.prompts[-1].endswith("This is the last step: write `Answer: value`.")
    assert (course.answer, course.error) == (None, None)


def test_without_tools_it_can_only_answer() -> None:
    agent = Agent("Action: table(pen, price)", "**Final Answer:** 14")
    course = run(SHOP.model_copy(update={"tools": {}}), agent, "react")
    assert "Tools:\nnone" in agent.prompts[0]
    assert agent.prompts[1].splitlines()[-1].startswith("Observation: error: unknown tool 'table'")
    assert course.answer == 14


@pytest.mark.parametrize("depth", [2, 5, 8])
def test_a_perfect_agent_states_every_premise_of_the_shipped_family(depth: int) -> None:
    suite = load_suite(SuiteChoice(name="tool_use"))
    for task in suite.tasks((depth,), (0,), 5):
        calls = [f"Action: {gold.value}" for gold in task.premises if gold.kind.startswith("call")]
        first = next((part for part in task.question.splitlines()[0].split(" ; ") if "s1 = result of" in part), "")
        given = [f"Action: {first.rpartition('result of ')[2]}"] if depth % 2 else []
        course = run(task, Agent(*given, *calls, f"Answer: {task.answer}"), "react", suite=suite)
        facts = analyse(driven.trace_of(course, task, 1.0), task)
        assert (course.answer, facts.match) == (task.answer, depth), values(course)
