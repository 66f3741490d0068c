"""A whole run beside the raw engine: both generate the same requests, in turns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run_overhead.py")

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_both_sides_generate_the_same_requests() -> None:
    command = [sys.executable, str(SCRIPT), "--json", "--depth", "3", "--concurrency", "4"]
    command += ["--case", "8", "4", "6", "--case", "4", "5", "6", "--engine-args", '{"block_size": 32}', "--repeats", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [case["max_tokens"] for case in found["cases"]] == [8, 4]
    for case in found["cases"]:
        for window in case["windows"]:
            assert {kind: side["requests"] for kind, side in window.items()} == dict.fromkeys(("run", "chat", "ids"), 6 * 3)
            assert len({side["tokens"] for side in window.values()}) == 1
            assert all(side["tokens_per_s"] > 0 for side in window.values())
        assert case["ratios"]["chat"]["n"] == 2
    assert found["options"]["engine_args"] == "{'block_size': 32}"
    assert [line.split(": ")[0] for line in done.stderr.splitlines() if "tokens/s" in line] == [
        "8 tokens, 4 chains",
        "8 tokens, 4 chains",
        "4 tokens, 5 chains",
        "4 tokens, 5 chains",
    ]
