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

    The right context of a causal vocoder is its bound: few frames, each of which counts.

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
    left, right = 0, bound.right if vocoder.config.causal else 0
    pitch = vocoder.pitch.left
    for cut in torch.linspace(bound.right + 1, frames - bound.left - pitch - 1, cuts).int().tolist():
        if not vocoder.config.causal:
            ahead, _ = vocoder.run_window(whole_state, mel[:cut])
            right = max(right, _needed(ahead.view(cut, hop), reference[:cut], tolerance))
        first = cut + pitch
        state = VocoderState(seed=0, phase=torch.remainder(phase[first - 1], 1.0), mel=mel[:0], start=cut)
        behind, _ = vocoder.run_window(state, mel[cut:])
        rest = frames - first
        left = max(left, _needed(behind.view(rest, hop).flip(0), reference[first:].flip(0), tolerance))
    return Context(min(left, bound.left), min(right, bound.right))


def _needed(window: Tensor, reference: Tensor, tolerance: float) -> int:
    """Number of frames at the end of `window` [n, hop] that are not yet right."""
    wrong = ((window - reference).abs().amax(dim=1) > tolerance).nonzero()
    return 0 if wrong.numel() == 0 else window.shape[0] - int(wrong[0])
