"""What a hop is shown, what it hands on, and how a user's own graph takes part."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import scripts

from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.config import SamplingConfig, SuiteChoice, WorkflowChoice
from qtrap_agents.errors import CompletionError, ConfigError
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import Completion, GoldPremise, Hop, Message, Sampling, Task, Value
from qtrap_agents.workflows.catalog import load_workflow
from qtrap_agents.workflows.hop import Context, State, instruction, statements

Script = Callable[[Sequence[Message], Sampling], Any]

ARITH = load_suite(SuiteChoice(name="arith"))


class Scripted:
    """Gives its answers in order and keeps what it was asked."""

    def __init__(self, *answers: str):
        self.answers = list(answers)
        self.asked: list[tuple[Message, ...]] = []
        self.sampling: list[Sampling] = []

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        self.asked.append(tuple(messages))
        self.sampling.append(sampling)
        return self.answers.pop(0)

    @property
    def prompts(self) -> list[str]:
        """What the user messages said."""
        return [messages[-1].content for messages in self.asked]


def gold(name: str, value: Value, depends_on: Sequence[str] = (), ask: str = "") -> GoldPremise:
    return GoldPremise(id=name, text=f"{name} = {value}", value=value, depends_on=tuple(depends_on), instruction=ask)


def make_task(*premises: GoldPremise, seed: int = 0) -> Task:
    return Task(id="t", suite="arith", question="the question", answer=premises[-1].value, premises=premises, depth=1, seed=seed)


LINE = make_task(gold("s1", 3, ask="1 + 2 ="), gold("s2", 6, ["s1"], "{s1} * 2 ="), gold("s3", 5, ["s2"], "{s2} - 1 ="))
DIAMOND = make_task(
    gold("s1", 1, ask="first ="), gold("s2", 2, ask="second ="), gold("s3", 3, ["s2", "s1"], "{s1} + {s2} ="), seed=4
)


def suite(**changes: Any) -> Suite:
    """Arithmetic with some fields of its `suite.yaml` changed."""
    return ARITH.model_copy(update={"spec": ARITH.spec.model_copy(update=changes)})


def work(
    task: Task,
    script: Script,
    workflow: str = "chain",
    chosen: Suite = ARITH,
    sampling: SamplingConfig | None = None,
    **params: Any,
) -> State:
    """The final state of a workflow."""
    graph = load_workflow(WorkflowChoice(name=workflow, params=params))(task)
    context = Context(ScriptedArm("test", script), chosen, sampling or SamplingConfig())
    limit = len(task.premises) + 20
    state = asyncio.run(graph.ainvoke({"task": task, "hops": []}, context=context, config={"recursion_limit": limit}))
    return cast(State, state)


def values(hops: Sequence[Hop]) -> dict[str, Value | None]:
    return {name: premise.value for name, premise in statements({"hops": list(hops)}).items()}


def test_a_hop_sees_its_instruction_and_its_parents_and_nothing_else() -> None:
    script = Scripted("3", "6", "5")
    state = work(LINE, script)
    system = Message(role="system", content="All numbers are modulo 1000. Answer with the number only.")
    prompts = ["1 + 2 =", "3 * 2 =", "6 - 1 ="]
    assert script.asked == [(system, Message(role="user", content=prompt)) for prompt in prompts]
    assert [hop.messages for hop in state["hops"]] == script.asked
    assert state["answer"] == 5
    assert [(hop.id, hop.node, hop.parents) for hop in state["hops"]] == [
        ("hop_001", "hop_001", ()),
        ("hop_002", "hop_002", ("hop_001",)),
        ("hop_003", "hop_003", ("hop_002",)),
    ]
    assert [hop.premises[0].depends_on for hop in state["hops"]] == [(), ("s1",), ("s2",)]


def test_a_suite_without_a_system_message_sends_none() -> None:
    script = Scripted("3", "6", "5")
    work(LINE, script, chosen=suite(system=""))
    assert [len(messages) for messages in script.asked] == [1, 1, 1]


def test_a_wrong_value_is_handed_on() -> None:
    script = Scripted("4", "8", "7")
    assert work(LINE, script)["answer"] == 7
    assert script.prompts[1:] == ["4 * 2 =", "8 - 1 ="]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("no idea\n at all", "no idea at all"), ("", "unknown"), (" \n", "unknown"), ("ab " * 500, ("ab " * 67)[:200].strip())],
)
def test_a_missing_value_is_handed_on_as_text(text: str, shown: str) -> None:
    script = Scripted(text, "6", "5")
    state = work(LINE, script)
    assert script.prompts[1] == f"{shown} * 2 ="
    assert values(state["hops"]) == {"s1": None, "s2": 6, "s3": 5}
    assert state["hops"][0].premises[0].text == text


def test_an_unparsable_last_hop_is_no_answer_and_no_crash() -> None:
    assert work(LINE, Scripted("3", "6", "who knows"))["answer"] is None


def test_parents_of_a_dag_become_parents_of_the_hop() -> None:
    script = Scripted("1", "2", "3")
    state = work(DIAMOND, script)
    assert script.prompts[2] == "1 + 2 ="
    assert state["hops"][2].parents == ("hop_002", "hop_001")


def test_the_question_and_parents_without_a_slot_are_shown_above() -> None:
    task = make_task(gold("s1", 1, ask="first ="), gold("s2", 2, ask="second ="), gold("s3", 3, ["s1", "s2"], "their sum ="))
    script = Scripted("1", "two", "3")
    work(task, script, chosen=suite(show_question=True))
    assert script.prompts == [
        "the question\nfirst =",
        "the question\nsecond =",
        "the question\nKnown: s1 = 1; s2 = two\ntheir sum =",
    ]


def test_a_step_without_instruction_is_asked_for_by_name() -> None:
    assert instruction(make_task(gold("s1", 1)), gold("s1", 1), {}, show_question=False) == "State s1."


def test_braces_of_other_names_stay() -> None:
    script = Scripted("{s2}", "2", "3")
    work(make_task(gold("s1", 1, ask="a {x} ="), gold("s2", 2, ask="b ="), gold("s3", 3, ["s1", "s2"], "{s1}|{s2}")), script)
    assert script.prompts[0] == "a {x} ="


def test_sampling_is_the_run_s_with_the_seed_of_the_task_and_the_length_of_the_suite() -> None:
    script = Scripted("1", "2", "3")
    work(DIAMOND, script, chosen=suite(max_tokens=5), sampling=SamplingConfig(temperature=0.5, seed=10, stop=("\n",)))
    assert script.sampling == [Sampling(temperature=0.5, max_tokens=5, seed=14, stop=("\n",))] * 3


def test_a_chain_of_128_hops_runs() -> None:
    task = next(ARITH.tasks((128,), (0,), 1))
    state = work(task, scripts.solve)
    assert len(state["hops"]) == 128
    assert values(state["hops"]) == {premise.id: premise.value for premise in task.premises}
    assert state["answer"] == task.answer


def test_tasks_of_one_depth_share_a_compiled_graph() -> None:
    graph_for = load_workflow(WorkflowChoice(name="chain"))
    first, second = ARITH.tasks((3,), (0,), 2)
    other = next(ARITH.tasks((4,), (0,), 1))
    assert graph_for(first) is graph_for(second) is load_workflow(WorkflowChoice(name="chain"))(first)
    assert graph_for(first) is not graph_for(other)


def test_cot_asks_once_and_reads_every_premise() -> None:
    script = Scripted("s1 = 3\ns2 = s1 * 2 = 6\ns3 = s2 - 1 = 5")
    state = work(LINE, script, workflow="cot", chosen=suite(cot_tokens_per_premise=10))
    assert script.prompts == ["the question\nWrite every step on its own line as `s1 = value`, from s1 to s3."]
    assert script.sampling[0].max_tokens == 30
    (hop,) = state["hops"]
    assert values([hop]) == {"s1": 3, "s2": 6, "s3": 5}
    assert statements({"hops": [hop]})["s3"].depends_on == ("s2",)
    assert state["answer"] == 5


def test_cot_answer_is_the_last_gold_premise_wherever_it_stands() -> None:
    state = work(LINE, Scripted("s3 = 5\ns1 = 3\ns2 = 6"), workflow="cot")
    assert [premise.id for premise in state["hops"][0].premises] == ["s3", "s1", "s2"]
    assert state["answer"] == 5


@pytest.mark.parametrize("text", ["s1 = 3\ns2 = 6\nanswer = 5", "s1 = 3\ns3 = eh\nanswer = 5\n"])
def test_cot_may_name_the_answer_itself(text: str) -> None:
    assert work(LINE, Scripted(text), workflow="cot")["answer"] == 5


@pytest.mark.parametrize("text", ["half = 4\nanswer = 8\nunit = 1", "half = 4\nwhole = 8"])
def test_cot_on_a_task_without_gold_premises(text: str) -> None:
    script = Scripted(text)
    task = Task(id="t", suite="arith", question="the question", answer=8, depth=1)
    assert work(task, script, workflow="cot")["answer"] == 8
    assert script.prompts == ["the question\nWrite the answer on the last line as `answer = value`."]


def test_cot_that_stops_early_has_no_answer_of_the_task() -> None:
    """The last step it wrote is not the answer: it must not be scored as one."""
    state = work(LINE, Scripted("s1 = 3\ns2 = 5"), workflow="cot")
    assert values(state["hops"]) == {"s1": 3, "s2": 5}
    assert state["answer"] is None


def test_cot_without_a_single_premise_is_no_crash() -> None:
    state = work(LINE, Scripted("I would rather not."), workflow="cot")
    assert state["hops"][0].premises == ()
    assert state["answer"] is None


def test_a_graph_of_the_user_with_parallel_branches() -> None:
    script = Scripted("1", "2", "3")
    state = work(DIAMOND, script, workflow="graphs:diamond")
    assert sorted(script.prompts[:2]) == ["first =", "second ="]
    *branches, merged = state["hops"]
    assert {hop.node: hop.parents for hop in branches} == {"s1": (), "s2": ()}
    assert (merged.node, merged.parents) == ("s3", ("s2", "s1"))
    assert set(re.findall(r"\d", script.prompts[2])) == {"1", "2"}
    assert state["answer"] == 3


def test_a_node_that_runs_again_is_another_hop_and_its_last_word_counts() -> None:
    script = Scripted("1", "2", "3")
    state = work(LINE, script, workflow="graphs:asking", question="again?", times=3)
    assert script.prompts == ["again?"] * 3
    assert [hop.id for hop in state["hops"]] == ["ask", "ask.2", "ask.3"]
    assert [hop.node for hop in state["hops"]] == ["ask"] * 3
    assert [hop.parents for hop in state["hops"]] == [(), ("ask",), ("ask.2",)]
    assert state["answer"] == 3


def test_a_refused_request_is_raised() -> None:
    with pytest.raises(CompletionError, match="the script raised ValueError"):
        work(LINE, scripts.solve)


def test_a_whole_completion_is_kept() -> None:
    said = Completion(text="3", token_ids=(7,), finish_reason="length", prompt_tokens=4, completion_tokens=1, latency_s=0.5)
    hop = work(LINE, lambda messages, sampling: said)["hops"][0]
    assert hop.completion == said
    assert hop.started_at > 1.7e9


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("chian", {}, r"unknown workflow 'chian': did you mean 'chain'\? Your own graph is given as module:function\."),
        ("chain", {"tries": 3}, "workflow 'chain': unknown parameter 'tries': known: none."),
        ("vote", {"K": 3}, "workflow 'vote': unknown parameter 'K': did you mean 'k'|known: k, per, temperature"),
        ("vote", {"temperatur": 1}, "workflow 'vote': unknown parameter 'temperatur': did you mean 'temperature'?"),
        ("vote", {"k": 0}, "workflow 'vote': parameter 'k' must be 1 to 99, not 0"),
        ("vote", {"k": "5"}, "workflow 'vote': parameter 'k' must be 1 to 99, not '5'"),
        ("vote", {"k": 2.5}, "workflow 'vote': parameter 'k' must be 1 to 99, not 2.5"),
        ("vote", {"temperature": 3}, "workflow 'vote': parameter 'temperature' must be 0 to 2, not 3"),
        ("vote", {"per": "task"}, "workflow 'vote': parameter 'per' must be hop or chain, not 'task'"),
        ("verify_revise", {"when": "end"}, "'when: end' goes with 'check: model'"),
        ("debate", {"rounds": 99}, "workflow 'debate': parameter 'rounds' must be 1 to 10, not 99"),
        ("graphs:asking", {}, "workflow 'graphs:asking' does not take these parameters: .*question"),
        ("graphs:asking", {"questoin": "?"}, "does not take these parameters"),
        ("no_such_module:graph", {}, "cannot be imported: No module named 'no_such_module'; give it as module:function"),
        ("graphs:no_such_graph", {}, "cannot be imported: .*no_such_graph"),
        (":graph", {}, "cannot be imported: "),
        ("graphs:", {}, "cannot be imported: "),
        ("graphs:NOT_A_FUNCTION", {}, "is not a function"),
        ("graphs:not_a_graph", {}, "returned str; it must return a LangGraph StateGraph"),
    ],
)
def test_a_wrong_workflow_is_one_sentence(name: str, params: dict[str, Value], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_workflow(WorkflowChoice(name=name, params=params))
    assert "\n" not in str(caught.value)
