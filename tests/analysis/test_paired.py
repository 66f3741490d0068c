import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from qtrap_agents.analysis.paired import (
    Cluster,
    PairedCounts,
    PairedSample,
    bootstrap_interval,
    exact_mcnemar,
    further_tasks_needed,
    mcnemar_unit,
    paired_difference,
    paired_p,
    score_interval,
    verdict,
)
from qtrap_agents.analysis.statistics import Interval

COUNTS = st.integers(0, 60)


def pairs(both_right: int, lost: int, gained: int, both_wrong: int) -> PairedSample:
    """Independent pairs."""
    return PairedSample.independent(PairedCounts(both_right=both_right, lost=lost, gained=gained, both_wrong=both_wrong))


def tasks(*outcomes: str) -> PairedSample:
    """One word a task, one letter a pair: l(ost), g(ained), r(ight both), w(rong both)."""
    answers = {"l": (True, False), "g": (False, True), "r": (True, True), "w": (False, False)}
    return PairedSample.of((f"t{index}", *answers[letter]) for index, word in enumerate(outcomes) for letter in word)


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def judged(sample: PairedSample, margin: float = 0.02) -> str:
    return verdict(paired_difference(sample).interval, margin)


@given(lost=COUNTS, gained=COUNTS)
def test_mcnemar_is_a_two_sided_binomial_test(lost: int, gained: int) -> None:
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(min(lost, gained) + 1)) / 2**n
    assert exact_mcnemar(lost, gained) == pytest.approx(min(1.0, 2 * tail))


def test_score_interval_against_a_published_value() -> None:
    # airway hyper-responsiveness, Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850, Tango interval
    sample = pairs(1, 7, 1, 12)
    assert sample.counts.difference == pytest.approx(-0.286, abs=5e-4)
    assert ends(score_interval(sample)) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("n", [1, 10, 188, 1000])
def test_an_interval_without_discordant_pairs_keeps_its_width(n: int) -> None:
    z2 = 1.959964**2
    found = paired_difference(pairs(n, 0, 0, 0))
    assert found.bootstrap is None
    assert ends(found.interval) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), rel=1e-5)


def test_an_interval_without_pairs_says_nothing() -> None:
    found = paired_difference(pairs(0, 0, 0, 0))
    assert (ends(found.interval), found.bootstrap, found.design_effect) == ((-1.0, 1.0), None, 1.0)


@given(both_right=COUNTS, lost=COUNTS, gained=COUNTS, both_wrong=COUNTS)
def test_score_interval_holds_the_estimate_and_mirrors(both_right: int, lost: int, gained: int, both_wrong: int) -> None:
    sample = pairs(both_right, lost, gained, both_wrong)
    low, high = ends(score_interval(sample))
    assert -1 <= low < high <= 1
    assert low - 1e-9 <= (sample.counts.difference or 0.0) <= high + 1e-9
    mirrored = ends(score_interval(pairs(both_right, gained, lost, both_wrong)))
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


def test_score_interval_ends_solve_the_score_equation() -> None:
    """The nuisance parameter of the score found numerically instead of in closed form."""
    n, lost, gained = 80, 9, 3

    def score(delta: float) -> float:
        def negative(log_lost: float) -> float:
            p_lost = math.exp(log_lost)
            p_gained, rest = p_lost + delta, 1 - 2 * p_lost - delta
            if p_gained <= 0 or rest <= 0:
                return 1e9
            return -(lost * math.log(p_lost) + gained * math.log(p_gained) + (n - lost - gained) * math.log(rest))

        bounds = math.log(max(1e-12, -delta)) + 1e-9, math.log((1 - delta) / 2) - 1e-9
        p_lost = math.exp(float(minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x))
        return (gained - lost - n * delta) / math.sqrt(n * (2 * p_lost + delta - delta**2))

    low, high = ends(score_interval(pairs(40, lost, gained, 28)))
    assert score(low) == pytest.approx(1.96, abs=1e-3)
    assert score(high) == pytest.approx(-1.96, abs=1e-3)


@given(st.lists(st.sampled_from(["l", "g", "r", "w", "lr", "lll", "lg", "rrr", "ggw"]), min_size=1, max_size=60))
def test_the_verdict_is_read_from_the_wider_end_of_both_intervals(words: list[str]) -> None:
    found = paired_difference(tasks(*words))
    known = [ends(interval) for interval in (found.score, found.bootstrap) if interval is not None]
    assert ends(found.interval) == (min(low for low, _ in known), max(high for _, high in known))


def test_pairs_are_counted_by_task() -> None:
    sample = tasks("lrr", "rrr", "lrr", "g")
    assert sample.counts == PairedCounts(both_right=7, lost=2, gained=1, both_wrong=0)
    assert sample.clusters == {Cluster(1, 0, 3): 2, Cluster(0, 0, 3): 1, Cluster(0, 1, 1): 1}
    assert (sample.tasks, sample.repeated) == (4, True)
    assert not tasks("l", "g", "r").repeated


