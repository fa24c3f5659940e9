"""8-bit integers in place of floats: products of layers on CPU, and rows of the K/V cache.

A row is scaled by its own largest magnitude, so that one large value costs precision in its row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows along the last dimension as int8 [..., n] and their float32 scales [..., 1], so that x ≈ int8 * scale."""
    wide = x.float()
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
    return (wide / scale).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8 per output row; each input row is quantised on arrival.

    Both factors being integers, the sum is exact; only the two roundings separate it from the float layer.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        """`dtype` is what it returns."""
        super().__init__()
        weight, scale = quantize(linear.weight.detach())
        self._dtype = dtype
        self.register_buffer("weight", weight.t())
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """x [N, in] to [N, out]. A row that is not finite gives a row that is not finite."""
        rows, row_scale = quantize(x)
        out = torch._int_mm(rows, self.weight).float() * row_scale * self.scale
        if self.bias is not None:
            out = out + self.bias
        return out.to(self._dtype)
