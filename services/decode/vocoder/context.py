"""The number of context frames of the vocoder on either side: the bound of its layers, and what a checkpoint needs.

The bound is exact but pessimistic: the outermost taps of a chain of convolutions contribute almost nothing. Every frame
fewer of right context makes audio 20 ms earlier, so the need is measured on mel that the checkpoint generates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from services.common.checkpoint.vocoder_config import VocoderConfig
from services.decode.vocoder.pitch import reach_of_pitch
from services.decode.vocoder.stream import Context, Vocoder, VocoderState

TOLERANCE = 1e-5
"""Largest difference by a missing frame: a tenth of what windows over one mel may differ (1e-4), since mels differ."""


def layer_bound(config: VocoderConfig) -> Context:
    """The context that no sample depends beyond, from kernel sizes alone.

    About 20 frames on either side at CosyVoice2's sizes. CosyVoice3 (`config.causal`) needs 31 on the left and 5 on the
    right, where upstream holds back 8: one frame that the inverse STFT reads, and the first layer's right context.
    """
    after = 3.0 * config.istft_hop / config.hop + config.istft_n_fft / config.hop
    if config.causal:
        after *= 2
    source = 0.0
    rate = config.hop // config.istft_hop
    stages = zip(
        config.upsample_rates, config.upsample_kernels, config.source_kernels, config.source_dilations, strict=True
    )
    blocks = list(zip(config.resblock_kernels, config.resblock_dilations, strict=True))
    side = 1 if config.causal else 2
    for up, kernel, source_kernel, source_dilations in reversed(list(stages)):
        after += max(_reach(size, dilations, side) for size, dilations in blocks) / rate
        source = max(source, after + (_reach(source_kernel, source_dilations, side) + 1) / rate)
        rate //= up
        after += kernel / up / rate
    behind, ahead = reach_of_pitch(config)
    if config.causal:
        one = math.ceil(config.istft_n_fft / config.hop)
        return Context(math.ceil(max(after, source + 1)) + 1, one + max(config.conv_pre_look_right, ahead))
    frames = math.ceil(max(config.conv_pre_look_right + after, behind + 1 + source)) + 1
    return Context(frames, frames)


def _reach(kernel: int, dilations: tuple[int, ...], side: int) -> int:
    """Columns on one side; `side` is 2 if half of a kernel lies there, 1 if all of it does."""
    return sum((kernel - 1) // side * (dilation + 1) for dilation in dilations)


@torch.inference_mode()
def measure_context(vocoder: Vocoder, mel: Tensor, tolerance: float = TOLERANCE, cuts: int = 8) -> Context:
    """The smallest context within `tolerance` (max abs sample) of one run over `mel` [M, mel], at several cuts.

    Each cut is one window without the frames on either side of it: its first samples show the left context, its last
    ones the right context. The right context of a causal vocoder is its bound: few frames, each of which counts.

    `mel` should be about two seconds of the checkpoint's output. The result never exceeds the layers' bound, and is
    that bound if the mel is too short for a measurement.
    """
    bound, pitch = layer_bound(vocoder.config), vocoder.pitch.left
    length = pitch + bound.left + bound.right
    frames, hop = mel.shape[0], vocoder.config.hop
    if frames < bound.left + length + bound.right:
        return bound
    whole, phase = vocoder.run_window(vocoder.open(seed=0), mel)
    reference = whole.view(frames, hop)
    starts = torch.linspace(bound.left, frames - bound.right - length, cuts).int().tolist()
    states = [
        VocoderState(seed=0, phase=torch.remainder(phase[start + pitch - 1], 1.0), mel=mel[:0], start=start)
        for start in starts
    ]
    left = right = 0
    windows = vocoder.run_windows([(state, mel[state.start : state.start + length]) for state in states])
    for start, (samples, _) in zip(starts, windows, strict=True):
        wrong = (samples.view(-1, hop) - reference[start + pitch : start + length]).abs().amax(dim=1) > tolerance
        left = max(left, _count(wrong[: bound.left].flip(0)))
        right = max(right, _count(wrong[bound.left :]))
    return Context(left, bound.right if vocoder.config.causal else right)


def _count(wrong: Tensor) -> int:
    """Number of frames from the first wrong one to the end: bool [n]."""
    found = wrong.nonzero()
    return wrong.shape[0] - int(found[0]) if found.numel() else 0
