"""Critical scale and batch (arXiv 2602.13595), fitted to a bench: where an arm should begin to pay, beside where it does.

One decode step of the arm is shorter than the baseline's by the bytes of weights that it does not move, and longer by what
casting costs. Every form of the formula says how the two grow with the batch B:

    saved_s = (α / B_W) · N · (π − p) / 8 · B^u − φ · B^v

    printed      u, v = 0, 1    N* = φ·B_W·B / (α·(π−p))    as in the paper; contradicts what it predicts
    consistent   u, v = 1, 0    N* = φ·B_W / (α·B·(π−p))    agrees with what it predicts
    once         u, v = 0, 0    N* = φ·B_W / (α·(π−p))      ours: weights cross the bus once a step, whatever the batch

N parameters, π and p nominal bits of native and quantised weights, B_W bandwidth in B/s, φ seconds of casting a step. The
bytes are written out here, so α = 1 is one crossing of every weight, eight times the paper's; weights that stay
unquantised lower it. Only α / B_W can be told from times, and nothing else is needed: bandwidth is no input.

Ordinary least squares for each form, a point for each pair of windows of one repeat. N* and B* are a ratio of two
estimates; their interval is Fieller's (1954).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.stats import t

from qtrap_agents.analysis.indices import Figure
from qtrap_agents.analysis.serving import Estimate, Serving, ServingCell, excludes_one
from qtrap_agents.analysis.statistics import Interval
from qtrap_agents.measures import Window
from qtrap_agents.types import Record

Form = Literal["printed", "consistent", "once"]
FORMS: dict[Form, tuple[int, int]] = {"printed": (0, 1), "consistent": (1, 0), "once": (0, 0)}
"""Exponents of the batch in the saving and in the casting cost."""

GIGA = 1e9

Floats = NDArray[np.float64]


class Weighed(NamedTuple):
    """What an arm holds: number of weights, and bits of one in the baseline and in the arm."""

    parameters: int
    native_bits: int
    bits: int

    @property
    def saved_bytes(self) -> float:
        """Bytes that the arm need not move in one crossing of its weights."""
        return self.parameters * (self.native_bits - self.bits) / 8


class StepPoint(NamedTuple):
    """A pair of windows: batch, what the arm holds, and the seconds that one decode step is shorter than the baseline's."""

    batch: int
    weights: Weighed
    saved_s: float


class CriticalFit(Record):
    """One form fitted to one arm over `n` points of `batches` batches and `sizes` model sizes.

    `phi_s` is in seconds a step, `seconds_per_byte` is α / B_W. `break_even_bytes` is φ·B_W/α: the bytes saved at which
    casting is paid for at batch 1. It is None for the `reason` given, and then there is no critical scale or batch.
    `r2` is the share of the variance of the saved time that the form explains, negative where a constant does better.
    """

    arm: str
    form: Form
    saved_bits: int
    n: int
    batches: int
    sizes: int
    phi_s: Figure | None = None
    seconds_per_byte: Figure | None = None
    break_even_bytes: Figure | None = None
    r2: float | None = None
    reason: str | None = None

    def critical_parameters(self, batch: int) -> Figure | None:
        """N*: the number of weights above which the arm pays at that batch."""
        saving, casting = FORMS[self.form]
        return _scaled(self.break_even_bytes, 8 / self.saved_bits * float(batch) ** (casting - saving))

    def critical_batch(self, parameters: float) -> Figure | None:
        """B*: the batch at which the arm breaks even with that number of weights; None in a form without the batch."""
        found = _scaled(self.break_even_bytes, 8 / (self.saved_bits * parameters))
        return None if self.pays is None else found if self.pays == "above" else _reciprocal(found)

    @property
    def pays(self) -> Literal["above", "below"] | None:
        """On which side of B* the form lets the arm pay; None in a form without the batch."""
        saving, casting = FORMS[self.form]
        return None if saving == casting else "above" if saving > casting else "below"


class SizeCrossing(Record):
    """Between which measured model sizes an arm starts or stops paying in time; `parameters` is interpolated on a log scale.

    `starts` is True where the arm costs below and pays above. `certain` is True where both intervals exclude 1.
    """

    arm: str
    prompt_tokens: int
    new_tokens: int
    concurrency: int
    below: int
    above: int
    parameters: float
    starts: bool
    certain: bool


def step_points(windows: Iterable[Window], baseline: str, arm: str, weights: Weighed) -> tuple[StepPoint, ...]:
    """One point for each place and repeat at which both arms were measured.

    A step is the mean time between two tokens of a request, median over requests; where a window of the two arms does not
    tell it, for all of them the wall time of a round over its new tokens, which has the prompts in it.
    """
    found = {(window.arm, window.cell, window.repeat): window for window in windows}
    pairs = [
        (base, found[arm, cell, repeat])
        for (name, cell, repeat), base in found.items()
        if name == baseline and (arm, cell, repeat) in found
    ]
    told = all(window.inter_token is not None for pair in pairs for window in pair)
    return tuple(StepPoint(base.concurrency, weights, _step_s(base, told) - _step_s(own, told)) for base, own in pairs)


def fit_critical(arm: str, points: Sequence[StepPoint]) -> tuple[CriticalFit, ...]:
    """All forms, each fitted to the same points. Raises ValueError without points or where they save different bits."""
    if len({(point.weights.native_bits, point.weights.bits) for point in points}) != 1:
        raise ValueError("points of one arm must save the same bits of a weight")
    return tuple(_fit(arm, form, points) for form in FORMS)


