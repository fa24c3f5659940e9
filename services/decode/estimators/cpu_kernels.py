"""The parts of a fused estimator's step for a CPU, where the number of calls and passes over memory counts.

They give the values of `kernels.PLAIN` within float32 rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.decode.estimators.kernels import (
    Affine,
    CausalWeights,
    Gelu,
    LayerKernels,
    Shortcut,
    rotate,
)
from services.decode.flow.program import Tails

_LARGEST_EXPONENT = 20.0
"""From here on Mish is the identity in float32, and e^2x is far from overflow."""


def mish(x: Tensor) -> Tensor:
    """Return x * tanh(log(1 + e^x)) by one exponential, as x * n / (n + 2) with n = e^x * (e^x + 2); `x` is changed."""
    power = x.clamp(max=_LARGEST_EXPONENT).exp_()
    ratio = (power + 2).mul_(power)
    return x.mul_(ratio.div_(ratio + 2))


def product(
    x: Tensor,
    by: Affine,
    *,
    norm: nn.LayerNorm | None = None,
    gelu: Gelu | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """See `kernels.Product`."""
    out = F.linear(x if norm is None else norm(x), by.weight, by.bias)
    if gelu is not None:
        out = F.gelu(out, approximate=gelu)
    if gate is not None:
        out.mul_(gate)
    return out if residual is None else out.add_(residual)


def convolve(
    x: Tensor,
    by: CausalWeights,
    tails: Tails,
    *,
    norm: nn.LayerNorm | None = None,
    term: Tensor | None = None,
    shortcut: Shortcut | None = None,
) -> Tensor:
    """See `kernels.Convolve`: one matrix product over the frames that each output frame sees."""
    extended = tails.extend(x)
    taps, channels = by.weight.shape[:2]
    rows, length, _ = extended.shape
    # Adjacent frames are adjacent in memory, so that each window is a view.
    windows = extended.as_strided((rows, x.shape[1], taps * channels), (length * channels, channels, 1))
    out = torch.addmm(by.bias, windows.flatten(0, 1), by.weight.flatten(0, 1)).view(rows, x.shape[1], -1)
    if norm is not None:
        out = mish(norm(out))
    if term is not None:
        out.add_(term)
    return out if shortcut is None else out.add_(F.linear(shortcut.x, shortcut.by.weight, shortcut.by.bias))


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `kernels.Modulate`: scale and shift are the weights of the norm."""
    return F.layer_norm(x, x.shape[-1:], (1 + scale).flatten(), shift.flatten(), eps)


CPU = LayerKernels(product, convolve, modulate, rotate)
