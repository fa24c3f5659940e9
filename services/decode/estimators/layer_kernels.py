"""The estimator's matrix products and convolutions with the operations around them, as Triton kernels for CUDA.

Each has its plain twin in `kernels`. This module needs the triton package. Triton compiles annotations too, so only
compile-time constants have one.
"""

from __future__ import annotations

from functools import partial

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor, nn

from services.decode.estimators.early_launch import after_previous, launch_options
from services.decode.estimators.kernels import Affine, CausalWeights, Gelu, LayerKernels, Shortcut
from services.decode.flow.program import Tails

FEW_ROWS = 512
"""Up to this number of frames a product's tile has 16, so that it occupies more multiprocessors."""
NARROW_NORM = 256
"""Most channels of a norm that leave shared memory for tiles of 128 columns."""
WIDEST_NORM = 512
"""Most channels that a norm before a product or in a convolution supports: a program holds all of a frame's."""


def fused_product(
    x: Tensor,
    by: Affine,
    *,
    norm: nn.LayerNorm | None = None,
    gelu: Gelu | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    early: bool = False,
) -> Tensor:
    """See `kernels.Product`."""
    x = x.contiguous()
    rows, (outputs, inputs) = x.shape[0] * x.shape[1], by.weight.shape
    out = torch.empty((*x.shape[:2], outputs), dtype=x.dtype, device=x.device)
    tile, columns, chunk = _product_tile(rows, inputs, x.element_size() > 2, norm is not None)
    _product[(triton.cdiv(rows, tile), triton.cdiv(outputs, columns))](
        x,
        by.weight,
        x if by.bias is None else by.bias,
        x if norm is None else norm.weight,
        x if norm is None else norm.bias,
        x if gate is None else gate,
        x if residual is None else residual.contiguous(),
        out,
        0.0 if norm is None else norm.eps,
        rows,
        INPUTS=inputs,
        PADDED=max(16, triton.next_power_of_2(inputs)),
        OUTPUTS=outputs,
        BIAS=by.bias is not None,
        NORM=norm is not None,
        GELU=gelu or "",
        GATE=gate is not None,
        RESIDUAL=residual is not None,
        ROWS=tile,
        COLUMNS=columns,
        CHUNK=chunk,
        num_warps=4,
        num_stages=3,
        **launch_options(early),
    )
    return out


def _product_tile(rows: int, inputs: int, wide: bool, norm: bool) -> tuple[int, int, int]:
    """Return the rows and columns of a program, and the inputs that it handles at a time.

    The fastest of a sweep on an H100 at 100 and 1,600 rows whose tiles fit into the shared memory of every GPU. `wide`
    values are float32.
    """
    if wide:
        return 16 if rows <= FEW_ROWS or norm else 64, 32, 32
    if rows <= FEW_ROWS:
        return 16, 32, 64 if norm else 256
    if norm:  # all inputs of a row are in shared memory
        return 64, 128 if inputs <= NARROW_NORM else 64, 64
    return 64, 64, 128


def fused_convolve(
    x: Tensor,
    by: CausalWeights,
    tails: Tails,
    *,
    norm: nn.LayerNorm | None = None,
    term: Tensor | None = None,
    shortcut: Shortcut | None = None,
    early: bool = False,
) -> Tensor:
    """See `kernels.Convolve`. A program holds all channels of a few frames, for the norm."""
    x = x.contiguous()
    taps, inputs, outputs = by.weight.shape
    out = torch.empty((*x.shape[:2], outputs), dtype=x.dtype, device=x.device)
    short_bias = x if shortcut is None or shortcut.by.bias is None else shortcut.by.bias
    _convolve[(triton.cdiv(x.shape[1], 16), x.shape[0])](
        x,
        tails.stored,
        tails.before,
        tails.after,
        tails.lengths,
        by.weight,
        by.bias,
        x if norm is None else norm.weight,
        x if norm is None else norm.bias,
        x if term is None else term,
        x if shortcut is None else shortcut.x.contiguous(),
        x if shortcut is None else shortcut.by.weight,
        short_bias,
        out,
        0.0 if norm is None else norm.eps,
        x.shape[1],
        tails.lengths.shape[0],
        tails.lengths.stride(0),
        TAPS=taps,
        INPUTS=inputs,
        PADDED_INPUTS=triton.next_power_of_2(inputs),
        OUTPUTS=outputs,
        PADDED=max(16, triton.next_power_of_2(outputs)),
        NORM=norm is not None,
        TERM=term is not None,
        SHORT_INPUTS=0 if shortcut is None else shortcut.by.weight.shape[1],
        ROWS=16,
        CHUNK=32,  # four stages of it were faster on an H100 than two of 64; more of 64 do not fit every GPU
        num_warps=4,
        num_stages=2 if x.element_size() > 2 else 4,
        **launch_options(early),
    )
    return out


