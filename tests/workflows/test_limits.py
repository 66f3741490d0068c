"""Limits of a task: what is asked again, what is not, and the error that names the limit."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import scripts
from driven import LINE, right, run

from qtrap_agents.config import Limits, RunConfig
from qtrap_agents.errors import ArmDied, CompletionError, ConfigError, TransientError
from qtrap_agents.types import Message, Sampling
from qtrap_agents.workflows.drive import Course


class Failing:
    """Raises these errors first, then answers; counts its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return right(messages, sampling)


@pytest.mark.parametrize("workflow", ["chain", "map_reduce", "graphs:line", "graphs:compiled_line"])
def test_a_passing_failure_is_asked_again(workflow: str) -> None:
    script = Failing(TransientError("busy"))
    course = run(LINE, script, workflow, limits=Limits(retries=1))
    assert (course.error, course.answer, script.calls) == (None, 5, 4)
    assert [len(hop.premises) for hop in course.hops] == [1, 1, 1]


@pytest.mark.parametrize(
    ("error", "retries", "calls"),
    [
        (CompletionError("the prompt is too long"), 3, 1),
        (TransientError("busy"), 0, 1),
        (ValueError("a bug of the script"), 3, 1),
    ],
)
def test_other_failures_are_not(error: Exception, retries: int, calls: int) -> None:
    script = Failing(error)
    course = run(LINE, script, "chain", limits=Limits(retries=retries))
    assert script.calls == calls
    assert str(error) in str(course.error)


def test_retries_end() -> None:
    script = Failing(*[TransientError("busy")] * 5)
    course = run(LINE, script, "chain", limits=Limits(retries=1))
    assert (course.error, script.calls) == ("busy", 2)


@pytest.mark.parametrize("error", [ArmDied("the arm is gone"), ConfigError("a wrong field")])
def test_a_dead_arm_is_never_asked_again(error: Exception) -> None:
    script = Failing(error)
    with pytest.raises(type(error)):
        run(LINE, script, "chain", limits=Limits(retries=5))
    assert script.calls == 1


async def hanging(messages: Sequence[Message], sampling: Sampling) -> str:
    """Never answers s2."""
    if messages[-1].content.startswith("s2 "):
        await asyncio.sleep(60)
    return right(messages, sampling)


def test_a_hop_that_takes_too_long_is_an_error_that_names_the_limit() -> None:
    course = run(LINE, hanging, "chain", limits=Limits(retries=0, hop_timeout_s=0.05))
    assert course.error == "hop 'hop_002' had no answer within 0.05 s (limits.hop_timeout_s); raise it"
    assert [hop.id for hop in course.hops] == ["hop_001"]


def test_a_task_that_takes_too_long_is_too() -> None:
    course = run(LINE, hanging, "chain", limits=Limits(task_timeout_s=0.1))
    assert course.error == "the task took longer than 0.1 s (limits.task_timeout_s)"
    assert [hop.id for hop in course.hops] == ["hop_001"]


def test_a_timeout_of_the_user_s_own_node_is_not_taken_for_a_limit() -> None:
    course = run(LINE, right, "graphs:impatient", limits=Limits(task_timeout_s=60.0))
    assert course.error == "TimeoutError: the tool was slow"


def test_steps_can_be_set() -> None:
    course: Course = run(LINE, right, "graphs:endless", limits=Limits(steps=7))
    assert course.error == "the workflow did not end within 7 steps (limits.steps); end its loop or raise the limit"
    assert run(LINE, right, "chain", limits=Limits(steps=3)).error is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("graphs:mute", "no node of the workflow gave an answer; let its last one end with `return await hop(…)`"),
        ("graphs:clumsy", "KeyError: 'arith'"),
    ],
)
def test_a_graph_that_comes_to_nothing_is_an_error_of_its_task(name: str, message: str) -> None:
    assert run(LINE, right, name).error == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("graphs:silent", "node 'left' of the workflow returned no state update"),
        ("graphs:stray", "the workflow returned no state update: Expected dict"),
        ("graphs:twins", "node 'twin' of the workflow made two hops 's1'; give each a hop_id: `hop(…, hop_id=…)`"),
        ("graphs:torn", "workflow 'graphs:torn' is no graph that can run: "),
    ],
)
def test_a_graph_of_another_form_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        run(LINE, right, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"retries": -1}, "field 'limits.retries': input should be greater than or equal to 0"),
        ({"hop_timeout_s": 0}, "field 'limits.hop_timeout_s': input should be greater than 0"),
        ({"step": 3}, "unknown field 'step': did you mean 'steps'?"),
    ],
)
def test_limits_in_the_configuration(tmp_path: Path, limits: dict[str, Any], message: str) -> None:
    from qtrap_agents.config import load_yaml

    file = tmp_path / "run.yaml"
    file.write_text(f"suites: [arith]\narms: [{{name: a, checkpoint: b}}]\nlimits: {limits}\n")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_yaml(file, RunConfig)


def test_the_limits_of_a_run_hold_in_it(tmp_path: Path) -> None:
    from rich.console import Console

    from qtrap_agents.report.progress import RunProgress
    from qtrap_agents.runner import execute, prepare, start

    config = scripts.config(
        "slow", suites=["arith"], depths=[2], tasks_per_depth=2, limits={"hop_timeout_s": 0.001, "retries": 0}
    )
    plan = prepare(config)
    run_directory = start(plan, tmp_path)
    with RunProgress(Console(file=(tmp_path / "log").open("w"))) as progress:
        asyncio.run(execute(run_directory, plan, progress))
    errors = {trace.error for trace in run_directory.traces("slow")}
    assert errors == {"hop 'hop_001' had no answer within 0.001 s (limits.hop_timeout_s); raise it"}
