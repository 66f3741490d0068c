"""From windows to ratios and crossings: paired, with Student's t, and None where nothing was measured."""

import numpy as np
import pytest
from benched import READING, SPREAD, window, windows
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from qtrap_agents.analysis.serving import Crossing, Estimate, Serving, ServingCell, estimate, excludes_one, summarise
from qtrap_agents.errors import ConfigError

RATIOS = st.lists(st.floats(0.01, 100), min_size=2, max_size=12)


def cell(found: Serving, arm: str, concurrency: int = 1) -> ServingCell:
    """The one cell of an arm at a concurrency."""
    (only,) = (item for item in found.of(arm) if item.concurrency == concurrency)
    return only


def known(found: Estimate | None) -> Estimate:
    assert found is not None
    return found


@given(RATIOS, st.sampled_from([0.9, 0.95]))
def test_estimate_is_that_of_scipy_on_logarithms(values: list[float], confidence: float) -> None:
    found = known(estimate(values, confidence))
    assert (found.n, found.interval.confidence) == (len(values), confidence)
    assert found.value == pytest.approx(stats.gmean(values))
    assume(np.ptp(np.log(values)) > 1e-6)
    expected = stats.ttest_1samp(np.log(values), 0).confidence_interval(confidence)
    assert found.interval.low == pytest.approx(np.exp(expected.low))
    assert found.interval.high == pytest.approx(np.exp(expected.high))


@given(RATIOS)
def test_the_ratio_the_other_way_round_is_the_reciprocal(values: list[float]) -> None:
    one, other = known(estimate(values)), known(estimate([1 / value for value in values]))
    assert other.value == pytest.approx(1 / one.value)
    assert other.interval.low == pytest.approx(1 / (one.interval.high or 0))


def test_one_value_has_no_interval_and_none_no_estimate() -> None:
    alone = known(estimate([2.0]))
    assert alone.value == pytest.approx(2.0)
    assert (alone.n, alone.interval.low, alone.interval.high) == (1, None, None)
    assert not excludes_one(alone)
    assert estimate([]) is None
    assert estimate([2.0, None]) is None, "a repeat that was not measured makes the estimate one of other work"
    assert estimate([2.0, 0.0]) is None


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(2000):
        found = known(estimate(list(np.exp(rng.normal(0.3, 0.2, 4)))))
        hits += (found.interval.low or 0) <= np.exp(0.3) <= (found.interval.high or 0)
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_absolute_figures_of_a_cell() -> None:
    found = summarise(windows("fp16", {"awq": {4: [0.5, 0.5]}}, watts={"fp16": 300.0, "awq": 400.0}), "fp16")
    awq, base = cell(found, "awq", 4), cell(found, "fp16", 4)
    assert base.output_tokens_per_s.value == pytest.approx(320)
    assert awq.output_tokens_per_s.value == pytest.approx(640)
    assert base.request_s.value == pytest.approx(0.1), "ten rounds in a second"
    assert known(awq.power_w).value == pytest.approx(400)
    assert known(base.energy_per_token_j).value == pytest.approx(300 / 320)
    assert awq.place == (16, 8, 4)


def test_ratios_to_the_baseline() -> None:
    found = summarise(windows("fp16", {"awq": {1: [0.5, 0.5]}}, watts={"fp16": 300.0, "awq": 450.0}), "fp16")
    awq, base = cell(found, "awq"), cell(found, "fp16")
    assert (base.time, base.energy, base.tdp, base.cor_latency, base.throughput) == (None,) * 5
    assert known(awq.time).value == pytest.approx(0.5)
    assert awq.cor_latency == pytest.approx(-0.5)
    assert awq.throughput == pytest.approx(2)
    assert known(awq.energy).value == pytest.approx(0.75)
    assert known(awq.tdp).value == pytest.approx(0.5), "power limit × time sees the time only"


def test_ratios_are_paired_within_a_repeat() -> None:
    drift = [1.0, 1.7, 0.6, 1.3]
    found = summarise(
        [window("fp16", repeat=n, wall_s=wall) for n, wall in enumerate(drift)]
        + [window("awq", repeat=n, wall_s=0.8 * wall) for n, wall in enumerate(drift)],
        "fp16",
    )
    time = known(cell(found, "awq").time)
    assert (time.value, time.interval.low, time.interval.high, time.n) == pytest.approx((0.8, 0.8, 0.8, 4))
    rate = cell(found, "awq").output_tokens_per_s.interval
    assert (rate.high or 0) / (rate.low or 1) > 2


def test_a_repeat_without_its_baseline_is_left_out_of_the_ratio() -> None:
    stored = [window("fp16", repeat=0), window("awq", repeat=0, wall_s=2.0), window("awq", repeat=1, wall_s=50.0)]
    found = cell(summarise(stored, "fp16"), "awq")
    assert known(found.time).value == pytest.approx(2.0)
    assert (known(found.time).n, found.output_tokens_per_s.n) == (1, 2)
    alone = cell(summarise([window("fp16"), window("awq", concurrency=4)], "fp16"), "awq", 4)
    assert (alone.time, alone.cor_latency, alone.throughput) == (None, None, None)


def test_a_window_that_was_measured_again_counts_once() -> None:
    first = windows("fp16", {"awq": {1: [9.0, 0.5]}})
    again = window("awq", repeat=0, wall_s=0.5)
    assert summarise([*first, again], "fp16") == summarise(windows("fp16", {"awq": {1: [0.5, 0.5]}}), "fp16")
    assert summarise([*first, *first], "fp16") == summarise(first, "fp16")


