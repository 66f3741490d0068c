"""Meters count joules where a counter can be read, and say why they do not everywhere else."""

import sys
import time
import types
from pathlib import Path

import pytest

from qtrap_agents import energy
from qtrap_agents.energy import Meter, NoMeter, NvmlMeter, RaplMeter, ZeusMeter, open_meter, open_nvml


class NVMLError(Exception):
    """What the fake raises, as pynvml does."""


class FakeNvml:
    """GPUs with recorded counters in millijoules and power in milliwatts. Anything but reading is an attribute error."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    nvmlClocksEventReasonSwPowerCap = 4
    nvmlClocksEventReasonHwSlowdown = 8

    def __init__(self, *millijoules: int, milliwatts: int | None = 300_000, counts: bool = True, reasons: int = 0):
        self.counters = dict(enumerate(millijoules))
        self.milliwatts, self.counts, self.reasons = milliwatts, counts, reasons

    def nvmlDeviceGetCount(self) -> int:
        return len(self.counters)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index not in self.counters:
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        return self.nvmlDeviceGetHandleByIndex(int(name.removeprefix("GPU-")))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if not self.counts:
            raise NVMLError("Not Supported")
        return self.counters[handle]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if self.milliwatts is None:
            raise NVMLError("Not Supported")
        return self.milliwatts

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: int) -> int:
        return 700_000

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 40 + handle

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> int:
        if clock == self.NVML_CLOCK_MEM:
            raise NVMLError("Not Supported")
        return 1980 - handle

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return self.reasons


def joules(meter: Meter) -> float:
    """What the meter reads now."""
    energy_j = meter.read().energy_j
    assert energy_j is not None
    return energy_j


def nvml_meter(nvml: FakeNvml, counter: bool = True) -> NvmlMeter:
    """A meter of all its GPUs."""
    return NvmlMeter(nvml, list(nvml.counters), counter)


def zone(root: Path, name: str, label: str, microjoules: int, wrap: int = 1_000_000) -> Path:
    """One RAPL counter."""
    folder = root / name
    folder.mkdir()
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{wrap}\n")
    return folder


def count(folder: Path, microjoules: int) -> None:
    """The counter goes on."""
    (folder / "energy_uj").write_text(f"{microjoules}\n")


def test_nvml_counts_joules_of_all_gpus() -> None:
    nvml = FakeNvml(1_500, 2_000)
    meter = nvml_meter(nvml)
    assert joules(meter) == 3.5
    nvml.counters[1] += 250
    assert joules(meter) == 3.75
    assert (meter.name, meter.reason, meter.tdp_w) == ("nvml", None, 1400.0)


def test_a_reading_tells_the_state_of_the_device() -> None:
    reading = nvml_meter(FakeNvml(1_000, 2_000, reasons=4)).read()
    assert (reading.power_w, reading.temperature_c, reading.sm_clock_mhz) == (600.0, 41.0, 1979.0)
    assert reading.memory_clock_mhz is None, "what the GPU refuses to tell is not known"
    assert reading.throttled == ("SwPowerCap",)


def test_a_counter_that_starts_again_goes_on_from_where_it_was() -> None:
    """Recorded: the driver was loaded anew in the middle of a series."""
    nvml = FakeNvml(0)
    meter = nvml_meter(nvml)
    seen = []
    for millijoules in (5_000, 9_000, 400, 1_400):
        nvml.counters[0] = millijoules
        seen.append(joules(meter))
    assert seen == [5.0, 9.0, 9.4, 10.4]


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, 111.0), ("0,2", 101.0), ("1", 10.0), ("GPU-2, GPU-1", 110.0), ("2,-1", 100.0)]
)
def test_only_visible_gpus_are_counted(visible: str | None, expected: float) -> None:
    assert joules(open_nvml(FakeNvml(1_000, 10_000, 100_000), visible)) == expected


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        ("", "hides every GPU"),
        ("-1", "hides every GPU"),
        ("7", "names no GPU"),
        ("MIG-abc", "MIG slice"),
        ("gpu", "names no GPU"),
    ],
)
def test_gpus_that_cannot_be_counted_are_not_measured(visible: str, words: str) -> None:
    meter = open_nvml(FakeNvml(1_000), visible)
    assert meter.read().energy_j is None
    assert meter.reason is not None
    assert words in meter.reason


def test_without_a_counter_power_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trapezoids: 300 W for 2 s, then 300 to 500 W over 1 s."""
    clock = iter([99.0, 100.0, 102.0, 103.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    nvml = FakeNvml(0, counts=False)
    meter = open_nvml(nvml, None)
    assert meter.name == "nvml-power"
    assert joules(meter) == pytest.approx(600.0)
    nvml.milliwatts = 500_000
    assert joules(meter) == pytest.approx(600.0 + 400.0)


def test_a_gpu_that_tells_neither_energy_nor_power_is_not_measured() -> None:
    meter = open_nvml(FakeNvml(0, counts=False, milliwatts=None), None)
    assert isinstance(meter, NoMeter)
    assert "neither energy nor power" in meter.reason


def test_nothing_but_reading_is_ever_asked_of_a_device() -> None:
    """No setter, reset or register call of NVML is named anywhere in the package."""
    package = Path(energy.__file__).parent
    words = ("nvmlDeviceSet", "nvmlDeviceReset", "nvmlDeviceClear", "nvmlGpuInstanceCreate", "nvidia-smi")
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert [str(path) for path, text in sources.items() if any(word in text for word in words)] == []


class FakeGpus:
    """What `zeus.device.get_gpus()` gives."""

    def __init__(self, *millijoules: int):
        self.counters = millijoules

    def __len__(self) -> int:
        return len(self.counters)

    def get_total_energy_consumption(self, index: int) -> int:
        return self.counters[index]


def test_zeus_counts_other_vendors() -> None:
    meter = ZeusMeter(FakeGpus(2_000, 500))
    assert (joules(meter), meter.name) == (2.5, "zeus")


def test_zeus_is_asked_where_no_nvidia_driver_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml, zeus, device = types.ModuleType("pynvml"), types.ModuleType("zeus"), types.ModuleType("zeus.device")

    def refuse() -> None:
        raise NVMLError("Driver Not Loaded")

    pynvml.__dict__.update(NVMLError=NVMLError, nvmlInit=refuse)
    device.__dict__["get_gpus"] = lambda: FakeGpus(7_000)
    for name, module in (("pynvml", pynvml), ("zeus", zeus), ("zeus.device", device)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(energy, "find_spec", lambda name: object())
    assert joules(open_meter("auto", on_gpu=True)) == 7.0
    monkeypatch.setattr(energy, "find_spec", lambda name: None)
    reason = open_meter("auto", on_gpu=True).reason
    assert reason is not None
    assert "no NVIDIA driver answers" in reason


def test_rapl_adds_up_packages(tmp_path: Path) -> None:
    packages = [zone(tmp_path, f"intel-rapl:{number}", f"package-{number}", 100) for number in range(2)]
    meter = RaplMeter(tmp_path)
    assert joules(meter) == 0.0
    count(packages[0], 300_100)
    count(packages[1], 200_100)
    assert joules(meter) == 0.5
    assert meter.name == "rapl"


def test_rapl_follows_wrap_arounds(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 900_000, wrap=1_000_000)
    meter = RaplMeter(tmp_path)
    count(package, 100_000)
    assert joules(meter) == 0.2
    count(package, 50_000)
    assert joules(meter) == 1.15


def test_rapl_counts_nothing_twice(tmp_path: Path) -> None:
    """Parts of a package, and `psys`, which holds the packages, are left out."""
    zones = [
        zone(tmp_path, name, label, 0)
        for name, label in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys"))
    ]
    meter = RaplMeter(tmp_path)
    for number, folder in enumerate(zones):
        count(folder, 100_000 * 2**number)
    assert joules(meter) == 0.1


@pytest.mark.parametrize("damage", ["nothing there", "no energy_uj"])
def test_unreadable_rapl_is_no_meter_with_a_reason(tmp_path: Path, damage: str) -> None:
    if damage == "no energy_uj":
        (zone(tmp_path, "intel-rapl:0", "package-0", 0) / "energy_uj").unlink()
    meter = open_meter("auto", on_gpu=False, rapl_root=tmp_path)
    assert meter.read().energy_j is None
    assert isinstance(meter, NoMeter)
    assert meter.reason.startswith("CPU energy not measured: ")
    assert str(tmp_path) in meter.reason


def test_open_meter_takes_rapl_on_a_cpu(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    assert open_meter("auto", on_gpu=False, rapl_root=tmp_path).name == "rapl"


def test_energy_can_be_switched_off(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = open_meter("none", on_gpu=True, rapl_root=tmp_path)
    assert (meter.name, meter.read().energy_j) == ("none", None)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA GPU")
def test_a_gpu_that_is_not_there_is_not_measured_by_the_cpu(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = open_meter("auto", on_gpu=True, rapl_root=tmp_path)
    assert meter.read().energy_j is None
    assert isinstance(meter, NoMeter)
    assert "NVML" in meter.reason
