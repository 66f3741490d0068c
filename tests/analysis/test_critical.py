"""Critical scale and batch: constants that made the windows come back, and each form tells where it does not hold."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import statsmodels.api as sm

from qtrap_agents.analysis.critical import (
    FORMS,
    CriticalFit,
    Form,
    StepPoint,
    Weighed,
    fit_critical,
    size_crossings,
    step_points,
)
from qtrap_agents.analysis.serving import summarise
from qtrap_agents.measures import Spread, Window

PHI_S, RATE = 1e-3, 1 / 1e12
"""Casting of a step in seconds, and α / B_W in seconds per byte."""

SMALL, LARGE = Weighed(1_000_000_000, 16, 4), Weighed(8_000_000_000, 16, 4)


def spread(value: float) -> Spread:
    return Spread(n=1, mean=value, p50=value, p90=value, p99=value)


def window(arm: str, batch: int, step_s: float, repeat: int = 0, told: bool = True) -> Window:
    return Window(
        arm=arm, concurrency=batch, prompt_tokens=64, new_tokens=10, repeat=repeat, position=0, begun_at=0.0,
        wall_s=10 * step_s, requests=batch, output_tokens=10 * batch, inter_token=spread(step_s) if told else None,
    )  # fmt: skip


def saved_s(form: Form, batch: int, weights: Weighed) -> float:
    saving, casting = FORMS[form]
    return RATE * weights.saved_bytes * float(batch) ** saving - PHI_S * float(batch) ** casting


def made_by(form: Form, sizes: Iterable[Weighed], noise: Callable[[], float] = lambda: 0.0, repeats: int = 1) -> list[StepPoint]:
    return [
        StepPoint(batch, weights, saved_s(form, batch, weights) + noise())
        for weights in sizes
        for batch in (1, 4, 16)
        for _ in range(repeats)
    ]


def fitted(points: list[StepPoint], form: Form) -> CriticalFit:
    return next(fit for fit in fit_critical("awq", points) if fit.form == form)


@pytest.mark.parametrize("form", FORMS)
def test_the_constants_come_back(form: Form) -> None:
    fit = fitted(made_by(form, (SMALL, LARGE)), form)
    assert fit.phi_s is not None
    assert fit.seconds_per_byte is not None
    assert fit.phi_s.value == pytest.approx(PHI_S)
    assert fit.seconds_per_byte.value == pytest.approx(RATE)
    assert fit.r2 == pytest.approx(1)
    assert (fit.n, fit.batches, fit.sizes, fit.saved_bits) == (6, 3, 2, 12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 8])
def test_at_the_critical_scale_nothing_is_saved(form: Form, batch: int) -> None:
    """φ·B_W/α = 1e-3 s · 1e12 B/s = 1e9 B, at 12 bits of 8 a byte: 2/3 of a billion weights at batch 1."""
    found = fitted(made_by(form, (SMALL, LARGE)), form).critical_parameters(batch)
    assert found is not None
    if batch == 1:
        assert found.value == pytest.approx(1e9 * 8 / 12)
    assert saved_s(form, batch, Weighed(round(found.value), 16, 4)) == pytest.approx(0, abs=1e-9)


def test_printed_and_consistent_form_disagree_on_what_the_batch_does() -> None:
    scales = {form: fitted(made_by(form, (SMALL, LARGE)), form).critical_parameters(16) for form in FORMS}
    values = {form: figure.value for form, figure in scales.items() if figure}
    assert values["printed"] == pytest.approx(16 * values["once"])
    assert values["consistent"] == pytest.approx(values["once"] / 16)


@pytest.mark.parametrize(("form", "pays"), [("printed", "below"), ("consistent", "above")])
def test_the_critical_batch_divides_where_the_arm_pays(form: Form, pays: str) -> None:
    weights = Weighed(100_000_000, 16, 4) if form == "consistent" else LARGE
    fit = fitted(made_by(form, (weights,)), form)
    found = fit.critical_batch(weights.parameters)
    assert found is not None
    assert found.value == pytest.approx(1e9 / weights.saved_bytes if pays == "above" else weights.saved_bytes / 1e9)
    assert fit.pays == pays
    above = saved_s(form, 2 * round(found.value), weights) > 0
    assert above == (pays == "above")


def test_without_the_batch_there_is_no_critical_batch() -> None:
    fit = fitted(made_by("once", (SMALL, LARGE)), "once")
    assert (fit.critical_batch(1e9), fit.pays) == (None, None)


def test_one_size_tells_which_form_contradicts_the_measurements() -> None:
    """The saving falls with the batch: the printed form holds, the consistent one would need negative constants."""
    points = made_by("printed", (LARGE,))
    printed, consistent, once = (fitted(points, form) for form in FORMS)
    assert printed.reason is None
    assert consistent.reason is not None
    assert "opposite sign" in consistent.reason
    assert consistent.critical_parameters(1) is None
    assert consistent.critical_batch(1e9) is None
    assert once.reason is not None
    assert "needs two model sizes" in once.reason


def test_an_arm_that_pays_no_casting_has_no_critical_point() -> None:
    points = [StepPoint(batch, weights, RATE * weights.saved_bytes + 1e-4) for weights in (SMALL, LARGE) for batch in (1, 4)]
    fit = fitted(points, "once")
    assert fit.reason == "no critical point: the arm never pays casting cost (φ ≤ 0)"
    assert fit.phi_s is not None
    assert fit.phi_s.value == pytest.approx(-1e-4)
    assert fit.critical_parameters(1) is None


def test_an_arm_that_saves_nothing_has_no_critical_point() -> None:
    points = [StepPoint(batch, weights, -PHI_S - RATE * weights.saved_bytes) for weights in (SMALL, LARGE) for batch in (1, 4)]
    reason = fitted(points, "once").reason
    assert reason is not None
    assert "saves no time" in reason


def test_two_points_are_too_few() -> None:
    points = made_by("consistent", (SMALL,))[:2]
    assert {fit.reason for fit in fit_critical("awq", points)} == {"cannot be fitted: 2 points for two unknowns and their spread"}


def test_as_many_bits_as_the_baseline_cannot_be_fitted() -> None:
    points = [StepPoint(batch, Weighed(10**9, 16, 16), 0.1 * batch) for batch in (1, 2, 3)]
    assert all("no fewer bits" in (fit.reason or "") for fit in fit_critical("copy", points))


def test_points_of_different_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="same bits"):
        fit_critical("awq", [StepPoint(1, SMALL, 0.1), StepPoint(1, Weighed(10**9, 16, 8), 0.1)])


def test_nineteen_in_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(5)
    truth, held = 1e9 * 8 / 12, 0
    for _ in range(200):
        points = made_by("consistent", (SMALL, LARGE), lambda: float(rng.normal(0, 1e-3)), repeats=3)
        found = fitted(points, "consistent").critical_parameters(1)
        held += found is None or found.ends[0] <= truth <= found.ends[1]
    assert 180 <= held <= 199


def test_the_ends_of_an_interval_are_where_the_t_test_turns() -> None:
    """At an end r the hypothesis φ = r · α / B_W has a two-sided p-value of 5 %."""
    rng = np.random.default_rng(3)
    points = made_by("consistent", (SMALL, LARGE), lambda: float(rng.normal(0, 3e-4)), repeats=3)
    found = fitted(points, "consistent").break_even_bytes
    assert found is not None
    gigabytes = [point.weights.saved_bytes * point.batch / 1e9 for point in points]
    columns = np.column_stack((gigabytes, -np.ones(len(points))))
    fit = sm.OLS([point.saved_s for point in points], columns).fit()
    for end in found.ends:
        assert float(fit.t_test([-end / 1e9, 1]).pvalue) == pytest.approx(0.05, abs=1e-6)


def test_noise_that_drowns_the_saving_leaves_the_scale_open() -> None:
    rng = np.random.default_rng(0)
    fits = [fitted(made_by("once", (SMALL, LARGE), lambda: float(rng.normal(0, 0.1))), "once") for _ in range(30)]
    scales = [found for fit in fits if (found := fit.critical_parameters(1)) is not None]
    assert scales
    assert all(found.ends[0] <= 0 for found in scales)


def test_steps_are_paired_within_repeats() -> None:
    windows = [
        window("fp16", 4, 0.010), window("awq", 4, 0.007), window("fp16", 4, 0.012, repeat=1), window("awq", 4, 0.008, repeat=1),
        window("fp16", 8, 0.020), window("gptq", 4, 0.001),
    ]  # fmt: skip
    found = step_points(windows, "fp16", "awq", SMALL)
    assert [point.batch for point in found] == [4, 4]
    assert [point.saved_s for point in found] == pytest.approx([0.003, 0.004])


def test_steps_without_times_between_tokens_are_rounds_over_tokens() -> None:
    windows = [window("fp16", 4, 0.010, told=False), window("awq", 4, 0.007)]
    windows[1] = windows[1].model_copy(update={"inter_token": spread(99.0)})
    (point,) = step_points(windows, "fp16", "awq", SMALL)
    assert point.saved_s == pytest.approx(0.003)


def test_crossings_between_sizes() -> None:
    small = summarise([window("fp16", 4, 0.010), window("awq", 4, 0.020)], "fp16")
    large = summarise([window("fp16", 4, 0.010), window("awq", 4, 0.005)], "fp16")
    (found,) = size_crossings({4_000_000_000: large, 1_000_000_000: small})
    assert (found.arm, found.concurrency, found.below, found.above) == ("awq", 4, 1_000_000_000, 4_000_000_000)
    assert found.parameters == pytest.approx(2e9)
    assert found.starts
    assert not found.certain
    assert size_crossings({1: small, 2: small}) == ()
