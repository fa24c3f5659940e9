"""The Triton kernels of decode against the plain operations that they replace.

On a CPU the plain operations take the kernels' place, so that this step is rehearsed too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu_check.check import Check, name_of
from benchmarks.gpu_check.kernel import ALLOWED, relative_error
from services.common.engine.precision import forbid_tf32
from services.decode.estimators import kernels
from services.decode.estimators.kernels import Affine, CausalWeights, LayerKernels, Shortcut
from services.decode.flow.block_attention import Batch, MakeAttention, PlainAttention
from services.decode.flow.kv_cache import KvCache, KvLayout
from services.decode.flow.program import Tails
from services.decode.loading import vocoder_forms
from services.decode.vocoder.activation import ConvolveJoin, Snake, convolve_join_plain
from services.decode.vocoder.conv import Conv, zeros_around

FRAMES = 50
"""New frames of each stream, and frames of a block."""
SHAPES = ((1, 8), (16, 8), (3, 40))
"""Streams, and blocks of each one's past."""
HEADS = {"cosyvoice2": 8, "cosyvoice3": 16}
"""Heads of 64."""
WIDTH, UNITS = 256, 1024
"""Channels of CosyVoice2's estimator, and of its feed-forward."""
STREAMS = (1, 16)
VOCODER = {256: 66 * 8, 128: 66 * 40, 64: 66 * 120}
"""Channels of the vocoder's stages, and columns of a window of 66 frames."""
VOCODER_ERROR = 2e-6
"""Relative: several times the error of float32, and less than a hundredth of that of TF32."""


@torch.inference_mode()
def decode_kernel(check: Check) -> None:
    """Compare attention over the blocks, products and convolutions at every precision; report times in bfloat16."""
    forbid_tf32()  # as in a worker
    for dtype, allowed in ALLOWED.items():
        for stored in (dtype, torch.float8_e4m3fn):
            for family, heads in HEADS.items():
                for streams, past in SHAPES if check.on_gpu else SHAPES[:1]:
                    shape = f"{family}, {streams} streams, {past} blocks"
                    _attention(check, shape, dtype, stored, allowed, heads, streams, past)
        for streams in STREAMS if check.on_gpu else STREAMS[:1]:
            _layers(check, dtype, allowed, streams)
    for streams in STREAMS if check.on_gpu else STREAMS[:1]:
        for channels, columns in VOCODER.items():
            for taps, dilation in ((3, 5), (11, 1)):
                _vocoder_convolution(check, streams, channels, columns if check.on_gpu else 50, taps, dilation)


def _attention(
    check: Check,
    shape: str,
    dtype: torch.dtype,
    stored: torch.dtype,
    allowed: float,
    heads: int,
    streams: int,
    past: int,
) -> None:
    device, found = torch.device(check.device), _block_attention(check)
    layout = KvLayout(1, FRAMES, heads, 64, rows=2)
    blocks = streams * (past + 1)
    generator = torch.Generator(device).manual_seed(0)
    cache = KvCache(layout, blocks, stored, device)
    values = torch.randn(2, 2, cache.blocks * FRAMES, heads * 64, generator=generator, device=device)
    cache.write(0, 0, slice(None), values)
    start = past * FRAMES - 7  # inside a block
    numbers = torch.full((streams, 4 + past + 1 + FRAMES), start + FRAMES, device=device)
    numbers[:, 0], numbers[:, 1] = start, FRAMES
    order = torch.randperm(blocks, generator=torch.Generator().manual_seed(0))
    numbers[:, 4 : 5 + past] = order.view(streams, -1).to(device)
    step = torch.zeros(1, dtype=torch.int64, device=device)
    batch = Batch(step, numbers[:, :1], numbers[:, 1:2], numbers[:, 5 + past :], numbers[:, 4 : 5 + past])
    qkv = torch.randn(2 * streams, FRAMES, 3, heads, 64, generator=generator, device=device).to(dtype).unbind(2)

    def run(attention: MakeAttention) -> Tensor:
        return attention(cache, batch, dtype)(0, *qkv)

    expected = run(PlainAttention)
    kept = [part.clone() for part in cache.stored if part is not None]
    error = relative_error(run(found), expected)
    shape = f"{name_of(dtype)}, states in {name_of(stored)}: {shape}"
    check.expect(f"decode: attention agrees: {shape}", error <= allowed, f"relative error {error:.1e}")
    now = [part for part in cache.stored if part is not None]
    pairs = [(mine[:, :, :, :blocks], theirs[:, :, :, :blocks]) for mine, theirs in zip(now, kept, strict=True)]
    same = all(torch.equal(mine, theirs) for mine, theirs in pairs)
    check.expect(f"decode: attention stores the same bits: {shape}", same)
    if dtype == torch.bfloat16:
        times = [check.milliseconds(partial(run, attention)) for attention in (found, PlainAttention)]
        check.report(f"decode: attention in blocks and plain, ms per layer: {shape}", times)


