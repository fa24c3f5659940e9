"""Small discriminators of samples: by period (HiFi-GAN, Kong 2020) and by resolution (UnivNet, Jang 2021)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)
RESOLUTIONS = ((1024, 120), (2048, 240), (512, 50))
"""Length and hop of the short-time spectra, in samples."""
_SLOPE = 0.1
Judgement = tuple[Tensor, list[Tensor]]
"""Scores, and the features of all layers."""


def _convolution(inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2)
    made: nn.Module = weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding))
    return made


class PeriodDiscriminator(nn.Module):
    """Looks at samples that are one period apart."""

    def __init__(self, period: int, width: int = 16) -> None:
        super().__init__()
        self._period = period
        widths = (1, width, 2 * width, 4 * width, 4 * width)
        self.layers = nn.ModuleList(
            _convolution(inputs, outputs, (5, 1), (3, 1)) for inputs, outputs in pairwise(widths)
        )
        self.last = _convolution(widths[-1], 1, (3, 1), (1, 1))

    def forward(self, samples: Tensor) -> Judgement:
        """[B, n] -> scores and features."""
        missing = -samples.shape[1] % self._period
        x = F.pad(samples, (0, missing)).view(len(samples), 1, -1, self._period)
        return _judge(x, self.layers, self.last)


class ResolutionDiscriminator(nn.Module):
    """Looks at the magnitude of one short-time spectrum."""

    window: Tensor

    def __init__(self, size: int, hop: int, width: int = 16) -> None:
        super().__init__()
        self._size, self._hop = size, hop
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        widths, strides = (1, width, width, width, width), ((1, 1), (2, 1), (2, 1), (2, 1))
        self.layers = nn.ModuleList(
            _convolution(inputs, outputs, (9, 3), stride)
            for (inputs, outputs), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.last = _convolution(width, 1, (3, 3), (1, 1))

    def forward(self, samples: Tensor) -> Judgement:
        """[B, n] -> scores and features."""
        spectrum = torch.stft(samples, self._size, self._hop, window=self.window, return_complex=True)
        return _judge(torch.log1p(spectrum.abs())[:, None], self.layers, self.last)


def _judge(x: Tensor, layers: nn.ModuleList, last: nn.Module) -> Judgement:
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), _SLOPE)
        features.append(x)
    return last(x), features


class Discriminators(nn.Module):
    """All of them."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.ModuleList(
            [
                *(PeriodDiscriminator(period) for period in PERIODS),
                *(ResolutionDiscriminator(size, hop) for size, hop in RESOLUTIONS),
            ]
        )

    def forward(self, samples: Tensor) -> list[Judgement]:
        """[B, n] -> one judgement each."""
        return [one(samples) for one in self.all]


def real_or_made(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """The discriminators' least-squares loss."""
    losses = [((1 - right) ** 2).mean() + (wrong**2).mean() for (right, _), (wrong, _) in zip(real, made, strict=True)]
    return torch.stack(losses).mean()


def adversarial(real: list[Judgement], made: list[Judgement]) -> tuple[Tensor, Tensor]:
    """The generator's least-squares loss, and the mean distance of features."""
    fooled = torch.stack([((1 - score) ** 2).mean() for score, _ in made]).mean()
    apart = [
        (ours - theirs.detach()).abs().mean()
        for (_, features), (_, targets) in zip(made, real, strict=True)
        for ours, theirs in zip(features, targets, strict=True)
    ]
    return fooled, torch.stack(apart).mean()
