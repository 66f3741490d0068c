"""The Monte Carlo beside real LangGraph workflows, whose model slips at rates and with difficulties that are known."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import driven
import modelled
import numpy as np
import pytest
from scipy.special import betaincinv

from qtrap_agents.simulation.model import Checking, Repeats
from qtrap_agents.simulation.montecarlo import Tally, simulate
from qtrap_agents.types import Message, Sampling, Task

OWN, WRONG, CORRELATION, AGREEMENT = 0.12, 0.35, 0.4, 0.5
DETECTION, FALSE_ALARM = 0.7, 0.15
DEPTH, TASKS, CHAINS = 4, 500, 200_000

COUNT = driven.task_of(*(driven.gold(f"s{n}", n, [f"s{n - 1}"] if n > 1 else (), kind="k") for n in range(1, DEPTH + 1)))
"""Every step is one more than the one before it, so that nothing is masked."""


class Model:
    """Answers for one task. A step has a difficulty, whatever it is given; a slip adds 1000, the favourite, or something new."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._difficulty = {f"s{n}": rng.random() for n in range(1, DEPTH + 1)}
        self._new = itertools.count(2000, 1000)

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        prompt = messages[-1].content
        name, given = re.findall(r"(s\d) from (\w+) =", prompt)[-1]
        before = 0 if given == "nothing" else int(given)
        if stated := re.search(r"^Stated: .*?(\d+)$", prompt, re.MULTILINE):
            return self._judgement(int(stated[1]) != before + 1)
        first = not sampling.temperature and "sent back" not in prompt
        return str(before + 1 + self._slip(name, before != int(name[1]) - 1, first))

    def _judgement(self, faulty: bool) -> str:
        return "wrong" if self._rng.random() < (DETECTION if faulty else FALSE_ALARM) else "right"

    def _slip(self, name: str, wrong_parent: bool, greedy: bool) -> int:
        p, u = WRONG if wrong_parent else OWN, self._difficulty[name]
        size = (1 - CORRELATION) / CORRELATION
        slips = u > 1 - p if greedy else self._rng.random() < betaincinv(p * size, (1 - p) * size, u)
        favourite = self._rng.random() < np.sqrt(AGREEMENT)
        return (1000 if favourite else next(self._new)) if slips else 0


class Ran(NamedTuple):
    """What the tasks came to: [task] answer right, premises in error, model calls, place of the first error or 0."""

    right: np.ndarray
    wrong: np.ndarray
    calls: np.ndarray
    first_errors: np.ndarray


def ran(task: Task, workflow: str, **params: Any) -> Ran:
    rng = np.random.default_rng(5)
    rows = []
    for _ in range(TASKS):
        course = driven.run(task, Model(rng), workflow, **params)
        assert course.error is None
        said = driven.values(course)
        wrong = [n for n in range(1, DEPTH + 1) if said[f"s{n}"] != n]
        rows.append((course.answer == DEPTH, len(wrong), len(course.hops), wrong[0] if wrong else 0))
    return Ran(*map(np.array, zip(*rows, strict=True)))


def simulated(**settings: object) -> Tally:
    arm = modelled.arm(
        OWN,
        WRONG,
        repeats=Repeats(correlation=CORRELATION, agreement=AGREEMENT, hops=100),
        checking=Checking(detection=modelled.rate(DETECTION), false_alarm=modelled.rate(FALSE_ALARM)),
    )
    rates = modelled.model({"a": arm}).point()
    return simulate([modelled.chain(DEPTH, **settings)], rates, "a", CHAINS, seed=3)


def close(sample: np.ndarray, expected: float) -> bool:
    """Within four standard errors of the mean of a sample."""
    return bool(abs(sample.mean() - expected) <= 4 * max(sample.std(), 0.01) / np.sqrt(len(sample)))


@pytest.mark.parametrize(
    ("workflow", "params", "node"),
    [
        ("chain", {}, {}),
        ("vote", {"k": 3}, {"op": "vote", "k": 3}),
        ("vote", {"k": 4}, {"op": "vote", "k": 4}),
        ("verify_revise", {"max_revisions": 2}, {"op": "verify", "max_revisions": 2}),
        ("verify_revise", {"check": "model", "max_revisions": 1}, {"op": "judge", "max_revisions": 1}),
    ],
)
def test_a_real_workflow_and_its_simulation_come_to_the_same(workflow: str, params: dict[str, Any], node: dict[str, Any]) -> None:
    real, found = ran(COUNT, workflow, **params), simulated(**node)
    assert close(real.right, found.success)
    assert close(real.wrong, found.wrong / CHAINS)
    assert close(real.calls, found.calls / CHAINS)
    for place in range(DEPTH + 1):
        assert close(real.first_errors == place, found.first_errors[place] / CHAINS)
