"""The benchmark of the simulator: three ways that must agree, and a scale in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import simulation_speed

from qtrap_agents.simulation.closed_form import Chain


def test_the_three_ways_agree_with_the_closed_form() -> None:
    exact = Chain(simulation_speed.OWN, (1 - simulation_speed.WRONG) * simulation_speed.MASK).success(simulation_speed.DEPTH)
    assert simulation_speed.ours(40_000) == pytest.approx(exact, abs=0.012)
    assert simulation_speed.by_graph(2_000) == pytest.approx(exact, abs=0.05)
    assert simulation_speed.by_simpy(2_000) == pytest.approx(exact, abs=0.05)


def test_a_scale_tells_its_memory() -> None:
    command = [sys.executable, str(Path(simulation_speed.__file__)), "--scale", "20000", "10"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["hops"] == 200_000
    assert 20 < found["peak_mib"] < 1_000
