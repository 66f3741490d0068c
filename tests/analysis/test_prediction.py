"""Predictive intervals hold what they promise, and weight bytes are counted by who answered."""

import numpy as np
import pytest
from scipy.stats import binom

from qtrap_agents.analysis.prediction import place_of, predictive_interval, weight_bytes_by_task
from qtrap_agents.analysis.statistics import Interval
from qtrap_agents.plans import Estimate
from qtrap_agents.types import ArmIdentity, Completion, Hop, Measurement, Trace


def estimate(mean: float, half: float, mc_se: float = 0.0, chains: int = 10_000) -> Estimate:
    return Estimate(mean=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), mc_se=mc_se, chains=chains)


@pytest.mark.parametrize(("mean", "half", "n"), [(0.9, 0.05, 100), (0.5, 0.1, 400), (0.97, 0.01, 200), (0.3, 0.0, 50)])
def test_it_covers_new_tasks_under_uncertain_parameters(mean: float, half: float, n: int) -> None:
    rng = np.random.default_rng(1)
    shares = np.clip(rng.normal(mean, half / 1.96, 40_000), 0, 1)
    found = predictive_interval(estimate(mean, half), n)
    assert found.low is not None
    assert found.high is not None
    measured = rng.binomial(n, shares) / n
    covered = np.mean((measured >= found.low) & (measured <= found.high))
    assert 0.94 <= covered <= 0.99


def test_certain_parameters_give_the_binomial_interval() -> None:
    found = predictive_interval(estimate(0.8, 0.0), 100)
    assert (found.low, found.high) == (binom.ppf(0.025, 100, 0.8) / 100, binom.ppf(0.975, 100, 0.8) / 100)


def test_more_doubt_is_a_wider_interval() -> None:
    narrow, wide, monte_carlo = (
        predictive_interval(one, 1000) for one in (estimate(0.8, 0.01), estimate(0.8, 0.1), estimate(0.8, 0.01, mc_se=0.04))
    )
    for doubtful in (wide, monte_carlo):
        assert (doubtful.low or 1) < (narrow.low or 0)
        assert (doubtful.high or 0) > (narrow.high or 1)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_a_share_of_none_or_all_and_no_tasks(mean: float) -> None:
    found = predictive_interval(estimate(mean, 0.0), 50)
    assert mean in (found.low, found.high)
    assert (predictive_interval(estimate(0.5, 0.5), 50).low or 0) < 0.1
    assert predictive_interval(estimate(mean, 0.1), 0) == Interval(low=0.0, high=1.0)


@pytest.mark.parametrize(("target", "place"), [(0.7, "below"), (0.8, "within"), (0.85, "within"), (0.95, "above")])
def test_where_a_target_lies(target: float, place: str) -> None:
    assert place_of(target, Interval(low=0.8, high=0.9)) == place


def trace(*hops: tuple[str | None, int]) -> Trace:
    made = tuple(
        Hop(id=str(number), node="hop", completion=Completion(text="1", completion_tokens=tokens), arm=arm)
        for number, (arm, tokens) in enumerate(hops)
    )
    return Trace(
        id="r/a/t", run_id="r", task_id="t", suite="arith", depth=1, seed=0, workflow="planned", arm="plan", hops=made,
        measurement=Measurement(duration_s=1.0),
    )  # fmt: skip


def test_weight_bytes_are_those_of_the_arm_that_answered() -> None:
    parts = {name: ArmIdentity(backend="vllm", checkpoint=name, weight_bytes=size) for name, size in (("fp16", 100), ("awq", 30))}
    whole = ArmIdentity(backend="vllm", checkpoint="both", weight_bytes=130, parts=parts)
    assert weight_bytes_by_task([trace(("fp16", 2), ("awq", 3), ("awq", 1))], whole) == {("arith", "t"): 320}
    assert weight_bytes_by_task([trace((None, 2), (None, 3))], parts["fp16"]) == {("arith", "t"): 500}
    assert weight_bytes_by_task([], None) is None
    unknown = whole.model_copy(update={"parts": {**parts, "awq": ArmIdentity(backend="vllm", checkpoint="awq")}})
    assert weight_bytes_by_task([trace(("fp16", 2))], unknown) == {("arith", "t"): 200}
    assert weight_bytes_by_task([trace(("fp16", 2), ("awq", 3))], unknown) is None
