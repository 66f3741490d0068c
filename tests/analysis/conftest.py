"""Small traces and tasks to analyse."""

import random
from collections.abc import Mapping, Sequence

import networkx as nx
import pytest

from qtrap_agents.semantics import consequence
from qtrap_agents.types import Completion, GoldPremise, Hop, Measurement, Premise, Task, Trace, Value


def make_task(premises: Sequence[GoldPremise], suite: str = "toy", task_id: str = "toy-1") -> Task:
    """A task whose answer is its last premise."""
    return Task(
        id=task_id,
        suite=suite,
        question="?",
        answer=premises[-1].value if premises else 0,
        premises=tuple(premises),
        depth=max(1, len(premises)),
    )


def make_dag(parents: Sequence[Sequence[int]], task_id: str = "toy-1") -> Task:
    """A task without rules: premise i (`p0`, `p1`, …) has the value i and the parents given."""
    return make_task(
        [
            GoldPremise(id=f"p{index}", text="", value=index, depends_on=tuple(f"p{parent}" for parent in above))
            for index, above in enumerate(parents)
        ],
        task_id=task_id,
    )


def make_hop(index: int, *premises: Premise, prompt_tokens: int = 10, completion_tokens: int = 3) -> Hop:
    """A hop that stated these premises."""
    completion = Completion(text="", prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    return Hop(id=f"h{index}", node="step", completion=completion, premises=premises)


def make_trace(
    task: Task,
    values: Mapping[str, Value | None],
    *,
    correct: bool | None = None,
    arm: str = "arm",
    seed: int = 0,
    attempt: int = 1,
    error: str | None = None,
) -> Trace:
    """One hop per stated value; the answer is judged by the last premise unless `correct` or `error` says otherwise."""
    hops = [
        make_hop(index, Premise(id=name, text=f"{name} = {value}", value=value))
        for index, (name, value) in enumerate(values.items())
    ]
    answer = values.get(task.premises[-1].id) if task.premises else None
    right = answer == task.answer if correct is None else correct
    return Trace(
        id=f"{task.id}/{arm}",
        run_id="run",
        task_id=task.id,
        suite=task.suite,
        depth=task.depth,
        seed=seed,
        workflow="chain",
        arm=arm,
        attempt=attempt,
        hops=tuple(hops),
        answer=answer,
        score=None if error else float(right),
        error=error,
        measurement=Measurement(duration_s=1.0),
    )


def gold_values(task: Task) -> dict[str, Value]:
    """Everything right."""
    return {premise.id: premise.value for premise in task.premises}


def with_fault(task: Task, position: int, wrong: Value) -> dict[str, Value]:
    """`wrong` at that position (from 1), every later premise the faithful consequence of what was stated before."""
    stated: dict[str, Value] = {}
    for index, premise in enumerate(task.premises, start=1):
        value = consequence(premise, {parent: stated[parent] for parent in premise.depends_on})
        assert value is not None
        stated[premise.id] = wrong if index == position else value
    return stated


def random_dag(rng: random.Random, size: int) -> list[list[int]]:
    """Up to three parents for each premise, among the ones before it; several roots and dead ends."""
    return [rng.sample(range(index), rng.randint(0, min(3, index))) for index in range(size)]


def as_graph(parents: Sequence[Sequence[int]]) -> "nx.DiGraph[int]":
    """The same DAG in networkx, for cross-checks."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(parents)))
    graph.add_edges_from((parent, child) for child, above in enumerate(parents) for parent in above)
    return graph


@pytest.fixture
def diamond() -> Task:
    """a → b, c → d = max(b, c): an error in b dies where c is larger."""
    return make_task(
        [
            GoldPremise(id="a", text="a = 5", value=5),
            GoldPremise(id="b", text="b = 6", value=6, depends_on=("a",), rule="a + 1"),
            GoldPremise(id="c", text="c = 50", value=50, depends_on=("a",), rule="a * 10"),
            GoldPremise(id="d", text="d = 50", value=50, depends_on=("b", "c"), rule="max(b, c)"),
        ]
    )