def test_the_order_of_lines_does_not_matter() -> None:
    stored = windows("fp16", {"awq": {1: [0.5, 0.6], 4: [1.5, 1.4]}, "gptq": {1: [0.7, 0.7], 4: [0.9, 0.9]}})
    shuffled = sorted(stored, key=lambda item: (item.arm != "fp16", item.arm, -item.repeat, -item.concurrency))
    assert summarise(shuffled, "fp16") == summarise(stored, "fp16")


def test_energy_that_one_repeat_lacks_is_not_measured() -> None:
    stored = windows("fp16", {"awq": {1: [0.5, 0.5]}}, watts={"fp16": 300.0, "awq": 300.0})
    for missing in ("fp16", "awq"):
        broken = [
            item.model_copy(update={"energy_j": None}) if (item.arm, item.repeat) == (missing, 1) else item for item in stored
        ]
        found = summarise(broken, "fp16")
        assert (cell(found, "awq").energy, cell(found, missing).energy_per_token_j, cell(found, missing).power_w) == (None,) * 3
        assert cell(found, "awq").time is not None
        assert cell(found, "awq").tdp is not None


def test_without_a_meter_only_times_are_there() -> None:
    found = cell(summarise(windows("fp16", {"awq": {1: [0.5]}}), "fp16"), "awq")
    assert (found.energy, found.energy_per_token_j, found.power_w, found.tdp) == (None,) * 4
    assert found.time is not None


def test_arms_and_places_in_order_and_errors_added() -> None:
    stored = [
        window("awq", 4, repeat=0, errors=2),
        window("awq", 4, repeat=1, errors=3, ttft=SPREAD, inter_token=SPREAD, last=READING),
        window("fp16", 4),
        window("fp16", 1),
        window("fp16", 64, prompt_tokens=8),
    ]
    found = summarise(stored, "fp16")
    assert found.arms == ("fp16", "awq")
    assert [(item.prompt_tokens, item.concurrency, item.arm) for item in found.cells] == [
        (8, 64, "fp16"),
        (16, 1, "fp16"),
        (16, 4, "fp16"),
        (16, 4, "awq"),
    ]
    assert (cell(found, "awq", 4).errors, cell(found, "awq", 4).ttft, cell(found, "awq", 4).inter_token) == (5, SPREAD, SPREAD)


def test_a_baseline_that_was_not_measured_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^unknown baseline arm 'pf16': did you mean 'fp16'\?$"):
        summarise([window("fp16")], "pf16")
    with pytest.raises(ConfigError, match="known: none"):
        summarise([], "fp16")


def crossings(*ratios: tuple[int, list[float]], watts: dict[str, float] | None = None) -> tuple[Crossing, ...]:
    """Those of an arm with such time ratios."""
    return summarise(windows("fp16", {"awq": dict(ratios)}, watts), "fp16").crossings


def test_where_an_arm_stops_paying_is_interpolated_on_a_logarithmic_scale() -> None:
    (found,) = crossings((1, [0.5, 0.5]), (16, [2.0, 2.0]))
    assert (found.arm, found.quantity, found.below, found.above, found.stops) == ("awq", "time", 1, 16, True)
    assert found.concurrency == pytest.approx(4)
    assert found.certain


def test_where_an_arm_starts_paying() -> None:
    (found,) = crossings((4, [2.0, 2.0]), (64, [0.25, 0.25]))
    assert not found.stops
    assert found.concurrency == pytest.approx(4 * 16 ** (1 / 3))


def test_several_crossings_of_one_arm_and_each_prompt_length_for_itself() -> None:
    found = crossings((1, [0.5]), (4, [2.0]), (16, [0.5]), (64, [0.4]))
    assert [(item.below, item.above, item.stops) for item in found] == [(1, 4, True), (4, 16, False)]
    stored = windows("fp16", {"awq": {1: [0.5]}}) + [
        item.model_copy(update={"prompt_tokens": 1024}) for item in windows("fp16", {"awq": {4: [2.0]}})
    ]
    assert not summarise(stored, "fp16").crossings


def test_time_and_energy_cross_for_themselves() -> None:
    watts = {"fp16": 300.0, "awq": 600.0}
    found = crossings((1, [0.25, 0.25]), (4, [0.75, 0.75]), (16, [1.5, 1.5]), watts=watts)
    assert [(item.quantity, item.below, item.above) for item in found] == [("energy", 1, 4), ("time", 4, 16)]


@pytest.mark.parametrize(
    ("left", "right", "certain"),
    [
        ([0.5, 0.51, 0.49], [2.0, 2.1, 1.9], True),
        ([0.5, 0.51, 0.49], [3.0, 0.5, 2.0], False),
        ([0.5, 1.9, 0.6], [2.0, 2.1, 1.9], False),
        ([0.5], [2.0], False),
    ],
)
def test_a_crossing_is_certain_where_both_intervals_exclude_one(left: list[float], right: list[float], certain: bool) -> None:
    (found,) = crossings((1, left), (4, right))
    assert found.certain == certain


@pytest.mark.parametrize("ratios", [([0.5], [0.9]), ([1.5], [1.1]), ([1.0], [1.5])])
def test_no_crossing_where_both_ends_are_on_one_side(ratios: tuple[list[float], list[float]]) -> None:
    assert crossings((1, ratios[0]), (4, ratios[1])) == ()


def test_an_arm_that_just_breaks_even_crosses_there() -> None:
    (found,) = crossings((1, [0.5]), (4, [1.0]))
    assert found.concurrency == pytest.approx(4)
    assert not found.certain


@given(st.floats(0.05, 0.95), st.floats(1.05, 20), st.booleans())
def test_a_crossing_lies_between_its_ends(low: float, high: float, stops: bool) -> None:
    (found,) = crossings((2, [low if stops else high]), (128, [high if stops else low]))
    assert 2 < found.concurrency < 128
    assert found.stops == stops
