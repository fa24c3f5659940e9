"""Triton kernels around the selection of the most probable ids, for CUDA: `sampling.sample` in three launches.

The first kernel makes one sortable number of each id's probability and the id; torch selects the largest; the second
kernel draws from the nucleus. Only a row that draws an id that occurs too often in its window draws again from all ids.
The noise is the hash of `sampling.CounterDraw`, bit by bit. This module needs the triton package.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor
from triton.language.extra import libdevice  # type: ignore[import-not-found, import-untyped, unused-ignore]

from services.llm.model import columns
from services.llm.model.sampling import NOT_FINITE, SamplingBatch

CHUNK = 1024
"""Ids per iteration of a draw from all ids."""


def fused_sample(logits: Tensor, batch: SamplingBatch, bans: Tensor, kinds: Tensor) -> Tensor:
    """See `kernels.Sample`."""
    rows, size = logits.shape
    exact = logits.device.type == "cuda"
    scores = torch.empty_like(logits)
    keys = torch.empty((rows, size), device=logits.device, dtype=torch.int64)
    finite = torch.empty(rows, device=logits.device, dtype=torch.int32)
    _score[(rows,)](
        logits,
        batch.temperature,
        bans,
        kinds,
        scores,
        keys,
        finite,
        batch.temperature.stride(0),
        kinds.stride(0),
        SIZE=size,
        PADDED=triton.next_power_of_2(size),
        LIBDEVICE=exact,
        num_warps=8,
    )
    top = keys.topk(min(batch.max_top_k, size), dim=-1).values
    ids = torch.empty(rows, device=logits.device, dtype=torch.int64)
    _draw[(rows,)](
        top,
        scores,
        finite,
        batch.seed,
        batch.position,
        batch.top_p,
        batch.top_k,
        batch.repeats,
        batch.window,
        ids,
        *batch.seed.stride(),
        batch.position.stride(0),
        batch.top_p.stride(0),
        batch.top_k.stride(0),
        batch.repeats.stride(0),
        *batch.window.stride(),
        SIZE=size,
        TOP=top.shape[1],
        PADDED_TOP=triton.next_power_of_2(top.shape[1]),
        WINDOW=batch.window.shape[1],
        PADDED_WINDOW=triton.next_power_of_2(max(1, batch.window.shape[1])),
        CHUNK=CHUNK,
        NONE=NOT_FINITE,
        LIBDEVICE=exact,
    )
    return ids


def fused_advance(numbers: Tensor, drawn: Tensor, block_size: int, spare: int, speech_code: int) -> None:
    """See `kernels.Advance`."""
    _advance[(numbers.shape[0],)](
        numbers,
        drawn,
        spare,
        speech_code,
        COLUMNS=numbers.shape[1],
        BLOCK_SIZE=block_size,
        CODE=columns.CODE,
        POSITION=columns.POSITION,
        BLOCK=columns.BLOCK,
        OFFSET=columns.OFFSET,
        OPENED=columns.OPENED,
        LENGTH=columns.LENGTH,
        DRAW=columns.DRAW,
        RING=columns.RING,
        WINDOW=columns.WINDOW,
        TABLE=columns.TABLE,
        num_warps=1,
    )


SAMPLING: dict[str, Any] = {"sample": fused_sample, "advance": fused_advance}
"""The fields of `kernels.StepKernels` that this module implements."""


# Triton's own exp and log are fast approximations. libdevice has the functions of torch, but the interpreter lacks it.
@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _exp(x, LIBDEVICE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803 - Triton's spelling of constants
    if LIBDEVICE:
        y = libdevice.exp(x)
    else:
        y = tl.exp(x)
    return y


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _log(x, LIBDEVICE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    if LIBDEVICE:
        y = libdevice.log(x)
    else:
        y = tl.log(x)
    return y


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _log1p(x, LIBDEVICE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    if LIBDEVICE:
        y = libdevice.log1p(x)
    else:
        y = tl.log(1.0 + x.to(tl.float64)).to(tl.float32)
    return y


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _score(  # type: ignore[no-untyped-def]
    logits,
    temperature,
    bans,
    kinds,
    scores,
    keys,
    finite,
    temperature_row,
    kind_row,
    SIZE: tl.constexpr,  # noqa: N803
    PADDED: tl.constexpr,  # noqa: N803
    LIBDEVICE: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    ids = tl.arange(0, PADDED)
    inside = ids < SIZE
    x = tl.load(logits + row * SIZE + ids, mask=inside, other=0.0)
    tl.store(finite + row, (tl.sum((tl.abs(x) < float("inf")).to(tl.int32), 0) == PADDED).to(tl.int32))
    # As torch.nan_to_num: the row's id is replaced at the end, so only further NaNs must be avoided.
    x = tl.where(x == x, x, 0.0)
    x = tl.minimum(tl.maximum(x, -3.4028234663852886e38), 3.4028234663852886e38)
    x = tl.div_rn(x, tl.load(temperature + row * temperature_row))
    x = tl.where(inside, x, -float("inf"))
    most = tl.max(x, 0)
    x = x - most - _log(tl.sum(_exp(x - most, LIBDEVICE), 0), LIBDEVICE)
    banned = tl.load(bans + tl.load(kinds + row * kind_row) * SIZE + ids, mask=inside, other=1) != 0
    x = tl.where(banned, -float("inf"), x)
    tl.store(scores + row * SIZE + ids, x, mask=inside)
    weights = _exp(x - tl.max(x, 0), LIBDEVICE)
    probabilities = tl.div_rn(weights, tl.zeros([PADDED], tl.float32) + tl.sum(weights, 0))
    # As in sampling.nucleus: the bits of non-negative floats have the order of the numbers; the id makes a key unique.
    bits = probabilities.to(tl.int32, bitcast=True).to(tl.int64)
    tl.store(keys + row * SIZE + ids, (bits << 20) | (SIZE - 1 - ids).to(tl.int64), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _draw(  # type: ignore[no-untyped-def]
    top,
    scores,
    finite,
    seed,
    position,
    top_p,
    top_k,
    repeats,
    window,
    out,
    seed_row,
    seed_column,
    position_row,
    top_p_row,
    top_k_row,
    repeats_row,
    window_row,
    window_column,
    SIZE: tl.constexpr,  # noqa: N803
    TOP: tl.constexpr,  # noqa: N803
    PADDED_TOP: tl.constexpr,  # noqa: N803
    WINDOW: tl.constexpr,  # noqa: N803
    PADDED_WINDOW: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    NONE: tl.constexpr,  # noqa: N803
    LIBDEVICE: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    low = tl.load(seed + row * seed_row).to(tl.uint32)
    high = tl.load(seed + row * seed_row + seed_column).to(tl.uint32)
    key = _mix32(_mix32(_mix32(low + 1) ^ high) + tl.load(position + row * position_row).to(tl.uint32))
    rank = tl.arange(0, PADDED_TOP)
    keys = tl.load(top + row * TOP + rank, mask=rank < TOP, other=0)
    probabilities = (keys >> 20).to(tl.int32).to(tl.float32, bitcast=True)
    ids = SIZE - 1 - (keys & 0xFFFFF)
    # Sums in float64, as torch makes them on a CPU, so that the edge of the nucleus does not depend on their order.
    wide = probabilities.to(tl.float64)
    before = (tl.cumsum(wide, 0) - wide).to(tl.float32)
    kept = (before < tl.load(top_p + row * top_p_row)) & (rank < tl.load(top_k + row * top_k_row)) & (rank < TOP)
    noise = _gumbel(key, ids, LIBDEVICE)
    noisy = tl.where(kept, _log(tl.where(kept, probabilities, 1.0), LIBDEVICE) + noise, -float("inf"))
    best = tl.argmax(noisy, 0)
    chosen = tl.sum(tl.where(rank == best, ids, 0), 0)
    column = tl.arange(0, PADDED_WINDOW)
    seen = tl.load(window + row * window_row + column * window_column, mask=column < WINDOW, other=-1)
    if tl.sum((seen == chosen).to(tl.int32), 0).to(tl.float32) >= tl.load(repeats + row * repeats_row):
        repeated = chosen
        chosen = chosen * 0
        largest = -float("inf")
        for start in range(0, SIZE, CHUNK):
            each = start + tl.arange(0, CHUNK)
            score = tl.load(scores + row * SIZE + each, mask=each < SIZE, other=-float("inf"))
            again = tl.where(each == repeated, -float("inf"), score + _gumbel(key + 1, each, LIBDEVICE))
            found = tl.max(again, 0)
            chosen = tl.where(found > largest, start + tl.argmax(again, 0), chosen)
            largest = tl.maximum(found, largest)
    tl.store(out + row, tl.where(tl.load(finite + row) != 0, chosen, NONE))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _gumbel(key, ids, LIBDEVICE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """As `sampling.gumbel`, with `draw` added to the key."""
    bits = _mix32(_mix32(key) ^ _mix32(ids.to(tl.uint32) + 1))
    uniform = ((bits.to(tl.float64) + 0.5) * 2.3283064365386963e-10).to(tl.float32)  # 2^-32
    uniform = tl.minimum(uniform, 0.999999940395355224609375)  # 1 - 2^-24
    return -_log(-_log1p(-uniform, LIBDEVICE), LIBDEVICE)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _mix32(x):  # type: ignore[no-untyped-def]
    """As `sampling.mix32`, on unsigned 32-bit integers, whose products wrap."""
    x = x ^ (x >> 16)
    x = x * 0x21F0AAAD
    x = x ^ (x >> 15)
    x = x * 0x735A2D97
    return x ^ (x >> 15)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _advance(  # type: ignore[no-untyped-def]
    numbers,
    drawn,
    spare,
    speech_code,
    COLUMNS: tl.constexpr,  # noqa: N803
    BLOCK_SIZE: tl.constexpr,  # noqa: N803
    CODE: tl.constexpr,  # noqa: N803
    POSITION: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    OFFSET: tl.constexpr,  # noqa: N803
    OPENED: tl.constexpr,  # noqa: N803
    LENGTH: tl.constexpr,  # noqa: N803
    DRAW: tl.constexpr,  # noqa: N803
    RING: tl.constexpr,  # noqa: N803
    WINDOW: tl.constexpr,  # noqa: N803
    TABLE: tl.constexpr,  # noqa: N803
):
    """As `columns.advance`, one row per program."""
    row = tl.program_id(0)
    at = numbers + row * COLUMNS
    token = tl.load(drawn + row)
    draw = tl.load(at + DRAW)
    position = tl.minimum(tl.load(at + POSITION) + 1, BLOCK_SIZE * (COLUMNS - TABLE) - 1)
    block = tl.load(at + TABLE + position // BLOCK_SIZE)
    offset = position % BLOCK_SIZE
    tl.store(at + WINDOW + draw % tl.load(at + RING), token)
    tl.store(at + CODE, speech_code + token)
    tl.store(at + POSITION, position)
    tl.store(at + BLOCK, block)
    tl.store(at + OFFSET, offset)
    tl.store(at + OPENED, tl.where(offset == 0, block, spare))
    tl.store(at + LENGTH, position + 1)
    tl.store(at + DRAW, draw + 1)