def test_independent_pairs_are_tasks_with_one_pair() -> None:
    one_each = tasks(*"lllggrrrrrww")
    independent = PairedSample.independent(one_each.counts)
    assert independent.clusters == one_each.clusters
    assert independent.design_effect == 1.0
    assert paired_difference(independent) == paired_difference(one_each)


def test_repeated_answers_that_never_differ_weigh_as_one() -> None:
    once, thrice = tasks(*"llgrrrrrrrrrrrrr"), tasks(*(3 * letter for letter in "llgrrrrrrrrrrrrr"))
    assert thrice.design_effect == 3.0
    assert ends(score_interval(thrice)) == pytest.approx(ends(score_interval(once)))
    assert ends(bootstrap_interval(thrice)) == pytest.approx(ends(bootstrap_interval(once)))
    assert (paired_p(thrice), mcnemar_unit(thrice)) == (paired_p(once), "tasks")
    assert further_tasks_needed(thrice) == further_tasks_needed(once)


def test_without_a_discordant_pair_only_tasks_count() -> None:
    assert tasks(*["rrr"] * 50).design_effect == 3.0
    assert ends(score_interval(tasks(*["rrr"] * 50))) == pytest.approx(ends(score_interval(tasks(*["r"] * 50))))


def test_pairs_that_differ_within_tasks_as_much_as_between_them_are_nearly_independent() -> None:
    words = np.random.default_rng(3).choice(list("lgrrrrrrrr"), size=(2_000, 3))
    assert tasks(*("".join(word) for word in words)).design_effect == pytest.approx(1.0, abs=0.08)


def test_design_effect_against_the_variance_between_clusters() -> None:
    """The estimate of the variance of a mean by clusters of one size, from numpy."""
    words = ["lll", "llr", "rrr", "rgr", "rrr", "ggr", "rrw", "rrr", "lrr", "rrr"]
    sums = np.array([word.count("g") - word.count("l") for word in words])
    values = np.array([{"g": 1, "l": -1}.get(letter, 0) for word in words for letter in word])
    expected = (sums.var(ddof=1) / 10 / 9) / (values.var() / 30)
    assert tasks(*words).design_effect == pytest.approx(expected)


def test_mcnemar_counts_tasks_where_they_repeat() -> None:
    sample = tasks("lll", "llg", "lg", "gr", "rrr", *["lrr"] * 6)
    assert mcnemar_unit(sample) == "tasks"
    assert paired_p(sample) == exact_mcnemar(8, 1)
    single = tasks(*"llllllgr")
    assert (mcnemar_unit(single), paired_p(single)) == ("pairs", exact_mcnemar(6, 1))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.019, 0.03, "safe"),
        (-0.02, 0.03, "undecided"),
        (-0.03, -0.01, "undecided"),
        (-0.05, -0.02, "undecided"),
        (-0.05, -0.021, "danger"),
        (0.01, 0.02, "safe"),
        (None, None, "undecided"),
    ],
)
def test_verdict_follows_the_ends(low: float | None, high: float | None, expected: str) -> None:
    assert verdict(Interval(low=low, high=high)) == expected


def test_verdict_with_another_margin() -> None:
    assert verdict(Interval(low=-0.04, high=0.0), margin=0.05) == "safe"


def test_further_tasks_are_unknown_without_pairs_and_at_the_margin() -> None:
    assert further_tasks_needed(pairs(0, 0, 0, 0)) is None
    assert further_tasks_needed(pairs(97, 2, 0, 1)) is None


def share_decided(samples: Iterable[PairedSample]) -> float:
    found = [judged(sample) != "undecided" for sample in samples]
    return sum(found) / len(found)


@pytest.mark.parametrize("rates", [(0.945, 0.02, 0.03, 0.005), (0.85, 0.09, 0.03, 0.03)])
def test_further_tasks_decide_as_often_as_promised(rates: tuple[float, ...]) -> None:
    """Counts at the true rates ask for N tasks; samples of N tasks reach the verdict in about 80 % of the draws."""
    start = pairs(*(round(200 * rate) for rate in rates))
    rates = tuple(count / start.counts.n for count in start.counts.model_dump().values())
    further = further_tasks_needed(start)
    assert further is not None
    assert further > 0
    draws = np.random.default_rng(1).multinomial(start.tasks + further, rates, size=300)
    assert 0.7 < share_decided(pairs(*map(int, draw)) for draw in draws) < 0.9


def test_further_tasks_of_repeated_answers_decide_as_often_as_promised() -> None:
    """The same where every task has three answers, half of the tasks with three alike."""
    start = ["lll"] * 6 + ["lrr"] * 6 + ["ggg"] * 1 + ["rrr"] * 87
    further = further_tasks_needed(tasks(*start))
    assert further is not None
    assert further > 0
    draws = np.random.default_rng(1).choice(start, size=(200, len(start) + further))
    assert 0.7 < share_decided(tasks(*draw) for draw in draws) < 0.9
