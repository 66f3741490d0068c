"""From looks at a meter to the energy of a window: a thread that reads, and interpolation between the counter's updates.

NVML's counter moves about ten times a second, so a difference of two plain reads is off by up to a tenth of a second's work.
Here the counter is read twenty times a second and every update is kept with its time; between two updates the power is
taken as constant. The energies of adjoining windows add up to the energy of both.
"""

import asyncio
import logging
import threading
import time
from array import array
from collections.abc import Callable
from types import TracebackType

import numpy as np

from qtrap_agents.energy import Meter
from qtrap_agents.measures import Reading

logger = logging.getLogger(__name__)

INTERVAL_S = 0.05
SINK_EVERY_S = 0.5
STALL_S = 2.0
"""A counter that does not move for so long tells nothing about what happened meanwhile."""
PATIENCE_S = 1.0
POLL_S = 0.02


class Updates:
    """The moments (Unix time, seconds) at which a counter had moved, and where it stood (joules): 16 bytes each."""

    def __init__(self) -> None:
        self._at = array("d")
        self._joules = array("d")

    def note(self, at: float, joules: float) -> None:
        """One more read; one that shows no movement is not kept."""
        if not self._joules or joules != self._joules[-1]:
            self._at.append(at)
            self._joules.append(joules)

    @property
    def last_at(self) -> float:
        """When the counter last moved; minus infinity before the first read."""
        return self._at[-1] if self._at else float("-inf")

    def energy_j(self, begun_at: float, ended_at: float) -> float | None:
        """Joules between two moments; None where they are not both covered, or the counter stalled between them."""
        at = np.array(self._at)
        if not at.size or begun_at < at[0] or ended_at > at[-1] or ended_at < begun_at:
            return None
        first = int(np.searchsorted(at, begun_at, side="right")) - 1
        last = int(np.searchsorted(at, ended_at, side="left"))
        if np.diff(at[first : last + 1]).max(initial=0.0) > STALL_S:
            logger.warning("the energy counter stood still for more than %g s: the window is not measured", STALL_S)
            return None
        begun_j, ended_j = np.interp([begun_at, ended_at], at, np.array(self._joules))
        return float(ended_j - begun_j)


class Recorder:
    """Reads a meter in a thread for the length of a `with` block. With a meter that measures nothing it does nothing.

    Args:
        interval_s: seconds between two reads.
        sink: gets a reading about twice a second, from the thread.
    """

    def __init__(self, meter: Meter, interval_s: float = INTERVAL_S, sink: Callable[[Reading], None] | None = None):
        self.meter = meter
        self.latest: Reading | None = None
        self._interval_s, self._sink, self._sunk_at = interval_s, sink, float("-inf")
        self._updates = Updates()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="energy")

    @property
    def measures(self) -> bool:
        """False where nothing is measured."""
        return self.meter.reason is None

    def __enter__(self) -> "Recorder":
        if self.measures:
            self._take(self.meter.read())
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    async def energy_j(self, begun_at: float, ended_at: float) -> float | None:
        """Joules between two moments (Unix time, seconds) since the block was entered; None where not measured.

        Waits up to a second for the counter's next update after `ended_at`.
        """
        if not self.measures:
            return None
        for _ in range(round(PATIENCE_S / POLL_S)):
            if self._updates.last_at >= ended_at:
                break
            await asyncio.sleep(POLL_S)
        with self._lock:
            return self._updates.energy_j(begun_at, ended_at)

    async def idle_power_w(self, duration_s: float) -> float | None:
        """Mean watts while nothing is asked of the device; None at once where not measured."""
        if not self.measures:
            return None
        begun_at = time.time()
        await asyncio.sleep(duration_s)
        ended_at = time.time()
        energy_j = await self.energy_j(begun_at, ended_at)
        return None if energy_j is None else energy_j / (ended_at - begun_at)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._take(self.meter.read())

    def _take(self, reading: Reading) -> None:
        self.latest = reading
        if reading.energy_j is not None:
            with self._lock:
                self._updates.note(reading.at, reading.energy_j)
        if self._sink is not None and reading.at - self._sunk_at >= SINK_EVERY_S:
            self._sunk_at = reading.at
            self._sink(reading)
