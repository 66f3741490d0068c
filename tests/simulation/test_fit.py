"""A whole fit on runs of known truth: rates, masks, luck, repeated draws, costs, the null model, and what is said of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import replayed
from simulated import Slip, make_run, tasks_of, write_arm, write_faults

from qtrap_agents.analysis.roles import Checks
from qtrap_agents.errors import ConfigError
from qtrap_agents.report.fit import FitReport, fit_json, fit_runs
from qtrap_agents.simulation.counts import ArmCounts, Cell, Cluster, Count, FamilyCounts, Observations, Place, RepeatCounts
from qtrap_agents.simulation.fates import fates
from qtrap_agents.simulation.fit import CONSTANT, effective, fit, parse_covariates
from qtrap_agents.simulation.masks import fit_masks, overdispersion
from qtrap_agents.simulation.model import ErrorModel
from qtrap_agents.simulation.observations import observe
from qtrap_agents.simulation.repeats import correlation_of, design_effect, fit_repeats
from qtrap_agents.store import ArmWriter, AttemptEvent, RunDirectory
from qtrap_agents.types import Completion, Trace

TRUTH = {
    "good": {"arith": Slip(0.01, 0.01), "program": Slip(0.02, 0.02)},
    "bad": {"arith": Slip(0.1, 0.1), "program": Slip(0.05, 0.3, {"times": 0.2})},
}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of both arms."""
    run = make_run(tmp_path_factory.mktemp("known"), tasks_of(["arith", "program"], (2, 4, 8), 150), TRUTH)
    for arm, slips in TRUTH.items():
        write_arm(run, arm, slips)
    return run


@pytest.fixture(scope="module")
def report(known: RunDirectory) -> FitReport:
    return fit_runs([known])


def test_the_truth_lies_in_the_intervals(report: FitReport) -> None:
    for arm in report.arms:
        for family in arm.families:
            slip = TRUTH[arm.arm][family.family]
            own, slipped = family.fitted.own, family.fitted.slipped
            truth = slip.right if not slip.by_kind else 0.8 * slip.right + 0.2 * slip.by_kind["times"]
            assert own.low < truth < own.high, (arm.arm, family.family)
            if arm.arm == "bad":
                assert slipped.low < slip.wrong * 1.05, (arm.arm, family.family)
                assert slipped.high > slip.wrong * 0.95, (arm.arm, family.family)


def test_fitted_rates_are_those_counted(report: FitReport) -> None:
    for arm in report.arms:
        for family in arm.families:
            interval = family.own_interval
            assert interval.low is not None
            assert interval.high is not None
            assert interval.low < family.fitted.own.value < interval.high
            rates = family.fitted
            assert rates.recovered.value + rates.inherited.value + rates.compounded.value == pytest.approx(1, abs=0.02)
            judged = family.wrong - family.unjudged
            if judged > 100:
                assert rates.recovered.low - 0.02 < family.recovered / judged < rates.recovered.high + 0.02


def test_terms_enter_where_the_truth_has_them(report: FitReport) -> None:
    kept = {arm.arm: {test.term for test in arm.tests if test.kept} for arm in report.arms}
    assert kept["bad"] == {"kind", "wrong_parents"}
    assert kept["good"] == {"wrong_parents"}, "which is always there"
    good = next(arm for arm in report.arms if arm.arm == "good")
    assert next(test.p for test in good.tests if test.term == "wrong_parents") > 0.001


def test_masks_are_those_of_the_family(report: FitReport) -> None:
    masks = report.model.masks
    assert masks["arith"].mean < 0.02
    assert masks["arith/plus/1/1"].mean < 0.005
    assert 0.2 < masks["program/min"].mean < 0.5
    assert masks["program"].n == sum(rate.n for key, rate in masks.items() if key.startswith("program/") and key.count("/") == 3)


def test_a_constant_hop_success_is_the_null_model(report: FitReport) -> None:
    good, bad = (report.model.arm(arm) for arm in ("good", "bad"))
    assert good.null_success["arith"] == pytest.approx(0.99, abs=0.005)
    assert bad.null_success["arith"] == pytest.approx(0.9, abs=0.02)
    constant = {arm.arm: arm.constant for arm in report.arms}
    assert constant["good"] is not None
    assert constant["good"].kept
    assert constant["bad"] is not None
    assert constant["bad"].term == CONSTANT


def test_recovery_makes_constant_hop_success_too_little(tmp_path: Path) -> None:
    run = make_run(tmp_path, tasks_of(["program"], (1, 4, 16), 300), ["a"])
    write_arm(run, "a", {"program": Slip(0.3, 0.3)})
    [arm] = fit_runs([run]).arms
    assert arm.constant is not None
    assert not arm.constant.kept
    assert arm.constant.df == 2


