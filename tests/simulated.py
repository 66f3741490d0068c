"""Runs of arms whose slip rates are known: every hop executes the gold rule on what was stated, or slips."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import replayed

from qtrap_agents.config import RunConfig, SuiteChoice
from qtrap_agents.evidence import REPLAYS
from qtrap_agents.semantics import consequence
from qtrap_agents.store import ArmWriter, Journal, RunDirectory
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.types import GoldPremise, Task, Trace, Value


class Slip(NamedTuple):
    """Probability of a slip on right parents, and on wrong ones; `by_kind` are those on right parents where they differ."""

    right: float
    wrong: float
    by_kind: Mapping[str, float] = {}

    def rate(self, gold: GoldPremise, wrong: bool) -> float:
        """Of one hop."""
        return self.wrong if wrong else self.by_kind.get(gold.kind, self.right)


def tasks_of(families: Iterable[str], depths: tuple[int, ...], count: int, seed: int = 0) -> list[Task]:
    """So many tasks of each family and depth."""
    suites = [load_suite(SuiteChoice(name=family)) for family in families]
    return [task for suite in suites for task in suite.tasks(depths, (seed,), count)]


def make_run(parent: Path, tasks: Iterable[Task], arms: Iterable[str], **changes: Any) -> RunDirectory:
    """A run without traces."""
    known = list(tasks)
    served = [{"name": arm, "backend": "scripted", "script": "simulated:nobody"} for arm in arms]
    settings = {"name": "known", "suites": sorted({task.suite for task in known}), "arms": served, "noise_floor": False}
    config = RunConfig.model_validate({**settings, "depths": sorted({task.depth for task in known}), **changes})
    return RunDirectory.create(parent, config, known, {})


def write_arm(run: RunDirectory, arm: str, slips: Mapping[str, Slip], seed: int = 0) -> list[Trace]:
    """Answer all tasks of a run, by family."""
    rng = np.random.default_rng([seed, *map(ord, arm)])
    traces = []
    with ArmWriter(run, arm) as writer:
        for task in run.task_index().values():
            trace = replayed.chain(task, stated(task, slips[task.suite], rng), arm)
            writer.trace(trace)
            traces.append(trace)
    return traces


def stated(task: Task, slip: Slip, rng: np.random.Generator) -> dict[str, Value | None]:
    """What such an arm states."""
    values: dict[str, Value | None] = {}
    gold_values = {gold.id: gold.value for gold in task.premises}
    for gold in task.premises:
        known = {name: value for name in gold.depends_on if (value := values[name]) is not None}
        wrong = any(values[name] != gold_values[name] for name in gold.depends_on)
        value = consequence(gold, known)
        slips = rng.random() < slip.rate(gold, wrong)
        values[gold.id] = off(value, rng) if slips else value
    return values


def off(value: Value | None, rng: np.random.Generator) -> Value | None:
    """Another number below 100, so that every rule has a value for it."""
    return (int(value) + int(rng.integers(1, 100))) % 100 if isinstance(value, int) else None


def write_faults(run: RunDirectory, faults: Iterable[tuple[Task, int, Value | None]], name: str = "known") -> None:
    """Faults in chains of the baseline, which is right about everything else: task, position from 1, wrong value."""
    with Journal(run.faults_path(name) / REPLAYS) as journal:
        for task, position, value in faults:
            journal.append(replayed.injected(task, position, value))


def nobody(*_: object) -> None:
    """Answers nothing: these runs are written, not run."""
