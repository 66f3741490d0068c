"""The logit model of slips against known rates, statsmodels, and closed forms; few slips, no slips, nothing but slips."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM

from qtrap_agents.simulation.counts import Cell
from qtrap_agents.simulation.model import ArmModel, ErrorModel, Family, Slips
from qtrap_agents.simulation.selection import select
from qtrap_agents.simulation.slips import TERMS, Counts, design_rows, fit_slips, group_of, grouped, terms_of, wrong_slopes


def cell(family: str = "f", kind: str = "", temperature: float = 0.0, position: int = 1, wrong: int = 0, before: int = 0) -> Cell:
    return Cell(family, kind, temperature, position, 1, wrong, before)


def interval(slips: Slips, one: Cell) -> tuple[float, float, float]:
    """Low end, median and high end of the rate of a cell."""
    row = design_rows([group_of(one, terms_of(slips))], slips)[0]
    middle = float(row @ np.array(slips.mean))
    spread = 1.96 * math.sqrt(row @ np.array(slips.covariance) @ row)
    return float(expit(middle - spread)), float(expit(middle)), float(expit(middle + spread))


def test_many_slips_are_fitted_to_the_counted_rate() -> None:
    counts: Counts = {cell("f"): (3000.0, 10_000.0), cell("g"): (20.0, 10_000.0)}
    slips = fit_slips(counts, ())
    for one, (number, hops) in counts.items():
        low, middle, high = interval(slips, one)
        assert middle == pytest.approx(number / hops, rel=0.05)
        assert low < number / hops < high
    assert (high - low) == pytest.approx(2 * 1.96 * math.sqrt(20) / 10_000, rel=0.2), "as wide as a binomial interval"


@pytest.mark.parametrize("hops", [100, 1_000, 100_000])
def test_no_slip_reaches_to_a_few_per_hops(hops: int) -> None:
    low, _, high = interval(fit_slips({cell(): (0.0, float(hops))}, ()), cell())
    assert 0 < low < 1 / hops
    assert 1 / hops <= high <= 15 / hops


def test_nothing_but_slips_and_no_hop_at_all_are_no_error() -> None:
    low, _, high = interval(fit_slips({cell(): (50.0, 50.0)}, ()), cell())
    assert 0.8 < low < high < 1
    low, _, high = interval(fit_slips({cell(): (0.0, 0.0)}, TERMS), cell())
    assert low < 0.001
    assert high > 0.3


def test_a_family_without_slips_leans_on_the_others_and_stays_wide() -> None:
    many: Counts = {cell(name): (number, 1000.0) for name, number in zip("abcde", (5.0, 20.0, 50.0, 100.0, 200.0), strict=True)}
    slips = fit_slips({**many, cell("z"): (0.0, 30.0)}, ())
    low, middle, high = interval(slips, cell("z"))
    assert 0.001 < middle < 0.05
    assert low < 0.01
    assert high > 0.05
    assert interval(fit_slips({**many, cell("z"): (0.0, 3000.0)}, ()), cell("z"))[2] < 0.01
    alike: Counts = {cell(name): (50.0, 1000.0) for name in "abcde"}
    assert interval(fit_slips({**alike, cell("z"): (0.0, 30.0)}, ()), cell("z"))[0] > low, "families that are alike tell more"


def test_kinds_are_pooled_within_their_family() -> None:
    counts: Counts = {cell("f", kind): (100.0, 1000.0) for kind in "abc"} | {
        cell("f", "d"): (0.0, 3.0),
        cell("g", "x"): (5.0, 900.0),
    }
    slips = fit_slips(counts, ["kind"])
    assert "kind:f/d" in slips.terms
    assert not any(name.startswith("kind:g/") for name in slips.terms), "one kind is the family"
    assert 0.05 < interval(slips, cell("f", "d"))[1] < 0.12


def test_a_slope_is_recovered_and_a_missing_one_is_shrunk() -> None:
    rng = np.random.default_rng(0)
    counts: dict[Cell, tuple[float, float]] = {}
    for family in "fgh":
        for position in (1, 2, 4, 8, 16):
            rate = expit(-4 + 0.6 * math.log2(position))
            counts[cell(family, position=position)] = (float(rng.binomial(4000, rate)), 4000.0)
    slips = fit_slips(counts, ["position"])
    row = slips.terms.index("position")
    assert slips.mean[row] == pytest.approx(0.6, abs=0.25)
    _, at_16, _ = interval(slips, cell("f", position=16))
    assert at_16 == pytest.approx(expit(-4 + 2.4), rel=0.1)
    few = fit_slips({cell(position=1): (0.0, 10.0), cell(position=8): (1.0, 10.0)}, ["position"])
    assert abs(few.mean[few.terms.index("position")]) < 0.5


def test_covariates_are_of_hops_on_right_parents() -> None:
    terms = frozenset({"position", "errors_before", "wrong_parents"})
    assert group_of(cell(position=8, before=3), terms).values == (3.0, 0.0, 2.0)
    assert group_of(cell(position=8, before=3, wrong=1), terms).values == (0.0, 1.0, 0.0)
    assert "wrong_parents" in fit_slips({cell(): (1.0, 10.0), cell(wrong=1): (1.0, 10.0)}, ["position"]).terms


def test_other_arms_are_the_prior_of_wrong_parents() -> None:
    counts: Counts = {cell("f"): (10.0, 1000.0), cell("f", wrong=1): (0.0, 2.0), cell("g"): (10.0, 1000.0)}
    alone, led = fit_slips(counts, ["wrong_parents"]), fit_slips(counts, ["wrong_parents"], {"f": 3.0, "g": 3.0})
    assert wrong_slopes(led)["f"][0] > wrong_slopes(alone)["f"][0] + 1
    assert wrong_slopes(led)["g"][0] == pytest.approx(3.0, abs=0.5), "a family without such hops is as elsewhere"
    sure: Counts = {**counts, cell("f", wrong=1): (20.0, 2000.0)}
    assert wrong_slopes(fit_slips(sure, ["wrong_parents"], {"f": 3.0}))["f"][0] == pytest.approx(0.0, abs=0.7)


def test_a_temperature_starts_from_its_greedy_family() -> None:
    counts: Counts = {cell("f"): (500.0, 1000.0), cell("f", temperature=0.7): (1.0, 1.0), cell("g"): (5.0, 1000.0)}
    slips = fit_slips(counts, ["temperature"])
    assert 0.3 < interval(slips, cell("f", temperature=0.7))[1] < 0.85
    assert "family:f@0.7" in slips.terms
    assert interval(fit_slips(counts, ()), cell("f", temperature=0.7)) == interval(fit_slips(counts, ()), cell("f"))


def test_the_design_is_what_the_simulator_adds_up() -> None:
    counts: Counts = {
        cell(family, kind, temperature, position, wrong): (3.0 + position, 100.0)
        for family in "fg"
        for kind in "ab"
        for temperature in (0.0, 0.7)
        for position in (1, 8)
        for wrong in (0, 1)
    }
    slips = fit_slips(counts, ["kind", "temperature", "position", "wrong_parents"])
    hop = Family(kinds={"a": 1.0}, mean_parents=1.0, rules=True, depths=(8,))
    arm = ArmModel(slips=slips, hops={}, observed={})
    rates = ErrorModel(made_by="", baseline="x", families={"f": hop, "g": hop}, arms={"x": arm}, masks={}, luck={}).point()
    rows = design_rows([group_of(one, terms_of(slips)) for one in counts], slips) @ np.array(slips.mean)
    for one, found in zip(counts, rows, strict=True):
        expected = rates.slip_logit("x", one.family, "" if one.wrong else one.kind, one.temperature)
        expected += rates.slope("x", "wrong_parents", one.family) if one.wrong else 0.0
        expected += 0.0 if one.wrong else rates.slope("x", "position", one.family) * math.log2(one.position)
        assert found == pytest.approx(expected)


def reference(counts: Counts, slopes: bool) -> float:
    """Log-likelihood by statsmodels with free families, and a slope over positions in each."""
    groups = grouped(counts, ["position"])
    names = sorted({group.family for group in groups})
    columns = [[float(group.family == name) for group in groups] for name in names]
    if slopes:
        columns += [[group.values[0] * (group.family == name) for group in groups] for name in names]
    slips, hops = np.array(list(groups.values())).T
    rates = GLM(np.column_stack([slips, hops - slips]), np.array(columns).T, family=Binomial()).fit().mu
    return float(slips @ np.log(rates) + (hops - slips) @ np.log1p(-rates))


def test_the_likelihood_ratio_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(1)
    counts: Counts = {
        cell(family, position=position): (float(rng.binomial(500, 0.05 * position**0.3)), 500.0)
        for family in "fg"
        for position in (1, 2, 3, 4, 8)
    }
    [test] = [test for test in select(counts, ["position"]).tests if test.term == "position"]
    assert test.statistic == pytest.approx(2 * (reference(counts, True) - reference(counts, False)), abs=1e-3)
    assert test.df == 2


def test_the_ratio_of_kinds_is_the_closed_form() -> None:
    counts: Counts = {cell("f", kind): (number, 100.0) for kind, number in (("a", 10.0), ("b", 20.0), ("c", 30.0))}
    [test] = select(counts, ["kind"]).tests
    expected = sum(
        number * math.log(number / 20) + (100 - number) * math.log((100 - number) / 80) for number, _ in counts.values()
    )
    assert test.statistic == pytest.approx(2 * expected, abs=1e-3)
    assert test.df == 2


def test_a_covariate_that_separates_slips_from_the_rest_is_found() -> None:
    """All slips on wrong parents: the best slope is infinite, where reweighted least squares break down."""
    counts: Counts = {cell("f"): (0.0, 9000.0), cell("f", wrong=1): (40.0, 100.0), cell("g"): (9.0, 900.0)}
    chosen = select(counts, TERMS)
    assert chosen.terms == ("wrong_parents",)
    assert all(math.isfinite(value) for value in fit_slips(counts, chosen.terms).mean)


def test_terms_enter_only_where_they_are_asked_for() -> None:
    flat: Counts = {cell(family, kind, 0.0, position): (5.0, 500.0) for family in "fg" for kind in "ab" for position in (1, 2, 4)}
    chosen = select(flat, TERMS)
    assert chosen.terms == ()
    assert {test.term for test in chosen.tests} == {"position", "kind"}, "what does not vary is not tested"
    assert all(test.p_holm == 1.0 and not test.kept for test in chosen.tests)


def test_without_a_slip_there_is_nothing_to_test() -> None:
    chosen = select({cell("f", kind): (0.0, 100.0) for kind in "ab"}, TERMS)
    assert chosen == ((), ())


def test_a_term_that_another_explains_is_not_taken() -> None:
    """Wrong parents come late in a chain: position alone looks like a cause."""
    rng = np.random.default_rng(2)
    counts: dict[Cell, tuple[float, float]] = {}
    for position, wrong_hops in ((1, 0), (2, 100), (4, 300), (8, 600)):
        for wrong, hops in ((0, 1000), (1, wrong_hops)):
            rate = expit(logit(0.02) + 2.5 * wrong)
            counts[cell(position=position, wrong=wrong)] = (float(rng.binomial(hops, rate)), float(hops))
    assert select(counts, TERMS).terms == ("wrong_parents",)
