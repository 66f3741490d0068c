"""Apps that know nothing of us, traced as they are: the right hops, the right parents, and what may go wrong with them."""

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import scripts

from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.config import Limits, SamplingConfig, SuiteChoice, WorkflowChoice
from qtrap_agents.errors import ArmDied, CompletionError, ConfigError, TransientError
from qtrap_agents.evidence import REPLAYS, Replay
from qtrap_agents.experiments.inject import run_faults
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.experiments.replays import Chains, choose, run_replays
from qtrap_agents.report.comparison import compare_runs
from qtrap_agents.report.inspection import inspect_trace
from qtrap_agents.store import RunDirectory, read_lines
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import Completion, Hop, Message, Sampling, Task
from qtrap_agents.workflows.catalog import load_workflow
from qtrap_agents.workflows.drive import Course, drive
from qtrap_agents.workflows.hop import Answer, Context

Script = Callable[[Sequence[Message], Sampling], Any]

ARITH = load_suite(SuiteChoice(name="arith"))
TEXT = ARITH.model_copy(update={"spec": ARITH.spec.model_copy(update={"parser": "text"})})


def task_of(question: str) -> Task:
    return Task(id=question, suite="arith", question=question, answer=3, depth=1, seed=5)


async def echo(messages: Sequence[Message], sampling: Sampling) -> str:
    """Repeats what it was asked, and says what the patterns need to go on."""
    asked = messages[-1].content
    await asyncio.sleep(0.05 if " right" in asked or asked.split()[0] in ("one", "two", "left", "right") else 0)
    if sampling.json_schema:
        return '{"step": "story"}'
    if asked.startswith("plan"):
        return "x y z"
    if asked.startswith("grade"):
        return "good" if "after bad" in asked else "bad"
    if messages[0].content == "who is next?":
        return ("maths", "research", "done")[len(messages) - 2]
    return f"<{asked}>"


async def course_of(
    name: str,
    task: Task,
    script: Script = echo,
    suite: Suite = TEXT,
    director: Any = None,
    limits: Limits | None = None,
    **params: Any,
) -> Course:
    workflow = load_workflow(WorkflowChoice(name=f"apps:{name}", params=params))
    context = Context(ScriptedArm("arm", script), suite, SamplingConfig(), director, limits or Limits(task_timeout_s=60))
    return await drive(workflow, task, context)


def traced(name: str, script: Script = echo, question: str = "cats", **options: Any) -> Course:
    return asyncio.run(course_of(name, task_of(question), script, **options))


def parents(hops: Sequence[Hop]) -> dict[str, set[str]]:
    return {hop.id: set(hop.parents) for hop in hops}


CHAINED = {"draft": set[str](), "improve": {"draft"}, "polish": {"improve"}}
TEAMS = {
    "start": set(),
    "first/left": {"start"},
    "first/right": {"start"},
    "first/right.2": {"first/right"},
    "first/more": {"first/left"},
    "first/join": {"first/more", "first/right.2"},
    "second": {"start"},
    "second/left": {"second"},
    "second/right": {"second"},
    "second/right.2": {"second/right"},
    "second/more": {"second/left"},
    "second/join": {"second/more", "second/right.2"},
    "second/left.2": {"second/join"},
    "second/right.3": {"second/join"},
    "second/right.4": {"second/right.3"},
    "second/more.2": {"second/left.2"},
    "second/join.2": {"second/more.2", "second/right.4"},
    "second.2": {"second/join.2"},
    "end": {"first/join", "second.2"},
}


@pytest.mark.parametrize(
    ("name", "found", "answer"),
    [
        ("chaining", CHAINED, "polish <improve <draft cats>>"),
        ("graph", CHAINED, "polish <improve <draft cats>>"),
        ("routing", {"router": set(), "story": {"router"}}, "cats"),
        (
            "orchestrator",
            {
                "plan": set(),
                "worker[1]": {"plan"},
                "worker[2]": {"plan"},
                "worker[3]": {"plan"},
                "synthesis": {"worker[1]", "worker[2]", "worker[3]"},
            },
            "join <write x> <write y> <write z>",
        ),
        (
            "optimiser",
            {"generate": set(), "evaluate": {"generate"}, "generate.2": {"evaluate"}, "evaluate.2": {"generate.2"}},
            "good",
        ),
        (
            "supervisor",
            {"lead": set(), "maths": {"lead"}, "lead.2": {"maths"}, "research": {"lead.2"}, "lead.3": {"research"}},
            "<cats",
        ),
        ("teams", TEAMS, "end cats"),
        ("together", {"node": set(), "node.2": set(), "node.3": {"node", "node.2"}}, "<one> <two>"),
        ("remembering", {"node/count": set(), "node/count.2": {"node/count"}, "node/count.3": {"node/count.2"}}, "note 2"),
    ],
)
def test_every_model_call_is_a_hop_with_its_true_parents(name: str, found: dict[str, set[str]], answer: str) -> None:
    course = traced(name)
    assert course.error is None
    assert parents(course.hops) == found
    assert answer in str(course.answer)
    assert [hop.node for hop in course.hops] == [re.sub(r"\.\d+$|\[\d+\]$", "", hop.id) for hop in course.hops]


