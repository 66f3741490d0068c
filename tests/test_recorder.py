"""From readings to the energy of a window: interpolated, additive, None where the counter tells nothing."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtrap_agents.energy import NoMeter
from qtrap_agents.measures import Reading
from qtrap_agents.recorder import Recorder, Updates

SERIES = ((0.0, 1000.0), (0.1, 1030.0), (0.2, 1030.0), (0.3, 1100.0), (0.4, 1130.0))
"""Recorded: a counter that missed one update and caught up with the next."""


class RampMeter:
    """A device that draws constant power; its counter moves in steps of `step_s`."""

    name, reason, tdp_w = "ramp", None, 700.0

    def __init__(self, watts: float, step_s: float = 0.02):
        self.watts, self.step_s, self.began = watts, step_s, time.time()

    def read(self) -> Reading:
        now = time.time()
        steps = int((now - self.began) / self.step_s)
        return Reading(at=now, energy_j=steps * self.step_s * self.watts, power_w=self.watts)


def updates(*series: tuple[float, float]) -> Updates:
    """The moments at which a recorded counter moved."""
    found = Updates()
    for at, joules in series:
        found.note(at, joules)
    return found


def test_energy_between_updates_is_interpolated() -> None:
    seen = updates(*SERIES)
    assert seen.energy_j(0.0, 0.4) == pytest.approx(130.0)
    assert seen.energy_j(0.05, 0.1) == pytest.approx(15.0)
    assert seen.energy_j(0.1, 0.2) == pytest.approx(35.0), "the read at 0.2 showed no movement and is no update"


def test_what_is_not_covered_is_not_measured() -> None:
    seen = updates(*SERIES)
    assert seen.energy_j(-0.1, 0.2) is None
    assert seen.energy_j(0.2, 0.5) is None
    assert updates().energy_j(0, 1) is None


def test_a_counter_that_stalled_tells_nothing_about_that_time() -> None:
    seen = updates((0.0, 0.0), (0.1, 10.0), (5.0, 20.0), (5.1, 30.0))
    assert seen.energy_j(0.0, 5.05) is None
    assert seen.energy_j(5.0, 5.1) == pytest.approx(10.0)


@given(
    steps=st.lists(st.tuples(st.floats(0.01, 1.9), st.floats(0.001, 500)), min_size=1, max_size=40),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_adjoining_windows_add_up(steps: list[tuple[float, float]], shares: tuple[float, float, float]) -> None:
    """E(a, c) = E(a, b) + E(b, c), wherever the cuts fall."""
    at = joules = 0.0
    series = [(at, joules)]
    for seconds, more in steps:
        at, joules = at + seconds, joules + more
        series.append((at, joules))
    first, middle, last = sorted(share * at for share in shares)
    seen = updates(*series)
    whole, left, right = seen.energy_j(first, last), seen.energy_j(first, middle), seen.energy_j(middle, last)
    assert whole is not None
    assert left is not None
    assert right is not None
    assert whole == pytest.approx(left + right, abs=1e-6)
    assert 0 <= whole <= joules + 1e-6


def test_a_recorder_measures_a_window() -> None:
    asyncio.run(_test_a_recorder_measures_a_window())


async def _test_a_recorder_measures_a_window() -> None:
    sunk: list[Reading] = []
    with Recorder(RampMeter(250.0), interval_s=0.005, sink=sunk.append) as recorder:
        begun = time.time()
        await asyncio.sleep(0.3)
        ended = time.time()
        energy_j = await recorder.energy_j(begun, ended)
        idle_w = await recorder.idle_power_w(0.2)
    assert energy_j is not None
    assert energy_j == pytest.approx(250.0 * (ended - begun), rel=0.25)
    assert idle_w == pytest.approx(250.0, rel=0.25)
    assert recorder.latest is not None
    assert 1 <= len(sunk) <= 3, "readings are handed on about twice a second"


def test_a_window_that_began_before_the_recorder_is_not_measured() -> None:
    asyncio.run(_test_a_window_that_began_before_the_recorder_is_not_measured())


async def _test_a_window_that_began_before_the_recorder_is_not_measured() -> None:
    with Recorder(RampMeter(250.0), interval_s=0.005) as recorder:
        assert await recorder.energy_j(time.time() - 10, time.time()) is None


def test_without_a_meter_nothing_is_waited_for() -> None:
    asyncio.run(_test_without_a_meter_nothing_is_waited_for())


async def _test_without_a_meter_nothing_is_waited_for() -> None:
    with Recorder(NoMeter("no counter")) as recorder:
        begun = time.monotonic()
        assert await recorder.energy_j(0, time.time() + 60) is None
        assert await recorder.idle_power_w(60) is None
        assert time.monotonic() - begun < 5
        assert recorder.latest is None
