"""The distance of two sounds over several short-time spectra."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from services.common.checkpoint.model_dir import MelConfig
from services.encode.voice.features import mel_filters

SIZES = ((2048, 512), (1024, 256), (512, 128), (256, 64))
"""Length and hop, in samples."""
_FLOOR = 1e-4


class Spectra(nn.Module):
    """Windows and mel filters, on the device of the module."""

    def __init__(self, rate: int = 24000) -> None:
        super().__init__()
        for size, hop in SIZES:
            bins = 80 if size > 600 else 40
            config = MelConfig(sample_rate=rate, n_fft=size, hop=hop, window=size, bins=bins, fmax=rate / 2)
            self.register_buffer(f"window{size}", torch.hann_window(size))
            self.register_buffer(f"mel{size}", torch.from_numpy(mel_filters(config)).float())

    def distance(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """[B, n] each: log magnitude and spectral convergence (Yamamoto 2020), and log mel; both sums over sizes."""
        spectral = mels = made.new_zeros(())
        for size, hop in SIZES:
            ours, theirs = self._magnitude(made, size, hop), self._magnitude(real, size, hop)
            spectral = spectral + _log_distance(ours, theirs)
            spectral = spectral + torch.linalg.norm(theirs - ours) / torch.linalg.norm(theirs)
            filters = self.get_buffer(f"mel{size}")
            mels = mels + _log_distance(filters @ ours, filters @ theirs)
        return spectral, mels

    def _magnitude(self, samples: Tensor, size: int, hop: int) -> Tensor:
        spectrum = torch.stft(samples, size, hop, window=self.get_buffer(f"window{size}"), return_complex=True)
        return torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-8)


def _log_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return (torch.log(ours + _FLOOR) - torch.log(theirs + _FLOOR)).abs().mean()
