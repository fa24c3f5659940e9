"""The excitation: harmonics of the pitch, plus noise by absolute sample (spec sections 7.2 and 9)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.common.checkpoint.vocoder_config import VocoderConfig
from services.decode.vocoder.pitch import hold_phase, interpolate_phase, voiced

NOISE_PERIOD = 2**18
"""Samples after which the noise repeats (10.9 s at 24 kHz), far longer than listeners can recognise a repetition."""
_NOISE_KEY = 0x6C74_7473
_SEED_STRIDE = 0x9E37_79B1


class NoiseTable:
    """Noise as a function of (seed, absolute sample): the same on every machine, in any order of calls.

    Gaussian with variance 1 or, if `uniform`, in [0, 1), as in CosyVoice3 (spec section 9). The table is built once
    from Philox, a counter-based generator, by the Box-Muller transform; only the generator's raw integers are used,
    which do not change between library versions.
    """

    def __init__(self, harmonics: int, period: int = NOISE_PERIOD, *, uniform: bool = False) -> None:
        count = harmonics * period
        raw = np.random.Philox(key=_NOISE_KEY).random_raw(count + count % 2)
        draws = _below_one(raw) if uniform else _gaussian(raw)
        self._table = torch.from_numpy(draws[:count].reshape(period, harmonics))
        self._period = period

    def to(self, device: torch.device) -> None:
        self._table = self._table.to(device)

    def place(self, seed: int, start: int) -> int:
        """The row of the table for sample `start` of an utterance with this seed."""
        return (seed * _SEED_STRIDE + start) % self._period

    def gather(self, places: Tensor, count: int) -> Tensor:
        """Noise of `count` samples from each of these places on, int64 [S, 1]: [S, count, harmonics]."""
        rows = (places + torch.arange(count, device=places.device)).remainder_(self._period)
        return self._table.index_select(0, rows.flatten()).view(*rows.shape, -1)

    def read(self, seed: int, start: int, count: int) -> Tensor:
        """Noise of samples [start, start + count) of an utterance with this seed: [count, harmonics]."""
        offset = self.place(seed, start)
        pieces = []
        while count:
            piece = self._table[offset : offset + count]
            pieces.append(piece)
            count -= piece.shape[0]
            offset = 0
        return torch.cat(pieces) if pieces else self._table[:0]


def _below_one(raw: NDArray[np.uint64]) -> NDArray[np.float32]:
    """float32 in [0, 1): the upper 24 bits, so that none rounds to 1."""
    return (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _gaussian(raw: NDArray[np.uint64]) -> NDArray[np.float32]:
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[0::2])), (2.0 * math.pi) * uniform[1::2]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).astype(np.float32).reshape(-1)


class HarmonicSource(nn.Module):
    """Mixes the harmonics into one excitation signal."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.harmonics = config.nb_harmonics + 1
        self.l_linear = nn.Linear(self.harmonics, 1)

    def sines(self, f0: Tensor, phase: Tensor, before: Tensor | None, noise: Tensor) -> Tensor:
        """Per-harmonic signal of whole frames: f0 [..., M] Hz, phase [..., M, H] turns, noise [..., M * hop, H].

        Phase is wrapped in float64 before the sine is taken in the noise's precision.
        """
        config = self.config
        hop = config.hop
        turns = hold_phase(phase, hop) if config.causal else interpolate_phase(phase, before, hop)
        uv = voiced(f0, config.voiced_threshold, hop).to(noise.dtype)
        loud, quiet = config.noise_sigma, config.sine_amplitude / 3
        amplitude = uv * (loud - quiet) + quiet  # `torch.where` would copy both numbers from the host
        sine = turns.to(noise.dtype).mul_(2 * math.pi).sin_().mul_(config.sine_amplitude * uv)
        return sine.addcmul_(amplitude, noise)

    def forward(self, f0: Tensor, phase: Tensor, before: Tensor | None, noise: Tensor) -> Tensor:
        """The excitation of whole frames, [..., M * hop]; arguments as for `sines`."""
        mixed: Tensor = self.l_linear(self.sines(f0, phase, before, noise))
        return mixed[..., 0].tanh()
