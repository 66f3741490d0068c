"""From stored runs to counts of hops: what counts as a slip, a mask, luck, a repeated draw, and what does not count at all."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import replayed
from simulated import Slip, make_run, tasks_of, write_arm, write_faults

from qtrap_agents.errors import SimulationError, SuiteError
from qtrap_agents.simulation.counts import ArmCounts, Cell, Cluster, Place, rounded
from qtrap_agents.simulation.observations import observe, observe_faults
from qtrap_agents.store import ArmWriter, RunDirectory
from qtrap_agents.types import ArmIdentity, GoldPremise, Hop, Sampling, Task, Trace, Value

ARM = "a"


def task_of(*premises: GoldPremise, name: str = "toy-1", suite: str = "toy") -> Task:
    return Task(id=name, suite=suite, question="?", answer=premises[-1].value, premises=premises, depth=len(premises))


def gold(name: str, value: Value, rule: str | None, *parents: str, kind: str = "") -> GoldPremise:
    return GoldPremise(
        id=name, text="", value=value, depends_on=parents, rule=rule, kind=kind, instruction=f"{name} of {parents}"
    )


SUM = task_of(
    gold("s1", 3, "1 + 2"),
    gold("s2", 4, "2 + 2"),
    gold("s3", 3, "min(s1, s2)", "s1", "s2", kind="min"),
    gold("s4", 10, "s3 + 7", "s3", kind="plus"),
)
RIGHT: dict[str, Value | None] = {"s1": 3, "s2": 4, "s3": 3, "s4": 10}


def store(run: RunDirectory, *traces: Trace) -> None:
    for arm in dict.fromkeys(trace.arm for trace in traces):
        with ArmWriter(run, arm) as writer:
            for trace in traces:
                if trace.arm == arm:
                    writer.trace(trace)


def seen(tmp_path: Path, values: Mapping[str, Value | None], task: Task = SUM, error: str | None = None) -> ArmCounts:
    """The counts of one chain."""
    run = make_run(tmp_path, [task], [ARM], suites=["arith"])
    store(run, replayed.chain(task, values, ARM, error))
    return observe([run]).arms[ARM]


def fates(counts: ArmCounts) -> dict[str, int]:
    return dict(counts.fates["toy", 0.0])


def test_a_right_chain_is_right_hops_only(tmp_path: Path) -> None:
    counts = seen(tmp_path, RIGHT)
    assert fates(counts) == {"right": 4}
    assert counts.cells[Cell("toy", "min", 0.0, 3, 2, 0, 0)].n == 1
    assert sum(count.events for count in counts.cells.values()) == 0
    assert (counts.masks, counts.luck) == ({}, {})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({**RIGHT, "s2": 9}, {"right": 2, "own": 1, "recovered": 1}),
        ({**RIGHT, "s1": 2, "s3": 2, "s4": 9}, {"right": 1, "own": 1, "inherited": 2}),
        ({**RIGHT, "s1": 2, "s3": 2, "s4": 8}, {"right": 1, "own": 1, "inherited": 1, "compounded": 1}),
        ({**RIGHT, "s1": 2, "s3": 2, "s4": 10}, {"right": 1, "own": 1, "inherited": 1, "recovered": 1}),
        ({**RIGHT, "s4": None}, {"right": 3, "own": 1}),
        ({**RIGHT, "s1": None, "s3": 3, "s4": 10}, {"right": 2, "own": 1, "unjudged": 1}),
    ],
)
def test_what_became_of_a_hop(tmp_path: Path, values: dict[str, Value | None], expected: dict[str, int]) -> None:
    assert fates(seen(tmp_path, values)) == expected


def test_a_mask_is_a_right_consequence_of_wrong_parents_that_equals_gold(tmp_path: Path) -> None:
    counts = seen(tmp_path, {**RIGHT, "s2": 9, "s3": 5, "s4": 12})
    assert counts.masks[Place("toy", "min", 2, 1)].events == 1
    assert counts.masks[Place("toy", "plus", 1, 1)].events == 0
    assert counts.cells[Cell("toy", "min", 0.0, 3, 2, 1, 1)].events == 1, "what is masked can slip all the same"


def test_luck_is_a_slip_that_states_gold(tmp_path: Path) -> None:
    counts = seen(tmp_path, {**RIGHT, "s1": 2, "s3": 2, "s4": 10})
    found = counts.luck[Place("toy", "plus", 1, 1)]
    assert (found.events, found.n) == (1, 1)


def test_without_rules_only_hops_on_right_parents_can_slip(tmp_path: Path) -> None:
    bare = task_of(*(premise.model_copy(update={"rule": None}) for premise in SUM.premises))
    counts = seen(tmp_path, {**RIGHT, "s1": 2, "s4": 11}, bare)
    assert fates(counts) == {"right": 1, "own": 2, "unjudged": 1}
    assert counts.masks[Place("toy", "min", 2, 1)].events == 1, "a right statement stands for a masked one"


def test_a_failed_request_is_no_slip(tmp_path: Path) -> None:
    run = make_run(tmp_path, [SUM], [ARM], suites=["arith"])
    trace = replayed.chain(SUM, RIGHT, ARM, error="hop 3: timed out")
    store(run, trace.model_copy(update={"hops": trace.hops[:2]}))
    counts = observe([run]).arms[ARM]
    assert (fates(counts), counts.failures, counts.calls, counts.chains) == ({"right": 2}, 1, 3, {})


def test_only_the_last_attempt_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path, [SUM], [ARM], suites=["arith"])
    store(run, replayed.chain(SUM, {**RIGHT, "s4": 0}, ARM), replayed.chain(SUM, RIGHT, ARM).model_copy(update={"attempt": 2}))
    assert fates(observe([run]).arms[ARM]) == {"right": 4}


def test_greedy_hops_in_the_same_words_count_once(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, [SUM], [ARM], suites=["arith"]) for name in "xy"]
    store(runs[0], replayed.chain(SUM, RIGHT, ARM))
    store(runs[1], replayed.chain(SUM, {**RIGHT, "s1": 5, "s3": 4, "s4": 11}, ARM))
    counts = observe(runs).arms[ARM]
    assert (fates(counts), counts.again) == ({"right": 4, "inherited": 2}, 2)


def test_sampled_hops_with_the_same_givens_are_repeated_draws(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / str(seed), [SUM], [ARM], suites=["arith"], sampling={"temperature": 0.7, "seed": seed})
        for seed in range(3)
    ]
    for run, said in zip(runs, (10, 11, 11), strict=True):
        store(run, replayed.chain(SUM, {**RIGHT, "s4": said}, ARM))
    counts = observe(runs).arms[ARM]
    repeats = counts.repeats["toy"]
    assert dict(counts.fates["toy", 0.7]) == {"right": 10, "own": 2}
    assert repeats.clusters == {Cluster(3, 0): 3, Cluster(3, 2): 1}
    assert (repeats.pairs.events, repeats.pairs.n) == (1, 1)


def test_other_givens_are_another_hop(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / str(seed), [SUM], [ARM], suites=["arith"], sampling={"temperature": 0.7, "seed": seed})
        for seed in range(2)
    ]
    store(runs[0], replayed.chain(SUM, RIGHT, ARM))
    store(runs[1], replayed.chain(SUM, {**RIGHT, "s3": 5, "s4": 12}, ARM))
    assert observe(runs).arms[ARM].repeats["toy"].clusters == {Cluster(2, 0): 2, Cluster(2, 1): 1}


def test_samples_of_a_vote_are_repeated_draws_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path, [SUM], [ARM], suites=["arith"], workflow={"name": "vote", "k": 2})
    chain = replayed.chain(SUM, RIGHT, ARM)
    drawn = Sampling(temperature=0.7)
    hops: list[Hop] = []
    for hop in chain.hops:
        hops += [hop.model_copy(update={"id": f"{hop.id}.sample_{n}", "node": "sample", "sampling": drawn}) for n in (1, 2)]
    plain_run = make_run(tmp_path / "plain", [SUM], [ARM], suites=["arith"])
    store(run, chain.model_copy(update={"hops": tuple(hops)}))
    store(plain_run, chain)
    counts = observe([plain_run, run]).arms[ARM]
    assert counts.repeats["toy"].clusters == {Cluster(2, 0): 4}
    assert (fates(counts), counts.together) == ({"right": 4}, 4)
    with pytest.raises(SimulationError, match="no hop that alone states a gold premise"):
        observe([run])


def test_what_a_checker_let_pass_is_no_sample_of_hops(tmp_path: Path) -> None:
    run = make_run(tmp_path, [SUM], [ARM], suites=["arith"], workflow="verify_revise")
    store(run, replayed.chain(SUM, RIGHT, ARM))
    with pytest.raises(SimulationError, match="no hop that alone states a gold premise"):
        observe([run])
    plain_run = make_run(tmp_path / "plain", [SUM], [ARM], suites=["arith"])
    store(plain_run, replayed.chain(SUM, {**RIGHT, "s4": 0}, ARM))
    counts = observe([plain_run, run]).arms[ARM]
    assert (fates(counts), counts.together, counts.calls) == ({"right": 3, "own": 1}, 4, 8)


def test_faults_are_hops_on_wrong_parents_of_the_baseline(tmp_path: Path) -> None:
    run = make_run(tmp_path, [SUM], [ARM], suites=["arith"])
    store(run, replayed.chain(SUM, RIGHT, ARM))
    write_faults(run, [(SUM, 1, 2)])
    counts, without = observe([run]).arms[ARM], observe([run], faults=False).arms[ARM]
    assert fates(counts) == {"right": 4, "inherited": 2}
    assert (fates(without), counts.injected, without.injected) == ({"right": 4}, 2, 0)
    assert set(counts.injected_masks) == {Place("toy", "min", 2, 1), Place("toy", "plus", 1, 1)}
    assert fates(observe_faults(run)) == {"inherited": 2}
    assert not observe_faults(run, set()).cells


def test_counterfactual_parents_tell_what_can_mask(tmp_path: Path) -> None:
    run = make_run(tmp_path, tasks_of(["arith", "program"], (4,), 30), [ARM])
    write_arm(run, ARM, {"arith": Slip(0.0, 0.0), "program": Slip(0.0, 0.0)})
    families = observe([run]).families
    assert families["arith"].depths == {4}
    plus = families["arith"].masks[Place("arith", "plus", 1, 1)]
    least = families["program"].masks[Place("program", "min", 1, 1)]
    assert (plus.events, plus.n > 50) == (0, True)
    assert 0 < least.events < least.n


@pytest.mark.parametrize(("number", "expected"), [(1, 1), (16, 16), (17, 18), (100, 104), (1000, 1024)])
def test_large_numbers_fall_into_steps(number: int, expected: int) -> None:
    assert rounded(number) == expected
    assert len({rounded(n) for n in range(1, 10_000)}) < 100


def test_a_run_without_traces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="no arm has a stored trace; `qtrap run --resume"):
        observe([make_run(tmp_path, [SUM], [ARM], suites=["arith"])])


def test_an_unknown_arm_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, [SUM], ["fp16"], suites=["arith"])
    store(run, replayed.chain(SUM, RIGHT, "fp16"))
    with pytest.raises(SimulationError, match=r"unknown arm 'fp61': did you mean 'fp16'\? The runs have traces of fp16\."):
        observe([run], ["fp61"])


def test_runs_of_different_baselines_are_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / arm, [SUM], [arm], suites=["arith"]) for arm in ("a", "b")]
    for run, arm in zip(runs, "ab", strict=True):
        store(run, replayed.chain(SUM, RIGHT, arm))
    with pytest.raises(SimulationError, match=r"has the baseline 'a' and .* 'b'; fit runs of one baseline together"):
        observe(runs)


def test_one_name_for_different_weights_is_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, [SUM], [ARM], suites=["arith"]) for name in "xy"]
    for run in runs:
        store(run, replayed.chain(SUM, RIGHT, ARM))
        with ArmWriter(run, ARM) as writer:
            writer.identity(ArmIdentity(backend="vllm", checkpoint="c", checksum=run.path.parent.name, weight_bytes=7))
    assert observe(runs[:1]).arms[ARM].weight_bytes == 7
    with pytest.raises(SimulationError, match="arm 'a' served other weights in"):
        observe(runs)


def test_a_task_without_gold_premises_gives_nothing_to_fit(tmp_path: Path) -> None:
    bare = SUM.model_copy(update={"premises": ()})
    run = make_run(tmp_path, [bare], [ARM], suites=["arith"])
    store(run, replayed.chain(SUM, RIGHT, ARM))
    with pytest.raises(SimulationError, match="fit a run with gold premises"):
        observe([run])


def test_a_trace_without_its_task_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, [SUM], [ARM], suites=["arith"])
    other = SUM.model_copy(update={"id": "toy-2"})
    store(run, replayed.chain(other, RIGHT, ARM))
    with pytest.raises(SuiteError, match="arm 'a' answers task 'toy-2'"):
        observe([run])
