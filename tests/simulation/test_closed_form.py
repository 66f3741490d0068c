"""Closed forms of a chain of equal hops."""

import math

import pytest

from qtrap_agents.simulation.closed_form import Chain


def test_constant_hop_success_is_the_chain_without_recovery() -> None:
    assert Chain(0.03).success(10) == pytest.approx(0.97**10)
    assert Chain(0.03).horizon() == pytest.approx(math.log(0.5) / math.log(0.97))


def test_success_follows_the_recursion() -> None:
    chain, right = Chain(0.1, 0.05), 1.0
    for depth in range(1, 20):
        right = right * 0.9 + (1 - right) * 0.05
        assert chain.success(depth) == pytest.approx(right)


def test_the_horizon_is_where_success_is_one_half() -> None:
    chain = Chain(0.02, 0.01)
    horizon = chain.horizon()
    assert horizon is not None
    assert chain.success(horizon) == pytest.approx(0.5)


@pytest.mark.parametrize("chain", [Chain(0.0), Chain(0.01, 0.2)])
def test_a_chain_that_never_falls_to_one_half_has_no_horizon(chain: Chain) -> None:
    assert chain.horizon() is None


def test_first_errors_and_wrong_premises() -> None:
    assert Chain(0.25).first_error(3) == pytest.approx([0.25, 0.1875, 0.140625])
    assert Chain(0.25).wrong_premises(2) == pytest.approx(0.25 + 1 - 0.75**2)
    assert Chain(1.0).horizon() == 1.0
