"""Records of what serving costs: looks at the energy meter, windows of work, latencies and kernel times.

    <run>/arms/<arm>/readings.jsonl    Reading: the meter and the device while the arm is served
    <bench>/windows.jsonl              Window: the same token work on every arm, again and again
    <profile>/profiles.jsonl           PhaseProfile: where the time of a phase goes, kernel by kernel

Times are seconds, `at` and `begun_at` Unix time; energies joules, power watts, clocks MHz. None: not measured.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from qtrap_agents.types import Record

READINGS, WINDOWS, PROFILES = "readings.jsonl", "windows.jsonl", "profiles.jsonl"
"""Names of the files."""


class Reading(Record):
    """One look at the device. `energy_j` counts from a fixed moment and only grows; `throttled` names what slows the clocks."""

    at: float
    energy_j: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    throttled: tuple[str, ...] = ()


class Spread(Record):
    """How a time in seconds varies over `n` requests."""

    n: int
    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Nearest-rank percentiles; None without values."""
        ranked = sorted(values)
        if not ranked:
            return None
        p50, p90, p99 = (ranked[math.ceil(share * len(ranked)) - 1] for share in (0.5, 0.9, 0.99))
        return cls(n=len(ranked), mean=fmean(ranked), p50=p50, p90=p90, p99=p99)


class ServerStats(Record):
    """What the engine itself counted: sums over requests, seconds and tokens. What an engine does not tell is None.

    `first_tokens` requests waited `ttft_total_s` in all for their first token, `gaps` tokens came `gap_total_s` in all after
    the ones before them, and requests waited `queue_total_s` in all before they were begun.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    first_tokens: int | None = None
    ttft_total_s: float | None = None
    gaps: int | None = None
    gap_total_s: float | None = None
    queue_total_s: float | None = None
    prefix_cache_hits: int | None = None

    @property
    def ttft_s(self) -> float | None:
        """Mean seconds to the first token."""
        return self.ttft_total_s / self.first_tokens if self.ttft_total_s is not None and self.first_tokens else None

    @property
    def inter_token_s(self) -> float | None:
        """Mean seconds between two tokens of a request."""
        return self.gap_total_s / self.gaps if self.gap_total_s is not None and self.gaps else None

    @property
    def queue_s(self) -> float | None:
        """Mean seconds that a request waited before it was begun."""
        return self.queue_total_s / self.requests if self.queue_total_s is not None and self.requests else None

    def since(self, earlier: "ServerStats") -> "ServerStats":
        """What was counted after an earlier look at the same engine."""
        return self._combined(earlier, -1)

    def __add__(self, other: "ServerStats") -> "ServerStats":
        return self._combined(other, 1)

    def _combined(self, other: "ServerStats", sign: int) -> "ServerStats":
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in ServerStats.model_fields}
        return ServerStats(**{name: None if None in pair else pair[0] + sign * pair[1] for name, pair in pairs.items()})


def together(parts: Sequence[ServerStats | None]) -> ServerStats | None:
    """The sum; None without parts or where one is not known."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    total = known[0]
    for part in known[1:]:
        total = total + part
    return total


class EnergyWindow(Record):
    """One attempt at work: when it began (Unix time, seconds), how long it took, joules, and the watts of the idle device."""

    attempt: int
    begun_at: float
    wall_s: float
    energy_j: float | None = None
    idle_w: float | None = None


class Window(Record):
    """`requests` requests of `prompt_tokens` tokens, each answered with `new_tokens` more, `concurrency` of them in flight.

    `position` is the place in the order in which the arms took their turn within `repeat`. `tdp_w` is the power limit that
    the device was made for: times `wall_s` it is the `tdp_proxy`, never a measurement.
    """

    arm: str
    concurrency: int
    prompt_tokens: int
    new_tokens: int
    repeat: int
    position: int
    begun_at: float
    wall_s: float
    requests: int
    output_tokens: int
    errors: int = 0
    energy_j: float | None = None
    meter: str | None = None
    tdp_w: float | None = None
    ttft: Spread | None = None
    inter_token: Spread | None = None
    server: ServerStats | None = None
    last: Reading | None = None

    @property
    def cell(self) -> tuple[int, int, int]:
        """What windows of different arms are compared at: prompt tokens, new tokens, concurrency."""
        return self.prompt_tokens, self.new_tokens, self.concurrency

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens per second of wall time."""
        return self.output_tokens / self.wall_s

    @property
    def energy_per_token_j(self) -> float | None:
        """Joules per generated token."""
        return None if self.energy_j is None or not self.output_tokens else self.energy_j / self.output_tokens


class KernelTime(Record):
    """Time on the device (on a CPU: in the operator itself) of all calls of one kernel."""

    name: str
    calls: int
    time_s: float


class PhaseProfile(Record):
    """Kernel times of one phase on one arm: `prefill` reads the prompts, `decode` makes the new tokens after the first.

    `device` is `cuda` or `cpu`. `kernels` are sorted by time, longest first. `wall_s` is what the same phase took without the
    profiler. Decode is the difference between whole answers and answers of one token to the same prompts.
    """

    arm: str
    phase: Literal["prefill", "decode"]
    device: str
    concurrency: int
    prompt_tokens: int
    new_tokens: int
    repeat: int
    wall_s: float
    kernels: tuple[KernelTime, ...]

    @property
    def kernel_s(self) -> float:
        """Seconds of all kernels together."""
        return math.fsum(kernel.time_s for kernel in self.kernels)
