"""What `inspect` and `compare` say of workflows with several kinds of nodes."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import scripts

from qtrap_agents.report.comparison import compare_runs, comparison_json
from qtrap_agents.report.comparison_view import render_comparison
from qtrap_agents.report.inspection import inspect_trace, trace_json
from qtrap_agents.report.inspection_view import render_trace
from qtrap_agents.store import RunDirectory


def made(folder: Path, workflow: Mapping[str, object]) -> RunDirectory:
    return scripts.go(scripts.config("solve", suites=["arith"], depths=[3], tasks_per_depth=2, workflow=workflow), folder)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return made(tmp_path_factory.mktemp("checked"), {"name": "verify_revise"})


def test_compare_tells_calls_and_tokens_by_role_and_what_the_checker_found(checked: RunDirectory) -> None:
    report = compare_runs([checked])
    text = scripts.printed(lambda console: render_comparison(report, console))
    lines = {line.split("  ")[1].strip(): line for line in text.splitlines() if line.startswith("  ")}
    assert "6.00" in lines["model calls a task"]
    assert "3.00 calls, " in next(line for line in text.splitlines() if line.strip().startswith("check "))
    assert "0 of 0, 0 of 6" in next(line for line in text.splitlines() if "errors found, false alarms" in line)
    (arm,) = json.loads(json.dumps(comparison_json(report)))["arms"]
    assert arm["calls_per_task"] == 6
    assert {role["role"]: role["calls"] for role in arm["roles"]} == {"hop": 6, "check": 6}
    assert arm["checks"] == {"checked": 6, "faulty": 0, "detected": 0, "false_alarms": 0, "unreadable": 0}


def test_inspect_shows_decisions_between_the_hops_and_the_cost_of_each_role(checked: RunDirectory) -> None:
    view = inspect_trace(checked, "arith-d3-s0-0000")
    text = scripts.printed(lambda console: render_trace(view, console), width=200)
    order = [text.index(f"{name} ") for name in ("✓ hop_002", "? hop_002.check_1", "hop_002.verdict_1 ← hop_002,", "✓ hop_003")]
    assert order == sorted(order)
    assert "verdict_s2 = accepted" in text
    assert "cost by node: hop 3 calls, " in text
    data = trace_json(view)
    assert [role["role"] for role in data["roles"]] == ["hop", "check"]
    assert data["checks"]["checked"] == 3


def test_a_plain_chain_has_one_role_and_no_rows_for_it(tmp_path: Path) -> None:
    run = made(tmp_path, {"name": "chain"})
    report = compare_runs([run])
    text = scripts.printed(lambda console: render_comparison(report, console))
    assert "model calls a task" in text
    assert " calls, " not in text
    assert "errors found" not in text
    view = inspect_trace(run, "arith-d3-s0-0000")
    assert "cost by node" not in scripts.printed(lambda console: render_trace(view, console))
    assert [role.role for role in view.roles] == ["hop"]


def test_a_vote_of_whole_chains_shows_its_first_premises(tmp_path: Path) -> None:
    config = scripts.config(
        "solve", suites=["arith"], depths=[12], tasks_per_depth=1, workflow={"name": "vote", "k": 2, "per": "chain"}
    )
    view = inspect_trace(scripts.go(config, tmp_path), "arith-d12-s0-0000")
    text = scripts.printed(lambda console: render_trace(view, console), width=200)
    assert "hop_012.vote ← hop_012.chain_1, hop_012.chain_2 · no model call" in text
    assert "and 4 more" in text
