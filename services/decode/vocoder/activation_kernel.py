"""`activation.ConvolveJoin` as cuDNN's convolution and one Triton kernel for what follows, for CUDA.

The kernel reads and writes a column once, instead of five times.

This module needs the triton package. Triton compiles annotations too, so only compile-time constants have one.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from services.decode.vocoder.activation import Snake
from services.decode.vocoder.conv import Conv

COLUMNS = 1024
"""Columns of one program."""


def convolve_then_join(
    wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
) -> tuple[Tensor, Tensor]:
    """See `activation.ConvolveJoin`."""
    x, bias = (wave, None) if conv is None else (conv.without_bias(wave), conv.bias)
    x = x.contiguous()
    streams, channels, columns = x.shape[0], x.shape[1], known.shape[-1]
    shape = (streams, channels, columns)
    total = x if shortcut is None else torch.empty(shape, device=x.device)
    wave = total if snake is None else torch.empty(shape, device=x.device)
    _join[(triton.cdiv(columns, COLUMNS), streams * channels)](
        x,
        x if bias is None else bias,
        known,
        x if shortcut is None else shortcut.contiguous(),
        x if snake is None else snake.alpha,
        x if snake is None else snake.reciprocal,
        total,
        wave,
        columns,
        x.shape[2],
        channels,
        BIAS=bias is not None,
        SHORTCUT=shortcut is not None,
        SNAKE=snake is not None,
        COLUMNS=COLUMNS,
        num_warps=4,
    )
    return total, wave


@triton.jit(do_not_specialize=["columns", "given", "channels"])  # type: ignore[untyped-decorator, unused-ignore]
def _join(  # type: ignore[no-untyped-def]
    x,
    bias,
    known,
    shortcut,
    alpha,
    reciprocal,
    total,
    wave,
    columns,
    given,
    channels,
    BIAS: tl.constexpr,  # noqa: N803 - Triton's spelling of compile-time constants
    SHORTCUT: tl.constexpr,  # noqa: N803
    SNAKE: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(1)
    stream, channel = row // channels, row % channels
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    value = tl.load(x + row * given + column, mask=inside, other=0.0)
    if BIAS:
        value += tl.load(bias + channel)
        value *= tl.load(known + stream * columns + column, mask=inside, other=0.0)
    if SHORTCUT:
        value += tl.load(shortcut + row * columns + column, mask=inside, other=0.0)
        tl.store(total + row * columns + column, value, mask=inside)
    if SNAKE:
        value = snaked(value, tl.load(alpha + channel), tl.load(reciprocal + channel))
        tl.store(wave + row * columns + column, value, mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def snaked(value, alpha, reciprocal):  # type: ignore[no-untyped-def]
    """Return value + sin(alpha * value)^2 * reciprocal."""
    angle = value * alpha
    # sin² repeats after pi: the rest after whole turns, exact to float32, and sin's series up to half of pi.
    turns = tl.floor(angle * 0.3183098861837907 + 0.5)
    rest = angle - turns * 3.140625
    rest = rest - turns * 9.67502593994140625e-4
    rest = rest - turns * 1.509957990978376e-7
    square = rest * rest
    series = -2.505210838544172e-8 * square + 2.7557319223985893e-6
    series = series * square - 1.984126984126984e-4
    series = series * square + 8.333333333333333e-3
    series = series * square - 0.16666666666666666
    sine = rest + rest * square * series
    return value + sine * sine * reciprocal
