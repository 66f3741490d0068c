"""Energy meters: counters in joules that are read before and after a window of work.

A meter that cannot measure reads None; nothing is ever estimated. NVML counts the whole GPU and updates its counter about
every 100 ms, RAPL counts the CPU package: windows should last several seconds.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

RAPL = Path("/sys/class/powercap")


class Meter(Protocol):
    """A cumulative energy counter. `name` goes into every record that carries its numbers."""

    name: str

    def read_j(self) -> float | None:
        """Joules since some fixed moment, or None where nothing measures."""


class NoMeter:
    """Measures nothing and says why."""

    def __init__(self, reason: str = "energy metering is switched off"):
        self.name = "none"
        self.reason = reason

    def read_j(self) -> float | None:
        """Always None."""
        return None


class NvmlMeter:
    """Total energy of NVIDIA GPUs by NVML's own counter (Volta and newer), in joules.

    Args:
        nvml: the `pynvml` module, already initialised.
        indices: GPUs to add up; all by default.
    """

    def __init__(self, nvml: "Nvml", indices: Sequence[int] | None = None):
        self.name = "nvml"
        self._nvml = nvml
        chosen = range(nvml.nvmlDeviceGetCount()) if indices is None else indices
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in chosen]
        self.read_j()

    def read_j(self) -> float:
        """Joules since the driver was loaded."""
        return sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in self._handles) / 1000


class Nvml(Protocol):
    """The part of `pynvml` that the meter uses; energies in millijoules."""

    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int: ...


class RaplMeter:
    """Energy of the CPU packages by Linux RAPL, in joules; counters that wrap around are followed.

    Args:
        root: folder of the powercap tree.

    Raises:
        OSError: no package counter can be read (often root only).
    """

    def __init__(self, root: Path = RAPL):
        self.name = "rapl"
        self._zones = sorted(zone for zone in root.glob("intel-rapl:*") if _is_package(zone))
        if not self._zones:
            raise FileNotFoundError(f"no RAPL package counter under {root}")
        self._wrap = [_microjoules(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = [_microjoules(zone / "energy_uj") for zone in self._zones]
        self._total = 0

    def read_j(self) -> float:
        """Joules since the meter was opened. Must be read at least once per wrap-around (about an hour)."""
        for index, zone in enumerate(self._zones):
            now = _microjoules(zone / "energy_uj")
            self._total += (now - self._last[index]) % self._wrap[index]
            self._last[index] = now
        return self._total / 1e6


def open_meter(choice: Literal["auto", "none"], on_gpu: bool, rapl_root: Path = RAPL) -> Meter:
    """The best meter for where the arm runs: NVML for a GPU, RAPL for a CPU, `NoMeter` with the reason otherwise."""
    if choice == "none":
        return NoMeter()
    if on_gpu:
        return _open_nvml()
    try:
        return RaplMeter(rapl_root)
    except OSError as error:
        return NoMeter(f"CPU energy not measured: {error}")


def _open_nvml() -> Meter:
    import pynvml

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return NvmlMeter(pynvml)
    return NoMeter("GPU energy not measured: NVML's total-energy counter cannot be read")


def _is_package(zone: Path) -> bool:
    """False for the parts of a package (`intel-rapl:0:1`) and for `psys`, which counts the packages once more."""
    return zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package")


def _microjoules(path: Path) -> int:
    return int(path.read_text())
