"""Meters count joules where a counter can be read, and None everywhere else."""

from pathlib import Path

import pytest

from qtrap_agents.energy import NoMeter, NvmlMeter, RaplMeter, open_meter


class FakeNvml:
    """GPUs with counters in millijoules."""

    def __init__(self, *millijoules: int):
        self.counters = dict(enumerate(millijoules))

    def nvmlDeviceGetCount(self) -> int:
        return len(self.counters)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:
        assert isinstance(handle, int)
        return self.counters[handle]


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
    meter = NvmlMeter(nvml)
    assert meter.read_j() == 3.5
    nvml.counters[1] += 250
    assert meter.read_j() == 3.75
    assert meter.name == "nvml"


def test_nvml_counts_chosen_gpus_only() -> None:
    assert NvmlMeter(FakeNvml(1_000, 20_000, 300_000), indices=[0, 2]).read_j() == 301.0


def test_rapl_adds_up_packages(tmp_path: Path) -> None:
    packages = [zone(tmp_path, f"intel-rapl:{number}", f"package-{number}", 100) for number in range(2)]
    meter = RaplMeter(tmp_path)
    assert meter.read_j() == 0.0
    count(packages[0], 300_100)
    count(packages[1], 200_100)
    assert meter.read_j() == 0.5
    assert meter.name == "rapl"


def test_rapl_follows_wrap_arounds(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 900_000, wrap=1_000_000)
    meter = RaplMeter(tmp_path)
    count(package, 100_000)
    assert meter.read_j() == 0.2
    count(package, 50_000)
    assert meter.read_j() == 1.15


def test_rapl_counts_nothing_twice(tmp_path: Path) -> None:
    """Parts of a package, and `psys`, which holds the packages, are left out."""
    zones = [
        zone(tmp_path, name, label, 0)
        for name, label in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys"))
    ]
    meter = RaplMeter(tmp_path)
    for number, folder in enumerate(zones):
        count(folder, 100_000 * 2**number)
    assert meter.read_j() == 0.1


@pytest.mark.parametrize("damage", ["nothing there", "no energy_uj"])
def test_unreadable_rapl_is_no_meter_with_a_reason(tmp_path: Path, damage: str) -> None:
    if damage == "no energy_uj":
        (zone(tmp_path, "intel-rapl:0", "package-0", 0) / "energy_uj").unlink()
    meter = open_meter("auto", on_gpu=False, rapl_root=tmp_path)
    assert meter.read_j() is None
    assert isinstance(meter, NoMeter)
    assert meter.reason.startswith("CPU energy not measured: ")
    assert str(tmp_path) in meter.reason


def test_open_meter_takes_rapl_on_a_cpu(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    assert open_meter("auto", on_gpu=False, rapl_root=tmp_path).name == "rapl"


def test_energy_can_be_switched_off(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = open_meter("none", on_gpu=True, rapl_root=tmp_path)
    assert (meter.name, meter.read_j()) == ("none", None)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA GPU")
def test_a_gpu_that_is_not_there_is_not_measured_by_the_cpu(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = open_meter("auto", on_gpu=True, rapl_root=tmp_path)
    assert meter.read_j() is None
    assert isinstance(meter, NoMeter)
    assert "NVML" in meter.reason
