"""The parts of a fused estimator's step that have two implementations, and the plain one on torch's operations.

`PLAIN` runs on any device and is the reference. `layer_kernels` replaces it by Triton kernels on CUDA. They differ by
rounding alone: a kernel rounds once where plain operations round after each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.decode.flow.dit import rotate_first_head
from services.decode.flow.program import Tails

Gelu = Literal["none", "tanh"]
"""The exact activation, or its approximation by tanh, named as torch does."""


@dataclass(frozen=True)
class Affine:
    """A product's weights: weight [outputs, inputs] and, if there is one, bias [outputs]."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class CausalWeights:
    """A causal convolution's weights [taps, inputs, outputs], the last tap on the current frame, and bias [outputs]."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, conv: nn.Conv1d) -> CausalWeights:
        """Copy the weights [outputs, inputs, taps] of a convolution into the order in which a kernel reads them."""
        weight = conv.weight.permute(2, 1, 0).contiguous()
        return cls(weight, weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias)


@dataclass(frozen=True)
class Shortcut:
    """A product that a residual block adds to its result: x [R, N, inputs] and the weights."""

    x: Tensor
    by: Affine


class Product(Protocol):
    """A matrix product with the operations around it."""

    def __call__(
        self,
        x: Tensor,
        by: Affine,
        *,
        norm: nn.LayerNorm | None = None,
        gelu: Gelu | None = None,
        gate: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """x [R, N, inputs], normalised, times `by`, through GELU, times `gate`, plus `residual` [R, N, outputs].

        `gate` [1, 1, outputs] needs a residual.
        """


class Convolve(Protocol):
    """A causal convolution with the operations around it."""

    def __call__(
        self,
        x: Tensor,
        by: CausalWeights,
        tails: Tails,
        *,
        norm: nn.LayerNorm | None = None,
        term: Tensor | None = None,
        shortcut: Shortcut | None = None,
    ) -> Tensor:
        """x [R, N, inputs] after its stream's tail -> [R, N, outputs]; stores the new tails.

        With `norm`, the result is normalised and goes through Mish. Then `term` [1, 1, outputs] and `shortcut` are
        added.
        """


class Modulate(Protocol):
    """LayerNorm without weights, then a scale and shift that depend on flow time."""

    def __call__(self, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        """x [R, N, C]; shift and scale [1, 1, C]."""


class Rotate(Protocol):
    """Turns the pairs (2k, 2k + 1) of head 0 of queries and keys by position."""

    def __call__(self, qkv: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """qkv [R, N, 3, heads, d], which may be changed, and cosines and sines [R, N, d / 2] -> q, k, v."""


def product(
    x: Tensor,
    by: Affine,
    *,
    norm: nn.LayerNorm | None = None,
    gelu: Gelu | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """See `Product`."""
    out = F.linear(x if norm is None else norm(x), by.weight, by.bias)
    out = out if gelu is None else F.gelu(out, approximate=gelu)
    out = out if gate is None else gate * out
    return out if residual is None else residual + out


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `Modulate`."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


def rotate(qkv: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """See `Rotate`."""
    q, k, v = qkv.unbind(2)
    return rotate_first_head(q, rotary), rotate_first_head(k, rotary), v


def convolve(
    x: Tensor,
    by: CausalWeights,
    tails: Tails,
    *,
    norm: nn.LayerNorm | None = None,
    term: Tensor | None = None,
    shortcut: Shortcut | None = None,
) -> Tensor:
    """See `Convolve`."""
    extended = tails.extend(x)
    windows = torch.cat([extended[:, tap : tap + x.shape[1]] for tap in range(by.weight.shape[0])], dim=-1)
    out = F.linear(windows, by.weight.flatten(0, 1).T, by.bias)
    if norm is not None:
        out = F.mish(norm(out))
    if term is not None:
        out = out + term
    return out if shortcut is None else out + product(shortcut.x, shortcut.by)


@dataclass(frozen=True)
class LayerKernels:
    """One implementation of each part."""

    product: Product = product
    convolve: Convolve = convolve
    modulate: Modulate = modulate
    rotate: Rotate = rotate


PLAIN = LayerKernels()


def joined(*products: nn.Linear) -> Affine:
    """Join products of one input into one, in order."""
    weights: list[Tensor] = [one.weight for one in products]
    biases: list[Tensor] = [one.bias for one in products if one.bias is not None]
    return Affine(torch.cat(weights), torch.cat(biases) if biases else None)
