"""The speaker encoder: Kaldi filter bank to 192 numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDING = 192
_WIDTH, _LAST = 128, 256


class SpeakerEncoder(nn.Module):
    """Dilated convolutions, mean and deviation over time, one projection."""

    def __init__(self) -> None:
        super().__init__()
        shapes = ((80, _WIDTH, 5, 1), (_WIDTH, _WIDTH, 3, 2), (_WIDTH, _WIDTH, 3, 3), (_WIDTH, _LAST, 1, 1))
        self.convs = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=dilation * (kernel // 2))
            for inputs, outputs, kernel, dilation in shapes
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(outputs) for _, outputs, _, _ in shapes)
        self.project, self.last = nn.Linear(2 * _LAST, EMBEDDING), nn.BatchNorm1d(EMBEDDING)

    def forward(self, bank: Tensor) -> Tensor:
        """[B, T, 80], its mean over time removed -> [B, EMBEDDING]."""
        x = bank.transpose(1, 2)
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            hidden = norm(F.relu(conv(x)))
            x = hidden + x if 0 < number < len(self.convs) - 1 else hidden
        mean = x.mean(2)
        deviation = torch.sqrt(((x - mean[:, :, None]) ** 2).mean(2) + 1e-4)
        out: Tensor = self.last(self.project(torch.cat((mean, deviation), 1)))
        return out


class SpeakerClassifier(nn.Module):
    """The encoder and a direction per speaker, for its loss (additive-margin softmax)."""

    def __init__(self, speakers: int) -> None:
        super().__init__()
        self.encoder = SpeakerEncoder()
        self.directions = nn.Parameter(torch.randn(speakers, EMBEDDING) * 0.1)

    def cosines(self, bank: Tensor) -> Tensor:
        """[B, T, 80] -> [B, speakers]."""
        return F.normalize(self.encoder(bank)) @ F.normalize(self.directions).T
