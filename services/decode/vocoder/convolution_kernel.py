"""`activation.ConvolveJoin` as one Triton kernel, for CUDA: a convolution of float32 as three products in TF32.

Tensor cores multiply numbers of TF32, which have 11 of float32's 24 bits. So both factors are split into two parts
(`conv.ordered_parts`), and all products of parts but the smallest are added. A tensor core cuts off the bits of a sum
that float32 arithmetic rounds, and all these errors have one direction. So tensor cores add the products of one tap
and CHUNK channels, and float32 arithmetic adds these sums.

This module needs the triton package. Triton compiles annotations too, so only compile-time constants have one.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from services.decode.vocoder.activation import Snake
from services.decode.vocoder.activation_kernel import convolve_then_join, snaked
from services.decode.vocoder.conv import PADDED, Conv, ordered_parts

CHUNK = 32
"""Input channels that a tensor core adds up."""
WIDE, NARROW = (128, 64, 8), (64, 32, 4)
"""Columns and outputs of a program, and its warps."""
FEW_PROGRAMS = 128
"""With fewer wide programs, narrow ones occupy more multiprocessors."""


class FusedConvolve:
    """See `activation.ConvolveJoin`. Keeps the weights of all convolutions that it has computed, in its own order."""

    def __init__(self) -> None:
        self._weights: dict[Conv, Tensor] = {}

    def __call__(
        self, wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
    ) -> tuple[Tensor, Tensor]:
        if conv is None:
            return convolve_then_join(wave, None, known, shortcut, snake)
        if conv not in self._weights:
            self._weights[conv] = ordered_parts(conv.weight)
        weight, wave = self._weights[conv], wave.contiguous()
        streams, channels, columns = wave.shape
        total = wave if shortcut is None else torch.empty_like(wave)
        after = total if snake is None else torch.empty_like(wave)
        tile, outputs, warps = _tile(streams, channels, columns)
        _convolve_join[(triton.cdiv(columns, tile), triton.cdiv(channels, outputs), streams)](
            wave,
            weight,
            conv.bias,
            known,
            wave if shortcut is None else shortcut.contiguous(),
            wave if snake is None else snake.alpha,
            wave if snake is None else snake.reciprocal,
            total,
            after,
            columns,
            channels,
            conv.kernel_size[0],
            conv.dilation[0],
            conv.left,
            SHORTCUT=shortcut is not None,
            SNAKE=snake is not None,
            TILE=tile,
            OUTPUTS=outputs,
            CHUNK=CHUNK,
            PADDED=PADDED,
            num_warps=warps,
            maxnreg=128,  # two wide programs share a multiprocessor; what does not fit is outside of the loop
            num_stages=3,
        )
        return total, after


def _tile(streams: int, channels: int, columns: int) -> tuple[int, int, int]:
    tile, outputs, _ = WIDE
    programs = streams * triton.cdiv(channels, outputs) * triton.cdiv(columns, tile)
    return NARROW if programs < FEW_PROGRAMS or channels <= NARROW[1] else WIDE


_SHAPES = ["columns", "channels", "taps", "dilation", "left"]


@triton.jit(do_not_specialize=_SHAPES)  # type: ignore[untyped-decorator, unused-ignore]
def _convolve_join(  # type: ignore[no-untyped-def]
    x,
    weight,
    bias,
    known,
    shortcut,
    alpha,
    reciprocal,
    total,
    wave,
    columns,
    channels,
    taps,
    dilation,
    left,
    SHORTCUT: tl.constexpr,  # noqa: N803 - Triton's spelling of compile-time constants
    SNAKE: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
    OUTPUTS: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
):
    stream = tl.program_id(2).to(tl.int64)
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    width = tl.cdiv(channels, PADDED) * PADDED  # so the compiler knows that a row of weights is aligned
    before = stream * channels * columns  # the rest of an offset has 32 bits, which take half of the registers
    rests = weight + taps * width * width
    value = tl.zeros([TILE, OUTPUTS], tl.float32)
    for step in range(taps * tl.cdiv(channels, CHUNK)):  # taps of one chunk follow each other: they share columns
        tap, channel = step % taps, step // taps * CHUNK + tl.arange(0, CHUNK)
        place = column + tap * dilation - left
        given = ((place >= 0) & (place < columns))[:, None] & (channel < channels)[None, :]
        exact = tl.load(x + before + channel[None, :] * columns + place[:, None], mask=given, other=0.0)
        at = (tap * width + output[None, :]) * width + channel[:, None]
        near_weight, rest_weight = tl.load(weight + at), tl.load(rests + at)
        near = ((exact.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
        part = tl.dot(exact - near, near_weight, input_precision="tf32")
        part = tl.dot(near, rest_weight, part, input_precision="tf32")
        value += tl.dot(near, near_weight, part, input_precision="tf32")
    stored = output < channels
    value += tl.load(bias + output, mask=stored, other=0.0)[None, :]
    value *= tl.load(known + stream * columns + column, mask=column < columns, other=0.0)[:, None]
    inside = (column < columns)[:, None] & stored[None, :]
    at = output[None, :] * columns + column[:, None]
    if SHORTCUT:
        value += tl.load(shortcut + before + at, mask=inside, other=0.0)
        tl.store(total + before + at, value, mask=inside)
    if SNAKE:
        angular = tl.load(alpha + output, mask=stored, other=0.0)[None, :]
        value = snaked(value, angular, tl.load(reciprocal + output, mask=stored, other=0.0)[None, :])
        tl.store(wave + before + at, value, mask=inside)
