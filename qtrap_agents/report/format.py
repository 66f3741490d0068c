"""Numbers and foreign text as the reports print them: no false precision, nothing that a terminal would obey."""

import math
import unicodedata
from collections.abc import Sequence
from typing import TypeVar

from rich.text import Text

from qtrap_agents.types import Value

NOT_MEASURED = "not measured"
NOTHING = "–"

Item = TypeVar("Item")


def significant(number: float, digits: int = 3) -> str:
    """A number rounded to so many significant digits, with thousands separators and no exponent."""
    if number == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(number)))
    return minus(f"{round(number, places):,.{max(0, places)}f}")


def minus(text: str) -> str:
    """The same number with a real minus sign."""
    return text.replace("-", "−")


def percent(share: float | None) -> str:
    """`98.0 %`; a share that is not whole never rounds to 0 or 100."""
    if share is None:
        return NOTHING
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def percent_between(share: float | None, low: float | None, high: float | None) -> str:
    """`98.0 % [93.0, 99.4]`, ends of the interval in percent too."""
    if share is None or low is None or high is None:
        return percent(share)
    return f"{percent(share)} [{100 * low:.1f}, {100 * high:.1f}]"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    if difference is None:
        return NOTHING
    shown = f"{100 * difference:+.1f}"
    return "0.0" if float(shown) == 0 else minus(shown)


def points_between(difference: float | None, low: float | None, high: float | None) -> str:
    """`−12.3 points [−15.0, −9.8]`."""
    if difference is None:
        return NOTHING
    return f"{points(difference)} points [{points(low)}, {points(high)}]"


def hops(depth: float) -> str:
    """A depth in hops: one decimal below 10, three digits above."""
    return minus(f"{depth:.1f}") if depth < 10 else significant(depth, max(2, min(3, len(str(int(depth))))))


def p_value(p: float) -> str:
    """Three decimals, or a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seconds(duration_s: float | None) -> str:
    """`31 s`, `4.2 s`, `12 min 5 s`."""
    if duration_s is None:
        return NOT_MEASURED
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    minutes, rest = divmod(round(duration_s), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{rest} s"


def milliseconds(duration_s: float | None) -> str:
    """`12.3 ms`; from a second on as `seconds` does."""
    if duration_s is None:
        return NOT_MEASURED
    return f"{significant(1000 * duration_s)} ms" if duration_s < 1 else seconds(duration_s)


def change(ratio: float) -> str:
    """A ratio as a signed change: `−31.0 %`."""
    return minus(f"{100 * (ratio - 1):+.1f} %")


def change_between(ratio: float, low: float | None, high: float | None) -> str:
    """`−31.0 % [−33.1, −28.8]`; without ends only the change."""
    ends = "" if low is None or high is None else minus(f" [{100 * (low - 1):+.1f}, {100 * (high - 1):+.1f}]")
    return change(ratio) + ends


def joules(energy_j: float | None) -> str:
    """Three digits, in J or mJ."""
    if energy_j is None:
        return NOT_MEASURED
    return f"{significant(energy_j)} J" if energy_j >= 1 else f"{significant(1000 * energy_j)} mJ"


def joules_between(energy_j: float, low_j: float | None, high_j: float | None) -> str:
    """`97.5 mJ [74.6, 120]`, all in the unit of the first."""
    if low_j is None or high_j is None:
        return joules(energy_j)
    scale = 1 if energy_j >= 1 else 1000
    return f"{joules(energy_j)} [{significant(scale * low_j)}, {significant(scale * high_j)}]"


def mebibytes(size: int | None) -> str:
    """`1.2 MiB`."""
    return NOTHING if size is None else f"{size / 2**20:,.2f} MiB"


def shown(value: Value | None) -> str:
    """A premise value, or that there is none."""
    return "nothing" if value is None else visible(str(value))


def visible(text: str, keep_lines: bool = False) -> str:
    """Control, format and other invisible characters spelled out, so that text from a model cannot steer a terminal.

    Args:
        keep_lines: leave line feeds as they are instead of showing them as `⏎`.
    """
    return "".join(_visible(character, keep_lines) for character in text)


def plain(text: str, limit: int | None = None, style: str = "", keep_lines: bool = False) -> Text:
    """Foreign text for a table or tree: no markup, no control characters, cut to `limit` characters with a count."""
    cut = text if limit is None or len(text) <= limit else text[:limit]
    rest = f" … {len(text) - len(cut):,} more characters" if len(cut) < len(text) else ""
    return Text(visible(cut, keep_lines), style=style).append(rest, style="dim")


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Consecutive parts of at most `size` (at least 1) items."""
    size = max(1, size)
    return [items[start : start + size] for start in range(0, len(items), size)]


def _visible(character: str, keep_lines: bool) -> str:
    if character == "\n":
        return "\n" if keep_lines else "⏎"
    if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
        return character
    return character.encode("unicode_escape").decode()
