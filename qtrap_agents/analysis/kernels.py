"""Where the time goes: kernels by what they do, and COR in its second meaning, from a kernel profile.

`cor_kernel` = τ_casting / τ_compute: the time of kernels that only unpack or pack (weights to 16 bits, activations to 8 and
back) over the time of matrix products. It is defined where casting has kernels of its own; a product that unpacks in registers
(Marlin, Machete, bitsandbytes' 4-bit product for single rows) is `fused`, and no profile can tell its two parts apart.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

from qtrap_agents.analysis.serving import Estimate, estimate
from qtrap_agents.measures import KernelTime, PhaseProfile
from qtrap_agents.types import Record

KernelClass = Literal["matrix product", "dequantisation", "attention", "other"]
CLASSES: tuple[KernelClass, ...] = get_args(KernelClass)
Unpacking = Literal["separate", "fused", "none"]

TOP = 8
"""Kernels that a summary names."""

_FUSED = re.compile(
    r"marlin|machete|kgemm_4bit_inference|gem[mv]_4bit|gemm_half_q_half|awq_gemm|gemm_forward_4bit|gptq_gemm|wna16"
    r"|int4_scaled_mm|int4pack_mm",
    re.I,
)
_CASTS = re.compile(
    r"dequant|reconstruct_|quantize_?blockwise|vectorquant|int8_?(vector_?)?quant|doublerowcolquant|awq_repack", re.I
)
_ATTENTION = re.compile(
    r"flash|fmha|attention|attn|sdpa|scaled_dot_product|reshape_and_cache|paged_|merge_attn|rotary|kv_?cache"
    r"|_C::get_scheduler_metadata",
    re.I,
)
_PRODUCT = re.compile(
    r"gemm|gemv|matmul|\bmm\b|::mm$|::bmm$|addmm|::linear$|nvjet|cutlass|cublas|xmma|splitk|mkldnn_linear|onednn"
    r"|packed_linear|scaled_mm|bmm_cpu",
    re.I,
)


def class_of(kernel: str) -> KernelClass:
    """What a kernel does, by its name; a name that says nothing is `other`."""
    if _FUSED.search(kernel):
        return "matrix product"
    if _CASTS.search(kernel):
        return "dequantisation"
    if _ATTENTION.search(kernel):
        return "attention"
    return "matrix product" if _PRODUCT.search(kernel) else "other"


def is_fused(kernel: str) -> bool:
    """True where a product reads packed weights and unpacks them on the way."""
    return bool(_FUSED.search(kernel))


class PhaseShares(Record):
    """One phase of one arm at one place, over `n` repeats.

    `time_s` and `shares` are by class: mean seconds, and the part of all kernel time with its interval. `cor_kernel` is None
    unless `unpacking` is `separate`. `busy` is kernel time over the wall time of the same work without the profiler: what is
    missing to 1 the device waits for its host. `top` are the longest kernels of the last repeat.
    """

    arm: str
    phase: Literal["prefill", "decode"]
    device: str
    concurrency: int
    prompt_tokens: int
    new_tokens: int
    n: int
    time_s: dict[KernelClass, float]
    shares: dict[KernelClass, Estimate]
    unpacking: Unpacking
    cor_kernel: Estimate | None
    busy: Estimate | None
    top: tuple[KernelTime, ...]

    @property
    def casting_share(self) -> float | None:
        """Of casting and matrix products together, the part that is casting: 0.7 where the claim "70 % unpacking" holds."""
        return None if self.cor_kernel is None else self.cor_kernel.value / (1 + self.cor_kernel.value)


def shares_of(profiles: Iterable[PhaseProfile]) -> tuple[PhaseShares, ...]:
    """One record for each arm, place and phase, in the order of the profiles; of a repeat that was done again the last counts."""
    groups: dict[tuple[str, int, int, int, str], dict[int, PhaseProfile]] = {}
    for profile in profiles:
        key = (profile.arm, profile.prompt_tokens, profile.new_tokens, profile.concurrency, profile.phase)
        groups.setdefault(key, {})[profile.repeat] = profile
    return tuple(_shares(list(group.values())) for group in groups.values())


def _shares(repeats: Sequence[PhaseProfile]) -> PhaseShares:
    last, unpacking = repeats[-1], _unpacking(repeats)
    found = {kind: estimate([_time(profile, kind) / profile.kernel_s for profile in repeats]) for kind in CLASSES}
    return PhaseShares(
        arm=last.arm,
        phase=last.phase,
        device=last.device,
        concurrency=last.concurrency,
        prompt_tokens=last.prompt_tokens,
        new_tokens=last.new_tokens,
        n=len(repeats),
        time_s={kind: sum(_time(profile, kind) for profile in repeats) / len(repeats) for kind in CLASSES},
        shares={kind: _capped(share) for kind, share in found.items() if share is not None},
        unpacking=unpacking,
        cor_kernel=_each(repeats, _cor) if unpacking == "separate" else None,
        busy=_each(repeats, lambda profile: profile.kernel_s / profile.wall_s if profile.wall_s > 0 else None),
        top=last.kernels[:TOP],
    )


def _capped(share: Estimate) -> Estimate:
    """A share's interval ends at 1."""
    if share.interval.high is None:
        return share
    interval = share.interval.model_copy(update={"high": min(1.0, share.interval.high)})
    return share.model_copy(update={"interval": interval})


def _each(repeats: Sequence[PhaseProfile], measure: Callable[[PhaseProfile], float | None]) -> Estimate | None:
    return estimate([measure(profile) for profile in repeats])


def _unpacking(repeats: Sequence[PhaseProfile]) -> Unpacking:
    if any(_time(profile, "dequantisation") > 0 for profile in repeats):
        return "separate"
    return "fused" if any(is_fused(kernel.name) for profile in repeats for kernel in profile.kernels) else "none"


def _cor(profile: PhaseProfile) -> float | None:
    products = _time(profile, "matrix product")
    return _time(profile, "dequantisation") / products if products else None


def _time(profile: PhaseProfile, kind: KernelClass) -> float:
    return sum(kernel.time_s for kernel in profile.kernels if class_of(kernel.name) == kind)
