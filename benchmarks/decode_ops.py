"""Counts the kernels and bytes of decode's recorded programs on a CPU, with each Triton kernel as one; see `op_count`.

    python -m benchmarks.decode_ops [--families cosyvoice2 cosyvoice3] [--streams 1 16]

The 0.5B layouts. Prints the kernels of the programs of front and vocoder; of the Euler step's plain program; and those
of its fused one with its bytes and the time that it would take on an H100: an estimate from launches and bytes.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.op_count import OpCounter, tensor_bytes
from services.common.checkpoint.flow_config import (
    ConformerConfig,
    ConvolutionConfig,
    DiTConfig,
    FlowConfig,
    UNetConfig,
)
from services.common.checkpoint.model_dir import open_model_dir
from services.common.checkpoint.vocoder_config import VocoderConfig
from services.decode.estimators.fused import fused_network
from services.decode.estimators.kernels import Affine, CausalWeights, Gelu, LayerKernels, Shortcut
from services.decode.flow.block_attention import Attention, Batch, MakeAttention, PlainAttention
from services.decode.flow.estimator import EstimatorNetwork
from services.decode.flow.front_program import FrontProgram, front_room
from services.decode.flow.kv_cache import EMPTY_STATE, KvBlockPool, KvCache
from services.decode.flow.model import make_front, make_network
from services.decode.flow.program import EulerProgram, Row, Shape, StepNetwork, Tails, scratch
from services.decode.flow.solver import Solver, Start
from services.decode.vocoder.activation import ConvolveJoin, Snake
from services.decode.vocoder.conv import Conv
from services.decode.vocoder.hift import Generator
from services.decode.vocoder.pitch import PitchPredictor
from services.decode.vocoder.programs import WindowProgram, WindowShape
from services.decode.vocoder.source import HarmonicSource
from services.decode.vocoder.stream import Context, Vocoder

UNET = UNetConfig(channels=256, heads=8, head_dim=64, blocks=4, mid_stages=12)
DIT = DiTConfig(width=1024, depth=22, heads=16, head_dim=64, ff_mult=2)
"""The 0.5B layouts."""
CONFORMER = ConformerConfig(input_size=512, width=512, heads=8, units=2048, blocks=6, up_blocks=4)
CONVOLUTIONS = ConvolutionConfig(input_size=80, channels=1024)
FRONTS: dict[str, ConformerConfig | ConvolutionConfig] = {"cosyvoice2": CONFORMER, "cosyvoice3": CONVOLUTIONS}
FAMILIES: dict[str, UNetConfig | DiTConfig] = {"cosyvoice2": UNET, "cosyvoice3": DIT}
MINI = Path(__file__).parents[1] / "tests" / "data" / "cosyvoice2-mini"
LAUNCH_US = (2.0, 2.5)
"""Least and most microseconds from kernel to kernel of a CUDA graph, as seen on an H100."""
BANDWIDTH = 3.0e12
"""Bytes per second of a copy, as seen on an H100."""
CHUNK, PAST = 25, 8
"""Tokens of a hop and of a block; blocks of each stream's past."""


def flow_config(estimator: UNetConfig | DiTConfig, *, depth: int = 0) -> FlowConfig:
    """Return a flow with this estimator, of `depth` blocks per stage if that is not 0."""
    if depth and isinstance(estimator, UNetConfig):
        estimator = replace(estimator, blocks=depth, mid_stages=depth)
    elif depth and isinstance(estimator, DiTConfig):
        estimator = replace(estimator, depth=depth)
    return replace(open_model_dir(MINI).flow, estimator=estimator)


def narrow(estimator: UNetConfig | DiTConfig) -> UNetConfig | DiTConfig:
    """Return the estimator with as many layers and few channels: the count depends on the structure alone."""
    if isinstance(estimator, UNetConfig):
        return replace(estimator, channels=16, heads=1, head_dim=16)
    return replace(estimator, width=32, heads=2, head_dim=16)


