"""A convolution of a residual block as one part with what follows it: end of the window, shortcut and snake.

The plain form is several operations. `activation_kernel` has the same part as cuDNN's convolution and a Triton kernel,
`convolution_kernel` as one Triton kernel.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from services.decode.vocoder.conv import Conv


class Snake(nn.Module):
    """x + sin²(αx) / α, α per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))
        self._reciprocal: Tensor | None = None

    def fold(self) -> None:
        """Compute 1 / α once, when the weights are loaded and on their device."""
        self._reciprocal = self.reciprocal

    @property
    def reciprocal(self) -> Tensor:
        """1 / α, [channels, 1]."""
        return self._reciprocal if self._reciprocal is not None else (self.alpha[:, None] + 1e-9).reciprocal()

    def forward(self, x: Tensor) -> Tensor:
        wave = (x * self.alpha[:, None]).sin_()
        return torch.addcmul(x, wave.square_(), self.reciprocal)


class ConvolveJoin(Protocol):
    """A convolution, joined with the operations between it and the next one."""

    def __call__(
        self, wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
    ) -> tuple[Tensor, Tensor]:
        """Return conv(wave) * known + shortcut, [B, C, n], and its snake.

        `wave` [B, C, n] is zero where `known` [B, 1, n] is; without `conv`, it takes the place of the first product.
        The sum may be anything if there is no shortcut, the snake if `snake` is None.
        """
        ...


def convolve_join_plain(
    wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
) -> tuple[Tensor, Tensor]:
    """The reference of `ConvolveJoin`."""
    total = wave if conv is None else conv(wave) * known
    if shortcut is not None:
        total = total + shortcut
    return total, total if snake is None else snake(total)