def test_an_arm_without_slips_is_wide_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, tasks_of(["arith"], (2, 4), 50), ["a"])
    write_arm(run, "a", {"arith": Slip(0.0, 0.0)})
    report = fit_runs([run])
    [family] = report.arms[0].families
    assert (family.hops, family.own, family.few, family.wrong) == (300, 0, True, 0)
    assert 1 / 300 < family.fitted.own.high < 15 / 300
    assert report.model.arm("a").few == ("arith",)
    assert "a: fewer than 5 slips in arith: these rates lean on the arm's other families" in report.notes
    assert (report.arms[0].constant, report.model.arm("a").null_success) == (None, {"arith": 1.0})


def test_a_model_draws_and_rates_families_it_knows(report: FitReport) -> None:
    rng = np.random.default_rng(0)
    drawn = [report.model.draw(rng).slip_logit("bad", "program", "times") for _ in range(200)]
    assert np.std(drawn) > 0.02
    assert report.model.point().mask("program", "min", 1, 1) == report.model.masks["program/min/1/1"].mean
    assert report.model.point().mask("arith", "never seen", 3, 2) == report.model.masks["arith"].mean


def test_covariates_may_be_named(known: RunDirectory) -> None:
    seen = observe([known])
    assert not any(name.startswith("kind") for name in fit(seen, ()).arm("bad").slips.terms)
    assert "position" in fit(seen, ("position",)).arm("good").slips.terms
    assert (parse_covariates("auto"), parse_covariates("none")) == (None, ())
    assert parse_covariates("kind, position") == ("position", "kind")
    with pytest.raises(ConfigError, match="--covariates: unknown covariate 'postion': did you mean 'position'"):
        parse_covariates("postion")


def test_only_some_arms(known: RunDirectory) -> None:
    report = fit_runs([known], ["bad"])
    assert (list(report.model.arms), report.model.baseline) == (["bad"], "bad")
    assert "the baseline good is not among the arms: bad stands in for it" in report.notes


def test_the_json_has_the_counts_behind_the_rates(report: FitReport) -> None:
    data = fit_json(report)
    family = data["arms"][1]["families"][0]
    assert family["hops"] == family["right"] + family["recovered"] + family["inherited"] + family["compounded"]
    assert ErrorModel.model_validate(data["model"]) == report.model


def test_faults_tell_what_wrong_parents_do(tmp_path: Path) -> None:
    tasks = tasks_of(["program"], (8,), 60)
    run = make_run(tmp_path, tasks, ["a"])
    write_arm(run, "a", {"program": Slip(0.0, 0.0)})
    write_faults(run, [(task, 1, int(task.premises[0].value) ^ 1) for task in tasks])
    without, given = (fit_runs([run], faults=faults) for faults in (False, True))
    assert (without.arms[0].families[0].wrong, given.arms[0].families[0].wrong > 100) == (0, True)
    assert given.model.masks["program"].n > 100
    narrow, wide = (report.arms[0].families[0].fitted.slipped for report in (given, without))
    assert narrow.high < wide.high
    assert any("hops after injected faults" in note for note in given.notes)


def observations(counts: ArmCounts, *more: ArmCounts) -> Observations:
    arms = {f"a{number}": found for number, found in enumerate((counts, *more))}
    return Observations(("run",), "a0", arms, {"f": FamilyCounts(kinds=Counter({"": 1}))})


def test_masks_weigh_less_where_arms_disagree() -> None:
    place = Place("f", "", 1, 1)
    alike = fit_masks(observations(ArmCounts(masks={place: Count(10, 100)}), ArmCounts(masks={place: Count(11, 100)})))["f/"]
    apart = fit_masks(observations(ArmCounts(masks={place: Count(1, 100)}), ArmCounts(masks={place: Count(40, 100)})))["f/"]
    assert alike.a + alike.b == pytest.approx(202)
    assert apart.a + apart.b < 10
    assert (apart.events, apart.n) == (41, 200)
    assert overdispersion([Count(0, 10), Count(0, 20)]) == overdispersion([Count(3, 10)]) == overdispersion([]) == 1.0


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
def test_the_correlation_of_repeated_draws_is_recovered(truth: float) -> None:
    rng = np.random.default_rng(3)
    size = (1 - truth) / truth
    rates = rng.beta(0.2 * size, 0.8 * size, size=3000)
    clusters = Counter(Cluster(5, int(slips)) for slips in rng.binomial(5, rates))
    assert correlation_of(clusters) == pytest.approx(truth, abs=0.06)


