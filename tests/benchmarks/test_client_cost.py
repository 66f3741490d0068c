"""The engine that only sleeps: how many requests it takes at once, and what that says of a run beside it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("client_cost.py")
ROUNDING = 1.02


def measured(*options: str) -> dict[str, Any]:
    """What the benchmark prints for an engine of 4 slots and steps of 5 ms."""
    command = [sys.executable, str(SCRIPT), "--json", "--slots", "4", "--step-ms", "5", "--repeats", "2", *options]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def test_slots_that_no_chain_can_fill_are_missing_from_the_share() -> None:
    found = measured("--case", "8", "1", "4", "--case", "8", "8", "16")
    alone, crowd = found["cases"]
    assert (alone["chains"], crowd["chains"]) == (1, 8)
    assert [len(case["windows"]) for case in found["cases"]] == [2, 2]
    assert all(0 < share <= ROUNDING / 4 for share in alone["windows"]), "one chain has one of four slots"
    assert all(ROUNDING / 4 < share <= ROUNDING for share in crowd["windows"])
    assert crowd["share"]["n"] == 2
    assert (found["slots"], found["step_ms"]) == (4, 5.0)
    assert found["command"].endswith("--case 8 8 16")
