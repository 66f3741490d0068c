"""What this machine's CPU multiplies fast: it decides the dtype of `auto` and whether vLLM's 4-bit CPU kernel can run."""

import ctypes
import platform
import subprocess
from functools import cache
from pathlib import Path

_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA = 158, 0x1023, 18
"""System call of x86-64, its operation ARCH_REQ_XCOMP_PERM, and the number of the tile registers."""


@cache
def cpu_flags() -> frozenset[str]:
    """Feature names in lower case as Linux spells them (`avx2`, `avx512f`, `amx_bf16`); empty where unknown."""
    if platform.system() == "Darwin":
        return _darwin_flags()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in {"flags", "features"}:
            return frozenset(value.lower().split())
    return frozenset()


def has_avx512(flags: frozenset[str] | None = None) -> bool:
    """True where vLLM's `CPUWNA16LinearKernel` has its instructions (AVX-512 F, BW and VL)."""
    return {"avx512f", "avx512bw", "avx512vl"} <= (cpu_flags() if flags is None else flags)


def fast_dtype(flags: frozenset[str] | None = None) -> str:
    """The narrowest dtype that oneDNN multiplies natively on this CPU.

    bfloat16 with AMX or AVX512-BF16 (also Arm's `bf16`), else float16 with AVX512-FP16, else float32: without such
    instructions every 16-bit product is emulated, about five times slower than float32 on an AVX2 host. bfloat16 comes
    first because CPUs with AVX512-FP16 have AMX tiles for bfloat16 only.
    """
    known = cpu_flags() if flags is None else flags
    if {"amx_bf16", "avx512_bf16", "bf16"} & known:
        return "bfloat16"
    return "float16" if "avx512_fp16" in known else "float32"


def allow_amx() -> bool:
    """Ask Linux for the AMX tiles; False where there are none or it refuses.

    A process that computes with tiles and has not asked is killed by SIGILL. oneDNN asks before its first product with
    tiles; vLLM's bfloat16 attention uses them too, does not ask, and with a small model comes first. The permission goes with
    a fork and ends with `exec`. Source: Linux, Documentation/arch/x86/xstate.rst.
    """
    if platform.machine() != "x86_64" or "amx_tile" not in cpu_flags():
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA) == 0)


def _darwin_flags() -> frozenset[str]:
    names = ["machdep.cpu.features", "machdep.cpu.leaf7_features"]
    found = subprocess.run(["sysctl", "-n", *names], capture_output=True, text=True, check=False)
    return frozenset(found.stdout.lower().split())