def test_a_choice_that_one_of_two_lines_makes_has_one_parent() -> None:
    course = traced("crossed", answer="apps:last_note")
    assert parents(course.hops) == {"a": set(), "b": set(), "a2": {"a"}, "b2": {"b"}, "end": {"a2"}}


def test_where_no_writes_are_told_all_of_the_round_before_are_parents() -> None:
    course = traced("unwatched", answer="apps:last_note")
    found = {"first": set(), "team/left": {"first"}, "team/right": {"first"}, "team/join": {"team/left", "team/right"}}
    assert parents(course.hops) == found


def test_an_app_of_the_functional_api() -> None:
    course = traced("functional", input="apps:question_alone")
    assert parents(course.hops) == {"app/look": set(), "app/look.2": set(), "app/look.3": {"app/look", "app/look.2"}}
    assert course.answer == "<<left cats> <right cats>>"


def test_a_hop_holds_what_was_sent_and_all_of_the_completion() -> None:
    said = Completion(text="14", token_ids=(7,), finish_reason="length", prompt_tokens=4, completion_tokens=1, latency_s=0.5)
    course = traced("orchestrator", lambda messages, sampling: said)
    plan, worker, synthesis = course.hops
    assert [hop.completion for hop in course.hops] == [said] * 3
    assert worker.messages == (Message(role="user", content="write 14"),)
    assert (plan.sampling, worker.sampling, synthesis.sampling) == (
        Sampling(max_tokens=20, seed=5),
        Sampling(temperature=1.0, seed=4, max_tokens=512),
        Sampling(max_tokens=512, seed=5, stop=("\n",)),
    )
    assert all(hop.arm is None and hop.started_at > 1.7e9 for hop in course.hops)


def test_a_streamed_call_is_one_hop() -> None:
    course = traced("routing")
    assert [(hop.node, hop.completion.text) for hop in course.hops] == [("router", '{"step": "story"}'), ("story", "<cats>")]
    assert course.hops[1].messages[0] == Message(role="system", content="write a STORY")


def test_many_tasks_at_once_do_not_mix() -> None:
    names = ("chaining", "optimiser", "teams", "orchestrator", "stubborn", "plain_http")

    async def all_of_them() -> list[Course]:
        return list(await asyncio.gather(*(course_of(names[number % 6], task_of(f"q{number}z")) for number in range(36))))

    for number, course in enumerate(asyncio.run(all_of_them())):
        assert course.error is None
        assert course.hops
        texts = [message.content for hop in course.hops for message in hop.messages]
        assert {found for text in texts for found in re.findall(r"q\d+z", text)} == {f"q{number}z"}
        if names[number % 6] == "teams":
            assert parents(course.hops) == TEAMS


def test_calls_without_a_mark_belong_to_the_only_task_and_its_running_node() -> None:
    course = traced("own_thread")
    assert course.error is None
    assert [(hop.node, hop.completion.text) for hop in course.hops] == [("node", "<one cats>")]


def test_calls_that_cannot_be_attributed_are_counted_and_said() -> None:
    async def two() -> list[Course]:
        return list(await asyncio.gather(*(course_of("own_thread", task_of(name), slowly) for name in ("a", "b"))))

    async def slowly(messages: Sequence[Message], sampling: Sampling) -> str:
        await asyncio.sleep(0.2)
        return "1"

    for course in asyncio.run(two()):
        assert course.answer is None
        assert re.match(r"[12] model calls could not be attributed to a task: .*'concurrency: 1'$", course.error or "")


def test_a_client_from_before_is_led_to_the_arm() -> None:
    course = traced("fixed_address")
    assert [(hop.node, hop.completion.text, hop.arm) for hop in course.hops] == [("node", "<one>", None)]


