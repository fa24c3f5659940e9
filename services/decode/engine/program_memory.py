"""How much memory the programs of flow and vocoder take, from their shapes alone: before any is made.

A program has inputs of its own, and what its operations allocate. Programs of one kind run one at a time and share the
latter, so the largest of each kind counts. The numbers of values that a layer holds at once are upper bounds:
`tests/unit/decode/test_decode_memory.py` compares them with the operations of every program.
"""

from __future__ import annotations

import math

import torch

from services.common.checkpoint.flow_config import FlowConfig, UNetConfig
from services.common.checkpoint.model_dir import ModelDir
from services.common.checkpoint.vocoder_config import VocoderConfig
from services.decode.flow.front_program import LARGEST_SCORES
from services.decode.flow.program import Shape, table_width
from services.decode.flow.programs import Shapes
from services.decode.vocoder.context import layer_bound
from services.decode.vocoder.conv import PADDED
from services.decode.vocoder.programs import window_shapes

FLOAT = torch.float32.itemsize
SCORES_HELD = 4
"""Tensors as large as the scores of one attention of the front that exist at once: products, bias, mask, softmax."""
LAYERS_HELD = 8
"""Tensors as wide as a layer of the estimator that exist at once, without attention and feed-forward."""
WAVES_HELD = 10
"""Tensors as large as a layer of the vocoder that exist at once."""


def program_bytes(model: ModelDir, dtype: torch.dtype, most_streams: int) -> int:
    """Bytes of all programs for batches of up to `most_streams` streams, whose estimator computes in `dtype`."""
    flow = model.flow
    frames = flow.chunk_tokens * flow.mel_frames_per_token
    shapes = Shapes(most_streams, frames).all()
    inputs = sum(input_bytes(shape) for shape in shapes)
    estimator = max(estimator_bytes(flow, shape, dtype) for shape in shapes)
    windows = window_shapes(most_streams, frames, layer_bound(model.vocoder))
    vocoder = max(window_bytes(model.vocoder, one.streams * one.frames) for one in windows)
    vocoder += weight_bytes(model.vocoder)
    return inputs + estimator + SCORES_HELD * LARGEST_SCORES * FLOAT + vocoder


def input_bytes(shape: Shape) -> int:
    """The table of one program of the estimator."""
    return shape.streams * table_width(shape) * torch.int64.itemsize


def estimator_bytes(flow: FlowConfig, shape: Shape, dtype: torch.dtype) -> int:
    """One Euler step of one shape, with attention that copies the blocks."""
    config, rows = flow.estimator, flow.solver.rows * shape.streams
    width = config.channels if isinstance(config, UNetConfig) else config.width
    units = 4 * width if isinstance(config, UNetConfig) else config.ff_mult * width
    attended, new = config.heads * config.head_dim, rows * shape.frames
    past = rows * shape.blocks * flow.chunk_tokens * flow.mel_frames_per_token
    values = new * (LAYERS_HELD * width + max(6 * attended, 2 * units)) + 2 * 2 * (past + new) * attended
    mask = shape.frames * (past + new)  # one byte each
    inputs = new * 8 * flow.output_size * FLOAT  # x, conditions and velocities stay in float32
    return values * dtype.itemsize + mask + inputs


def window_bytes(config: VocoderConfig, frames: int) -> int:
    """The vocoder's windows with that many frames in all."""
    rates = [math.prod(config.upsample_rates[: stage + 1]) for stage in range(len(config.upsample_rates))]
    widest: int = max(rate * config.base_channels // 2 ** (stage + 1) for stage, rate in enumerate(rates))
    source = config.hop * (config.nb_harmonics + 1) * 4
    pitch = config.f0_channels * 8  # of 8 bytes
    return frames * (WAVES_HELD * widest + source + pitch) * FLOAT


def weight_bytes(config: VocoderConfig) -> int:
    """The weights of the residual blocks' convolutions in the order and the two parts of a kernel (`conv.py`)."""
    values = 0
    blocks = list(zip(config.resblock_kernels, config.resblock_dilations, strict=True))
    sources = zip(config.source_kernels, config.source_dilations, strict=True)
    for stage, source in enumerate(sources):
        width = config.base_channels // 2 ** (stage + 1)
        padded = width + -width % PADDED
        values += padded**2 * sum(2 * len(dilations) * taps for taps, dilations in (source, *blocks))
    return 2 * values * FLOAT
