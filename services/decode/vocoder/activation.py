"""What lies between two convolutions of a residual block, as one part: bias, end of the window, shortcut and snake.

The plain form is several operations. `activation_kernel` has the same part as one Triton kernel.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


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


class Join(Protocol):
    """Joins the operations between two convolutions."""

    def __call__(
        self, x: Tensor, bias: Tensor | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
    ) -> tuple[Tensor, Tensor]:
        """Return (x + bias) * known + shortcut, [B, C, n], and its snake.

        `x` [B, C, n or more] has one more column for each that is left out, `known` is [B, 1, n]; without `bias`, x is
        zero where `known` is. The sum may be anything if there is no shortcut, the snake if `snake` is None.
        """
        ...


def join_plain(
    x: Tensor, bias: Tensor | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
) -> tuple[Tensor, Tensor]:
    """The reference of `Join`."""
    total = x[..., : known.shape[-1]]
    if bias is not None:
        total = (total + bias[:, None]) * known
    if shortcut is not None:
        total = total + shortcut
    return total, total if snake is None else snake(total)