def test_a_call_to_another_model_is_a_hop_that_says_so() -> None:
    course = traced("elsewhere")
    judge, asked = course.hops
    assert (judge.id, judge.node, judge.arm, judge.completion.text) == ("node.2", "node", "another model", "fine")
    assert judge.messages == (Message(role="user", content="judge"),)
    assert (asked.id, asked.parents, asked.arm) == ("node", ("node.2",), None)
    assert course.error is None


@pytest.mark.parametrize(
    ("name", "error", "nodes"),
    [
        ("interrupting", r"the app stopped to ask a person \(interrupt\)", ["node"]),
        ("raising", "KeyError: 'draft'", ["node"]),
        ("silent", "the app made no model call", []),
        ("only_elsewhere", "no model call of the app reached the arm; let its client read OPENAI_BASE_URL", ["node"]),
        ("mute", "the app ended without an 'answer' or an AI message in its state", ["node"]),
        ("greedy", "a model call of node 'node' failed: field 'n': the gateway gives one plain answer", []),
        ("tooled", "a model call of node 'node' failed: this arm knows no tools", []),
    ],
)
def test_what_an_app_does_wrong_is_the_error_of_its_trace(name: str, error: str, nodes: list[str]) -> None:
    course = traced(name)
    assert course.answer is None
    assert re.match(error, course.error or "")
    assert [hop.node for hop in course.hops] == nodes


@pytest.mark.parametrize("name", ["hanging", "hanging_thread"])
def test_an_app_that_hangs_ends_at_its_time_limit(name: str) -> None:
    course = traced(name, limits=Limits(task_timeout_s=0.5))
    assert course.error == "the task took longer than 0.5 s (limits.task_timeout_s)"
    assert len(course.hops) == 1


def test_an_app_that_runs_in_circles_ends_at_its_steps() -> None:
    course = traced("endless", limits=Limits(steps=4))
    assert course.error == "the app did not end within 4 steps (limits.steps); end its loop or raise the limit"
    assert [hop.id for hop in course.hops] == ["node", "node.2", "node.3", "node.4"]


def test_a_call_that_takes_too_long_is_an_error() -> None:
    async def slowly(messages: Sequence[Message], sampling: Sampling) -> str:
        await asyncio.sleep(30)
        return "late"

    course = traced("fallback", slowly, limits=Limits(hop_timeout_s=0.1))
    assert (
        course.error == "a model call of node 'node' failed: a call had no answer within 0.1 s (limits.hop_timeout_s); raise it"
    )


def test_a_failed_call_is_an_error_even_where_the_app_goes_on() -> None:
    def script(messages: Sequence[Message], sampling: Sampling) -> str:
        raise CompletionError("the context is full")

    for name in ("fallback", "persistent"):
        course = traced(name, script)
        assert (course.answer, course.error) == (None, "a model call of node 'node' failed: the context is full")


def test_a_failed_call_that_was_made_again_is_none() -> None:
    failures = [TransientError("busy"), TransientError("busy")]

    def script(messages: Sequence[Message], sampling: Sampling) -> str:
        if failures:
            raise failures.pop()
        return "fine"

    course = traced("persistent", script)
    assert (course.answer, course.error) == ("fine", None)
    assert [hop.id for hop in course.hops] == ["node"]


def test_a_dead_arm_ends_the_run_and_not_the_task() -> None:
    def script(messages: Sequence[Message], sampling: Sampling) -> str:
        raise ArmDied("arm 'arm': the engine died")

    for name in ("fallback", "optimiser"):
        with pytest.raises(ArmDied, match="the engine died"):
            traced(name, script)


def test_premises_are_read_from_prose() -> None:
    task = next(ARITH.tasks((3,), (0,), 1))
    course = asyncio.run(course_of("calculator", task, scripts.solve, ARITH, input="apps:sums_of"))
    assert [(premise.id, premise.value) for hop in course.hops for premise in hop.premises] == [
        (gold.id, gold.value) for gold in task.premises
    ]
    assert course.answer == task.answer


def test_a_wrong_bare_value_is_read_with_the_equation_that_was_asked() -> None:
    task = next(ARITH.tasks((3,), (0,), 1))

    def off_by_one(messages: Sequence[Message], sampling: Sampling) -> str:
        return str(int(scripts.solve(messages, sampling)) + 1)

    course = asyncio.run(course_of("calculator", task, off_by_one, ARITH, input="apps:sums_of"))
    stated = [premise for hop in course.hops for premise in hop.premises]
    assert [premise.id for premise in stated] == ["s1", "s2", "s3"]
    assert [premise.depends_on for premise in stated] == [(), ("s1",), ("s2",)]
    assert stated[0].value == int(task.premises[0].value) + 1
    assert [premise.text for premise in stated] == [hop.completion.text for hop in course.hops]