def size_crossings(servings: Mapping[int, Serving]) -> tuple[SizeCrossing, ...]:
    """Where the time ratio of an arm passes 1 between two model sizes at one place; number of weights -> bench."""
    lines: dict[tuple[str, int, int, int], list[tuple[int, ServingCell]]] = {}
    for parameters, serving in sorted(servings.items()):
        for cell in serving.cells:
            lines.setdefault((cell.arm, *cell.place), []).append((parameters, cell))
    found = (_between(below, above) for line in lines.values() for below, above in pairwise(line))
    return tuple(crossing for crossing in found if crossing is not None)


def _step_s(window: Window, told: bool) -> float:
    if told and window.inter_token is not None:
        return window.inter_token.p50
    return window.wall_s * window.concurrency / window.output_tokens


def _fit(arm: str, form: Form, points: Sequence[StepPoint]) -> CriticalFit:
    batch = np.array([point.batch for point in points], dtype=np.float64)
    gigabytes = np.array([point.weights.saved_bytes for point in points]) / GIGA
    saving, casting = FORMS[form]
    columns = np.column_stack((gigabytes * batch**saving, -(batch**casting)))
    weights = points[0].weights
    empty = CriticalFit(
        arm=arm,
        form=form,
        saved_bits=weights.native_bits - weights.bits,
        n=len(points),
        batches=len(set(batch)),
        sizes=len({point.weights.parameters for point in points}),
    )
    if (reason := _unfit(empty, columns)) is not None:
        return empty.model_copy(update={"reason": reason})
    return empty.model_copy(update=_estimates(columns, np.array([point.saved_s for point in points])))


def _unfit(fit: CriticalFit, columns: Floats) -> str | None:
    """Why two unknowns cannot be told from the points."""
    if fit.saved_bits <= 0:
        return "cannot be fitted: the arm has no fewer bits than the baseline"
    if fit.n < 3:
        return f"cannot be fitted: {fit.n} points for two unknowns and their spread"
    if np.linalg.matrix_rank(columns / np.linalg.norm(columns, axis=0), tol=1e-9) < 2:
        more = "two model sizes" if fit.form == "once" else "two batches or two model sizes"
        return f"cannot be fitted: this form needs {more} (batches measured: {fit.batches}, model sizes: {fit.sizes})"
    return None


def _estimates(columns: Floats, saved: Floats) -> dict[str, object]:
    """Values of the fields of `CriticalFit` that come from the regression."""
    result = sm.OLS(saved, columns).fit()
    rate, phi = (float(value) for value in result.params)
    covariance, quantile = np.asarray(result.cov_params()), float(t.ppf(0.975, len(saved) - 2))
    halves = quantile * np.sqrt(np.diag(covariance))
    spread = float(((saved - saved.mean()) ** 2).sum())
    reason = _absent(phi, rate)
    bytes_per_step = None if reason else _scaled(_fieller((rate, phi), covariance, quantile), GIGA)
    return {
        "phi_s": _symmetric(phi, float(halves[1])),
        "seconds_per_byte": _scaled(_symmetric(rate, float(halves[0])), 1 / GIGA),
        "break_even_bytes": bytes_per_step,
        "r2": 1 - float((np.asarray(result.resid) ** 2).sum()) / spread if spread else None,
        "reason": reason,
    }


def _absent(phi: float, rate: float) -> str | None:
    """Why the fitted line has no critical point."""
    if phi <= 0 < rate:
        return "no critical point: the arm never pays casting cost (φ ≤ 0)"
    if rate <= 0 < phi:
        return "no critical point: the arm saves no time with the bytes that it does not move (α ≤ 0)"
    return "no critical point: the measurements have the opposite sign of this form (φ ≤ 0 and α ≤ 0)" if phi <= 0 else None


def _fieller(estimates: tuple[float, float], covariance: Floats, quantile: float) -> Figure:
    """The second estimate over the first one, both positive."""
    below, above = estimates
    square = below**2 - quantile**2 * float(covariance[0, 0])
    middle = below * above - quantile**2 * float(covariance[0, 1])
    rest = above**2 - quantile**2 * float(covariance[1, 1])
    if square <= 0:
        return Figure(value=above / below, interval=Interval(low=None, high=None))
    half = math.sqrt(max(0.0, middle**2 - square * rest))
    low, high = (middle - half) / square, (middle + half) / square
    return Figure(value=above / below, interval=Interval(low=max(0.0, low), high=high))


def _symmetric(value: float, half: float) -> Figure:
    return Figure(value=value, interval=Interval(low=value - half, high=value + half))


def _scaled(figure: Figure | None, scale: float) -> Figure | None:
    """The same in another unit; `scale` is positive."""
    if figure is None:
        return None
    low, high = (figure.interval.low, figure.interval.high) if figure.interval else (None, None)
    ends = Interval(low=None if low is None else low * scale, high=None if high is None else high * scale)
    return Figure(value=figure.value * scale, interval=ends)


def _reciprocal(figure: Figure | None) -> Figure | None:
    if figure is None:
        return None
    low, high = figure.ends
    ends = Interval(low=1 / high if high < math.inf else None, high=1 / low if low > 0 else None)
    return Figure(value=1 / figure.value, interval=ends)


def _between(below: tuple[int, ServingCell], above: tuple[int, ServingCell]) -> SizeCrossing | None:
    (small, low), (large, high) = below, above
    left, right = low.time, high.time
    if left is None or right is None or (left.value < 1) == (right.value < 1):
        return None
    return SizeCrossing(
        arm=low.arm,
        prompt_tokens=low.prompt_tokens,
        new_tokens=low.new_tokens,
        concurrency=low.concurrency,
        below=small,
        above=large,
        parameters=small * (large / small) ** _share(left, right),
        starts=left.value >= 1,
        certain=excludes_one(left) and excludes_one(right),
    )


def _share(left: Estimate, right: Estimate) -> float:
    start, end = math.log(left.value), math.log(right.value)
    return start / (start - end)
