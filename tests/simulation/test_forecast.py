"""Forecasts: both uncertainties, predictive intervals, horizons, and other places where the work is done."""

import math
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil
import pytest
from modelled import arm, chain, logit, model

from qtrap_agents.errors import SimulationError
from qtrap_agents.report.forecast import Place, simulate_all
from qtrap_agents.simulation import sweep
from qtrap_agents.simulation.forecast import Forecast, Job, forecast
from qtrap_agents.simulation.layout import Layout
from qtrap_agents.simulation.program import outline_of

LAYOUTS = (chain(8),)


def of(sd: float, chains: int = 20_000, layouts: Sequence[Layout] = LAYOUTS, **more: object) -> Forecast:
    return forecast(model({"a": arm(0.05, sd=sd)}), layouts, "a", chains, draws=60, **more)  # type: ignore[arg-type]


def test_known_parameters_leave_the_monte_carlo_alone() -> None:
    found = of(sd=0.0)
    assert found.high - found.low < 1e-9
    assert found.success == pytest.approx(0.95**8, abs=4 * found.mc_se)
    assert found.null == pytest.approx(0.95**8)


def drifting(drift: float, depth: int) -> float:
    """Success of a chain whose slips drift by so much for every doubling behind 8 hops."""
    logits = [logit(0.01) + drift * max(0.0, math.log2(position / 8)) for position in range(1, depth + 1)]
    return math.prod(1 / (1 + math.exp(slip)) for slip in logits)


def test_behind_the_fitted_depths_slips_may_drift() -> None:
    made, depth = model({"a": arm(0.01)}), 64
    found = forecast(made, (chain(depth),), "a", 20_000, draws=400)
    assert found.success == pytest.approx(drifting(0.0, depth), abs=0.03)
    for end, sign in ((found.high, -1.96), (found.low, 1.96)):
        assert end == pytest.approx(drifting(sign * made.drift_sd, depth), abs=0.05)
    still = forecast(made.model_copy(update={"drift_sd": 0.0}), (chain(depth),), "a", 20_000, draws=20)
    assert still.high - still.low < 1e-9


def test_uncertain_parameters_widen_their_interval_and_not_the_standard_error() -> None:
    sure, doubtful = of(sd=0.05), of(sd=0.3)
    assert doubtful.high - doubtful.low > 3 * (sure.high - sure.low) > 0
    assert doubtful.mc_se == pytest.approx(sure.mc_se, rel=0.05)
    assert doubtful.low < 0.95**8 < doubtful.high


def test_more_chains_shrink_the_standard_error_only() -> None:
    few, many = of(sd=0.2, chains=8_192), of(sd=0.2, chains=131_072)
    assert many.mc_se == pytest.approx(few.mc_se / 4, rel=0.05)
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.05)


def test_a_run_of_few_tasks_is_less_certain_than_one_of_many() -> None:
    found = of(sd=0.1)
    small, large = found.predictive(50), found.predictive(5_000)
    assert small[0] < large[0] < found.success < large[1] < small[1]
    assert large[1] - large[0] >= found.high - found.low


def test_what_was_not_measured_is_none() -> None:
    found = of(sd=0.0)
    assert found.energy_j is found.seconds is found.prompt_tokens is found.energy_per_correct_j is None


def test_the_horizon_lies_where_the_closed_form_has_it() -> None:
    places = [Place(name="f", depth=depth, layouts=(chain(depth),)) for depth in (4, 8, 16, 32)]
    report = simulate_all(model({"a": arm(0.05, sd=0.1)}), places, ["a"], "chain", 40_000, 40, seed=0, tasks=100)
    (horizon,) = report.horizons
    assert horizon.h50 == pytest.approx(13.5, abs=0.3)
    assert horizon.null == pytest.approx(13.5, abs=0.1)
    assert horizon.low is not None
    assert horizon.high is not None
    assert horizon.low < 13.5 < horizon.high
    assert any("depth 32 lies beyond the deepest chain of the fit (8)" in note for note in report.notes)


def test_a_horizon_beyond_the_depths_says_so() -> None:
    places = [Place(name="f", depth=depth, layouts=(chain(depth),)) for depth in (2, 4)]
    report = simulate_all(model({"a": arm(0.001)}), places, ["a"], "chain", 8_192, 5, seed=0)
    assert (report.horizons[0].h50, report.horizons[0].beyond) == (None, "> 4")


def test_processes_give_the_same_to_the_last_bit() -> None:
    alone = of(sd=0.2, chains=100_000)
    with sweep.work_for(2, None) as work:
        assert of(sd=0.2, chains=100_000, work=work) == alone


def test_an_error_inside_a_process_keeps_its_sentence() -> None:
    with sweep.work_for(2, None) as work, pytest.raises(SimulationError, match="unknown arm 'b'"):
        list(work([Job(model({"a": arm(0.1)}), outline_of(LAYOUTS), "b", 10, 0, None, (0,))]))


@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_gives_the_same_though_a_worker_is_killed() -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed: `pip install 'qtrap-agents[ray]'`")
    layouts, killed = (chain(40),), []
    alone = of(sd=0.2, chains=400_000, layouts=layouts)

    def kill_one() -> None:
        for _ in range(2_000):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if process.cmdline()[:1] == ["ray::perform_all()"] or process.name().startswith("ray::perform_al"):
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)
                        return
            time.sleep(0.01)

    with sweep.work_for(2, sweep.LOCAL) as work:
        threading.Thread(target=kill_one, daemon=True).start()
        found = of(sd=0.2, chains=400_000, layouts=layouts, work=work)
        assert killed
    assert found == alone
    assert not ray.is_initialized()


def test_no_cluster_at_an_address_is_one_sentence() -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    with pytest.raises(SimulationError, match=r"--ray 127.0.0.1:1: no cluster answers there"), sweep.work_for(1, "127.0.0.1:1"):
        pass
