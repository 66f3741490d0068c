"""Which of the classes that multiply with packed weights unpack while they multiply, and which in a kernel of its own."""

from collections.abc import Iterable
from typing import Literal

Kind = Literal["fused", "separate", "none", "unknown"]

FUSED = frozenset(
    {
        "MarlinLinearKernel", "MacheteLinearKernel", "ExllamaLinearKernel", "AllSparkLinearKernel", "ConchLinearKernel",
        "CutlassW4A8LinearKernel", "BitBLASLinearKernel", "CPUWNA16LinearKernel", "TritonW4A16LinearKernel",
        "HummingLinearKernel", "AWQMarlinLinearMethod", "GPTQMarlinLinearMethod",
    }
)  # fmt: skip
"""The product reads packed weights and unpacks them in registers: there is no casting time of its own."""

SEPARATE = frozenset(
    {"Linear4bit", "Linear8bitLt", "BitsAndBytesLinearMethod", "AWQLinearMethod", "GPTQLinearMethod", "DynamicInt4Linear"}
)
"""Weights are written out dense by one kernel and multiplied by the next, always or beyond small batches.

vLLM's AWQ and GPTQ methods without Marlin do so from 256 tokens (AWQ) or 50 rows (GPTQ, exllama) on; bitsandbytes' NF4 for more
than one row, and its INT8 quantises activations on the way.
"""

NONE = frozenset({"UnquantizedLinearMethod", "Linear", "ReferenceLinearKernel"})
"""Multiplies dense weights. qtrap's own reference kernel is among them: it unpacks once, at load."""


def kind_of(kernel: str) -> Kind:
    """How a class multiplies."""
    for names, kind in _KINDS:
        if kernel in names:
            return kind
    return "unknown"


def kind_of_all(kernels: Iterable[str]) -> Kind:
    """How an arm multiplies: by what its packed layers do, `none` where it has none of them."""
    kinds = {kind_of(kernel) for kernel in kernels}
    return next((kind for kind in ("separate", "unknown", "fused") if kind in kinds), "none")


_KINDS: tuple[tuple[frozenset[str], Kind], ...] = ((FUSED, "fused"), (SEPARATE, "separate"), (NONE, "none"))