def test_the_users_own_extractor_may_look_at_the_hop() -> None:
    task = next(ARITH.tasks((4,), (0,), 1))
    choice: dict[str, Any] = {"input": "apps:sums_of", "extractor": "apps:numbered"}
    course = asyncio.run(course_of("calculator", task, lambda messages, sampling: "1", ARITH, **choice))
    stated = [premise for hop in course.hops for premise in hop.premises]
    assert [(premise.id, premise.value) for premise in stated] == [("s1", 1), ("s2", 1), ("s3", 1), ("s4", 1)]
    assert parents(course.hops) == {"step": set(), "step.2": {"step"}, "step.3": {"step.2"}, "step.4": {"step.3"}}


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"extractor": "apps:failing_extractor"}, "extractor 'failing_extractor' raised ValueError: invalid literal"),
        ({"extractor": "apps:question_of"}, "extractor 'question_of' returned str; it must return Premise records"),
        ({"answer": "apps:no_note"}, "the answer could not be taken: IndexError: list index out of range"),
        ({"input": "apps:no_input"}, "AttributeError: 'Task' object has no attribute 'title'"),
    ],
)
def test_functions_of_the_user_that_fail(params: dict[str, Any], error: str) -> None:
    course = traced("teams", **params)
    assert course.answer is None
    assert error in (course.error or "")
    assert len(course.hops) == (0 if "input" in params else len(TEAMS))