def fused_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float, *, early: bool = False) -> Tensor:
    """See `kernels.Modulate`."""
    x, width = x.contiguous(), x.shape[2]
    out = torch.empty_like(x)
    rows = x.shape[0] * x.shape[1]
    padded = triton.next_power_of_2(width)
    _modulate[(rows,)](x, shift, scale, out, eps, WIDTH=width, PADDED=padded, **launch_options(early))
    return out


def fused_rotate(qkv: Tensor, rotary: tuple[Tensor, Tensor], *, early: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels.Rotate`. Turns the queries and keys where they are."""
    qkv = qkv.contiguous()
    rows, frames, _, heads, head_dim = qkv.shape
    cos, sin = (wave.contiguous() for wave in rotary)
    half = head_dim // 2
    _rotate[(rows * frames, 2)](
        qkv,
        cos,
        sin,
        WIDTH=heads * head_dim,
        HALF=half,
        PADDED=triton.next_power_of_2(half),
        num_warps=1,
        **launch_options(early),
    )
    q, k, v = qkv.unbind(2)
    return q, k, v


FUSED = LayerKernels(fused_product, fused_convolve, fused_modulate, fused_rotate)
FUSED_EARLY = LayerKernels(
    partial(fused_product, early=True),
    partial(fused_convolve, early=True),
    partial(fused_modulate, early=True),
    partial(fused_rotate, early=True),
)
"""The same kernels, launched as `early_launch` describes."""


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator, unused-ignore]
def _product(  # type: ignore[no-untyped-def]
    x,
    weight,
    bias,
    norm_weight,
    norm_bias,
    gate,
    residual,
    out,
    eps,
    rows,
    INPUTS: tl.constexpr,  # noqa: N803 - Triton's spelling of compile-time constants
    PADDED: tl.constexpr,  # noqa: N803
    OUTPUTS: tl.constexpr,  # noqa: N803
    BIAS: tl.constexpr,  # noqa: N803
    NORM: tl.constexpr,  # noqa: N803
    GELU: tl.constexpr,  # noqa: N803
    GATE: tl.constexpr,  # noqa: N803
    RESIDUAL: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    EARLY: tl.constexpr,  # noqa: N803
):
    after_previous(EARLY)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < rows, column < OUTPUTS
    source = x + row.to(tl.int64)[:, None] * INPUTS
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    if NORM:
        channel = tl.arange(0, PADDED)
        known = channel < INPUTS
        value = tl.load(source + channel[None, :], mask=in_rows[:, None] & known[None, :], other=0.0)
        normed = _normed(value.to(tl.float32), norm_weight, norm_bias, eps, channel, known, INPUTS).to(value.dtype)
        at = column[None, :] * INPUTS + channel[:, None]
        by = tl.load(weight + at, mask=in_columns[None, :] & known[:, None], other=0.0)
        total = tl.dot(normed, by, total, input_precision="ieee")
    else:
        for first in range(0, INPUTS, CHUNK):
            channel = first + tl.arange(0, CHUNK)
            known = channel < INPUTS
            value = tl.load(source + channel[None, :], mask=in_rows[:, None] & known[None, :], other=0.0)
            at = column[None, :] * INPUTS + channel[:, None]
            by = tl.load(weight + at, mask=in_columns[None, :] & known[:, None], other=0.0)
            total = tl.dot(value, by, total, input_precision="ieee")
    if BIAS:
        total += tl.load(bias + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
    if GELU == "none":
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    if GELU == "tanh":  # (1 + tanh(z)) / 2 is the sigmoid of 2z
        total = total * tl.sigmoid(1.5957691216057308 * (total + 0.044715 * total * total * total))
    if GATE:
        total *= tl.load(gate + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
    inside = in_rows[:, None] & in_columns[None, :]
    at = row.to(tl.int64)[:, None] * OUTPUTS + column[None, :]
    if RESIDUAL:
        total += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _normed(value, weight, bias, eps, channel, known, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """LayerNorm of float32 rows [n, padded], zero in the padding."""
    mean = tl.sum(value, 1) / WIDTH
    away = tl.where(known[None, :], value - mean[:, None], 0.0)
    normed = away * tl.rsqrt(tl.sum(away * away, 1) / WIDTH + eps)[:, None]
    by = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    return normed * by[None, :] + tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _mish(x):  # type: ignore[no-untyped-def]
    """x * tanh(softplus(x)); with e = exp(x) that is x * (e^2 + 2e) / (e^2 + 2e + 2), and x itself for large x."""
    e = tl.exp(tl.minimum(x, 20.0))
    n = e * (e + 2.0)
    return tl.where(x > 20.0, x, x * (n / (n + 2.0)))


@triton.jit(do_not_specialize=["frames", "streams", "length_row"])  # type: ignore[untyped-decorator, unused-ignore]
def _convolve(  # type: ignore[no-untyped-def]
    x,
    tails,
    before,
    after,
    lengths,
    weight,
    bias,
    norm_weight,
    norm_bias,
    term,
    short_x,
    short_weight,
    short_bias,
    out,
    eps,
    frames,
    streams,
    length_row,
    TAPS: tl.constexpr,  # noqa: N803
    INPUTS: tl.constexpr,  # noqa: N803
    PADDED_INPUTS: tl.constexpr,  # noqa: N803
    OUTPUTS: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    NORM: tl.constexpr,  # noqa: N803
    TERM: tl.constexpr,  # noqa: N803
    SHORT_INPUTS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    EARLY: tl.constexpr,  # noqa: N803
):
    after_previous(EARLY)
    LEFT: tl.constexpr = TAPS - 1
    row = tl.program_id(1).to(tl.int64)
    frame = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = frame < frames
    source = x + row * frames * INPUTS
    tail = tails + tl.load(before + row) * (LEFT * INPUTS)
    output = tl.arange(0, PADDED)
    in_outputs = output < OUTPUTS
    total = tl.zeros([ROWS, PADDED], tl.float32)
    for tap in tl.static_range(TAPS):
        at = frame + tap - LEFT
        for first in range(0, INPUTS, CHUNK):
            channel = first + tl.arange(0, CHUNK)
            known = channel < INPUTS
            new = (inside & (at >= 0))[:, None] & known[None, :]
            value = tl.load(source + at[:, None] * INPUTS + channel[None, :], mask=new, other=0.0)
            if tap < LEFT:
                old = (at < 0)[:, None] & known[None, :]
                value += tl.load(tail + (at + LEFT)[:, None] * INPUTS + channel[None, :], mask=old, other=0.0)
            by_at = (tap * INPUTS + channel)[:, None] * OUTPUTS + output[None, :]
            by = tl.load(weight + by_at, mask=known[:, None] & in_outputs[None, :], other=0.0)
            total = tl.dot(value, by, total, input_precision="ieee")
    total += tl.load(bias + output, mask=in_outputs, other=0.0).to(tl.float32)[None, :]
    if NORM:
        kept = tl.where(in_outputs[None, :], total, 0.0)
        total = _mish(_normed(kept, norm_weight, norm_bias, eps, output, in_outputs, OUTPUTS))
    if TERM:
        total += tl.load(term + output, mask=in_outputs, other=0.0).to(tl.float32)[None, :]
    if SHORT_INPUTS:
        short = short_x + row * frames * SHORT_INPUTS
        for first in range(0, SHORT_INPUTS, CHUNK):
            channel = first + tl.arange(0, CHUNK)
            known = channel < SHORT_INPUTS
            at_short = frame[:, None] * SHORT_INPUTS + channel[None, :]
            value = tl.load(short + at_short, mask=inside[:, None] & known[None, :], other=0.0)
            by_at = output[None, :] * SHORT_INPUTS + channel[:, None]
            by = tl.load(short_weight + by_at, mask=known[:, None] & in_outputs[None, :], other=0.0)
            total = tl.dot(value, by, total, input_precision="ieee")
        total += tl.load(short_bias + output, mask=in_outputs, other=0.0).to(tl.float32)[None, :]
    out_at = (row * frames + frame)[:, None] * OUTPUTS + output[None, :]
    tl.store(out + out_at, total.to(out.dtype.element_ty), mask=inside[:, None] & in_outputs[None, :])

    # The first program of a row stores the last LEFT valid frames as its stream's new tail, in another slot.
    if tl.program_id(0) == 0:
        length = tl.load(lengths + (row % streams) * length_row)
        kept_at = tails + tl.load(after + row) * (LEFT * INPUTS)
        channel = tl.arange(0, PADDED_INPUTS)
        known = channel < INPUTS
        for place in tl.static_range(LEFT):
            at_end = length + place
            old = tl.load(tail + at_end * INPUTS + channel, mask=known & (at_end < LEFT), other=0.0)
            new_one = tl.load(source + (at_end - LEFT) * INPUTS + channel, mask=known & (at_end >= LEFT), other=0.0)
            tl.store(kept_at + place * INPUTS + channel, old + new_one, mask=known)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _modulate(  # type: ignore[no-untyped-def]
    x,
    shift,
    scale,
    out,
    eps,
    WIDTH: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    EARLY: tl.constexpr,  # noqa: N803
):
    after_previous(EARLY)
    row = tl.program_id(0).to(tl.int64) * WIDTH
    channel = tl.arange(0, PADDED)
    known = channel < WIDTH
    value = tl.load(x + row + channel, mask=known, other=0.0).to(tl.float32)
    away = tl.where(known, value - tl.sum(value, 0) / WIDTH, 0.0)
    normed = away * tl.rsqrt(tl.sum(away * away, 0) / WIDTH + eps)
    by = 1.0 + tl.load(scale + channel, mask=known, other=0.0).to(tl.float32)
    made = normed * by + tl.load(shift + channel, mask=known, other=0.0).to(tl.float32)
    tl.store(out + row + channel, made.to(out.dtype.element_ty), mask=known)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _rotate(  # type: ignore[no-untyped-def]
    qkv,
    cos,
    sin,
    WIDTH: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    EARLY: tl.constexpr,  # noqa: N803
):
    after_previous(EARLY)
    frame = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, PADDED)
    known = pair < HALF
    at = qkv + (frame * 3 + tl.program_id(1)) * WIDTH + 2 * pair
    even = tl.load(at, mask=known, other=0.0)
    odd = tl.load(at + 1, mask=known, other=0.0)
    c = tl.load(cos + frame * HALF + pair, mask=known, other=0.0)
    s = tl.load(sin + frame * HALF + pair, mask=known, other=0.0)
    x, y = even.to(tl.float32), odd.to(tl.float32)
    tl.store(at, (x * c - y * s).to(even.dtype), mask=known)
    tl.store(at + 1, (y * c + x * s).to(odd.dtype), mask=known)