def counted_kernels(counter: OpCounter) -> LayerKernels:
    """Return parts that count as the Triton kernels of a GPU. They compute nothing: a count needs shapes alone."""

    def product(x: Tensor, by: Affine, **around: Any) -> Tensor:
        return x.new_zeros(*x.shape[:2], by.weight.shape[0])

    def convolve(x: Tensor, by: CausalWeights, tails: Tails, **around: Any) -> Tensor:
        return x.new_zeros(*x.shape[:2], by.weight.shape[2])

    def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        return torch.zeros_like(x)

    def rotate(qkv: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.unbind(2)
        return q, k, v

    return LayerKernels(
        product=counter.part("product", 1, _product, product),
        convolve=counter.part("convolve", 1, _convolve, convolve),
        modulate=counter.part("modulate", 1, _modulate, modulate),
        rotate=counter.part("rotate", 1, _rotate, rotate),
    )


def counted_attention(counter: OpCounter, cache: KvCache, batch: Batch, dtype: torch.dtype) -> Attention:
    """Return an attention that counts as one kernel that reads each stream's past in place, and computes nothing."""
    values, scales = cache.stored
    width = cache.layout.heads * cache.layout.head_dim
    packed = [values] if scales is None else [values, scales]
    position = 2 * cache.layout.rows * sum(one.shape[-1] * one.element_size() for one in packed)

    def moved(layer: int, q: Tensor, k: Tensor, v: Tensor) -> int:
        return int(batch.starts.sum() + batch.lengths.sum()) * position + tensor_bytes(q, q, k, v)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q.new_zeros(*q.shape[:2], width)

    return counter.part("attend", 1, moved, attend)


def filled_program(
    config: FlowConfig,
    streams: int,
    form: Callable[[EstimatorNetwork], StepNetwork],
    attention: MakeAttention,
    *,
    dtype: torch.dtype = torch.float32,
    stored: torch.dtype | None = None,
    past: int = PAST,
) -> EulerProgram:
    """Return a program with random weights whose inputs are `streams` streams with a new chunk after `past` blocks."""
    torch.manual_seed(0)
    exact = make_network(config).eval().requires_grad_(False)
    network, ratio = copy.deepcopy(exact).to(dtype), config.mel_frames_per_token
    solver = Solver(network, exact, config.solver, config.output_size, torch.device("cpu"))
    layout = network.layout(CHUNK * ratio, solver.steps, solver.rows)
    pool = KvBlockPool({"estimator": layout}, CHUNK, streams * (past + 1), stored or dtype)
    shape = Shape(streams, CHUNK * ratio, past + 1)
    cache, room = pool.caches["estimator"], scratch(solver, [shape])
    program = EulerProgram(solver, form(network), cache, ratio, shape, room, attention)
    rows = []
    for _ in range(streams):
        before = pool.extend(EMPTY_STATE, past * CHUNK) or EMPTY_STATE
        rows.append(Row(before, pool.extend(before, (past + 1) * CHUNK) or before, None))
    noise, mu = torch.randn(2, streams, shape.frames, config.output_size)
    program.fill(Start(noise, mu, mu[:, 0], torch.zeros_like(mu)), program.numbers(rows))
    return program


@torch.inference_mode()
def count_step(
    config: FlowConfig,
    streams: int,
    *,
    fused: bool = True,
    dtype: torch.dtype = torch.float32,
    stored: torch.dtype | None = None,
    past: int = PAST,
) -> OpCounter:
    """Count one Euler step of `streams` streams with one new chunk each, after `past` blocks."""
    counter = OpCounter()

    def form(network: EstimatorNetwork) -> StepNetwork:
        return fused_network(network, counted_kernels(counter))

    if fused:
        program = filled_program(
            config, streams, form, partial(counted_attention, counter), dtype=dtype, stored=stored, past=past
        )
    else:
        program = filled_program(
            config, streams, lambda network: network, PlainAttention, dtype=dtype, stored=stored, past=past
        )
    program.step()
    counter.clear()
    with counter:
        program.step()
    return counter


@torch.inference_mode()
def count_front(front: ConformerConfig | ConvolutionConfig, streams: int, *, past: int = PAST) -> OpCounter:
    """Count the front's program for `streams` streams with one new chunk each, after `past` blocks."""
    torch.manual_seed(0)
    config = replace(open_model_dir(MINI).flow, front=front)
    ratio, lookahead = config.mel_frames_per_token, config.lookahead_tokens
    module = make_front(config).eval().requires_grad_(False)
    pool = KvBlockPool(module.layouts(CHUNK), CHUNK, streams * (past + 1))
    shape = Shape(streams, CHUNK * ratio, past + 1)
    room = front_room([shape], config.output_size, torch.device("cpu"))
    program, rows = FrontProgram(module, pool.caches, ratio, lookahead, shape, room), []
    for _ in range(streams):
        before = pool.extend(EMPTY_STATE, past * CHUNK) or EMPTY_STATE
        rows.append(Row(before, pool.extend(before, (past + 1) * CHUNK) or before, None))
    numbers = program.numbers(rows, torch.randint(config.vocab_size, (streams, CHUNK + lookahead)))
    program.run(numbers)
    counter = OpCounter()
    with counter, counter.read_backs_counted():
        program.run(numbers)
    return counter


def vocoder_config(family: str, *, channels: int = 512) -> VocoderConfig:
    """Return the 0.5B layout's vocoder, or one with fewer channels: the number of kernels is the same."""
    mini = open_model_dir(MINI.with_name(f"{family}-mini")).vocoder
    return replace(mini, base_channels=channels, f0_channels=channels)


@torch.inference_mode()
def count_vocoder(config: VocoderConfig, streams: int, *, form: str = "whole", context: int = 11) -> OpCounter:
    """Count the vocoder's program for `streams` streams with one new chunk each and `context` frames on either side.

    `form` is how a GPU computes the residual blocks' convolutions: "whole" with what follows each in one kernel,
    "between" with a kernel for what follows, "single" with none.
    """
    torch.manual_seed(0)
    parts = {"": Generator(config), "m_source.": HarmonicSource(config), "f0_predictor.": PitchPredictor(config)}
    weights = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    vocoder, counter = Vocoder(config, weights, Context(context, context)), OpCounter()

    def whole(
        wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
    ) -> tuple[Tensor, Tensor]:
        return wave, wave

    def moved(wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None) -> int:
        written = [wave] * ((shortcut is not None) + (snake is not None))
        read = () if conv is None else (conv.bias, *([conv.weight] * 2 if form == "whole" else []))
        return tensor_bytes(wave, known, shortcut, *read, *written)

    kernel = counter.part("convolve" if form == "whole" else "join", 1, moved, whole)

    def between(
        wave: Tensor, conv: Conv | None, known: Tensor, shortcut: Tensor | None, snake: Snake | None
    ) -> tuple[Tensor, Tensor]:
        made = wave if conv is None else conv.without_bias(wave)[..., : known.shape[-1]]
        return kernel(made, conv, known, shortcut, snake)

    forms: dict[str, ConvolveJoin | None] = {"whole": kernel, "between": between, "single": None}
    vocoder.generator.convolve = forms[form]
    program = WindowProgram(vocoder, WindowShape(streams, 2 * CHUNK + 2 * context))
    with counter, counter.read_backs_counted():
        program.step()
    return counter


def estimate_ms(count: OpCounter) -> tuple[float, float]:
    """Return the least and most milliseconds of a counted step on an H100, estimated: its launches and its bytes."""
    launches, moved = count.kernels.total(), count.bytes.total()
    least, most = (launches * each / 1e3 + moved / BANDWIDTH * 1e3 for each in LAUNCH_US)
    return least, most


def _product(
    x: Tensor,
    by: Affine,
    *,
    norm: nn.LayerNorm | None = None,
    gelu: Gelu | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> int:
    out = x.shape[0] * x.shape[1] * by.weight.shape[0] * x.element_size()
    return tensor_bytes(x, by.weight, by.bias, residual) + out


def _convolve(
    x: Tensor,
    by: CausalWeights,
    tails: Tails,
    *,
    norm: nn.LayerNorm | None = None,
    term: Tensor | None = None,
    shortcut: Shortcut | None = None,
) -> int:
    taps, inputs, outputs = by.weight.shape
    kept = 2 * x.shape[0] * (taps - 1) * inputs * x.element_size()
    added = 0 if shortcut is None else tensor_bytes(shortcut.x, shortcut.by.weight, shortcut.by.bias)
    return tensor_bytes(x, by.weight, by.bias) + kept + x[..., 0].numel() * outputs * x.element_size() + added


def _modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> int:
    return tensor_bytes(x, x, shift, scale)


def _rotate(qkv: Tensor, rotary: tuple[Tensor, Tensor]) -> int:
    return 4 * tensor_bytes(qkv[:, :, 0, 0]) + 2 * tensor_bytes(*rotary)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode_ops", description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 16])
    options = parser.parse_args()
    for family in options.families:
        estimator = FAMILIES[family]
        fronts = [str(count_front(FRONTS[family], streams).kernels.total()) for streams in options.streams]
        print(f"{family}: {', '.join(fronts)} kernels of the front for {', '.join(map(str, options.streams))} streams")
        plain = count_step(flow_config(narrow(estimator)), 1, fused=False, past=1).kernels.total()
        print(f"{family}: {plain} kernels per Euler step without Triton's")
        small, forms = vocoder_config(family, channels=32), ("single", "between", "whole")
        single, between, whole = (count_vocoder(small, 1, form=form).kernels.total() for form in forms)
        print(f"{family}: {single} kernels of the vocoder's windows without Triton's,")
        print(f"{family}: {between} with Triton's between its convolutions, {whole} with Triton's convolutions")
        print("streams  states         kernels  megabytes  estimated ms of an Euler step")
        for streams in options.streams:
            for stored in (torch.bfloat16, torch.float8_e4m3fn):
                count = count_step(flow_config(estimator), streams, dtype=torch.bfloat16, stored=stored)
                least, most = estimate_ms(count)
                numbers = f"{count.kernels.total():>7}  {count.bytes.total() / 1e6:>9.0f}"
                print(f"{streams:>7}  {str(stored)[6:]:<13}  {numbers}  {least:.2f} to {most:.2f}", flush=True)


if __name__ == "__main__":
    main()
