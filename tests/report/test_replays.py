"""The report on replays, on a run whose replays really were made by scripted arms."""

import asyncio
import json
from pathlib import Path

import pytest
import scripts
from scripts import printed

from qtrap_agents.analysis.causes import Cause, origin_of
from qtrap_agents.analysis.funnel import Share
from qtrap_agents.analysis.graph import judge
from qtrap_agents.errors import StoreError
from qtrap_agents.evidence import Replay, Reply
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.experiments.replays import Chains, choose, run_replays
from qtrap_agents.report.replays import ReplayReport, first_hops, replay_report, replays_json
from qtrap_agents.report.replays_view import render_replays
from qtrap_agents.store import Journal, RunDirectory, read_lines


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """`solve` is always right, `noisy` off by one on some prompts; all failed chains of `noisy` are replayed."""
    chosen = scripts.config("solve", "noisy", depths=[4, 8], tasks_per_depth=20)
    run = scripts.go(chosen, tmp_path_factory.mktemp("replays"))
    chains = Chains.of(run, "noisy")
    bench = Bench.set_up(run, scripts.Listener())
    assert asyncio.run(run_replays(run, bench, "noisy", choose(chains), chains)) == []
    return run


@pytest.fixture
def bare(tmp_path: Path) -> RunDirectory:
    """A small run without replays."""
    return scripts.go(scripts.config("solve", "noisy", suites=["arith"], depths=[4], tasks_per_depth=12), tmp_path)


def shown(report: ReplayReport, limit: int = 20) -> str:
    return printed(lambda console: render_replays(report, console, limit), 140)


def line(text: str, start: str) -> str:
    """The first line that begins so, blanks collapsed."""
    return next(" ".join(found.split()) for found in text.splitlines() if found.strip().startswith(start))


def failed(run: RunDirectory) -> list[str]:
    return [trace.task_id for trace in run.traces("noisy") if trace.score == 0]


def copied(run: RunDirectory, source: RunDirectory, replies: list[Reply], replays: list[Replay]) -> RunDirectory:
    """The replays of another run with the same tasks."""
    for name, lines in (("replies.jsonl", replies), ("replays.jsonl", replays)):
        with Journal(run.replays_path("noisy") / name) as journal:
            for made in lines:
                journal.append(made)
    return run


def test_every_failed_chain_has_its_cause(run: RunDirectory) -> None:
    report = replay_report(run, "noisy")
    causes = {cause.task_id: cause for cause in report.profile.causes}
    assert sorted(causes) == sorted(failed(run))
    tasks, traces = run.task_index(), run.stored("noisy")
    for task_id, cause in causes.items():
        assert cause.complete
        errors = [premise for premise in judge(traces[task_id], tasks[task_id]) if premise.is_error]
        assert cause.rescue in ("one swap", "several swaps")
        if cause.rescue == "one swap":
            assert origin_of(cause) in ("own", "compounded", "right")
            assert (cause.causal_hop in {premise.hop_id for premise in errors}) == (origin_of(cause) != "right")
        else:
            assert cause.swaps is not None
            assert cause.swaps > 1


def test_the_counts_are_those_of_the_files(run: RunDirectory) -> None:
    report = replay_report(run, "noisy")
    total = report.profile.total
    made = list(read_lines(run.replays_path("noisy") / "replays.jsonl", Replay))
    wrong = set(failed(run))
    saved = {item.task_id for item in made if item.source == "noisy" and item.name.startswith("swap") and len(item.changes) == 1}
    saved &= {item.task_id for item in made if item.trace.correct and len(item.changes) == 1 and item.changes[0].kind == "swap"}
    assert total.outcomes.failed == len(wrong)
    assert total.outcomes.one == len(saved & wrong)
    reverse = [item for item in made if item.source == "solve"]
    assert total.outcomes.broken_share == Share(count=sum(not item.trace.correct for item in reverse), n=len(reverse))
    assert total.hops.hops("again").share.count == 0
    assert sum(group.outcomes.failed for group in report.profile.cells) == len(wrong)
    assert report.warnings == ()


def test_a_perfect_baseline_breaks_few_healthy_chains(run: RunDirectory) -> None:
    """A healthy chain with an absorbed error may break where a right hop changes what comes later, no other may."""
    outcomes = replay_report(run, "noisy").profile.total.outcomes
    assert outcomes.healthy > 0
    assert outcomes.harmed < outcomes.healthy / 4