@pytest.mark.parametrize("extractor", ["prose", "steps"])
def test_an_extractor_by_name(extractor: str) -> None:
    course = traced("mute", lambda messages, sampling: "s1 = 4", suite=ARITH, extractor=extractor)
    assert [premise.value for premise in course.hops[0].premises] == [4]


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("sorted_out", {}, r"its input has no field for the question \(fields: numbers\); add 'input: module:function'"),
        ("functional", {}, r"its input has no field for the question \(fields: none\)"),
        ("graph", {"inptu": "apps:sums_of"}, "does not take the parameter 'inptu'; an app takes input, answer, extractor"),
        ("chaining", {"inptu": "apps:sums_of"}, "does not take these parameters: .*inptu"),
        ("chaining", {"answer": "apps:nobody"}, "workflow 'apps:chaining': answer 'apps:nobody' cannot be imported"),
        ("chaining", {"extractor": "poetry"}, "no extractor 'poetry'; give prose, steps or module:function"),
    ],
)
def test_a_wrong_choice_is_one_sentence(name: str, params: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_workflow(WorkflowChoice(name=f"apps:{name}", params=params))
    assert "\n" not in str(caught.value)


def test_a_graph_of_ours_takes_none_of_an_apps_parameters() -> None:
    with pytest.raises(ConfigError, match="workflow 'graphs:diamond' does not take these parameters: extractor"):
        load_workflow(WorkflowChoice(name="graphs:diamond", params={"extractor": "prose"}))


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://example.invalid/v1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    before, send = dict(os.environ), httpx.Client.send
    assert traced("optimiser").error is None
    assert dict(os.environ) == before
    assert httpx.Client.send is send


class Recorded:
    """A director that knows the answer of one hop, and spoils a premise where it is told to."""

    def __init__(self, hop_id: str, text: str, spoilt: bool = False) -> None:
        self.hop_id, self.text, self.spoilt = hop_id, text, spoilt
        self.asked: list[str] = []

    async def answer(self, hop_id: str, messages: tuple[Message, ...], sampling: Sampling) -> Answer:
        self.asked.append(hop_id)
        if hop_id == self.hop_id:
            return Answer(Completion(text=self.text), 17.0, arm="other")
        return Answer(Completion(text=await echo(messages, sampling)), 18.0)

    def rewrite(self, hop: Hop) -> Hop:
        return hop.model_copy(update={"replaced": hop.premises}) if self.spoilt and hop.id == self.hop_id else hop


def test_a_replay_swaps_a_hop_and_the_app_goes_on_from_there() -> None:
    director = Recorded("worker[2]", "other words")
    course = traced("orchestrator", director=director)
    assert set(director.asked) == {"plan", "worker[1]", "worker[2]", "worker[3]", "synthesis"}
    swapped = next(hop for hop in course.hops if hop.id == "worker[2]")
    assert (swapped.arm, swapped.started_at, swapped.completion.text) == ("other", 17.0, "other words")
    assert course.answer == "<join <write x> other words <write z>>"


def test_a_replay_that_replaces_a_premise_is_refused() -> None:
    course = traced("optimiser", director=Recorded("generate.2", "s1 = 4 after bad", spoilt=True), suite=ARITH)
    assert course.error == "premises cannot be replaced inside an app of one's own, which hands on text; swap whole hops instead"


CALCULATOR = {"name": "apps:calculator", "input": "apps:sums_of", "extractor": "apps:numbered"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The calculator on two scripted arms, as any other workflow."""
    config = scripts.config("solve", "noisy", suites=["arith"], depths=[4], tasks_per_depth=20, workflow=CALCULATOR)
    return scripts.go(config, tmp_path_factory.mktemp("run"))


def test_an_app_runs_and_is_compared_like_a_workflow(run: RunDirectory) -> None:
    right, wrong = (scripts.by_task(run, arm) for arm in ("solve", "noisy"))
    assert all(trace.correct and trace.error is None and len(trace.hops) == 4 for trace in right.values())
    assert {trace.workflow for trace in right.values()} == {"apps:calculator"}
    assert 0 < sum(trace.correct for trace in wrong.values()) < 20
    baseline, other = compare_runs([run]).comparison.arms
    assert [arm.cells[0].correct for arm in (baseline, other)] == [20, sum(trace.correct for trace in wrong.values())]
    assert all(trace.prompt_tokens > 0 for trace in right.values())


def test_the_premises_of_an_app_are_judged(run: RunDirectory) -> None:
    failed = next(trace for trace in run.traces("noisy") if not trace.correct)
    view = inspect_trace(run, failed.task_id, "noisy")
    judged = {premise.id: premise for hop in view.hops for premise in hop.premises}
    assert list(judged) == ["s1", "s2", "s3", "s4"]
    first = next(premise for premise in judged.values() if premise.is_error)
    assert first.origin == "own"
    assert judged["s4"].origin in ("own", "inherited", "compounded")


def test_failed_chains_of_an_app_are_replayed_with_swapped_hops(run: RunDirectory) -> None:
    bench = Bench.set_up(run, scripts.Listener())
    chains = Chains.of(run, "noisy")
    chosen = choose(chains)
    assert asyncio.run(run_replays(run, bench, "noisy", chosen, chains)) == []
    made = list(read_lines(run.replays_path("noisy") / REPLAYS, Replay))
    swaps = [replay for replay in made if replay.source == "noisy" and replay.changes[0].kind == "swap"]
    assert swaps
    assert {change.kind for replay in made for change in replay.changes} == {"swap"}
    for replay in swaps:
        assert replay.trace.error is None
        swapped = {change.hop_id for change in replay.changes}
        assert {hop.id for hop in replay.trace.hops if hop.arm == "solve"} == swapped
    assert any(replay.trace.correct for replay in swaps)


def test_faults_cannot_be_put_into_an_app(run: RunDirectory) -> None:
    bench = Bench.set_up(run, scripts.Listener())
    with pytest.raises(ConfigError, match=r"premises cannot be replaced inside an app of one's own"):
        asyncio.run(run_faults(run, bench, "faults", []))


@pytest.mark.vllm
def test_the_reference_model_answers_an_app_through_the_gateway(tmp_path: Path) -> None:
    """An unchanged app on a real engine: what vLLM generated is what the trace holds."""
    arm = {"name": "fp16", "checkpoint": "reference:small/fp16", "backend": "vllm"}
    engine = {"max_model_len": 256, "max_num_seqs": 32, "kv_cache_gib": 0.25}
    sampling = {"temperature": 0, "max_tokens": 16}
    config = scripts.config(
        arm, suites=["arith"], depths=[3], tasks_per_depth=24, workflow=CALCULATOR, engine=engine, sampling=sampling
    )
    found = scripts.by_task(scripts.go(config, tmp_path), "fp16")
    assert sum(trace.correct for trace in found.values()) >= 20
    for trace in found.values():
        assert trace.error is None
        assert [hop.id for hop in trace.hops] == ["step", "step.2", "step.3"]
        assert parents(trace.hops) == {"step": set(), "step.2": {"step"}, "step.3": {"step.2"}}
        for hop in trace.hops:
            assert hop.completion.token_ids
            assert hop.completion.prompt_tokens > 5
            assert hop.completion.text.strip().isdigit()
