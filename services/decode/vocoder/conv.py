"""Convolutions of the vocoders: where their zeros lie, and CosyVoice3's upsampling (spec sections 7 and 9).

On a CPU all channels of a column are adjacent in memory: oneDNN's convolutions of one dimension copy both input and
output into another order, while its two-dimensional ones over this order do not, and take half of the time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PADDED = 64
"""`ordered_parts` has zeros up to a multiple of this, so that a kernel reads whole tiles and aligned rows."""


def by_columns(x: Tensor) -> Tensor:
    """Return `x` [B, C, n] with the channels of a column adjacent in memory, if it is on a CPU."""
    return x.mT.contiguous().mT if x.device.type == "cpu" else x


class Conv(nn.Conv1d):
    """A convolution over `left` zeros, the input and `right` zeros."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, *, zeros: tuple[int, int]
    ) -> None:
        left, right = zeros
        symmetric = left == right
        super().__init__(inputs, outputs, kernel, stride, left if symmetric else 0, dilation)
        self._pad = (0, 0) if symmetric else zeros

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type == "cpu":
            return self._by_columns(input)
        return super().forward(F.pad(input, self._pad) if any(self._pad) else input)

    @property
    def left(self) -> int:
        """The number of zeros before the input."""
        return max(int(self.padding[0]), self._pad[0])

    def without_bias(self, input: Tensor) -> Tensor:
        """The convolution without its bias; if all zeros lie on the left, more columns follow the result's.

        These cost less than a copy of the input with zeros on one side.
        """
        return F.conv1d(input, self.weight, None, self.stride, self.left, self.dilation)

    def _by_columns(self, input: Tensor) -> Tensor:
        columns = input.mT
        if any(self._pad):
            columns = F.pad(columns, (0, 0, *self._pad))
        x = columns.contiguous()[:, None].permute(0, 3, 1, 2)
        zeros = (0, int(self.padding[0]))
        out = F.conv2d(
            x, self.weight[:, :, None], self.bias, (1, self.stride[0]), zeros, (1, self.dilation[0]), self.groups
        )
        return out[:, :, 0]


class RepeatUp(Conv):
    """CosyVoice3's upsampling: `rate` copies of each column, then a convolution that sees no column to the right."""

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int) -> None:
        super().__init__(inputs, outputs, kernel, zeros=(kernel - 1, 0))
        self._rate = rate

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, n] -> [B, C', n * rate]."""
        return super().forward(input.repeat_interleave(self._rate, dim=-1))


def zeros_around(reach: int, *, causal: bool) -> tuple[int, int]:
    """The zeros that keep the length of a convolution over `reach` more columns than one."""
    return (reach, 0) if causal else (reach // 2, reach // 2)


def ordered_parts(weight: Tensor) -> Tensor:
    """[outputs, inputs, taps] of float32 -> two parts, [2, taps, outputs, inputs] in multiples of PADDED.

    Their sum is the weight. The first part has the nearest numbers of TF32, and the second the rests, of which TF32
    holds all but the last bit. So the products of the parts of two numbers, without that of their rests, add up to the
    numbers' product, but for at most 2^-21 of it.
    """
    outputs, inputs, _ = weight.shape
    by_tap = F.pad(weight.permute(2, 0, 1), (0, -inputs % PADDED, 0, -outputs % PADDED)).contiguous()
    nearest = ((by_tap.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    return torch.stack((nearest, by_tap - nearest))
