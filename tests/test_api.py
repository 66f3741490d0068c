"""The functions for notebooks: the documented example, a running event loop, and what is light and what is refused."""

import asyncio
import doctest
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import scripts
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

import qtrap_agents as qtrap
from qtrap_agents import api
from qtrap_agents.errors import ArmError, CompletionError, ConfigError, StoreError, SuiteError
from qtrap_agents.types import Hop, Message, Premise, Sampling, Task
from qtrap_agents.workflows.hop import Context, State, hop

ARMS = {"fp16": scripts.solve, "awq": scripts.noisy}


class Sum(TypedDict, total=False):
    """State of the app below."""

    question: str
    answer: str


def app() -> Any:
    """A cell's app: its client is made when it is called."""
    import openai

    async def solve(state: Sum) -> Sum:
        async with openai.AsyncOpenAI() as client:
            chat: Any = [{"role": "system", "content": "modulo 1000"}, {"role": "user", "content": state["question"]}]
            answer = await client.chat.completions.create(model="any", messages=chat)
        return {"answer": answer.choices[0].message.content or ""}

    graph = StateGraph(Sum)
    graph.add_node("solve", solve)
    graph.add_edge(START, "solve")
    return graph.compile()


def first_sum(task: Task) -> Sum:
    """The first step of an arithmetic task as a question."""
    return {"question": task.premises[0].instruction}


def first_step(text: str, task: Task, hop: Hop) -> Sequence[Premise]:
    """What it states."""
    return [Premise(id="s1", text=text, value=int(text))]


