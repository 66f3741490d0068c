"""Replays on scripted arms, whose right answers are known; the real engine has a test of its own."""

import asyncio
from pathlib import Path

import pytest
import scripts

from qtrap_agents.analysis.graph import judge
from qtrap_agents.errors import ConfigError, StoreError
from qtrap_agents.evidence import Replay, Reply
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.experiments.replays import Chains, choose, run_replays
from qtrap_agents.report.inspection import compare_traces, inspect_trace
from qtrap_agents.report.inspection_view import render_trace
from qtrap_agents.store import RunDirectory, read_lines
from qtrap_agents.types import Trace

SUITES = ["arith", "program"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """`solve` is always right, `noisy` is off by one on some prompts, whatever came before."""
    chosen = scripts.config("solve", "noisy", suites=SUITES, depths=[4, 8], tasks_per_depth=20)
    return scripts.go(chosen, tmp_path_factory.mktemp("replays"))


@pytest.fixture(scope="module")
def replayed(run: RunDirectory) -> RunDirectory:
    """The same run after `qtrap replay`."""
    assert go(run) == []
    return run


def go(run: RunDirectory, arm: str = "noisy", tasks: list[str] | None = None) -> list[str]:
    bench = Bench.set_up(run, scripts.Listener())
    chains = Chains.of(run, arm)
    return asyncio.run(run_replays(run, bench, arm, choose(chains, tasks), chains))


def replies(run: RunDirectory) -> list[Reply]:
    return list(read_lines(run.replays_path("noisy") / "replies.jsonl", Reply))


def replays(run: RunDirectory) -> list[Replay]:
    return list(read_lines(run.replays_path("noisy") / "replays.jsonl", Replay))


def single_changes(run: RunDirectory) -> set[str]:
    """Kinds of the replays of `noisy` with one change."""
    return {made.changes[0].kind for made in replays(run) if made.source == "noisy" and len(made.changes) == 1}


def trace_of(run: RunDirectory, arm: str, task_id: str) -> Trace:
    return run.stored(arm)[task_id]


def test_as_many_healthy_chains_as_failed_ones(run: RunDirectory) -> None:
    chains = Chains.of(run, "noisy")
    choice = choose(chains)
    assert not any(chains.ours[task].correct for task in choice.failed)
    assert all(chains.ours[task].correct for task in choice.healthy)
    assert set(choice.failed) == {task for task in chains.ours if not chains.ours[task].correct}
    assert 0 < len(choice.healthy) <= len(choice.failed)
    assert choose(chains) == choice
    assert len(choose(chains, limit=2).failed) == 8


def test_every_hop_is_asked_of_both_arms(replayed: RunDirectory) -> None:
    chains = Chains.of(replayed, "noisy")
    chosen = choose(chains).tasks
    expected = {
        (task, source, arm, hop.id)
        for task in chosen
        for source in ("solve", "noisy")
        for arm in ("solve", "noisy")
        for hop in trace_of(replayed, source, task).hops
    }
    assert {(reply.task_id, reply.source, reply.arm, reply.hop_id) for reply in replies(replayed)} == expected
    assert len(replies(replayed)) == len(expected)


def test_nothing_is_made_twice(replayed: RunDirectory) -> None:
    before = (len(replies(replayed)), len(replays(replayed)))
    assert go(replayed) == []
    assert (len(replies(replayed)), len(replays(replayed))) == before


def test_hops_before_the_change_are_the_recorded_ones(replayed: RunDirectory) -> None:
    for made in replays(replayed):
        recorded = {hop.id: hop for hop in trace_of(replayed, made.source, made.task_id).hops}
        changed = {change.hop_id for change in made.changes}
        for hop in made.trace.hops:
            if hop.id in changed:
                break
            assert hop == recorded[hop.id]
        assert made.generated <= sum(hop != recorded[hop.id] for hop in made.trace.hops)


def test_the_swap_of_an_own_error_puts_its_premise_right(replayed: RunDirectory) -> None:
    """The baseline is perfect, so a swapped premise is what gold makes of the parents that were stated."""
    swaps = [
        made for made in replays(replayed) if made.source == "noisy" and made.name.startswith("swap") and len(made.changes) == 1
    ]
    assert swaps
    for made in swaps:
        task = replayed.task_index()[made.task_id]
        before = {premise.hop_id: premise for premise in judge(trace_of(replayed, "noisy", made.task_id), task)}
        after = {premise.hop_id: premise for premise in judge(made.trace, task)}
        assert before[made.changes[0].hop_id].origin != "inherited"
        assert after[made.changes[0].hop_id].origin in (None, "inherited")


def test_repaired_premises_are_gold_and_keep_what_was_said(replayed: RunDirectory) -> None:
    repairs = [made for made in replays(replayed) if made.changes[0].kind == "repair"]
    assert repairs
    for made in repairs:
        task = replayed.task_index()[made.task_id]
        hop = next(hop for hop in made.trace.hops if hop.id == made.changes[0].hop_id)
        assert hop.premises[0].value == task.premise(hop.premises[0].id).value
        assert hop.replaced[0].value != hop.premises[0].value


def test_all_own_errors_swapped_together_save_the_chain(replayed: RunDirectory) -> None:
    joint = [made for made in replays(replayed) if len(made.changes) > 1]
    assert joint
    assert all(made.trace.correct and made.generated == 0 for made in joint)


def test_a_quantised_hop_in_a_baseline_chain(replayed: RunDirectory) -> None:
    reverse = [made for made in replays(replayed) if made.source == "solve"]
    assert reverse
    for made in reverse:
        assert made.trace.arm == "solve"
        swapped = next(hop for hop in made.trace.hops if hop.id == made.changes[0].hop_id)
        assert swapped.arm == "noisy"
    assert {made.trace.correct for made in reverse} == {True, False}


def test_chosen_tasks_only(run: RunDirectory, tmp_path: Path) -> None:
    chosen = scripts.config("solve", "noisy", suites=["arith"], depths=[4], tasks_per_depth=4)
    small = scripts.go(chosen, tmp_path)
    task = sorted(small.tasks())[1]
    assert go(small, tasks=[task]) == []
    assert {reply.task_id for reply in replies(small)} == {task}
    with pytest.raises(StoreError, match=r"task 'arith-d9' has no stored chain on both 'solve' and 'noisy'"):
        go(small, tasks=["arith-d9"])


def test_the_baseline_is_not_replayed_against_itself(run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"arm 'solve' is the baseline"):
        Chains.of(run, "solve")


def test_an_arm_without_traces(run: RunDirectory) -> None:
    with pytest.raises(StoreError, match=r"arm 'awq' has no stored trace"):
        Chains.of(run, "awq")


def test_a_dead_baseline_leaves_what_the_arm_alone_can_tell(tmp_path: Path) -> None:
    """Repairs and teacher forcing need no baseline; the replay says what is missing and goes on later."""
    chosen = scripts.config("mortal", "noisy", suites=["arith"], depths=[4], tasks_per_depth=10)
    run = scripts.go(chosen, tmp_path)
    scripts.mortal.lives = 3
    try:
        problems = go(run)
    finally:
        scripts.mortal.lives = None
    assert len(problems) >= 1
    assert "the engine died in mid-run" in problems[0]
    assert single_changes(run) == {"repair"}
    assert go(run) == []
    assert single_changes(run) == {"repair", "swap"}


def test_a_replay_is_inspected_like_a_chain(replayed: RunDirectory) -> None:
    made = next(made for made in replays(replayed) if made.changes[0].kind == "repair")
    label = f"noisy:{made.name}"
    text = scripts.printed(lambda console: render_trace(inspect_trace(replayed, made.task_id, label), console))
    assert "replaced: the hop stated" in text
    pair = compare_traces(replayed, made.task_id, label, "noisy")
    assert pair.first_difference is not None
    assert pair.first_difference.hop is not None
    assert pair.first_difference.hop.id == made.changes[0].hop_id
    with pytest.raises(StoreError, match=r"of arm 'noisy': unknown replay 'repair@hop_009'.*`qtrap replay`"):
        inspect_trace(replayed, made.task_id, "noisy:repair@hop_009")


def test_a_swapped_hop_names_who_answered(replayed: RunDirectory) -> None:
    made = next(made for made in replays(replayed) if made.source == "solve")
    view = inspect_trace(replayed, made.task_id, f"solve:{made.name}")
    assert "answered by noisy" in scripts.printed(lambda console: render_trace(view, console))