def test_few_repeated_slips_take_the_correlation_of_the_others() -> None:
    many = RepeatCounts(Counter({Cluster(3, 0): 900, Cluster(3, 3): 90, Cluster(3, 1): 10}), pairs=Count(200, 280))
    few = RepeatCounts(Counter({Cluster(3, 0): 500, Cluster(3, 1): 1}))
    found = fit_repeats({"a": {"f": many, "g": few}, "b": {"f": few}})
    assert found["a"]["f"].correlation > 0.8
    assert found["a"]["g"].correlation == pytest.approx(found["a"]["f"].correlation, abs=0.05)
    assert found["b"]["f"].correlation == pytest.approx(found["a"]["f"].correlation, abs=0.05)
    assert found["a"]["f"].agreement == pytest.approx(0.714, abs=0.01)
    nothing = fit_repeats({"b": {"f": few}})["b"]["f"]
    assert (nothing.correlation, nothing.hops) == (1.0, 501), "alike for want of evidence"


def test_repeated_draws_count_for_less() -> None:
    counts = RepeatCounts(plain=Counter({3: 100}))
    assert design_effect(counts, 1.0) == 3
    assert design_effect(counts, 0.5) == 2
    assert design_effect(RepeatCounts(plain=Counter({1: 100})), 0.9) == 1
    assert design_effect(RepeatCounts(), 0.9) == 1


def test_sampled_runs_are_not_counted_as_if_they_were_independent(tmp_path: Path) -> None:
    tasks = tasks_of(["arith"], (4,), 40)
    runs = [make_run(tmp_path / str(seed), tasks, ["a"], sampling={"temperature": 0.7, "seed": seed}) for seed in range(3)]
    for run in runs:
        write_arm(run, "a", {"arith": Slip(0.2, 0.2)})
    seen = observe(runs)
    model = fit(seen)
    cells = effective(seen.arms["a"], model.arm("a").repeats, model.arm("a").costs)
    worth = sum(hops for _, hops in cells.values())
    assert sum(count.n for count in seen.arms["a"].cells.values()) == pytest.approx(3 * worth, rel=0.02)
    assert fates(model, "a", "arith", cells, seen.arms["a"]).own.low < 0.2


def costly(trace: Trace) -> Trace:
    """Prompts that grow by 10 tokens a hop; a tenth of a second each, one after the other."""
    hops = tuple(
        hop.model_copy(
            update={
                "completion": Completion(text="1", prompt_tokens=20 + 10 * at, completion_tokens=3, latency_s=0.1),
                "started_at": 100.0 + 0.1 * at,
            }
        )
        for at, hop in enumerate(trace.hops)
    )
    return trace.model_copy(update={"hops": hops})


def test_costs_of_a_hop(tmp_path: Path) -> None:
    [task] = tasks_of(["arith"], (4,), 1)
    run = make_run(tmp_path, [task], ["a"])
    right = {gold.id: gold.value for gold in task.premises}
    with ArmWriter(run, "a") as writer:
        writer.event(AttemptEvent(attempt=1, event="ready", at=100.0))
        writer.trace(costly(replayed.chain(task, right, "a")))
        writer.event(AttemptEvent(attempt=1, event="end", at=100.4, wall_s=0.4, energy_j=8.0, meter="m"))
    cost = fit(observe([run])).arm("a").costs["arith"]
    assert (cost.hops, cost.completion_tokens) == (4, 3)
    assert [cost.prompt_tokens, cost.prompt_growth] == pytest.approx([20, 10])
    assert cost.latency_s == pytest.approx(0.1)
    assert cost.energy_j == pytest.approx(2.0)


def test_what_was_not_measured_is_none(report: FitReport) -> None:
    cost = report.model.arm("good").costs["arith"]
    assert (cost.energy_j, cost.latency_s, report.model.arm("good").weight_bytes) == (None, None, None)
    assert report.model.arm("good").checking is None


def test_a_checker_is_rated() -> None:
    seen = Checks(checked=30, faulty=10, detected=9, false_alarms=2)
    counts = ArmCounts(checks=seen, cells={Cell("f", "", 0.0, 1, 0, 0, 0): Count(1, 30)}, calls=60)
    checking = fit(observations(counts)).arm("a0").checking
    assert checking is not None
    assert checking.detection.mean == pytest.approx(9.5 / 11)
    assert checking.false_alarm.mean == pytest.approx(2.5 / 21)
