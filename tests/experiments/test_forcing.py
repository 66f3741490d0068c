"""The passes of teacher forcing, on arms whose flips are known, and on the real engine."""

import asyncio
from collections.abc import Collection
from pathlib import Path

import forced
import pytest
import scripts
from scripts import Listener

from qtrap_agents.errors import ConfigError
from qtrap_agents.evidence import TraceScore
from qtrap_agents.experiments.forcing import NO_TOKEN_IDS, force
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.report.diagnosis import diagnose
from qtrap_agents.store import RunDirectory, read_lines

SMALL = {"suites": ["arith", "program"], "depths": [2, 4], "tasks_per_depth": 5}


def make(folder: Path, *arms: str, **changes: object) -> RunDirectory:
    """A small run of arms that can score; nothing is scored yet."""
    run = scripts.go(scripts.config(*forced.arms(*arms), **{**SMALL, **changes}), folder)
    for arm in forced.ARMS.values():
        arm.scored = 0
    return run


def go(run: RunDirectory, arm: str, tasks: Collection[str] | None = None) -> tuple[tuple[str, ...], Listener]:
    listener = Listener()
    return asyncio.run(force(Bench.set_up(run, listener), arm, tasks=tasks)), listener


def lines(run: RunDirectory, arm: str, again: bool = False) -> list[TraceScore]:
    return list(read_lines(run.scores_path(arm, again), TraceScore))


def test_three_passes_over_the_text_of_the_baseline(tmp_path: Path) -> None:
    run = make(tmp_path, "steady", "shaky")
    warnings, listener = go(run, "shaky")
    assert warnings == ()
    assert len(listener.started) == 3
    traces = run.stored("steady")
    passes = [lines(run, "steady"), lines(run, "steady", again=True), lines(run, "shaky")]
    for scores in passes:
        assert sorted(score.task_id for score in scores) == sorted(traces)
        assert {score.source for score in scores} == {"steady"}
        for score in scores:
            for hop, known in zip(score.hops, traces[score.task_id].hops, strict=True):
                assert hop.score is not None
                assert tuple(token.token_id for token in hop.score.tokens) == known.completion.token_ids
    assert [score.task_id for score in passes[0]] != [score.task_id for score in passes[1]]


def test_the_passes_of_the_baseline_are_shared_and_nothing_is_scored_twice(tmp_path: Path) -> None:
    run = make(tmp_path, "steady", "shaky", "foreign")
    go(run, "shaky")
    hops = sum(len(trace.hops) for trace in run.traces("steady"))
    assert (forced.steady.scored, forced.shaky.scored) == (2 * hops, hops)
    _, listener = go(run, "foreign")
    assert listener.started == ["foreign reads steady's text"]
    _, listener = go(run, "shaky")
    assert listener.started == []
    assert (forced.steady.scored, forced.shaky.scored, forced.foreign.scored) == (2 * hops, hops, hops)


def test_a_killed_pass_goes_on_where_it_stopped(tmp_path: Path) -> None:
    run = make(tmp_path, "steady", "shaky")
    go(run, "shaky")
    path = run.scores_path("shaky")
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:7]) + whole[7][:40])
    before = forced.shaky.scored
    assert go(run, "shaky")[0] == ()
    assert path.read_bytes().splitlines(keepends=True)[:7] == whole[:7]
    assert {score.task_id for score in lines(run, "shaky")} == set(run.tasks())
    assert len(lines(run, "shaky")) == len(whole)
    assert 0 < forced.shaky.scored - before < before


def test_chosen_tasks_and_the_baseline_itself(tmp_path: Path) -> None:
    run = make(tmp_path, "steady", "shaky")
    chosen = sorted(run.tasks())[:3]
    _, listener = go(run, "steady", tasks=chosen)
    assert listener.started == ["steady reads its text", "steady reads it again"]
    assert sorted(score.task_id for score in lines(run, "steady")) == chosen
    assert lines(run, "shaky") == []
    with pytest.raises(ConfigError, match=r"unknown task 'arith-d2-s0-0099': did you mean 'arith-d2-s0-000"):
        go(run, "shaky", tasks=["arith-d2-s0-0099"])
    with pytest.raises(ConfigError, match=r"unknown arm 'shakey': did you mean 'shaky'"):
        go(run, "shakey")


