"""Compare decode's Triton kernels with their plain twins: `python -m tests.unit.decode.kernels_interpreted PART`.

A program of its own, because torch behaves differently where it finds Triton. With TRITON_INTERPRET=1 the kernels run
on a CPU; the interpreter is wrong in bfloat16, so everything here is float32 or float16.
"""

from __future__ import annotations

import copy
import sys
from functools import partial

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.decode_ops import filled_program, flow_config
from services.common.checkpoint.flow_config import UNetConfig
from services.decode.estimators import attention_kernel
from services.decode.estimators.attention_kernel import BlockAttention
from services.decode.estimators.fused_unet import FusedUNet
from services.decode.estimators.kernels import PLAIN, Affine, CausalWeights, Shortcut
from services.decode.estimators.layer_kernels import FUSED
from services.decode.flow.block_attention import Batch, PlainAttention
from services.decode.flow.kv_cache import KvCache, KvLayout
from services.decode.flow.program import Tails
from services.decode.vocoder import convolution_kernel
from services.decode.vocoder.activation import Snake, convolve_join_plain
from services.decode.vocoder.activation_kernel import convolve_then_join
from services.decode.vocoder.conv import Conv, zeros_around
from services.decode.vocoder.convolution_kernel import FusedConvolve

CPU = torch.device("cpu")


def random_cache(layout: KvLayout, blocks: int, dtype: torch.dtype) -> KvCache:
    """Random contents, as the cache rounds them; not a number where no stream may look, the spare block included."""
    cache = KvCache(layout, blocks, dtype, CPU)
    width = layout.heads * layout.head_dim
    generator = torch.Generator().manual_seed(blocks)
    for step in range(layout.steps):
        for layer in range(layout.layers):
            values = torch.randn(2, layout.rows, cache.blocks * layout.positions, width, generator=generator)
            cache.write(step, layer, slice(None), values)
    return cache


