import pytest

from qtrap_agents.report.format import (
    chunks,
    hops,
    joules,
    percent,
    percent_between,
    plain,
    points,
    points_between,
    seconds,
    significant,
    visible,
)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (None, "–"),
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.9996, "> 99.9 %"),
        (0.0001, "< 0.1 %"),
        (0.9994, "99.9 %"),
        (0.5, "50.0 %"),
    ],
)
def test_a_share_that_is_not_whole_never_looks_whole(share: float | None, expected: str) -> None:
    assert percent(share) == expected


def test_intervals_and_differences() -> None:
    assert percent_between(0.98, 0.93, 0.994) == "98.0 % [93.0, 99.4]"
    assert points_between(-0.123, -0.15, -0.098) == "−12.3 points [−15.0, −9.8]"
    assert points(0.0001) == points(-0.0001) == "0.0"
    assert points(0.012) == "+1.2"


@pytest.mark.parametrize(
    ("number", "expected"), [(0.0, "0"), (1234567.0, "1,230,000"), (12.345, "12.3"), (0.00123456, "0.00123"), (-4.5, "−4.50")]
)
def test_significant_digits_without_exponent(number: float, expected: str) -> None:
    assert significant(number) == expected


def test_units() -> None:
    assert (hops(4.36), hops(20.4), hops(209.6), hops(2345.0)) == ("4.4", "20", "210", "2,340")
    assert (seconds(None), seconds(4.21), seconds(31.4), seconds(725)) == ("not measured", "4.2 s", "31 s", "12 min 5 s")
    assert (joules(0.6521), joules(12.34)) == ("652 mJ", "12.3 J")


def test_foreign_text_cannot_steer_the_terminal() -> None:
    assert visible("a\x1b[31mb\r\x07\t\x9b\u202e\ud800") == "a\\x1b[31mb\\r\\x07\\t\\x9b\\u202e\\ud800"
    assert visible("a\nb") == "a⏎b"
    assert visible("a\nb", keep_lines=True) == "a\nb"
    assert visible("ünï 中 [red]") == "ünï 中 [red]"
    assert plain("[red]x[/red]").plain == "[red]x[/red]"
    assert plain("x" * 5_000, 10).plain == "xxxxxxxxxx … 4,990 more characters"


def test_chunks() -> None:
    assert chunks([1, 2, 3], 2) == [[1, 2], [3]]
    assert chunks([1, 2], 0) == [[1], [2]]
