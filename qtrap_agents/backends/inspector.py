"""What a loaded model really holds, read by walking its modules. Runs inside vLLM's worker and in the transformers arm."""

from collections import Counter
from typing import TYPE_CHECKING, TypedDict

from qtrap_agents.backends.profiler import KernelTimer, Times

if TYPE_CHECKING:
    import torch


class ModelFacts(TypedDict):
    """Counts over the linear layers of one worker's model, bytes over all its parameters."""

    linear_modules: int
    quantised_modules: int
    kernels: dict[str, int]
    weight_bytes: int
    unpacked_bytes: int
    activation_dtype: str
    device: str


class Inspector:
    """Mixed into vLLM's worker through `worker_extension_cls`; the server calls it over `/collective_rpc`."""

    def qtrap_facts(self) -> ModelFacts:
        """Facts about this worker's share of the model."""
        runner = self.model_runner  # type: ignore[attr-defined]
        return read_model(runner.get_model(), str(runner.dtype), str(runner.device))

    def qtrap_start_profile(self) -> None:
        """Time this worker's kernels from now on."""
        self.qtrap_timer = KernelTimer(str(self.model_runner.device))  # type: ignore[attr-defined]
        self.qtrap_timer.__enter__()

    def qtrap_stop_profile(self) -> Times:
        """The kernel times since the start."""
        self.qtrap_timer.__exit__(None, None, None)
        return self.qtrap_timer.times


def read_model(model: "torch.nn.Module", dtype: str, device: str) -> ModelFacts:
    """Walk the modules. A linear layer is quantised if one of its parameters is a packed matrix."""
    layers = [module for name, module in model.named_modules() if _is_linear(module) and not name.endswith("lm_head")]
    return ModelFacts(
        linear_modules=len(layers),
        quantised_modules=sum(_is_packed(layer) for layer in layers),
        kernels=dict(Counter(_kernel(layer) for layer in layers)),
        weight_bytes=sum(parameter.nbytes for parameter in model.parameters()) + sum(map(_repacked_bytes, layers)),
        unpacked_bytes=sum(layer.unpacked_weight.nbytes for layer in layers if hasattr(layer, "unpacked_weight")),
        activation_dtype=dtype.removeprefix("torch."),
        device=device,
    )


def combine(shares: list[ModelFacts]) -> ModelFacts:
    """Facts of the whole model from its tensor-parallel shares: the same layers on each, the bytes divided."""
    whole = shares[0].copy()
    whole["weight_bytes"] = sum(share["weight_bytes"] for share in shares)
    whole["unpacked_bytes"] = sum(share["unpacked_bytes"] for share in shares)
    return whole


def _is_linear(module: "torch.nn.Module") -> bool:
    """vLLM's `LinearBase` and torch's `Linear`, by name, so that neither is imported for it."""
    return any(base.__name__ in {"LinearBase", "Linear"} for base in type(module).__mro__)


def _is_packed(layer: "torch.nn.Module") -> bool:
    """True where a matrix of the layer has integer or 8-bit float elements."""
    matrices = [parameter for parameter in (*layer.parameters(), *layer.buffers()) if parameter.ndim >= 2]
    return any(not matrix.is_floating_point() or matrix.element_size() == 1 for matrix in matrices)


def _repacked_bytes(layer: "torch.nn.Module") -> int:
    """Bytes of a matrix that vLLM's CPU backend moved into oneDNN's own layout, leaving an empty parameter."""
    weight = getattr(layer, "weight", None)
    if weight is None or weight.numel() or not hasattr(layer, "output_partition_sizes"):
        return 0
    inputs = getattr(layer, "input_size_per_partition", None) or layer.input_size
    return int(inputs) * sum(layer.output_partition_sizes) * int(weight.element_size())  # type: ignore[arg-type]


def _kernel(layer: "torch.nn.Module") -> str:
    """The class that multiplies: the kernel of the quantisation scheme where it has one, else the method's name."""
    method = getattr(layer, "quant_method", None)
    for owner in (method, getattr(layer, "scheme", None), getattr(method, "quant_method", None)):
        kernel = getattr(owner, "kernel", None)
        if kernel is not None:
            return type(kernel).__name__
    return type(method or layer).__name__
