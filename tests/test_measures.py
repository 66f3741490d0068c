"""Percentiles, sums and differences of what was measured; None where nothing was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtrap_agents.measures import ServerStats, Spread, Window, together

FULL = ServerStats(
    requests=10,
    prompt_tokens=500,
    output_tokens=80,
    first_tokens=10,
    ttft_total_s=1.0,
    gaps=70,
    gap_total_s=1.4,
    queue_total_s=0.5,
    prefix_cache_hits=3,
)
BARE = ServerStats(requests=10, prompt_tokens=500, output_tokens=80)


def test_percentiles_are_values_that_occurred() -> None:
    assert Spread.of([float(number) for number in range(100, 0, -1)]) == Spread(n=100, mean=50.5, p50=50, p90=90, p99=99)
    assert Spread.of([3.0]) == Spread(n=1, mean=3, p50=3, p90=3, p99=3)
    assert Spread.of([1.0, 2.0]) == Spread(n=2, mean=1.5, p50=1, p90=2, p99=2)
    assert Spread.of([]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_so_large_a_share_lies_at_or_below_a_percentile(values: list[float]) -> None:
    found = Spread.of(values)
    assert found is not None
    for share, percentile in ((50, found.p50), (90, found.p90), (99, found.p99)):
        assert percentile in values
        assert 100 * sum(value <= percentile for value in values) >= share * len(values)
        assert 100 * sum(value < percentile for value in values) < share * len(values)


def test_means_of_what_the_engine_counted() -> None:
    assert (FULL.ttft_s, FULL.inter_token_s, FULL.queue_s) == pytest.approx((0.1, 0.02, 0.05))
    assert (BARE.ttft_s, BARE.inter_token_s, BARE.queue_s) == (None, None, None)
    nothing = FULL.since(FULL)
    assert (nothing.requests, nothing.ttft_total_s) == (0, 0)
    assert (nothing.ttft_s, nothing.inter_token_s, nothing.queue_s) == (None, None, None)


def test_difference_and_sum_undo_each_other() -> None:
    assert (FULL + FULL).since(FULL) == FULL
    assert (FULL + FULL).output_tokens == 160
    assert (FULL + FULL).ttft_s == FULL.ttft_s


def test_what_one_side_does_not_tell_the_other_cannot_replace() -> None:
    for combined in (FULL + BARE, BARE + FULL, FULL.since(BARE), BARE.since(FULL)):
        assert (combined.ttft_total_s, combined.first_tokens, combined.prefix_cache_hits) == (None, None, None)
    assert FULL.since(BARE).requests == 0


def test_parts_together() -> None:
    assert together([FULL, FULL, FULL]) == FULL + FULL + FULL
    assert together([FULL]) == FULL
    assert together([]) is None
    assert together([FULL, None]) is None


def window(**changes: object) -> Window:
    """Ten requests of eight tokens in two seconds."""
    fields: dict[str, object] = {"arm": "awq", "concurrency": 4, "prompt_tokens": 16, "new_tokens": 8, "repeat": 0, "position": 1}
    work: dict[str, object] = {"begun_at": 0.0, "wall_s": 2.0, "requests": 10, "output_tokens": 80}
    return Window.model_validate(fields | work | changes)


def test_rates_of_a_window() -> None:
    assert window().cell == (16, 8, 4)
    assert window().output_tokens_per_s == 40
    assert window().energy_per_token_j is None
    assert window(energy_j=200.0).energy_per_token_j == 2.5
    assert window(energy_j=200.0, output_tokens=0).energy_per_token_j is None


def test_a_window_is_read_back_the_same() -> None:
    full = window(energy_j=1.0, ttft=Spread.of([1.0]), server=FULL, last={"at": 3.0, "throttled": ("SwPowerCap",)})
    assert Window.model_validate_json(full.model_dump_json()) == full
