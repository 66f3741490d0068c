from collections.abc import Sequence

import pytest

from qtrap_agents.analysis.statistics import horizon
from qtrap_agents.report.wording import horizon_sentence, horizon_words, null_words, shape_words


def words(depths: Sequence[int], successes: Sequence[int], totals: Sequence[int]) -> str:
    return horizon_words(horizon(depths, successes, totals))


@pytest.mark.parametrize(
    ("successes", "totals", "expected"),
    [
        ((100, 100, 100), (100, 100, 100), "> 32 (≥ 972)"),
        ((2, 0, 0), (2, 0, 0), "≥ 0.9 (no failure up to 2)"),
        ((0, 0, 0), (0, 0, 0), "not estimable: no judged task"),
        ((0, 0, 0), (100, 100, 100), "< 2 (≤ 0.4)"),
        ((50, 60, 90), (100, 100, 100), "not estimable: success does not fall with depth"),
        ((93, 79, 34), (100, 100, 100), "21 [17, 27]"),
        ((100, 100, 98), (100, 100, 100), "≈ 1,440 [438, 8,690]"),
    ],
)
def test_horizon_in_words(successes: tuple[int, ...], totals: tuple[int, ...], expected: str) -> None:
    assert words((2, 8, 32), successes, totals) == expected


def test_horizon_with_its_unit() -> None:
    assert horizon_sentence(horizon((2, 8, 32), (100, 100, 100), (100, 100, 100))) == "> 32 hops (≥ 972)"
    assert horizon_sentence(horizon((2, 8, 32), (93, 79, 34), (100, 100, 100))).startswith("21 hops [")
    assert horizon_sentence(horizon((2,), (0,), (0,))) == "not estimable: no judged task"


def test_null_model_and_its_rejection() -> None:
    steady = horizon((2, 8, 32), (93, 79, 34), (100, 100, 100))
    assert null_words(steady) == "21 (96.8 % a hop)"
    assert "depth" not in shape_words(steady)
    assert shape_words(horizon((2, 8, 32), (100, 95, 0), (100, 100, 100))) == "< 0.001, worse with depth"
    unknown = horizon((2,), (5,), (5,))
    assert (null_words(unknown), shape_words(unknown)) == ("–", "–")
