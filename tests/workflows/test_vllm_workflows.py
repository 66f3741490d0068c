"""The workflows on the shipped reference model, served by vLLM."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.config import ArmConfig, EngineConfig, SamplingConfig, SuiteChoice, WorkflowChoice
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import Task, in_order
from qtrap_agents.workflows.catalog import load_workflow
from qtrap_agents.workflows.drive import Course, drive
from qtrap_agents.workflows.hop import Context

ARM = ArmConfig(name="fp16", checkpoint="reference:small/fp16", backend="vllm")
ENGINE = EngineConfig(max_model_len=512, max_num_seqs=64, kv_cache_gib=0.25)


async def all_of(backend: Backend, suite: Suite, tasks: Sequence[Task], choice: WorkflowChoice) -> list[Course]:
    """Every task through the workflow, all at once."""
    graph_for = load_workflow(choice)
    context = Context(backend, suite, SamplingConfig())
    return list(await asyncio.gather(*(drive(graph_for, task, context) for task in tasks)))


@pytest.mark.vllm
def test_samples_votes_levels_and_checks_on_the_real_engine(tmp_path: Path) -> None:
    """A vote and a check at temperature 1.5, a tree level by level; models that write no plans come to an end too."""
    tree, arith = (load_suite(SuiteChoice(name=name)) for name in ("tree", "arith"))
    trees, lines = list(tree.tasks((7,), (0,), 5)), list(arith.tasks((4,), (0,), 10))
    choices = [
        (tree, trees, WorkflowChoice(name="map_reduce")),
        (arith, lines, WorkflowChoice(name="vote", params={"k": 5, "temperature": 1.5})),
        (arith, lines, WorkflowChoice(name="verify_revise", params={"temperature": 1.5})),
        *((arith, lines[:2], WorkflowChoice(name=name)) for name in ("plan_execute", "react", "debate")),
    ]

    async def work() -> list[list[Course]]:
        async with open_arm(ARM, ENGINE, tmp_path / "server.log") as backend:
            return [await all_of(backend, *choice) for choice in choices]

    mapped, voted, checked, *free = asyncio.run(work())
    assert [course.error for courses in (mapped, voted, checked) for course in courses] == [None] * 25
    assert [course.answer for course in mapped] == [task.answer for task in trees]
    assert {len(course.hops) for course in mapped} == {7}
    assert sum(course.answer == task.answer for course, task in zip(voted, lines, strict=True)) >= 9
    samples = [hop for course in voted for hop in course.hops]
    assert len(samples) == 10 * 4 * 5
    assert len({hop.sampling.seed for hop in samples if hop.sampling}) == 5
    assert sum(course.answer == task.answer for course, task in zip(checked, lines, strict=True)) >= 9
    assert all(any(made.node == "verdict" for made in course.decisions) for course in checked)
    for courses in free:
        for course in courses:
            assert course.error is None or "tokens" in course.error
            assert len(list(in_order(course.hops, course.decisions))) >= 1
