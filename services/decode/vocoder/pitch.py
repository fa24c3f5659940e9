"""Pitch and phase, in float64 whatever the model's precision (spec sections 7.1, 7.2 and 9).

Phase is a running sum: a pitch that differs in the last float32 digits between two computations of the same frame
moves every later sample. In float64 a streamed vocoder equals one run over the whole mel to float32 rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.vocoder_config import VocoderConfig
from services.decode.vocoder.conv import Conv


def _layer_reach(config: VocoderConfig) -> list[tuple[int, int]]:
    """Frames to the left and to the right of each convolution."""
    return [(0, 3)] + [(2, 0)] * 4 if config.causal else [(1, 1)] * 5


def reach_of_pitch(config: VocoderConfig) -> tuple[int, int]:
    """Frames to the left and to the right that one frame's pitch depends on."""
    left, right = zip(*_layer_reach(config), strict=True)
    return sum(left), sum(right)


class PitchPredictor(nn.Module):
    """Mel to fundamental frequency in Hz."""

    def __init__(self, config: VocoderConfig) -> None:
        """Convolutions over three frames or, if `config.causal`, over three to the right and then two to the left."""
        super().__init__()
        channels = config.f0_channels
        layers: list[nn.Module] = []
        for layer, (behind, ahead) in enumerate(_layer_reach(config)):
            inputs = channels if layer else config.in_channels
            layers += [Conv(inputs, channels, behind + 1 + ahead, zeros=(behind, ahead)), nn.ELU()]
        self.left, _ = reach_of_pitch(config)
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor, known: Tensor | None = None) -> Tensor:
        """[B, mel, M] -> Hz, non-negative, [B, M].

        With `known`, bool [B, M], only those frames exist; the others are zero in the mel and in the result.
        """
        if known is None:
            x = self.condnet(mel)
        else:
            x, exists = mel, known[:, None].to(mel.dtype)
            for layer in self.condnet:
                x = layer(x) if isinstance(layer, Conv) else layer(x) * exists
        out: Tensor = self.classifier(x.transpose(1, 2))[..., 0].abs()
        return out if known is None else out * known


def cycles_per_frame(f0: Tensor, harmonics: int, sample_rate: int, hop: int) -> Tensor:
    """Turns of each harmonic during a frame: f0 [..., M] in Hz, float64 -> [..., M, harmonics]."""
    order = torch.arange(1, harmonics + 1, dtype=f0.dtype, device=f0.device)
    return torch.remainder(f0[..., None] * order / sample_rate, 1.0) * hop


def accumulate(turns: Tensor, before: Tensor) -> Tensor:
    """Phase at each frame's end, in turns: turns [..., M, H], before [..., H] (the phase so far) -> [..., M, H]."""
    return before[..., None, :] + torch.cumsum(turns, dim=-2)


def interpolate_phase(phase: Tensor, before: Tensor | None, hop: int) -> Tensor:
    """Phase per frame to phase per sample, linear between frame centres: [..., M, H] -> [..., M * hop, H], in [0, 1).

    `before` [..., H] is the phase of the frame before the first one; None at the start of the utterance. The phase is
    constant before the first and after the last value.
    """
    first = phase[..., :1, :] if before is None else before[..., None, :]
    padded = torch.cat((first, phase, phase[..., -1:, :]), dim=-2)
    offset = (torch.arange(hop, dtype=phase.dtype, device=phase.device) + 0.5) / hop - 0.5
    early, late = offset[: hop // 2, None], offset[hop // 2 :, None]
    previous, here, following = (padded[..., begin : begin + phase.shape[-2], None, :] for begin in range(3))
    samples = torch.cat((here + early * (here - previous), here + late * (following - here)), dim=-2)
    # Phase never falls below zero, where the fraction is the remainder at a tenth of its cost.
    return samples.frac_().flatten(-3, -2)


def hold_phase(phase: Tensor, hop: int) -> Tensor:
    """CosyVoice3's phase per sample, constant in each frame: [..., M, H] -> [..., M * hop, H], in turns of [0, 1)."""
    return phase.frac().repeat_interleave(hop, dim=-2)


def voiced(f0: Tensor, threshold: float, hop: int) -> Tensor:
    """Which samples are voiced: f0 [..., M] -> bool [..., M * hop, 1]."""
    return F.threshold(f0, threshold, 0.0).gt(0).repeat_interleave(hop, dim=-1)[..., None]