def test_the_example_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as the cells of a notebook: its functions can be found in the module of the cells."""
    monkeypatch.chdir(tmp_path)
    cells = types.ModuleType("cells")
    monkeypatch.setitem(sys.modules, "cells", cells)
    example = doctest.DocTestParser().get_doctest(api.__doc__ or "", {}, "api", None, None)
    example.globs = cells.__dict__
    result = doctest.DocTestRunner(verbose=False).run(example, clear_globs=False)
    assert result.failed == 0
    assert result.attempted > 12


def test_a_cell_of_a_notebook_has_a_running_event_loop(tmp_path: Path) -> None:
    async def cell() -> None:
        run = qtrap.run(
            suites=["arith"], arms=ARMS, depths=[2], tasks_per_depth=10, out=str(tmp_path), noise_floor=False, progress=False
        )
        assert run.arms() == ("fp16", "awq")
        shown = qtrap.compare(run)
        assert "fp16" in str(shown)
        assert "fp16" in shown._repr_html_()
        assert [arm.arm for arm in shown.report.comparison.arms] == ["fp16", "awq"]
        graph = qtrap.premise_graph(run, next(iter(run.tasks())), arm="fp16")
        assert isinstance(graph, nx.DiGraph)
        assert list(graph.edges) == [("s1", "s2")]
        assert {graph.nodes[name]["status"] for name in graph} == {"match"}
        assert qtrap.open_run(run.path).id == run.id

    asyncio.run(cell())


def test_an_app_itself_on_a_whole_suite(tmp_path: Path) -> None:
    run = qtrap.run(
        suites=[{"name": "arith"}],
        arms=ARMS,
        workflow=app(),
        input=first_sum,
        extractor=first_step,
        depths=[1],
        tasks_per_depth=10,
        out=str(tmp_path),
        progress=False,
        noise_floor=False,
    )
    assert run.config.workflow.name.startswith("__main__:")
    assert all(trace.correct for trace in run.traces("fp16"))
    wrong = [trace for trace in run.traces("awq") if not trace.correct]
    assert wrong
    graph = qtrap.premise_graph(run, wrong[0].task_id, arm="awq")
    assert graph.nodes["s1"]["origin"] == "own"


def test_one_task_of_a_suite_is_judged() -> None:
    suite = qtrap.load_suite("arith", modulus=1000)
    task = next(suite.tasks((1,), (0,), 1))
    trace = qtrap.trace(app(), task, scripts.solve, suite=suite, input=first_sum, extractor=first_step)
    assert (trace.score, trace.answer, trace.arm, trace.error) == (1.0, task.answer, "solve", None)
    assert [(hop.node, [premise.id for premise in hop.premises]) for hop in trace.hops] == [("solve", ["s1"])]
    spoilt = qtrap.trace(app(), task, scripts.wordy, suite=suite, input=first_sum)
    assert (spoilt.score, spoilt.answer) == (0.0, None)


def test_a_question_in_words_is_not_judged() -> None:
    trace = qtrap.trace(app(), "arith: 41 + 73 =", scripts.solve)
    assert (trace.answer, trace.score, trace.hops[0].completion.text) == (114, None, "114")


def test_a_graph_that_is_not_compiled_and_one_of_ours() -> None:
    async def ask(state: State, runtime: Any) -> Any:
        return await hop(state, runtime, premise="answer")

    ours = StateGraph(State, context_schema=Context)
    ours.add_node("ask", ask)
    ours.add_edge(START, "ask")
    assert qtrap.trace(ours, "arith: 41 + 73 =", lambda messages, sampling: "114").answer == 114


def test_the_sampling_and_the_limits_of_a_trace() -> None:
    drawn: list[Sampling] = []

    async def script(messages: Sequence[Message], sampling: Sampling) -> str:
        drawn.append(sampling)
        if sampling.seed == 9:
            await asyncio.sleep(30)
        return "4"

    trace = qtrap.trace(app(), "2 + 2", script, sampling={"temperature": 0.5, "max_tokens": 7})
    assert (trace.answer, drawn[0].temperature, drawn[0].max_tokens) == (4, 0.5, 7)
    late = qtrap.trace(app(), "2 + 2", script, sampling={"seed": 9}, limits={"task_timeout_s": 0.3})
    assert late.error == "the task took longer than 0.3 s (limits.task_timeout_s)"


def test_an_open_arm_is_asked_and_traced() -> None:
    with qtrap.open_arm({"backend": "scripted", "script": "scripts:solve"}) as arm:
        assert arm.ask("arith: 41 + 73 =", system="modulo 1000").text == "114"
        assert arm.identity.backend == "scripted"
        assert qtrap.trace(app(), "arith: 1 + 1 =", arm).answer == 2
        with pytest.raises(CompletionError, match="no rule for"):
            arm.ask("hello")


def nothing(messages: Sequence[Message], sampling: Sampling) -> str:
    return ""


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (lambda: qtrap.run(suites=[], arms=ARMS), ConfigError, "RunConfig: field 'suites': tuple should have at least 1 item"),
        (lambda: qtrap.run(suites=["arith"], arms=ARMS, depth=[2]), ConfigError, "unknown field 'depth': did you mean 'depths'"),
        (lambda: qtrap.run(suites=["arit"], arms=ARMS), SuiteError, "unknown suite 'arit': did you mean 'arith'"),
        (lambda: qtrap.run(suites=["arith"], arms=ARMS, workflow=3), ConfigError, "'__main__:int' is int; give a LangGraph app"),
        (lambda: qtrap.open_arm("no/such/folder").__enter__(), ArmError, "no/such/folder"),
        (lambda: qtrap.open_run("nowhere"), StoreError, "nowhere"),
        (lambda: qtrap.trace(app(), "x", nothing, limits={"retries": -1}), ConfigError, "Limits: field 'retries'"),
    ],
)
def test_a_mistake_is_one_sentence(work: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        work()
    assert "\n" not in str(caught.value)


def test_the_package_itself_loads_nothing() -> None:
    code = (
        "import sys, qtrap_agents; print([name for name in sys.modules if name.startswith('qtrap_agents.')], dir(qtrap_agents))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.startswith("[] ")
    assert all(f"'{name}'" in found.stdout for name in qtrap.API)
    with pytest.raises(AttributeError, match="module 'qtrap_agents' has no attribute 'nothing'"):
        _ = qtrap.nothing
