"""compressed-tensors `pack-quantized` weights to dense ones. torch only: used inside vLLM's worker and by transformers."""

import torch


def dequantise(
    packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, bits: int, shape: tuple[int, int]
) -> torch.Tensor:
    """(q − z) · s in float32, `shape` [out, in].

    `packed` is int32 [out, ⌈in·bits/32⌉], `scales` [out, groups], `zeros` int32 [⌈out·bits/32⌉, groups] or None where the
    weights are symmetric around zero.
    """
    outputs, inputs = shape
    groups = scales.shape[1]
    codes = unpack_rows(packed, bits, inputs).view(outputs, groups, inputs // groups)
    middle = torch.tensor(1 << (bits - 1)) if zeros is None else unpack_rows(zeros.t(), bits, outputs).t().unsqueeze(-1)
    return ((codes - middle) * scales.to(torch.float32).unsqueeze(-1)).view(outputs, inputs)


def unpack_rows(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """int32 [rows, words] to `count` unsigned codes of `bits` bits per row, float32.

    Codes lie densely, low bits first, and cross word borders where `bits` does not divide 32. This is the layout of
    vLLM and of compressed-tensors 0.18 on; older releases padded every word, which is the same for 2, 4 and 8 bits.
    """
    words = packed.to(torch.int64) & 0xFFFFFFFF
    pairs = words | (torch.nn.functional.pad(words, (0, 1))[:, 1:] << 32)
    starts = torch.arange(count, device=packed.device) * bits
    codes = (pairs[:, starts // 32] >> (starts % 32)) & ((1 << bits) - 1)
    return codes.to(torch.float32)
