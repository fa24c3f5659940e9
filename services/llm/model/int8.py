"""8-bit integers instead of floats: products of layers on a CPU, and the K/V cache.

Each row has a scale from its own largest magnitude, so that a large value reduces the precision of its row only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows along the last dimension as int8 [..., n] and their float32 scales [..., 1]; x ≈ int8 * scale."""
    wide = x.float()
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return (wide / scale).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, scaled per output row; each input row is quantised first.

    Both factors are integers, so the sum is exact; only the two roundings make it differ from the float layer.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        """`dtype` is the type of the output."""
        super().__init__()
        weight, scale = quantize(linear.weight.detach())
        self._dtype = dtype
        self.register_buffer("weight", weight.t())
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """x [N, in] to [N, out]. An input row that is not finite gives an output row that is not finite."""
        rows, row_scale = quantize(x)
        out = torch._int_mm(rows, self.weight).float() * row_scale * self.scale
        if self.bias is not None:
            out = out + self.bias
        return out.to(self._dtype)
