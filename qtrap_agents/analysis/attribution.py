"""Whose energy was it? A window's joules and seconds, apportioned to the hops that were in flight in it.

Between two looks at the meter the power is taken as constant. At every moment the energy goes to the hops in flight, each by
the tokens per second that it generates (its tokens spread evenly over its latency); what is used while no hop is in flight is
the residual. The shares of all hops and the residual add up to the window. Seconds of the device are apportioned alike.
`exclusive`: no two hops were ever in flight at once, so that a hop's share is what was used in its own time. `prorated`: they
were, and the share is a convention, not a measurement of the hop.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Literal

import numpy as np
import numpy.typing as npt

from qtrap_agents.measures import EnergyWindow, Reading, Spread
from qtrap_agents.types import Trace

Floats = npt.NDArray[np.float64]
Kind = Literal["exclusive", "prorated"]


class HopTimes:
    """When every hop of an arm was in flight and what it generated, noted while its traces pass by: 40 bytes a hop.

    `tasks` has the suite and the task of every trace, in the order in which they were noted.
    """

    def __init__(self) -> None:
        self._owner, self._begun = array("q"), array("d")
        self._latency, self._tokens, self._ttft = array("d"), array("d"), array("d")
        self.tasks: list[tuple[str, str]] = []

    def note(self, trace: Trace) -> None:
        """Take one more trace into account; hops that took no time are in no window."""
        for hop in trace.hops:
            completion = hop.completion
            if completion.latency_s > 0:
                self._owner.append(len(self.tasks))
                self._begun.append(hop.started_at)
                self._latency.append(completion.latency_s)
                self._tokens.append(completion.completion_tokens)
                self._ttft.append(math.nan if completion.ttft_s is None else completion.ttft_s)
        self.tasks.append((intern(trace.suite), intern(trace.task_id)))

    def by_trace(self, shares: Floats) -> Floats:
        """[trace] the sum of its hops' shares."""
        found = np.zeros(len(self.tasks))
        np.add.at(found, np.array(self._owner, dtype=np.int64), shares)
        return found

    def by_task(self, shares: Floats) -> dict[tuple[str, str], float]:
        """Suite and task -> the sum of the shares of all its attempts."""
        found: dict[tuple[str, str], float] = {}
        for key, share in zip(self.tasks, self.by_trace(shares).tolist(), strict=True):
            found[key] = found.get(key, 0.0) + share
        return found

    def of_trace(self, number: int, shares: Floats) -> list[float]:
        """[hop that took time] of one trace: its share."""
        return [float(share) for share in shares[np.array(self._owner, dtype=np.int64) == number]]

    @property
    def ttft(self) -> Spread | None:
        """Seconds to the first token, as the completions tell."""
        return Spread.of([value for value in self._ttft if value == value])

    @property
    def inter_token(self) -> Spread | None:
        """Mean seconds between two tokens of a hop; only hops with two tokens or more, and a known first one."""
        columns = zip(self._latency, self._ttft, self._tokens, strict=True)
        return Spread.of([(latency - ttft) / (tokens - 1) for latency, ttft, tokens in columns if tokens > 1 and ttft == ttft])

    def flights(self) -> tuple[Floats, Floats, Floats]:
        """[hop] begin and end (Unix time, seconds) and generated tokens per second."""
        begun, latency, tokens = (np.array(column, dtype=float) for column in (self._begun, self._latency, self._tokens))
        return begun, begun + latency, np.maximum(tokens, 1) / latency


@dataclass(frozen=True)
class Shares:
    """One kind of cost: what no hop was in flight for, and [hop] its own part, in the order in which hops were noted."""

    residual: float
    hops: Floats


@dataclass(frozen=True)
class Attribution:
    """Seconds of the device, and joules where every window with work in it was measured, hop by hop."""

    kind: Kind
    seconds: Shares
    joules: Shares | None


def attribute(hops: HopTimes, windows: Sequence[EnergyWindow], readings: Iterable[Reading] = ()) -> Attribution | None:
    """Apportion all windows of one arm to its hops; None without a window or a hop.

    Args:
        windows: they do not overlap.
        readings: looks at the meter, for where in a window its energy was used; without any the power is constant.
    """
    flights = hops.flights()
    used = [window for window in windows if window.wall_s > 0]
    if not used or not flights[0].size:
        return None
    at = np.array([[reading.at, reading.energy_j] for reading in readings if reading.energy_j is not None]).reshape(-1, 2)
    measured = all(window.energy_j is not None for window in used)
    seconds = [_shares(flights, window, _course(window, window.wall_s, at[:0])) for window in used]
    joules = [_shares(flights, window, _course(window, window.energy_j or 0.0, at)) for window in used] if measured else None
    return Attribution(kind=_kind(flights), seconds=_added(seconds), joules=_added(joules) if joules else None)


def _kind(flights: tuple[Floats, Floats, Floats]) -> Kind:
    begun, ended, _ = flights
    order = np.argsort(begun, kind="stable")
    return "prorated" if bool((begun[order][1:] < np.maximum.accumulate(ended[order])[:-1]).any()) else "exclusive"


def _course(window: EnergyWindow, total: float, readings: Floats) -> tuple[Floats, Floats]:
    """Moments in a window and what was used up to each of them: from 0 to `total`, in between as the meter saw it."""
    begin, end = window.begun_at, window.begun_at + window.wall_s
    inside = readings[(readings[:, 0] > begin) & (readings[:, 0] < end)]
    if len(readings) < 2 or not len(inside):
        return np.array([begin, end]), np.array([0.0, total])
    moments = np.concatenate([[begin], inside[:, 0], [end]])
    counted = np.interp(moments, readings[:, 0], readings[:, 1])
    used = counted[-1] - counted[0]
    return moments, (counted - counted[0]) * (total / used) if used > 0 else np.interp(moments, [begin, end], [0.0, total])


def _shares(flights: tuple[Floats, Floats, Floats], window: EnergyWindow, course: tuple[Floats, Floats]) -> tuple[Floats, float]:
    """[hop] its part of a window, and the residual."""
    moments, used = course
    begun, ended = (np.clip(flight, moments[0], moments[-1]) for flight in flights[:2])
    edges = np.unique(np.concatenate([moments, begun, ended]))
    pieces = np.diff(np.interp(edges, moments, used))
    rates = _rates(edges, begun, ended, flights[2])
    busy = rates > 0
    price = np.divide(pieces, rates, out=np.zeros_like(pieces), where=busy)
    spent = np.concatenate([[0.0], np.cumsum(price)])
    own = flights[2] * (spent[np.searchsorted(edges, ended)] - spent[np.searchsorted(edges, begun)])
    return own, float(pieces[~busy].sum())


def _rates(edges: Floats, begun: Floats, ended: Floats, rate: Floats) -> Floats:
    """[piece between two edges] tokens per second of all hops in flight; exactly 0 where there are none."""
    change, count = np.zeros(len(edges)), np.zeros(len(edges), dtype=np.int64)
    for moments, sign in ((begun, 1), (ended, -1)):
        places = np.searchsorted(edges, moments)
        np.add.at(change, places, sign * rate)
        np.add.at(count, places, sign)
    summed = np.cumsum(change)[:-1]
    return np.where(np.cumsum(count)[:-1] > 0, np.maximum(summed, np.finfo(float).tiny), 0.0)


def _added(parts: Sequence[tuple[Floats, float]]) -> Shares:
    return Shares(residual=sum(rest for _, rest in parts), hops=np.sum([hops for hops, _ in parts], axis=0))
