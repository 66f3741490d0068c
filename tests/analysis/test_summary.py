import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping

import pytest

from qtrap_agents.analysis.costs import Cost
from qtrap_agents.analysis.paired import exact_mcnemar
from qtrap_agents.analysis.summary import ArmAccumulator, Comparison, accumulate, compare_arms, observe
from qtrap_agents.errors import ConfigError, SuiteError
from qtrap_agents.suites import arith, program
from qtrap_agents.types import Task, Trace

from .conftest import gold_values, make_task, make_trace, with_fault

TASKS = {
    task.id: task
    for suite, generate in (("arith", arith.generate), ("program", program.generate))
    for depth in (2, 8)
    for index in range(20)
    for task in [generate(suite, depth, 0, index, {"modulus": 97})]
}


def run(arm: str, wrong_from: int = 20) -> Iterator[Trace]:
    """Every arith task from index `wrong_from` on has a fault in its first hop; the other traces are right."""
    for task in TASKS.values():
        if task.suite == "arith" and int(task.id[-4:]) >= wrong_from:
            yield make_trace(task, with_fault(task, 1, (int(task.premises[0].value) + 1) % 97), arm=arm)
        else:
            yield make_trace(task, gold_values(task), arm=arm)


def summarise(
    traces: Mapping[str, Iterable[Trace]],
    tasks: Mapping[str, Task],
    baseline: str,
    costs: Mapping[str, Cost] | None = None,
    margin: float = 0.02,
) -> Comparison:
    arms = {arm: accumulate(of_arm, tasks) for arm, of_arm in traces.items()}
    return compare_arms(arms, baseline, costs, margin)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    arms = {"fp16": run("fp16", 19), "gptq": run("gptq", 18), "awq": run("awq", 5)}
    costs = {"gptq": Cost(wall_s=4.0, energy_j=790.0)}
    return summarise(arms, TASKS, "fp16", costs)


def test_counts_and_cells(comparison: Comparison) -> None:
    awq = comparison.arm("awq")
    assert [summary.arm for summary in comparison.arms] == ["fp16", "gptq", "awq"]
    assert (awq.n, awq.judged, awq.correct, awq.errors) == (80, 80, 50, 0)
    assert [(cell.suite, cell.depth, cell.correct, cell.judged) for cell in awq.cells] == [
        ("arith", 2, 5, 20),
        ("arith", 8, 5, 20),
        ("program", 2, 20, 20),
        ("program", 8, 20, 20),
    ]
    assert [(cell.suite, cell.depth, cell.correct, cell.judged) for cell in awq.by_depth] == [
        (None, 2, 25, 40),
        (None, 8, 25, 40),
    ]
    assert awq.by_depth[0].success == 0.625
    assert awq.by_depth[0].interval.low == pytest.approx(0.4703, abs=1e-3)


def test_horizons_per_suite_and_over_all(comparison: Comparison) -> None:
    gptq = comparison.arm("gptq")
    assert list(gptq.suite_horizons) == ["arith", "program"]
    assert gptq.suite_horizons["program"].estimate is None
    assert gptq.suite_horizons["program"].interval.low is not None
    assert gptq.suite_horizons["arith"].successes == (18, 18)
    assert gptq.horizon.depths == (2, 8)
    assert gptq.horizon.totals == (40, 40)


def test_failures(comparison: Comparison) -> None:
    failures = comparison.arm("awq").failures
    assert (failures.chains, failures.collapsed, failures.first_errors) == (80, 30, {1: 30})
    assert failures.collapse_rate == 0.375
    assert failures.median_first_error == 1
    assert failures.blast_radii == (1.0,) * 30
    assert failures.mean_blast_radius == 1.0
    assert (failures.own, failures.inherited, failures.wrong, failures.premises) == (30, 120, 150, 400)
    assert failures.amplification == 5.0


def test_pairing_with_the_baseline(comparison: Comparison) -> None:
    assert comparison.arm("fp16").against is None
    gptq, awq = comparison.arm("gptq").against, comparison.arm("awq").against
    assert gptq is not None
    assert awq is not None
    assert (awq.counts.both_right, awq.counts.lost, awq.counts.gained, awq.counts.both_wrong) == (50, 28, 0, 2)
    assert awq.counts.difference == pytest.approx(-0.35)
    assert (gptq.p, awq.p) == (exact_mcnemar(2, 0), exact_mcnemar(28, 0))
    assert (gptq.p_holm, awq.p_holm) == pytest.approx((gptq.p, 2 * awq.p))
    assert (awq.verdict, awq.further_tasks) == ("danger", 0)
    assert gptq.verdict == "undecided"
    assert gptq.further_tasks is not None
    assert gptq.further_tasks > 0


def test_a_suite_that_breaks_is_judged_apart_from_those_that_do_not(comparison: Comparison) -> None:
    awq = comparison.arm("awq")
    arith, program = awq.suites_against["arith"], awq.suites_against["program"]
    assert (arith.counts.lost, arith.counts.gained, arith.counts.n) == (28, 0, 40)
    assert (program.counts.both_right, program.counts.n) == (40, 40)
    assert (arith.verdict, program.verdict) == ("danger", "undecided")
    assert arith.p_holm == pytest.approx(4 * arith.p)
    assert comparison.arm("fp16").suites_against == {}