def test_what_is_printed(run: RunDirectory) -> None:
    report = replay_report(run, "noisy")
    text, total = shown(report), report.profile.total
    assert "Failed chains of noisy: what brings back the answer" in text
    assert line(text, "hops of noisy that solve").endswith(f"0 of {total.hops.again_asked:,}, 0.00 % [0.00, 0.87]")
    assert f"{total.hops.own.count:,} of {total.hops.own.n:,}" in line(text, "own errors")
    assert f"{total.outcomes.one} of {total.outcomes.failed}" in line(text, "failed chains that one hop")
    first = next(cause for cause in report.profile.causes if cause.origin == "own" and cause.rescue == "one swap")
    row = line(text, first.task_id)
    assert row == f"{first.task_id} {first.hops} {first.position} ({first.causal_hop}) own {first.kind} 1 {first.repaired_hop}"
    assert f"next: qtrap inspect {run.path} {first.task_id} --arm noisy --against noisy:swap@{first.causal_hop}" in text
    assert "--show N shows more" in shown(report, limit=1)


def test_json_has_the_counts(run: RunDirectory) -> None:
    report = replay_report(run, "noisy")
    data = json.loads(json.dumps(replays_json(report), allow_nan=False))
    outcomes = report.profile.total.outcomes
    assert data["total"]["chains"]["saved_by_one_swap"]["count"] == outcomes.one
    assert data["total"]["chains"]["saved_by_one_swap"]["inside_noise_floor"] is False
    assert {suite["suite"] for suite in data["suites"]} == {"arith", "program"}
    assert len(data["chains"]) == outcomes.failed
    assert all(chain["command"].startswith("qtrap inspect ") for chain in data["chains"])
    assert sum(share["count"] for share in data["causal_hops"]["by_position"].values()) == outcomes.one


def test_some_tasks_only(run: RunDirectory) -> None:
    task_id = failed(run)[0]
    report = replay_report(run, "noisy", [task_id])
    assert [cause.task_id for cause in report.profile.causes] == [task_id]
    assert "no healthy chain was replayed to the end" in report.warnings[0]
    with pytest.raises(StoreError, match=r"no replay of task 'nobody' is stored; `qtrap replay .* --task nobody` makes them"):
        replay_report(run, "noisy", ["nobody"])


def test_nothing_replayed(bare: RunDirectory) -> None:
    with pytest.raises(StoreError, match=r"no replays are stored; `qtrap replay .* --arm noisy` makes them"):
        replay_report(bare, "noisy")
    with pytest.raises(StoreError, match=r"unknown arm 'noisi': did you mean 'noisy'\?"):
        replay_report(bare, "noisi")


def test_an_unfinished_replay_is_named(run: RunDirectory, bare: RunDirectory) -> None:
    replies = list(read_lines(run.replays_path("noisy") / "replies.jsonl", Reply))
    mine = set(failed(bare))
    assert mine <= set(failed(run))
    report = replay_report(copied(bare, run, [reply for reply in replies if reply.task_id in mine], []), "noisy")
    assert report.profile.total.outcomes.incomplete == len(mine)
    assert f"{len(mine)} of {len(mine)} failed chains are not replayed to the end" in report.warnings[0]
    assert "--arm noisy` goes on" in report.warnings[0]
    assert "incomplete" in shown(report)


def test_replays_without_their_chains_are_left_out(run: RunDirectory, bare: RunDirectory) -> None:
    mine = set(bare.tasks())
    replies = list(read_lines(run.replays_path("noisy") / "replies.jsonl", Reply))
    others = sorted({reply.task_id for reply in replies} - mine)
    report = replay_report(copied(bare, run, replies, []), "noisy")
    assert report.left_out == {"their task is not among the tasks of the run": len(others)}
    assert f"{len(others)} replayed chains are left out: their task is not among the tasks of the run" in report.warnings[0]


def test_a_damaged_line_is_named(run: RunDirectory, bare: RunDirectory) -> None:
    copied(bare, run, list(read_lines(run.replays_path("noisy") / "replies.jsonl", Reply))[:1], [])
    with (bare.replays_path("noisy") / "replies.jsonl").open("a") as file:
        file.write('{"task_id": "arith-d4-s0-0000", "seed": "x"}\n')
    with pytest.raises(StoreError, match=r"replies\.jsonl:2: damaged line"):
        replay_report(bare, "noisy")


def test_causal_hops_by_position_are_of_all_hops_there() -> None:
    base: dict[str, object] = {"task_id": "t", "suite": "s", "depth": 1, "baseline_right": True, "complete": True}
    causes = [
        Cause.model_validate(base | {"rescue": "one swap", "hops": 6, "position": 3, "causal_hop": "h"}),
        Cause.model_validate(base | {"rescue": "not restored", "hops": 2}),
        Cause.model_validate(base | {"rescue": "incomplete", "hops": 9}),
    ]
    assert first_hops(causes) == {
        (1, 1): Share(count=0, n=2),
        (2, 2): Share(count=0, n=2),
        (3, 4): Share(count=1, n=2),
        (5, 8): Share(count=0, n=2),
    }
