"""The number of context frames of the vocoder on either side: the bound of its layers, and what a checkpoint needs.

The bound is exact but pessimistic: the outermost taps of a chain of convolutions contribute almost nothing. Every frame
fewer of right context makes audio 20 ms earlier, so the need is measured on mel that the checkpoint generates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from services.common.checkpoint.model_dir import VocoderConfig
from services.decode.vocoder.pitch import PITCH_REACH
from services.decode.vocoder.stream import Context, Vocoder, VocoderState

TOLERANCE = 1e-5
"""Largest difference by a missing frame: a tenth of the tolerance of streaming (1e-4), since other mels differ."""


def layer_bound(config: VocoderConfig) -> Context:
    """The context that no sample depends beyond, from kernel sizes alone (about 20 frames at the official sizes)."""
    after = 3.0 * config.istft_hop / config.hop + config.istft_n_fft / config.hop
    source = 0.0
    rate = config.hop // config.istft_hop
    stages = zip(
        config.upsample_rates, config.upsample_kernels, config.source_kernels, config.source_dilations, strict=True
    )
    blocks = list(zip(config.resblock_kernels, config.resblock_dilations, strict=True))
    for up, kernel, source_kernel, source_dilations in reversed(list(stages)):
        after += max(_reach(size, dilations) for size, dilations in blocks) / rate
        source = max(source, after + (_reach(source_kernel, source_dilations) + 1) / rate)
        rate //= up
        after += kernel / up / rate
    frames = math.ceil(max(3 + after, PITCH_REACH + 1 + source)) + 1
    return Context(frames, frames)


def _reach(kernel: int, dilations: tuple[int, ...]) -> int:
    return sum((kernel - 1) // 2 * (dilation + 1) for dilation in dilations)


@torch.inference_mode()
def measure_context(vocoder: Vocoder, mel: Tensor, tolerance: float = TOLERANCE, cuts: int = 8) -> Context:
    """The smallest context within `tolerance` (max abs sample) of one run over `mel` [M, mel], at several cuts.

    `mel` should be about two seconds of the checkpoint's output. The result never exceeds the layers' bound, and is
    that bound if the mel is too short for a measurement.
    """
    bound = layer_bound(vocoder.config)
    frames = mel.shape[0]
    if frames < 3 * max(bound.left, bound.right):
        return bound
    hop = vocoder.config.hop
    whole_state = vocoder.open(seed=0)
    whole, phase = vocoder.run_window(whole_state, mel)
    reference = whole.view(frames, hop)
    left, right = 0, 0
    for cut in torch.linspace(bound.right + 1, frames - bound.left - PITCH_REACH - 1, cuts).int().tolist():
        ahead, _ = vocoder.run_window(whole_state, mel[:cut])
        right = max(right, _needed(ahead.view(cut, hop), reference[:cut], tolerance))
        first = cut + PITCH_REACH
        state = VocoderState(seed=0, phase=torch.remainder(phase[first - 1], 1.0), mel=mel[:0], start=cut)
        behind, _ = vocoder.run_window(state, mel[cut:])
        rest = frames - first
        left = max(left, _needed(behind.view(rest, hop).flip(0), reference[first:].flip(0), tolerance))
    return Context(min(left, bound.left), min(right, bound.right))


def _needed(window: Tensor, reference: Tensor, tolerance: float) -> int:
    """Number of frames at the end of `window` [n, hop] that are not yet right."""
    wrong = ((window - reference).abs().amax(dim=1) > tolerance).nonzero()
    return 0 if wrong.numel() == 0 else window.shape[0] - int(wrong[0])
