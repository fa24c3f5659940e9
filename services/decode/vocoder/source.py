"""The excitation: harmonics of the pitch, plus noise that depends on the absolute sample only (spec section 7.2)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from services.common.checkpoint.model_dir import VocoderConfig
from services.decode.vocoder.pitch import interpolate_phase, voiced

NOISE_PERIOD = 2**18
"""Samples after which the noise repeats (10.9 s at 24 kHz), far longer than listeners can recognise a repetition."""
_NOISE_KEY = 0x6C74_7473
_SEED_STRIDE = 0x9E37_79B1


class NoiseTable:
    """Gaussian noise as a function of (seed, absolute sample): the same on every machine, in any order of calls.

    The table is built once from Philox, a counter-based generator, by the Box-Muller transform; only the generator's
    raw integers are used, which do not change between library versions.
    """

    def __init__(self, harmonics: int, period: int = NOISE_PERIOD) -> None:
        count = harmonics * period
        raw = np.random.Philox(key=_NOISE_KEY).random_raw(count + count % 2)
        uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius, angle = np.sqrt(-2.0 * np.log(uniform[0::2])), (2.0 * math.pi) * uniform[1::2]
        normal = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).astype(np.float32)
        self._table = torch.from_numpy(normal.reshape(-1)[:count].reshape(period, harmonics))
        self._period = period

    def to(self, device: torch.device) -> None:
        self._table = self._table.to(device)

    def read(self, seed: int, start: int, count: int) -> Tensor:
        """Noise of samples [start, start + count) of an utterance with this seed: [count, harmonics]."""
        offset = (seed * _SEED_STRIDE + start) % self._period
        pieces = []
        while count:
            piece = self._table[offset : offset + count]
            pieces.append(piece)
            count -= piece.shape[0]
            offset = 0
        return torch.cat(pieces) if pieces else self._table[:0]


class HarmonicSource(nn.Module):
    """Mixes the harmonics into one excitation signal."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.harmonics = config.nb_harmonics + 1
        self.l_linear = nn.Linear(self.harmonics, 1)

    def sines(self, f0: Tensor, phase: Tensor, before: Tensor | None, noise: Tensor) -> Tensor:
        """Per-harmonic signal of whole frames: f0 [M] Hz, phase [M, H] turns, noise [M * hop, H] -> [M * hop, H].

        Phase is wrapped in float64 before the sine is taken in the noise's precision.
        """
        config = self.config
        turns = interpolate_phase(phase, before, config.hop)
        uv = voiced(f0, config.voiced_threshold, config.hop)
        loud, quiet = config.noise_sigma, config.sine_amplitude / 3
        amplitude = torch.where(uv, loud, quiet).to(noise.dtype)
        sine = turns.to(noise.dtype).mul_(2 * math.pi).sin_().mul_(config.sine_amplitude * uv)
        return sine.addcmul_(amplitude, noise)

    def forward(self, f0: Tensor, phase: Tensor, before: Tensor | None, noise: Tensor) -> Tensor:
        """The excitation of whole frames, [M * hop]; arguments as for `sines`."""
        mixed: Tensor = self.l_linear(self.sines(f0, phase, before, noise))
        return mixed[:, 0].tanh()
