"""`qtrap advise` on runs and benches whose every number is known."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qtrap_agents.analysis.indices import Weights
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.cli import app
from qtrap_agents.config import BenchConfig
from qtrap_agents.errors import ConfigError, StoreError
from qtrap_agents.measures import Spread, Window
from qtrap_agents.report.advice import Advice, FamilyAdvice, advice_json, advise
from qtrap_agents.report.advice_view import render_advice
from qtrap_agents.shapes import SHAPES
from qtrap_agents.store import Journal, RunDirectory
from qtrap_agents.types import ArmIdentity, Verification

from .conftest import QUANTISED, draw, index_of, make_identity, make_run, make_trace, printed, write_arm, wrong_at

VERIFIED = Verification(status="verified", reason="as the format implies")
EMULATED = Verification(status="emulated", reason="computes with an unpacked copy: no statement on time or energy")
FP16 = {"activation_dtype": "float16", "verification": VERIFIED}
AWQ = QUANTISED | FP16
BATCHES = (1, 8, 64)


def run_of(parent: Path, faults: Mapping[str, int], changes: Mapping[str, dict[str, Any]] | None = None) -> RunDirectory:
    """100 arith and 100 program tasks of 2 hops; arms fail the last hop of so many of the arith tasks, fp16 of none."""
    tasks = draw(("arith", "program"), (2,), 100)
    arms = {"fp16": 0, **faults}
    energy = {"fp16": 400.0, "awq": 300.0, "gptq": 500.0}
    run = make_run(parent, tasks, arms, concurrency=8)
    for arm, number in arms.items():
        fault = wrong_at(2, lambda task, n=number: task.suite == "arith" and index_of(task) < n)  # type: ignore[misc]
        known = (FP16 if arm == "fp16" else AWQ) | (changes or {}).get(arm, {})
        write_arm(run, arm, [make_trace(run, arm, task, fault) for task in tasks], make_identity(**known), energy_j=energy[arm])
    return run


def bench_of(
    parent: Path,
    step_s: Mapping[str, Mapping[int, float]],
    watts: Mapping[str, float] | None = None,
    shape: str = "qwen2.5-7b",
    changes: Mapping[str, dict[str, Any]] | None = None,
) -> BenchDirectory:
    """Three repeats at every batch, one per cent apart alike for all arms."""
    config = BenchConfig.model_validate(
        {
            "name": f"bench-{shape}",
            "shape": shape,
            "concurrency": list(BATCHES),
            "arms": [{"name": arm, "checkpoint": f"random:{arm}"} for arm in step_s],
        }
    )
    bench = BenchDirectory.create(parent, config, {"gpus": ["Test GPU"], "started_utc": "2026-03-01T10:00:00Z"})
    with Journal(bench.windows_path) as journal:
        for window in windows_of(step_s, watts):
            journal.append(window)
    for arm in step_s:
        known = (FP16 if arm == "fp16" else AWQ) | (changes or {}).get(arm, {})
        bench.write_identity(arm, ArmIdentity.model_validate(make_identity(**known).model_dump()))
    return bench


def windows_of(step_s: Mapping[str, Mapping[int, float]], watts: Mapping[str, float] | None) -> Iterable[Window]:
    for arm, batches in step_s.items():
        for batch, step in batches.items():
            for repeat in range(3):
                seconds = step * (1 + 0.01 * repeat)
                time = Spread(n=1, mean=seconds, p50=seconds, p90=seconds, p99=seconds)
                yield Window(
                    arm=arm, concurrency=batch, prompt_tokens=256, new_tokens=10, repeat=repeat, position=0, begun_at=0.0,
                    wall_s=10 * seconds, requests=batch, output_tokens=10 * batch, inter_token=time,
                    energy_j=10 * seconds * watts[arm] if watts else None, meter="nvml" if watts else None,
                )  # fmt: skip


def printed_form(saved_at_one: float, casting: float) -> dict[str, dict[int, float]]:
    """An arm that saves less with every request in flight."""
    fp16 = {batch: 0.020 + 0.001 * batch for batch in BATCHES}
    return {"fp16": fp16, "awq": {batch: step - saved_at_one + casting * batch for batch, step in fp16.items()}}


def family(report: Advice, suite: str) -> FamilyAdvice:
    return next(found for found in report.families if found.suite == suite)


def shown(report: Advice) -> str:
    return " ".join(printed(lambda console: render_advice(report, console), 200).split())


def test_verdicts_by_family_and_costs_of_the_run(tmp_path: Path) -> None:
    report = advise(run_of(tmp_path, {"awq": 30}), margin=0.05)
    arith, program = family(report, "arith"), family(report, "program")
    assert [arm.arm for arm in arith.arms] == ["fp16", "awq"]
    assert [arm.paired.verdict for found in (arith, program) for arm in found.arms if arm.paired] == ["danger", "safe"]
    awq = report.cost("awq")
    assert awq.source == "run"
    assert awq.energy_per_correct_j == pytest.approx(300 / 170)
    assert awq.output_tokens_per_s == pytest.approx(200 * 2 * 3 / 12.5)
    assert awq.energy is not None
    assert awq.energy.value == pytest.approx(0.75)
    assert awq.energy.interval is None
    indices = program.arms[1].indices
    assert indices.ssi is not None
    assert indices.ssi.value == pytest.approx(400 / 300)
    assert indices.si is not None
    assert indices.si.value == pytest.approx((400 / 300) ** (1 / 3))
    tsi = arith.arms[1].indices.tsi
    assert tsi is not None
    assert tsi.value == pytest.approx(0.7)
    assert arith.recommendation == "arith: stay with fp16: no arm keeps its success (awq −30.0 points)"


def test_dominance_comes_before_the_index(tmp_path: Path) -> None:
    report = advise(run_of(tmp_path, {"awq": 30}), margin=0.05)
    assert family(report, "program").dominant == "awq"
    assert family(report, "program").shares == pytest.approx({"fp16": 1 / 231 * 21 / 2, "awq": 1 - 1 / 231 * 21 / 2})
    assert family(report, "arith").dominances == ()
    text = shown(report)
    assert "program: awq dominates fp16 on accuracy, time and energy: no choice of weights changes the order" in text
    assert "arith: no arm dominates another" in text
    assert "arith: first by SI on so much of all choices of weights: fp16" in text
    assert text.index("dominates") < text.index("Sustainability index")


def test_the_margin_and_the_weights_are_those_given(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"awq": 30})
    report = advise(run, weights=Weights(1, 0, 0), margin=0.5)
    arith = family(report, "arith")
    assert arith.arms[1].paired is not None
    assert arith.arms[1].paired.verdict == "safe"
    assert arith.arms[1].indices.si is not None
    assert arith.arms[1].indices.si.value == pytest.approx(0.7)


def test_too_few_tasks_leave_it_open(tmp_path: Path) -> None:
    report = advise(run_of(tmp_path, {"awq": 1}))
    assert "stay with fp16 until more tasks decide: awq" in family(report, "arith").recommendation


@pytest.mark.parametrize("status", ["emulated", "unknown", "contradicted"])
def test_an_arm_that_is_not_verified_gets_no_statement(tmp_path: Path, status: str) -> None:
    bad = {"verification": Verification.model_validate({"status": status, "reason": "because"})}
    report = advise(run_of(tmp_path, {"awq": 0}, {"awq": bad}), margin=0.05)
    cost, indices = report.cost("awq"), family(report, "arith").arms[1].indices
    assert (cost.time, cost.energy, cost.energy_per_correct_j, cost.output_tokens_per_s) == (None,) * 4
    assert (indices.esi, indices.ssi, indices.si) == (None,) * 3
    assert indices.tsi is not None
    assert f"awq: no statement on time or energy: {status}: because" in shown(report)
    assert family(report, "arith").recommendation == f"arith: awq is safe; whether it pays is open ({status}: because)"
    assert report.cost("fp16").energy_per_correct_j is not None
    assert (report.cost("fp16").source, report.cost("fp16").time, report.cost("fp16").reason) == (None, None, None)


def test_a_baseline_that_is_not_verified_is_nothing_to_compare_with(tmp_path: Path) -> None:
    report = advise(run_of(tmp_path, {"awq": 0}, {"fp16": {"verification": None}}))
    assert report.cost("awq").reason == "the baseline is not verified: nothing tells what was served"
    assert report.cost("awq").time is None


def test_no_meter(run: RunDirectory) -> None:
    report = advise(run)
    text = shown(report)
    assert all(arm.indices.ssi is None for found in report.families for arm in found.arms[1:])
    assert "no statement" in text
    json.dumps(advice_json(report))


def test_the_bench_at_the_nearest_concurrency(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"awq": 0})
    steps = {"fp16": dict.fromkeys(BATCHES, 0.02), "awq": {1: 0.01, 8: 0.016, 64: 0.03}}
    bench = bench_of(tmp_path, steps, {"fp16": 500.0, "awq": 400.0})
    report = advise(run, [bench], concurrency=50, margin=0.05)
    assert report.place is not None
    assert (report.place.concurrency, report.place.wanted, report.place.prompt_tokens) == (64, 50, 256)
    assert "the bench has no 50 requests in flight: its nearest, 64, stands for them" in report.warnings
    cost = report.cost("awq")
    assert cost.source == "bench"
    assert cost.time is not None
    assert cost.time.value == pytest.approx(1.5)
    assert cost.energy is not None
    assert cost.energy.value == pytest.approx(1.2)
    assert "stay with fp16: awq is safe but does not pay" in family(report, "arith").recommendation
    assert "50.0 % more time and 20.0 % more energy" in family(report, "arith").recommendation
    few = advise(run, [bench], concurrency=1, margin=0.05)
    assert few.warnings == ()
    assert (
        "arith: serve awq: safe, and a task takes 50.0 % less time and 60.0 % less energy at 1 in flight against fp16"
        in shown(few)
    )
    places = [advise(run, [bench], concurrency).place for concurrency in (None, 22, 24)]
    assert [place.concurrency for place in places if place] == [8, 8, 64]


def test_of_several_safe_arms_the_one_of_the_best_index(tmp_path: Path) -> None:
    report = advise(run_of(tmp_path, {"gptq": 0, "awq": 0}), margin=0.05)
    assert family(report, "arith").recommendation.startswith("arith: serve awq: safe")
    assert "as much time and 25.0 % less energy at 8 in flight" in family(report, "arith").recommendation


def test_a_bench_whose_baseline_is_not_verified(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, printed_form(0.01, 0.0004), changes={"fp16": {"verification": EMULATED}})
    report = advise(run_of(tmp_path, {"awq": 0}), [bench])
    assert report.cost("awq").reason == f"the baseline is emulated: {EMULATED.reason}"


def test_time_against_energy_is_the_users_to_weigh(tmp_path: Path) -> None:
    steps = {"fp16": dict.fromkeys(BATCHES, 0.02), "awq": dict.fromkeys(BATCHES, 0.03)}
    bench = bench_of(tmp_path, steps, {"fp16": 500.0, "awq": 100.0})
    report = advise(run_of(tmp_path, {"awq": 0}), [bench], margin=0.05)
    assert "what you weigh more decides" in family(report, "arith").recommendation


def test_longer_answers_take_more_of_what_a_token_costs(tmp_path: Path) -> None:
    """awq answers with 3 tokens a hop in the run; twice as many halve its tasks per second at equal token times."""
    tasks = draw(("arith",), (2,), 100)
    run = make_run(tmp_path, tasks, ("fp16", "awq"), concurrency=8)
    for arm, factor in (("fp16", 1), ("awq", 2)):
        traces = [make_trace(run, arm, task) for task in tasks]
        long = [
            trace.model_copy(
                update={
                    "hops": tuple(
                        hop.model_copy(update={"completion": hop.completion.model_copy(update={"completion_tokens": 3 * factor})})
                        for hop in trace.hops
                    )
                }
            )
            for trace in traces
        ]
        write_arm(run, arm, long, make_identity(**(FP16 if arm == "fp16" else AWQ)))
    bench = bench_of(tmp_path, dict.fromkeys(("fp16", "awq"), dict.fromkeys(BATCHES, 0.02)))
    report = advise(run, [bench], margin=0.05)
    esi = family(report, "arith").arms[1].indices.esi
    assert report.cost("awq").tokens == pytest.approx(2)
    assert esi is not None
    assert esi.value == pytest.approx(0.5)
    assert report.cost("awq").energy is None
    assert "not measured" in shown(report)


def test_a_bench_that_emulates_says_nothing_though_it_was_measured(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, printed_form(0.01, 0.0004), changes={"awq": {"verification": EMULATED}})
    report = advise(run_of(tmp_path, {"awq": 0}), [bench])
    assert report.cost("awq").time is None
    assert report.cost("awq").reason == f"emulated: {EMULATED.reason}"
    (critical,) = report.critical
    assert critical.fits == ()
    assert critical.reason == f"awq is emulated: {EMULATED.reason}"


def test_the_bench_stands_in_for_a_run_that_emulated(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"awq": 0}, {"awq": {"verification": EMULATED}})
    report = advise(run, [bench_of(tmp_path, printed_form(0.01, 0.0004))])
    cost = report.cost("awq")
    assert cost.source == "bench"
    assert cost.energy_per_correct_j is None
    assert "awq: no statement on the run's own time or energy: emulated" in shown(report)
    assert "awq (emulated)" in shown(report)


def test_an_arm_that_the_bench_lacks(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"awq": 0, "gptq": 0})
    report = advise(run, [bench_of(tmp_path, printed_form(0.01, 0.0004))])
    assert report.cost("gptq").reason == "the bench has no arm 'gptq', its arms are fp16, awq"


def test_a_bench_without_the_baseline(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, {"awq": {1: 0.01}, "gptq": {1: 0.01}})
    with pytest.raises(ConfigError, match=r"unknown baseline arm 'fp16'.*same names"):
        advise(run_of(tmp_path, {"awq": 0}), [bench])


def test_a_bench_without_windows(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing was measured"):
        advise(run_of(tmp_path, {"awq": 0}), [bench_of(tmp_path, {"fp16": {}, "awq": {}})])


def test_another_concurrency_than_the_runs_own_without_a_bench(tmp_path: Path) -> None:
    report = advise(run_of(tmp_path, {"awq": 0}), concurrency=99)
    assert "the run had 8 requests in flight, not 99; --bench tells of other concurrencies" in report.warnings


def test_critical_batch_beside_the_measured_crossing(tmp_path: Path) -> None:
    """10 ms are saved and 0.4 ms are lost for each request in flight: the arm stops paying at batch 25."""
    report = advise(run_of(tmp_path, {"awq": 0}), [bench_of(tmp_path, printed_form(0.010, 0.0004))])
    (critical,) = report.critical
    fits = {fit.form: fit for fit in critical.fits}
    batch = fits["printed"].critical_batch(SHAPES["qwen2.5-7b"].parameters)
    assert batch is not None
    assert batch.value == pytest.approx(25, rel=0.1)
    assert fits["consistent"].reason is not None
    ((size, crossing),) = critical.crossings
    assert size == SHAPES["qwen2.5-7b"].parameters
    assert crossing.stops
    assert crossing.below == 8
    text = shown(report)
    assert "pays below" in text
    assert "measured at 7.62 billion weights: awq stops paying in time" in text
    assert "consistent: no critical point: the measurements have the opposite sign" in text


def test_two_benches_fit_a_scale_and_show_the_measured_one(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"awq": 0})
    fp16 = dict.fromkeys(BATCHES, 0.02)
    large = bench_of(tmp_path, {"fp16": fp16, "awq": dict.fromkeys(BATCHES, 0.012)})
    small = bench_of(tmp_path, {"fp16": fp16, "awq": dict.fromkeys(BATCHES, 0.025)}, shape="qwen2.5-0.5b")
    report = advise(run, [large, small])
    (critical,) = report.critical
    once = next(fit for fit in critical.fits if fit.form == "once")
    scale = once.critical_parameters(8)
    assert once.sizes == 2
    assert scale is not None
    sizes = [SHAPES[name].parameters for name in ("qwen2.5-0.5b", "qwen2.5-7b")]
    assert sizes[0] < scale.value < sizes[1]
    assert scale.value == pytest.approx(sizes[0] + (sizes[1] - sizes[0]) * 5 / 13, rel=0.05)
    assert {crossing.concurrency for crossing in critical.size_crossings} == set(BATCHES)
    assert all(crossing.starts for crossing in critical.size_crossings)
    assert "measured: awq starts paying in time at about" in shown(report)


def invoke(*words: object) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["advise", *map(str, words)])
    return result.exit_code, result.stdout, result.exception


def test_the_verb(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"awq": 30})
    bench = bench_of(tmp_path, printed_form(0.010, 0.0004), {"fp16": 500.0, "awq": 400.0})
    code, text, _ = invoke(run.path, "--bench", bench.path, "--concurrency", 1, "--weights", "2,1,1", "--margin", 5)
    assert code == 0
    assert "program: serve awq: safe" in " ".join(text.split())
    code, text, _ = invoke(run.path, "--bench", bench.path, "--weights", "2,1,1", "--margin", 5, "--json")
    assert code == 0
    data = json.loads(text)
    assert data["margin"] == 0.05
    assert data["weights"] == {"accuracy": 0.5, "time": 0.25, "energy": 0.25}
    assert [arm["verdict"] for arm in data["families"][0]["arms"]] == [None, "danger"]
    assert data["critical"][0]["fits"][0]["critical_batch"][0]["batch"]["value"] == pytest.approx(25, rel=0.1)


def test_the_verb_on_a_run_that_nothing_measured(run: RunDirectory) -> None:
    code, text, _ = invoke(run.path)
    assert code == 0
    assert "dominance is open: neither time nor energy is known" in " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "1,2"), "--weights 1,2: give three numbers"),
        (("--bench", "nowhere"), "nowhere: not a bench directory"),
    ],
)
def test_what_is_refused(run: RunDirectory, words: tuple[str, ...], message: str) -> None:
    code, _, error = invoke(run.path, *words)
    assert code != 0
    assert message in str(error)