def test_what_only_the_baseline_has_run_is_not_scored(tmp_path: Path) -> None:
    run = make(tmp_path, "steady", "shaky")
    path = run.arm_path("shaky") / "traces.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    go(run, "shaky")
    assert len(lines(run, "steady")) == len(lines(run, "shaky")) == 4


def test_a_hop_that_cannot_be_scored_says_why(tmp_path: Path) -> None:
    run = make(tmp_path, "steady", "picky")
    assert go(run, "picky")[0] == ()
    hops = [hop for score in lines(run, "picky") for hop in score.hops]
    refused = [hop for hop in hops if hop.score is None]
    assert 0 < len(refused) < len(hops)
    assert {hop.error for hop in refused} == {"the context is full"}


def test_texts_without_token_ids(tmp_path: Path) -> None:
    run = scripts.go(scripts.config("solve", *forced.arms("shaky"), **SMALL), tmp_path)
    assert go(run, "shaky")[0] == ()
    assert {(hop.score, hop.error) for score in lines(run, "shaky") for hop in score.hops} == {(None, NO_TOKEN_IDS)}


def test_an_arm_that_cannot_score_leaves_the_passes_of_the_baseline(tmp_path: Path) -> None:
    run = make(tmp_path, "steady", "absent")
    warnings, _ = go(run, "absent")
    (warning,) = warnings
    assert warning.startswith("token level: not measured in full: absent reads steady's text stopped: arm 'absent'")
    assert len(lines(run, "steady")) == len(lines(run, "steady", again=True)) == len(run.tasks())
    assert lines(run, "absent") == []


def test_a_run_whose_baseline_has_no_traces(tmp_path: Path) -> None:
    run = make(tmp_path, "steady", "shaky")
    (run.arm_path("steady") / "traces.jsonl").unlink()
    warnings, listener = go(run, "shaky")
    assert warnings == ("token level: not measured: the baseline arm 'steady' has no stored trace whose text could be scored",)
    assert listener.started == []


@pytest.mark.vllm
@pytest.mark.slow
def test_the_real_engine_explains_first_errors_by_flips(tmp_path: Path) -> None:
    """FP16 on its own text hardly flips; GPTQ forgets facts, and each first false one begins with a flip."""
    arms = [{"name": arm, "checkpoint": f"reference:small/{arm}", "backend": "vllm"} for arm in ("fp16", "gptq")]
    engine = {"max_model_len": 256, "max_num_seqs": 64, "kv_cache_gib": 0.25}
    changes = {"suites": ["relate"], "depths": [4, 8], "tasks_per_depth": 15, "concurrency": 32, "engine": engine}
    run = scripts.go(scripts.config(*arms, **changes), tmp_path)
    assert go(run, "gptq")[0] == ()
    found = diagnose(run, "gptq")
    counts = found.funnel.total
    assert found.warnings == ()
    assert counts.hops.compared == 15 * (4 + 8)
    assert counts.floor.positions == counts.arm.positions == counts.self_positions > counts.hops.compared
    assert counts.self_flip_share.count <= 0.005 * counts.self_positions
    assert counts.floor.flips <= 0.005 * counts.floor.positions
    assert counts.arm.value_flips > counts.floor.value_flips
    assert counts.arm.kl > 10 * counts.floor.kl
    assert counts.arm.flip_share.within(counts.floor.flip_share) is False
    assert counts.first_errors.comparable >= 3
    assert counts.first_errors.explained.count >= 0.9 * counts.first_errors.comparable
    assert counts.first_errors.confirmed >= 0.9 * counts.first_errors.comparable
    assert found.funnel.clearest
    assert all(chain.drop > 0 for chain in found.funnel.clearest)
