"""Energy and time of a window go to the hops in it, and nothing is lost or counted twice."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtrap_agents.analysis.attribution import HopTimes, attribute
from qtrap_agents.analysis.costs import Spending, against, per_correct, ratio_of_sums, spent
from qtrap_agents.measures import EnergyWindow, Reading
from qtrap_agents.types import Completion, Hop, Measurement, Trace

Flight = tuple[float, float, int]
"""Begin, latency, tokens."""


def trace(number: int, flights: Sequence[Flight], suite: str = "arith") -> Trace:
    hops = tuple(
        Hop(
            id=f"hop_{index:03d}",
            node="hop",
            started_at=begun,
            completion=Completion(text="1", completion_tokens=tokens, latency_s=latency, ttft_s=latency / 2),
        )
        for index, (begun, latency, tokens) in enumerate(flights)
    )
    return Trace(
        id=f"run/arm/t{number}",
        run_id="run",
        task_id=f"t{number}",
        suite=suite,
        depth=len(flights),
        seed=0,
        workflow="chain",
        arm="arm",
        hops=hops,
        measurement=Measurement(duration_s=1.0),
    )


def noted(*chains: Sequence[Flight]) -> HopTimes:
    hops = HopTimes()
    for number, flights in enumerate(chains):
        hops.note(trace(number, flights))
    return hops


WINDOW = EnergyWindow(attempt=1, begun_at=100.0, wall_s=10.0, energy_j=1000.0, idle_w=40.0)


def test_hops_one_after_the_other_own_what_was_used_in_their_time() -> None:
    """100 W: 2 s and 3 s of hops, 5 s of nothing."""
    found = attribute(noted([(101.0, 2.0, 4), (105.0, 3.0, 4)]), [WINDOW])
    assert found is not None
    assert found.joules is not None
    assert found.kind == "exclusive"
    assert found.joules.hops == pytest.approx([200.0, 300.0])
    assert found.joules.residual == pytest.approx(500.0)
    assert found.seconds.hops == pytest.approx([2.0, 3.0])
    assert found.seconds.residual == pytest.approx(5.0)


def test_hops_in_flight_at_once_share_by_tokens_per_second() -> None:
    """The whole window: one makes 30 tokens, the other 10."""
    found = attribute(noted([(100.0, 10.0, 30)], [(100.0, 10.0, 10)]), [WINDOW])
    assert found is not None
    assert found.joules is not None
    assert found.kind == "prorated"
    assert found.joules.hops == pytest.approx([750.0, 250.0])


def test_the_meter_says_when_in_the_window_energy_was_used() -> None:
    """Of 1000 J the first half of the window took 900; the hop in it gets them."""
    readings = [Reading(at=99.0, energy_j=0.0), Reading(at=100.0, energy_j=50.0), Reading(at=105.0, energy_j=950.0)]
    readings.append(Reading(at=110.0, energy_j=1050.0))
    found = attribute(noted([(100.0, 5.0, 4)], [(105.0, 5.0, 4)]), [WINDOW], readings)
    assert found is not None
    assert found.joules is not None
    assert found.joules.hops == pytest.approx([900.0, 100.0])
    assert found.seconds.hops == pytest.approx([5.0, 5.0])


def test_a_window_without_energy_leaves_the_time() -> None:
    killed = WINDOW.model_copy(update={"energy_j": None})
    found = attribute(noted([(101.0, 2.0, 4)]), [WINDOW, killed.model_copy(update={"begun_at": 200.0})])
    assert found is not None
    assert found.joules is None
    assert found.seconds.residual == pytest.approx(18.0)


def test_nothing_to_apportion() -> None:
    assert attribute(HopTimes(), [WINDOW]) is None
    assert attribute(noted([(101.0, 2.0, 4)]), []) is None


flights = st.lists(st.tuples(st.floats(95.0, 115.0), st.floats(0.001, 12.0), st.integers(0, 500)), min_size=1, max_size=30)
moments = st.lists(st.tuples(st.floats(100.0, 110.0), st.floats(0.0, 300.0)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(flights, moments)
def test_shares_and_residual_add_up_to_the_window(hops: list[Flight], looks: list[tuple[float, float]]) -> None:
    """Whatever overlaps with whatever, also hops that reach beyond the window."""
    counted, readings = 7.0, [Reading(at=99.0, energy_j=7.0)]
    for at, more in sorted(looks):
        counted += more
        readings.append(Reading(at=at, energy_j=counted))
    found = attribute(noted(*[[hop] for hop in hops]), [WINDOW], readings)
    assert found is not None
    assert found.joules is not None
    assert float(np.sum(found.joules.hops)) + found.joules.residual == pytest.approx(1000.0)
    assert float(np.sum(found.seconds.hops)) + found.seconds.residual == pytest.approx(10.0)
    assert min(found.joules.hops) >= -1e-6


def test_two_windows_add_up_and_each_hop_is_in_its_own() -> None:
    second = EnergyWindow(attempt=2, begun_at=300.0, wall_s=2.0, energy_j=100.0, idle_w=40.0)
    hops = noted([(100.0, 10.0, 4)], [(300.0, 2.0, 4)])
    found = attribute(hops, [WINDOW, second])
    assert found is not None
    assert found.joules is not None
    assert found.joules.hops == pytest.approx([1000.0, 100.0])
    assert hops.by_task(found.joules.hops) == pytest.approx({("arith", "t0"): 1000.0, ("arith", "t1"): 100.0})
    assert hops.of_trace(1, found.joules.hops) == pytest.approx([100.0])


def test_idle_energy_is_power_times_time_and_none_where_one_window_has_none() -> None:
    hops = noted([(101.0, 2.0, 4)])
    cost, spending = spent(hops, [WINDOW], ())
    assert [cost.idle_j, cost.idle_w, cost.residual_j] == pytest.approx([400.0, 40.0, 800.0])
    assert spending.suite("arith").energy_j == pytest.approx(200.0)
    assert cost.ttft is not None
    assert cost.ttft.p50 == pytest.approx(1.0)
    assert cost.inter_token is not None
    assert cost.inter_token.p50 == pytest.approx(1.0 / 3)
    unknown, _ = spent(hops, [WINDOW.model_copy(update={"idle_w": None})], ())
    assert (unknown.idle_j, unknown.idle_w) == (None, None)


def test_joules_per_correct_task_include_the_residual_and_the_failures() -> None:
    spending = Spending(joules={("a", "1"): 10.0, ("a", "2"): 30.0, ("b", "3"): 40.0})
    from collections import Counter

    solved = Counter({("a", "1"): 1, ("b", "3"): 1})
    whole = per_correct(spending, solved, residual_j=20.0)
    assert whole is not None
    assert whole.value == pytest.approx(50.0)
    part = per_correct(spending, solved, residual_j=20.0, suite="a")
    assert part is not None
    assert part.value == pytest.approx(40.0)
    assert per_correct(spending, Counter(), residual_j=0.0) is None
    assert per_correct(Spending(), solved, residual_j=0.0) is None


def test_the_interval_of_a_ratio_covers_the_truth() -> None:
    """Joules per solved task over draws of 200 tasks: about 95 of 100 intervals hold the true ratio."""
    rng, held = random.Random(0), 0
    for _ in range(300):
        solved = [int(rng.random() < 0.8) for _ in range(200)]
        joules = [rng.gammavariate(4.0, 1.0) + (2.0 if not right else 0.0) for right in solved]
        found = ratio_of_sums(joules, solved)
        assert found is not None
        assert found.interval.low is not None
        assert found.interval.high is not None
        held += found.interval.low <= (4.0 + 0.2 * 2.0) / 0.8 <= found.interval.high
    assert 0.91 <= held / 300 <= 0.99


def test_against_the_baseline_on_common_tasks_only() -> None:
    ours = {("a", "1"): 10.0, ("a", "2"): 30.0, ("a", "9"): 1000.0}
    theirs = {("a", "1"): 20.0, ("a", "2"): 60.0}
    found = against(ours, theirs)
    assert found is not None
    assert found.value == pytest.approx(0.5)
    assert found.n == 2
    assert against(None, theirs) is None
