"""The environment of llm-compressor, apart from ours because its pins clash with vLLM's: found, looked at, made."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from qtrap_agents.backends.launch import gpu_visible
from qtrap_agents.errors import ConfigError
from qtrap_agents.quantise.child import follow

LLM_COMPRESSOR, TORCH = "0.14.0.1", "2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED = ("llmcompressor", "torch", "transformers", "compressed-tensors")
ROOM_BYTES = {"cpu": 3 * 2**30, "cuda": 10 * 2**30}
READY = "qtrap-ready.json"
LOOK_S = 60.0
LOOK = (
    "import importlib.metadata as m, importlib.util as u, json\n"
    f"names = {NEEDED!r}\n"
    "print(json.dumps({n: m.version(n) for n in names if u.find_spec(n.replace('-', '_'))}))"
)


def folder() -> Path:
    """Where our own environment lies or would lie: beneath `$XDG_CACHE_HOME`, else `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "qtrap" / f"quantise-llmcompressor-{LLM_COMPRESSOR}"


def own_interpreter() -> Path | None:
    """The interpreter of our environment; None where it was not made, or not to its end."""
    return _python(folder()) if (folder() / READY).is_file() else None


def versions(python: Path) -> dict[str, str]:
    """Versions of what the quantiser needs, as that interpreter sees them.

    Raises:
        ConfigError: it cannot be run, or lacks a package.
    """
    try:
        shown = subprocess.run([python, "-I", "-c", LOOK], capture_output=True, text=True, check=True, timeout=LOOK_S)
        found: dict[str, str] = json.loads(shown.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(f"--python {python}: cannot be run ({_why(error)}); give the interpreter of an environment") from error
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise ConfigError(
            f"--python {python}: has no {', '.join(missing)}; install llmcompressor=={LLM_COMPRESSOR} there, or leave --python "
            "out to have an environment made"
        )
    return found


async def make(tell: Callable[[str], None]) -> Path:
    """Our environment, made where it is not there yet; minutes, and gigabytes from the package index.

    Raises:
        ConfigError: no room, no interpreter with `venv`, or packages cannot be installed; nothing is left behind.
    """
    if (python := own_interpreter()) is not None:
        return python
    place = folder()
    device = "cuda" if gpu_visible() else "cpu"
    _require_room(place, ROOM_BYTES[device])
    log = place.with_name(f"{place.name}.log")
    log.unlink(missing_ok=True)
    try:
        tell(f"making an environment for llm-compressor {LLM_COMPRESSOR} in {place} (minutes; log: {log})")
        await _run([sys.executable, "-m", "venv", "--clear", str(place)], log, tell, "make it yourself and give --python")
        await _install(_python(place), device, log, tell)
        (place / READY).write_text(json.dumps(versions(_python(place)), indent=1) + "\n", encoding="utf-8")
    finally:
        if own_interpreter() is None:
            shutil.rmtree(place, ignore_errors=True)
    return _python(place)


async def _install(python: Path, device: str, log: Path, tell: Callable[[str], None]) -> None:
    """On a CPU the small build of torch: from the usual index where it has it, else from PyTorch's own."""
    small = device == "cpu" and sys.platform == "linux"
    wanted = [f"llmcompressor=={LLM_COMPRESSOR}", f"torch=={TORCH}{'+cpu' if small else ''}"]
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *wanted]
    remedy = f"install {' '.join(wanted)} into an environment yourself and give its interpreter with --python"
    if small and (await follow(command, log, _shown, tell)).process.returncode == 0:
        return
    extra = ["--extra-index-url", TORCH_INDEX] if small else []
    await _run([*command, *extra], log, tell, remedy)


async def _run(command: list[str], log: Path, tell: Callable[[str], None], remedy: str) -> None:
    try:
        child = await follow(command, log, _shown, tell)
    except OSError as error:
        raise ConfigError(f"the quantisation environment cannot be made in {folder()}: {_why(error)}; {remedy}") from error
    if child.process.returncode != 0:
        raise ConfigError(f"the quantisation environment cannot be made: {child.last_words()}; {remedy}")


def _shown(line: str) -> str | None:
    """Pip's steps without its details."""
    text = line.strip()
    if text.startswith("Collecting "):
        return f"collecting {text.split()[1]}"
    return "installing" if text.startswith("Installing collected packages") else None


def _require_room(place: Path, needed: int) -> None:
    """Raises ConfigError where the disk of a folder, which need not be there yet, has less free."""
    free = shutil.disk_usage(existing(place)).free
    if free < needed:
        raise ConfigError(
            f"{place}: needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are free; free some, or let XDG_CACHE_HOME be "
            "a folder on another disk"
        )


def existing(place: Path) -> Path:
    """The nearest folder above that is there."""
    return next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.is_dir())


def _python(place: Path) -> Path:
    return place / "bin" / "python"


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return next(iter(reversed(error.stderr.strip().splitlines())), f"exit code {error.returncode}")
    return next(iter(str(error).splitlines()), type(error).__name__)
