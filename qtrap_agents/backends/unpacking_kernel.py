"""The reference kernel itself: packed weights are unpacked once at load, then multiplied as dense ones.

Imported by vLLM's worker only. The packed parameters stay in place, so that counts and bytes of what the checkpoint
holds can still be read from the module; the dense copy lies beside them and costs memory of its own.
"""

import torch
from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import MPLinearKernel, MPLinearLayerConfig

from qtrap_agents.backends.unpack import dequantise


class ReferenceLinearKernel(MPLinearKernel):  # type: ignore[misc]
    """y = x · ((q − z) · s)ᵀ for compressed-tensors `pack-quantized` weights of 2 to 8 bits, with or without zero points."""

    @classmethod
    def get_min_capability(cls) -> int:
        """Any device."""
        return -1

    @classmethod
    def can_implement(cls, c: MPLinearLayerConfig) -> tuple[bool, str | None]:
        """Everything but groups in activation order, which are looked up while multiplying."""
        if getattr(c, "has_g_idx", False):
            return False, "the reference kernel has no activation reordering"
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Unpack to the activation dtype, [out, in]."""
        packed, scales, zeros = self._get_weight_params(layer)
        if getattr(packed, "output_dim", 0) != 0:
            raise NotImplementedError("the reference kernel reads compressed-tensors checkpoints only")
        inputs, outputs = self.config.partition_weight_shape
        offsets = zeros.data if self.config.zero_points else None
        dense = dequantise(packed.data, scales.data, offsets, self.config.weight_type.size_bits, (outputs, inputs))
        layer.unpacked_weight = dense.to(self.config.act_type)

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[…, in] to […, out]."""
        weight: torch.Tensor = layer.unpacked_weight  # type: ignore[assignment]
        return torch.nn.functional.linear(x, weight, bias)