def batch_of(streams: list[tuple[int, int]], frames: int, layout: KvLayout, blocks: int, step: int) -> Batch:
    """Streams of (start, length), blocks in random order; each frame sees the end of its chunk of seven frames.

    Columns of one table, as in a program; the last stream is padding.
    """
    generator = torch.Generator().manual_seed(frames)
    order = torch.randperm(blocks, generator=generator).tolist()
    width = max(-(-(start + length) // layout.positions) for start, length in streams) + 1
    table = torch.zeros(len(streams) + 1, 4 + width + frames, dtype=torch.int64)
    table[:, 4 + width :] = 1
    table[-1, 4 : 4 + width] = blocks  # the spare block
    for row, (start, length) in enumerate(streams):
        own = [order.pop() for _ in range(-(-(start + length) // layout.positions))]
        numbers = [start, length, 0, 0, *own, *[own[0]] * (width - len(own))]
        table[row, : 4 + width] = torch.tensor(numbers)
        position = torch.arange(start, start + length)
        table[row, 4 + width : 4 + width + length] = (position // 7 * 7 + 7).clamp(max=start + length)
    ends, places = table[:, 4 + width :], table[:, 4 : 4 + width]
    return Batch(torch.tensor([step]), table[:, :1], table[:, 1:2], ends, places)


def valid(out: Tensor, batch: Batch, rows: int) -> Tensor:
    """The results of frames that are no padding, one after the other."""
    frame = torch.arange(out.shape[1])
    return out[(frame < batch.lengths).repeat(rows, 1)]


def attention() -> None:
    """Odd lengths, starts inside a block, no past, several tiles, joined and separate products, all kinds of cache."""
    layout = KvLayout(2, 10, 3, 16, steps=2, rows=2)
    cases = (
        ([(0, 7), (33, 5), (10, 10)], 10, torch.float32),
        ([(0, 75), (61, 80)], 81, torch.float32),
        ([(130, 3)], 3, torch.float8_e4m3fn),
        ([(17, 70), (0, 1)], 70, torch.float8_e4m3fn),
        ([(25, 20)], 20, torch.float16),
    )
    for streams, frames, dtype in cases:
        batch = batch_of(streams, frames, layout, 40, step=1)
        plain, kernel = (random_cache(layout, 40, dtype) for _ in range(2))
        computed = torch.float16 if dtype == torch.float16 else torch.float32
        shape = (layout.rows * (len(streams) + 1), frames, 3, layout.heads, layout.head_dim)
        joined = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(computed)
        joined[0, 0, 1] *= 1e-4  # a frame of small keys: their scale, not the frame's neighbours', rounds them
        products = joined.unbind(2)
        expected = PlainAttention(plain, batch, computed)(1, *products)
        for q, k, v in (products, [one.contiguous() for one in products]):
            made = BlockAttention(kernel, batch, computed)(1, q, k, v)
            allowed = 1e-2 if computed == torch.float16 else 2e-5
            assert_close(valid(made, batch, 2), valid(expected, batch, 2), atol=allowed, rtol=1e-4)
            assert made.isfinite().all()
        for mine, theirs in zip(kernel.stored, plain.stored, strict=True):
            if mine is not None and theirs is not None:
                assert torch.equal(mine[:, :, :, :-1], theirs[:, :, :, :-1])  # without the spare block


def tiles() -> None:
    """A result does not depend on the size of the tile, and heads of every supported size work."""
    for heads, head_dim in ((1, 64), (2, 32), (5, 16)):
        layout = KvLayout(1, 50, heads, head_dim, rows=1)
        batch = batch_of([(40, 61)], 64, layout, 4, step=0)
        q, k, v = torch.randn(3, 2, 64, heads, head_dim, generator=torch.Generator().manual_seed(2))
        made = []
        for tile in (16, 32, 64):
            attention_kernel._tile = lambda *_, tile=tile: tile
            made.append(
                valid(BlockAttention(random_cache(layout, 4, torch.float32), batch, q.dtype)(0, q, k, v), batch, 1)
            )
        expected = PlainAttention(random_cache(layout, 4, torch.float32), batch, q.dtype)(0, q, k, v)
        for one in made:
            assert_close(one, valid(expected, batch, 1), atol=2e-5, rtol=1e-4)


def past_of_others() -> None:
    """Values that are not finite, in blocks of other streams and behind the end of a stream's own, change nothing."""
    layout = KvLayout(1, 10, 2, 16, rows=1)
    batch = batch_of([(15, 9)], 16, layout, 6, step=0)
    q, k, v = torch.randn(3, 2, 16, 2, 16, generator=torch.Generator().manual_seed(3))
    clean, dirty = (random_cache(layout, 6, torch.float32) for _ in range(2))
    own = batch.blocks[0, :3].tolist()
    values, _ = dirty.stored
    values[:, :, :, [block for block in range(7) if block not in own]] = torch.nan
    values[:, :, :, own[2], 4:] = torch.nan  # frames 24 and later
    made = [BlockAttention(cache, batch, q.dtype)(0, q, k, v) for cache in (clean, dirty)]
    assert torch.equal(*(valid(one, batch, 1) for one in made))


def random_norm(width: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def products() -> None:
    """Widths that are no powers of two, more rows than a tile, every combination of the operations around a product."""
    torch.manual_seed(4)
    for inputs, outputs, frames in ((40, 72, 9), (32, 7, 150), (100, 65, 270)):
        x, residual = torch.randn(2, frames, inputs), torch.randn(2, frames, outputs)
        weight, bias = torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)
        norm = random_norm(inputs)
        for by, around in (
            (Affine(weight), {"norm": norm}),
            (Affine(weight, bias), {"residual": residual}),
            (Affine(weight, bias), {"residual": residual, "gate": torch.randn(1, 1, outputs), "gelu": "tanh"}),
            (Affine(weight, bias), {"norm": norm, "gelu": "none"}),
            (Affine(weight, bias), {}),
        ):
            assert_close(FUSED.product(x, by, **around), PLAIN.product(x, by, **around), atol=1e-5, rtol=1e-5)
    half = [one.half() for one in (x, weight, bias)]
    made, expected = (each.product(half[0], Affine(*half[1:]), gelu="tanh") for each in (FUSED, PLAIN))
    assert_close(made, expected, atol=5e-3, rtol=5e-3)


def modulations() -> None:
    """The parts of CosyVoice3's estimator that are no products."""
    torch.manual_seed(6)
    for width in (20, 64):
        x, shift, scale = torch.randn(3, 7, width), torch.randn(1, 1, width), torch.randn(1, 1, width)
        assert_close(FUSED.modulate(x, shift, scale, 1e-6), PLAIN.modulate(x, shift, scale, 1e-6))
    for head_dim in (16, 12):
        qkv, angle = torch.randn(2, 5, 3, 3, head_dim), 9 * torch.randn(2, 5, head_dim // 2)
        made, expected = (parts.rotate(qkv.clone(), (angle.cos(), angle.sin())) for parts in (FUSED, PLAIN))
        assert_close(made, expected)


def convolutions() -> None:
    """Fewer new frames than the tail has, padding, rows of two guidance rows, and what is stored for the next hop."""
    torch.manual_seed(5)
    for inputs, outputs, frames, taps in ((24, 40, 19, 3), (70, 16, 40, 3), (8, 20, 5, 4)):
        conv = nn.Conv1d(inputs, outputs, taps)
        by, norm = CausalWeights.of(conv), random_norm(outputs)
        x, term = torch.randn(4, frames, inputs), torch.randn(1, 1, outputs)
        shortcut = Shortcut(torch.randn(4, frames, 33), Affine(torch.randn(outputs, 33) / 6, torch.randn(outputs)))
        stored = torch.randn(12, taps - 1, inputs)
        for around in ({}, {"norm": norm}, {"norm": norm, "term": term}, {"norm": norm, "shortcut": shortcut}):
            kept = [stored.clone(), stored.clone()]
            lengths = torch.tensor([[frames, 9], [1, 9]])[:, :1]  # a column, as in a program
            tails = [Tails(one, torch.tensor([0, 3, 6, 8]), torch.tensor([1, 5, 7, 11]), lengths) for one in kept]
            made, expected = (
                each.convolve(x, by, own, **around) for each, own in zip((FUSED, PLAIN), tails, strict=True)
            )
            assert_close(made, expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(*kept)
            assert not torch.equal(kept[0], stored)
    whole = nn.functional.conv1d(torch.cat((stored[[0, 3, 6, 8]], x), dim=1).mT, conv.weight, conv.bias).mT
    assert_close(PLAIN.convolve(x, by, tails[0]), whole, atol=1e-5, rtol=1e-5)


def joins() -> None:
    """A window that ends, every combination, causal convolutions, which give more columns, and angles of many turns."""
    torch.manual_seed(7)
    known = ends(1100, 37)
    snake = Snake(3).requires_grad_(False)
    snake.alpha.copy_(torch.tensor([0.02, 1.7, 90.0]))
    wave, shortcut = torch.randn(2, 3, 1100) * known, torch.randn(2, 3, 1100) * known
    for causal in (False, True):
        conv = Conv(3, 3, 5, zeros=zeros_around(4, causal=causal)).requires_grad_(False)
        for around in ((conv, known, None, snake), (conv, known, shortcut, snake), (conv, known, shortcut, None)):
            agree(convolve_then_join(wave, *around), convolve_join_plain(wave, *around), *around)
    made, expected = (form(wave, None, known, None, snake) for form in (convolve_then_join, convolve_join_plain))
    assert_close(made[1], expected[1], atol=2e-6, rtol=2e-6)


def ends(columns: int, other: int) -> Tensor:
    """Two windows: one of all columns, and one of `other` columns."""
    return (torch.arange(columns) < torch.tensor([[columns], [other]])).float()[:, None]


def agree(
    made: tuple[Tensor, Tensor],
    expected: tuple[Tensor, Tensor],
    conv: Conv,
    known: Tensor,
    shortcut: Tensor | None,
    snake: Snake | None,
) -> None:
    """Within a few roundings of float32. Nothing follows the end of a window."""
    if shortcut is not None:
        assert_close(made[0], expected[0], atol=1e-6, rtol=1e-6, check_dtype=False)
    if snake is not None:
        assert_close(made[1], expected[1], atol=2e-6, rtol=2e-6, check_dtype=False)
        assert not (made[1] * (1 - known)).any()


def vocoder_convolutions() -> None:
    """Both tiles, taps and dilations of the 0.5B layout, channels that fill no chunk, windows of any length.

    The twin computes in float64, so the difference is the kernel's own error: that of adding up to 440 products in
    float32, and the products of rests that it leaves out.
    """
    torch.manual_seed(8)
    for few in (1, 10_000):
        convolution_kernel.FEW_PROGRAMS = few
        for channels, taps, dilation, columns, causal in (
            (5, 7, 3, 300, False),
            (33, 11, 1, 131, True),
            (70, 3, 5, 140, False),
            (40, 11, 5, 33, False),
        ):
            zeros = zeros_around((taps - 1) * dilation, causal=causal)
            conv = Conv(channels, channels, taps, dilation=dilation, zeros=zeros).requires_grad_(False)
            snake, known = Snake(channels).requires_grad_(False), ends(columns, 17)
            snake.alpha.uniform_(0.02, 5.0)
            wave, shortcut = torch.randn(2, 2, channels, columns) * known
            exact_conv, exact_snake = copy.deepcopy(conv).double(), copy.deepcopy(snake).double()
            convolve = FusedConvolve()
            for term, last in ((None, snake), (shortcut, snake), (shortcut, None)):
                made = convolve(wave, conv, known, term, last)
                exact = None if last is None else exact_snake
                expected = convolve_join_plain(wave.double(), exact_conv, known, term, exact)
                agree(made, expected, conv, known, term, last)


def step() -> None:
    """Two Euler steps of a small estimator as a program of these kernels, after a block of the past."""
    config = flow_config(UNetConfig(channels=24, heads=1, head_dim=16, blocks=1, mid_stages=1))
    outputs = []
    for attention, kernels in ((PlainAttention, None), (BlockAttention, FUSED)):
        form = (lambda network: network) if kernels is None else partial(FusedUNet, kernels=kernels)
        program = filled_program(config, 1, form, attention, past=1)
        for _ in range(2):
            program.step()
        outputs.append(program.x.clone())
    assert_close(*outputs, atol=1e-4, rtol=1e-4)


PARTS = {
    part.__name__: part
    for part in (
        attention,
        tiles,
        past_of_others,
        products,
        modulations,
        convolutions,
        joins,
        vocoder_convolutions,
        step,
    )
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        PARTS[sys.argv[1]]()