def test_cost_is_reported_only_where_measured(comparison: Comparison) -> None:
    gptq, awq = comparison.arm("gptq"), comparison.arm("awq")
    assert (gptq.tokens.hops, gptq.tokens.prompt_per_hop, gptq.tokens.completion_per_hop) == (400, 10, 3)
    assert gptq.output_tokens_per_s == 300
    assert gptq.energy_per_correct_j == pytest.approx(790 / 76)
    assert (awq.output_tokens_per_s, awq.energy_per_correct_j) == (None, None)


def test_records_round_trip(comparison: Comparison) -> None:
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_a_wider_margin_changes_the_verdict() -> None:
    found = summarise({"a": run("a"), "b": run("b", 18)}, TASKS, "a", margin=0.2).arm("b").against
    assert found is not None
    assert found.verdict == "safe"


def test_errors_are_counted_but_not_judged_wrong() -> None:
    task = next(iter(TASKS.values()))
    good = make_trace(task, gold_values(task))
    failed = make_trace(task, {}, seed=1, error="timeout")
    other = make_trace(task, gold_values(task), seed=1)
    found = summarise({"a": [good, other], "b": [good, failed]}, TASKS, "a").arm("b")
    assert (found.n, found.judged, found.correct, found.errors) == (2, 1, 1, 1)
    assert found.cells[0].success == 1.0
    assert found.failures.chains == 1
    assert found.against is not None
    assert found.against.counts.n == 1


def test_seeds_of_one_task_are_separate_pairs() -> None:
    task = next(iter(TASKS.values()))
    right, wrong = gold_values(task), with_fault(task, 1, 98)
    first = [make_trace(task, right, seed=0), make_trace(task, wrong, seed=1)]
    second = [make_trace(task, wrong, seed=0), make_trace(task, right, seed=1)]
    paired = summarise({"a": first, "b": second}, TASKS, "a").arm("b").against
    assert paired is not None
    assert (paired.counts.lost, paired.counts.gained, paired.p) == (1, 1, 1.0)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_last_attempt_counts_once_and_tokens_count_always(swapped: bool) -> None:
    task = next(iter(TASKS.values()))
    attempts = [
        make_trace(task, {"s1": 1}, error="arm died", attempt=1),
        make_trace(task, gold_values(task), attempt=2),
    ]
    seen = ArmAccumulator()
    for trace in reversed(attempts) if swapped else attempts:
        seen.add(trace, task)
    found = seen.summary("a", Cost())
    assert (found.n, found.correct, found.errors) == (1, 1, 0)
    assert (found.tokens.hops, found.tokens.prompt, found.tokens.completion) == (3, 30, 9)


def test_tasks_without_gold_premises_count_for_success_only() -> None:
    task = make_task([])
    found = summarise({"a": [make_trace(task, {}, correct=False)]}, {task.id: task}, "a").arm("a")
    assert (found.judged, found.correct, found.failures.chains) == (1, 0, 0)
    assert found.failures.collapse_rate is None
    assert found.energy_per_correct_j is None


def test_an_empty_arm_has_no_numbers_and_does_not_fail() -> None:
    found = summarise({"a": [], "b": []}, {}, "a", {"b": Cost(wall_s=0.0, energy_j=3.0)}).arm("b")
    assert (found.n, found.cells, found.horizon.estimate, found.failures.median_first_error) == (0, (), None, None)
    assert (found.output_tokens_per_s, found.energy_per_correct_j, found.tokens.prompt_per_hop) == (None, None, None)
    assert found.against is not None
    assert (found.against.verdict, found.against.further_tasks) == ("undecided", None)


def test_an_outcome_is_small_whatever_the_length_of_the_chain() -> None:
    task = arith.generate("arith", 2_000, 0, 0, {"modulus": 97})
    assert len(pickle.dumps(observe(make_trace(task, with_fault(task, 3, 98)), task))) < 300


def test_seeds_of_one_task_are_one_cluster() -> None:
    task = next(iter(TASKS.values()))
    seen = accumulate([make_trace(task, gold_values(task), seed=seed) for seed in range(3)], TASKS)
    assert [(outcome.key, outcome.cluster) for outcome in seen.outcomes.values()] == [
        ((task.id, seed), task.id) for seed in range(3)
    ]


def test_wrong_names() -> None:
    task: Task = next(iter(TASKS.values()))
    with pytest.raises(ConfigError, match="did you mean 'fp16'"):
        summarise({"fp16": []}, {}, "fp6")
    with pytest.raises(SuiteError, match=f"answers task '{task.id}'"):
        summarise({"a": [make_trace(task, {})]}, {}, "a")


def test_analysis_loads_without_engine_or_workflow_library() -> None:
    code = (
        "import sys, qtrap_agents.analysis.summary, qtrap_agents.analysis.export; "
        "print(*({'torch', 'vllm', 'langgraph', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
