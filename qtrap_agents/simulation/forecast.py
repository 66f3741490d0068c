"""What a model predicts of a layout: success and cost, with the uncertainty of parameters and of the Monte Carlo apart."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qtrap_agents.simulation.layout import Layout
from qtrap_agents.simulation.model import ErrorModel, Rates
from qtrap_agents.simulation.montecarlo import (
    BLOCK,
    COMPLETION,
    JOULES,
    PROMPT,
    Counts,
    Floats,
    Tally,
    blocks_of,
    run_block,
    total,
)
from qtrap_agents.simulation.program import Outline, Program, compile_program, outline_of
from qtrap_agents.types import Record

DRAWS = 200
"""Draws of all parameters from their posterior."""

CHAINS = 100_000

TOGETHER = 8
"""Blocks of one job."""

RUNS_EACH = 50
"""Runs of real tasks that are imagined for each draw of the parameters."""


class Work(Protocol):
    """Does blocks of simulations, wherever; results come in the order of the jobs."""

    def __call__(self, jobs: "Sequence[Job]") -> Iterable[Tally]: ...


@dataclass(frozen=True)
class Job:
    """Some blocks of one simulation; `draw` is the number of a draw of all rates, None stands for their posterior means."""

    model: ErrorModel
    outline: Outline
    arm: str
    chains: int
    seed: int
    draw: int | None
    blocks: tuple[int, ...]


def perform(job: Job) -> Tally:
    """Simulate the blocks of a job, one after the other. Raises SimulationError as `compile_program`."""
    program = prepared(job)
    return total(run_block(program, job.chains, job.seed, block) for block in job.blocks)


def prepared(job: Job) -> Program:
    """The program of a job."""
    return compile_program(job.outline, rates_of(job.model, job.seed, job.draw), job.arm)


def here(jobs: Sequence[Job]) -> Iterable[Tally]:
    """One job after the other in this process."""
    return map(perform, jobs)


def rates_of(model: ErrorModel, seed: int, draw: int | None) -> Rates:
    """The posterior means, or the draw of that number: always the same for a seed."""
    if draw is None:
        return model.point()
    return model.draw(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, draw))))


class Distribution(Record):
    """Where something happened, as places from 1: 5 %, 50 % and 95 % of the chains in which it did, and how many did."""

    chains: int
    low: int | None = None
    median: int | None = None
    high: int | None = None


class Forecast(Record):
    """What is predicted of one arm on one layout, or of a plan.

    `success` is the mean prediction, `low` and `high` the 95 % interval that the uncertain parameters leave, `mc_se` the standard
    error of the Monte Carlo alone over `chains` chains. `draws` are the success rates under single draws of the parameters.
    `null` is what constant hop success predicts, None where an arm has none. Costs are for one task; None where not measured.
    """

    arm: str
    hops: int
    chains: int
    success: float
    low: float
    high: float
    mc_se: float
    draws: tuple[float, ...]
    null: float | None
    silent: float
    recovered: float
    first_error: Distribution
    collapse: Distribution
    blast_radius: float | None
    amplification: float | None
    calls: float
    prompt_tokens: float | None
    completion_tokens: float | None
    seconds: float | None
    energy_j: float | None

    @property
    def energy_per_correct_j(self) -> float | None:
        """Joules of all tasks per task solved; None where not measured or nothing is solved."""
        return self.energy_j / self.success if self.energy_j is not None and self.success else None

    def predictive(self, tasks: int, seed: int = 0) -> tuple[float, float]:
        """The 95 % predictive interval for the success of a real run of so many tasks: parameters and chance together."""
        rng = np.random.default_rng(seed)
        share = np.repeat(np.clip(self.draws or (self.success,), 0.0, 1.0), RUNS_EACH)
        solved = rng.binomial(tasks, share)
        low = float(np.quantile(solved, 0.025, method="lower")) / tasks
        return low, float(np.quantile(solved, 0.975, method="higher")) / tasks


def forecast(
    model: ErrorModel,
    layouts: Sequence[Layout],
    arm: str,
    chains: int = CHAINS,
    seed: int = 0,
    draws: int = DRAWS,
    work: Work = here,
    advance: Callable[[int], None] = lambda hops: None,
) -> Forecast:
    """Predict success and cost.

    All parameter draws meet the same random numbers as the posterior means do in one block: what differs is what the parameters
    do. Results depend on `seed` alone, not on who does the `work`.

    Args:
        arm: answers at every node that names none.
        advance: told the hops of every piece of work that is done.

    Raises:
        SimulationError: an arm or family is not in the model.
    """
    given = tuple(layouts)
    outline = outline_of(given)
    compile_program(outline, model.point(), arm)
    mean_hops = math.fsum(len(layout.nodes) for layout in given) / len(given)
    short = min(chains, BLOCK)
    points = [Job(model, outline, arm, chains, seed, None, blocks) for blocks in _pieces(chains)]
    jobs = [Job(model, outline, arm, short, seed, draw, (0,)) for draw in (None, *range(draws))]
    parts: list[Tally] = []
    for part in work([*points, *jobs]):
        parts.append(part)
        advance(round(part.chains * mean_hops))
    point, base, drawn = total(parts[: len(points)]), parts[len(points)], parts[len(points) + 1 :]
    shifts = np.array([part.success - base.success for part in drawn])
    return _forecast(model, given, arm, point, shifts)


def _pieces(chains: int) -> list[tuple[int, ...]]:
    """Blocks by `TOGETHER`: always the same pieces, whoever does them."""
    blocks = blocks_of(chains)
    return [tuple(blocks[start : start + TOGETHER]) for start in range(0, len(blocks), TOGETHER)]


def _forecast(model: ErrorModel, layouts: tuple[Layout, ...], arm: str, point: Tally, shifts: Floats) -> Forecast:
    drawn = np.clip(point.success + shifts, 0.0, 1.0)
    mean = float(drawn.mean()) if drawn.size else point.success
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist() if drawn.size else (mean, mean)
    per_task = [None if np.isnan(cost) else float(cost) / point.chains for cost in point.costs]
    seconds = point.seconds / point.chains
    return Forecast(
        arm=arm,
        hops=max(len(layout.nodes) for layout in layouts),
        chains=point.chains,
        success=mean,
        low=low,
        high=high,
        mc_se=math.sqrt(point.success * (1 - point.success) / point.chains),
        draws=tuple(drawn.tolist()),
        null=_null(model, layouts, arm),
        silent=point.silent / point.chains,
        recovered=point.recovered / point.chains,
        first_error=_distribution(point.first_errors),
        collapse=_distribution(point.collapses),
        blast_radius=point.blast / point.blasted if point.blasted else None,
        amplification=point.wrong / point.own if point.own else None,
        calls=point.calls / point.chains,
        prompt_tokens=per_task[PROMPT],
        completion_tokens=per_task[COMPLETION],
        seconds=None if math.isnan(seconds) else seconds,
        energy_j=per_task[JOULES],
    )


def _null(model: ErrorModel, layouts: Sequence[Layout], arm: str) -> float | None:
    """Mean over the layouts of the product of constant hop success."""
    found = []
    for layout in layouts:
        rates = [model.arm(node.arm or arm).null_success.get(node.family) for node in layout.nodes if node.op != "merge"]
        if any(rate is None for rate in rates):
            return None
        found.append(math.prod(rate for rate in rates if rate is not None))
    return math.fsum(found) / len(found)


def _distribution(histogram: Counts) -> Distribution:
    """Of a histogram by place; index 0 are the chains in which it did not happen."""
    counts = histogram[1:]
    chains = int(counts.sum())
    if not chains:
        return Distribution(chains=0)
    reached = np.cumsum(counts) / chains
    low, median, high = (int(np.searchsorted(reached, share - 1e-12)) + 1 for share in (0.05, 0.5, 0.95))
    return Distribution(chains=chains, low=low, median=median, high=high)