def _block_attention(check: Check) -> MakeAttention:
    if not check.on_gpu:
        return PlainAttention
    from services.decode.estimators.attention_kernel import BlockAttention  # imports Triton

    return BlockAttention


def _layer_kernels(check: Check) -> LayerKernels:
    if not check.on_gpu:
        return kernels.PLAIN
    from services.decode.estimators.layer_kernels import FUSED  # imports Triton

    return FUSED


def _layers(check: Check, dtype: torch.dtype, allowed: float, streams: int) -> None:
    """Compare one product and one convolution of each kind, with CosyVoice2's sizes."""
    device, rows, fused = torch.device(check.device), 2 * streams, _layer_kernels(check)
    torch.manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    def affine(outputs: int, inputs: int) -> Affine:
        return Affine(random(outputs, inputs) / inputs**0.5, random(outputs))

    norm = nn.LayerNorm(WIDTH, device=device, dtype=dtype).requires_grad_(False)
    x, units = random(rows, FRAMES, WIDTH), random(rows, FRAMES, UNITS)
    up, down = affine(UNITS, WIDTH), affine(WIDTH, UNITS)
    by, shortcut = CausalWeights(random(3, WIDTH, WIDTH) / WIDTH**0.5 / 2, random(WIDTH)), affine(WIDTH, WIDTH)
    slots = torch.arange(rows, device=device)
    lengths = torch.full((streams, 1), FRAMES, device=device)
    tails = Tails(random(2 * rows, 2, WIDTH), slots, rows + slots, lengths)
    works: dict[str, Callable[[LayerKernels], Tensor]] = {
        "norm, product, GELU": lambda parts: parts.product(x, up, norm=norm, gelu="none"),
        "product, residual": lambda parts: parts.product(units, down, residual=x),
        "convolution, norm, Mish": lambda parts: parts.convolve(
            x, by, tails, norm=norm, shortcut=Shortcut(x, shortcut)
        ),
    }
    for name, work in works.items():
        error = relative_error(work(fused), work(kernels.PLAIN))
        shape = f"{name}: {name_of(dtype)}, {streams} streams"
        check.expect(f"decode: {shape} agrees", error <= allowed, f"relative error {error:.1e}")
        if dtype == torch.bfloat16:
            times = [check.milliseconds(partial(work, parts)) for parts in (fused, kernels.PLAIN)]
            check.report(f"decode: {shape}, kernel and plain, ms", times)


def _vocoder_convolution(check: Check, streams: int, channels: int, columns: int, taps: int, dilation: int) -> None:
    """Compare each form of a convolution of a residual block with the plain one in float64."""
    device = torch.device(check.device)
    torch.manual_seed(0)
    zeros = zeros_around((taps - 1) * dilation, causal=False)
    conv = Conv(channels, channels, taps, dilation=dilation, zeros=zeros).to(device).requires_grad_(False)
    snake = Snake(channels).to(device).requires_grad_(False)
    end = torch.full((streams, 1), columns - 7, device=device)
    known = (torch.arange(columns, device=device) < end).float()[:, None]
    wave, shortcut = torch.randn(2, streams, channels, columns, device=device) * known
    exact = copy.deepcopy(conv).double(), known, shortcut.double(), copy.deepcopy(snake).double()
    expected = torch.cat(convolve_join_plain(wave.double(), *exact))
    forms: dict[str, ConvolveJoin] = {
        "plain operations": convolve_join_plain,
        **(vocoder_forms() if check.on_gpu else {}),
    }
    shape = f"{streams} streams, {channels} channels, {taps} taps"
    work = 2e-9 * streams * columns * channels**2 * taps
    for name, form in forms.items():
        run = partial(form, wave, conv, known, shortcut, snake)
        error = relative_error(torch.cat(run()), expected)
        met = error <= VOCODER_ERROR
        check.expect(f"decode: vocoder's {name} agrees: {shape}", met, f"relative error {error:.1e}")
        milliseconds = check.milliseconds(run)
        times = [milliseconds, round(work / milliseconds, 1)]
        check.report(f"decode: vocoder's {name}, ms and TFLOP/s: {shape}", times)
