"""The vocoder in training: pitch, excitation and generator of the decode service over short segments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from services.common.checkpoint.vocoder_config import VocoderConfig
from services.decode.vocoder.hift import Generator
from services.decode.vocoder.pitch import PitchPredictor, accumulate, cycles_per_frame
from services.decode.vocoder.source import HarmonicSource

_FIRST_PITCH, _PITCH_SCALE = 80.0, 30.0
"""Hz at the start: a network of small weights needs long to reach outputs of that size."""


class VocoderTrainer(nn.Module):
    """The three networks of a vocoder. `exported` has the official names."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.generator, self.source, self.pitch = Generator(config), HarmonicSource(config), PitchPredictor(config)
        with torch.no_grad():
            self.pitch.classifier.bias.fill_(_FIRST_PITCH)
            self.pitch.classifier.weight.mul_(_PITCH_SCALE)

    def _parts(self) -> dict[str, nn.Module]:
        return {"": self.generator, "m_source.": self.source, "f0_predictor.": self.pitch}

    def exported(self) -> dict[str, Tensor]:
        """Return the weights under the official names."""
        return {
            prefix + key: value
            for prefix, module in self._parts().items()
            for key, value in module.state_dict().items()
        }

    def load_exported(self, weights: dict[str, Tensor]) -> None:
        """Load weights that have the official names."""
        for prefix, module in self._parts().items():
            module.load_state_dict({key: weights[prefix + key] for key in module.state_dict()})

    def forward(self, mel: Tensor, pitch: Tensor) -> Tensor:
        """mel [B, bins, M] and Hz [B, M] to samples [B, M * hop]."""
        out: Tensor = self.generator(mel, self._excitation(pitch))
        return out

    def _excitation(self, pitch: Tensor) -> Tensor:
        config, harmonics = self.config, self.source.harmonics
        with torch.no_grad():
            turns = cycles_per_frame(pitch.double(), harmonics, config.sample_rate, config.hop)
            phase = accumulate(turns, turns.new_zeros(len(pitch), harmonics))
            noise = torch.randn(len(pitch), pitch.shape[1] * config.hop, harmonics, device=pitch.device)
            sines = self.source.sines(pitch.double(), phase, None, noise)
        mixed: Tensor = self.source.l_linear(sines)
        return mixed[..., 0].tanh()
