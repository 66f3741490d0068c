"""Energy meters: what a device has used so far, in joules, and the state it is in. Only ever read.

A meter that cannot measure reads None and says why; nothing is ever estimated. NVML counts the whole GPU and updates its
counter about every 100 ms, RAPL counts the CPU package: windows should last several seconds. `qtrap_agents.recorder` turns
readings into the energy of a window.
"""

import os
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from qtrap_agents.measures import Reading

RAPL = Path("/sys/class/powercap")
VISIBLE = "CUDA_VISIBLE_DEVICES"

Found = TypeVar("Found")


class Meter(Protocol):
    """A cumulative energy counter. `name` goes into every record that carries its numbers.

    `reason` says why nothing is measured, None where something is. `tdp_w` is the power in watts that the device is made
    for; times a duration it is a proxy, never a measurement.
    """

    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def tdp_w(self) -> float | None: ...

    def read(self) -> Reading:
        """Joules since some fixed moment, and what else the device tells at this moment."""


class NoMeter:
    """Measures nothing and says why."""

    name = "none"
    tdp_w = None

    def __init__(self, reason: str = "energy metering is switched off"):
        self.reason = reason

    def read(self) -> Reading:
        """Nothing but the time."""
        return Reading(at=time.time())


class NvmlMeter:
    """NVIDIA GPUs by NVML: their total-energy counters (Volta and newer), or their power added up over time.

    A counter that starts again, because the driver was loaded anew, goes on from where it was.

    Args:
        nvml: the `pynvml` module, already initialised.
        handles: the GPUs to add up.
        counter: False integrates sampled power (trapezoids between reads, so read often) where no counter can be read.

    Raises:
        pynvml.NVMLError: the GPU refuses that kind of reading.
    """

    reason = None

    def __init__(self, nvml: Any, handles: Sequence[object], counter: bool = True):
        self.name = "nvml" if counter else "nvml-power"
        self._nvml, self._handles, self._counter = nvml, handles, counter
        self._last = [0] * len(handles)
        self._before = [0] * len(handles)
        self._integral_j = 0.0
        self._sampled: tuple[float, float] | None = None
        limits = [self._ask(nvml.nvmlDeviceGetPowerManagementDefaultLimit, handle) for handle in handles]
        self.tdp_w = None if None in limits else sum(limit for limit in limits if limit is not None) / 1000
        self._energy_j(self._power_w(), time.time())

    def read(self) -> Reading:
        """Energy and power of all GPUs together, the hottest temperature, the slowest clocks, every reason to throttle."""
        at, nvml, power_w = time.time(), self._nvml, self._power_w()
        return Reading(
            at=at,
            energy_j=self._energy_j(power_w, at),
            power_w=power_w,
            temperature_c=self._each(max, nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            sm_clock_mhz=self._each(min, nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._each(min, nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            throttled=self._throttled(),
        )

    def _energy_j(self, power_w: float | None, at: float) -> float:
        if self._counter:
            return sum(map(self._counted_mj, range(len(self._handles)))) / 1000
        if power_w is None:
            raise self._nvml.NVMLError(self._nvml.NVML_ERROR_NOT_SUPPORTED)
        if self._sampled is not None:
            last_at, last_w = self._sampled
            self._integral_j += (power_w + last_w) / 2 * (at - last_at)
        self._sampled = at, power_w
        return self._integral_j

    def _counted_mj(self, index: int) -> int:
        now = int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handles[index]))
        if now < self._last[index]:
            self._before[index] += self._last[index]
        self._last[index] = now
        return self._before[index] + now

    def _power_w(self) -> float | None:
        milliwatts = [self._ask(self._nvml.nvmlDeviceGetPowerUsage, handle) for handle in self._handles]
        return None if None in milliwatts else sum(value for value in milliwatts if value is not None) / 1000

    def _throttled(self) -> tuple[str, ...]:
        ask = getattr(self._nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        bits = [self._ask(ask, handle) or 0 for handle in self._handles] if ask is not None else []
        found = (name for name, bit in self._reasons() if any(value & bit for value in bits))
        return tuple(dict.fromkeys(found))

    def _reasons(self) -> list[tuple[str, int]]:
        """Names and bits; drivers before 535 called them throttle reasons."""
        names = ("SwPowerCap", "SwThermalSlowdown", "HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
        prefixes = ("nvmlClocksEventReason", "nvmlClocksThrottleReason")
        bits = ((name, getattr(self._nvml, prefix + name, None)) for name in names for prefix in prefixes)
        return [(name, bit) for name, bit in bits if bit is not None]

    def _each(self, pick: Callable[[Sequence[float]], float], ask: Callable[..., float], kind: int) -> float | None:
        found = [value for handle in self._handles if (value := self._ask(ask, handle, kind)) is not None]
        return float(pick(found)) if found else None

    def _ask(self, ask: Callable[..., Found], *arguments: object) -> Found | None:
        try:
            return ask(*arguments)
        except self._nvml.NVMLError:
            return None


class RaplMeter:
    """Energy of the CPU packages by Linux RAPL, in joules; counters that wrap around are followed.

    Args:
        root: folder of the powercap tree.

    Raises:
        OSError: no package counter can be read (often root only).
    """

    name = "rapl"
    reason = None

    def __init__(self, root: Path = RAPL):
        self._zones = sorted(zone for zone in root.glob("intel-rapl:*") if _is_package(zone))
        if not self._zones:
            raise FileNotFoundError(f"no RAPL package counter under {root}")
        self._wrap = [_microjoules(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = [_microjoules(zone / "energy_uj") for zone in self._zones]
        self._total = 0
        self.tdp_w = self._limit_w()

    def read(self) -> Reading:
        """Joules since the meter was opened. Must be read at least once per wrap-around (about an hour)."""
        for index, zone in enumerate(self._zones):
            now = _microjoules(zone / "energy_uj")
            self._total += (now - self._last[index]) % self._wrap[index]
            self._last[index] = now
        return Reading(at=time.time(), energy_j=self._total / 1e6)

    def _limit_w(self) -> float | None:
        limits = [zone / "constraint_0_max_power_uw" for zone in self._zones]
        watts = sum(_microjoules(limit) for limit in limits if limit.is_file()) / 1e6
        return watts or None


class ZeusMeter:
    """Accelerators of other vendors through Zeus (https://ml.energy/zeus), where it is installed.

    Args:
        gpus: what `zeus.device.get_gpus()` returns.
    """

    name = "zeus"
    reason = None
    tdp_w = None

    def __init__(self, gpus: Any):
        self._gpus = gpus
        self.read()

    def read(self) -> Reading:
        """Joules of all devices together; Zeus counts millijoules."""
        energy_mj = sum(self._gpus.get_total_energy_consumption(index) for index in range(len(self._gpus)))
        return Reading(at=time.time(), energy_j=energy_mj / 1000)


def open_meter(choice: Literal["auto", "none"], on_gpu: bool, rapl_root: Path = RAPL) -> Meter:
    """The best meter for where the arm runs: NVML or Zeus for a GPU, RAPL for a CPU, `NoMeter` with the reason otherwise."""
    if choice == "none":
        return NoMeter()
    if on_gpu:
        return _open_gpu()
    try:
        return RaplMeter(rapl_root)
    except OSError as error:
        return NoMeter(f"CPU energy not measured: {error}")


def _open_gpu() -> Meter:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _open_zeus() or NoMeter(f"GPU energy not measured: no NVIDIA driver answers ({error})")
    return open_nvml(pynvml, os.environ.get(VISIBLE))


def open_nvml(nvml: Any, visible: str | None) -> Meter:
    """The counter of the visible GPUs, else their sampled power, else the reason why neither can be read.

    Args:
        nvml: the `pynvml` module, already initialised.
        visible: the value of `CUDA_VISIBLE_DEVICES`, None where it is not set.
    """
    if visible is not None and "MIG-" in visible:
        return NoMeter("GPU energy not measured: NVML counts whole GPUs, and this is a MIG slice of one")
    try:
        handles = _handles(nvml, visible)
    except (nvml.NVMLError, ValueError) as error:
        return NoMeter(f"GPU energy not measured: {VISIBLE}={visible} names no GPU that NVML knows ({error})")
    if not handles:
        return NoMeter(f"GPU energy not measured: {VISIBLE} hides every GPU")
    refused = ""
    for counter in (True, False):
        try:
            return NvmlMeter(nvml, handles, counter)
        except nvml.NVMLError as error:
            refused = str(error)
    return NoMeter(f"GPU energy not measured: NVML gives neither energy nor power of this GPU ({refused})")


def _handles(nvml: Any, visible: str | None) -> list[object]:
    """The GPUs that CUDA would use, by index or by UUID."""
    if visible is None:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    names = [name.strip() for name in visible.split(",") if name.strip() not in {"", "-1"}]
    by_uuid, by_index = nvml.nvmlDeviceGetHandleByUUID, nvml.nvmlDeviceGetHandleByIndex
    return [by_uuid(name) if name.startswith("GPU-") else by_index(int(name)) for name in names]


def _open_zeus() -> Meter | None:
    if find_spec("zeus") is None:
        return None
    from zeus.device import get_gpus

    try:
        return ZeusMeter(get_gpus())
    except Exception as error:  # Zeus raises an exception class of its own for each vendor
        return NoMeter(f"GPU energy not measured: Zeus cannot read this device ({error})")


def _is_package(zone: Path) -> bool:
    """False for the parts of a package (`intel-rapl:0:1`) and for `psys`, which counts the packages once more."""
    return zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package")


def _microjoules(path: Path) -> int:
    return int(path.read_text())
