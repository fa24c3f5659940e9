"""The speech tokenizer: 128-bin log mel at 100 Hz to one token of six three-level digits at 25 Hz."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.sizes import DIGITS, LEVELS

_WIDTH = 160
_EDGE = 1.49
"""The digits are round(z) for z in (-1.5, 1.5)."""


class ConvNext(nn.Module):
    """A depthwise convolution and a pointwise network of two layers, around a shortcut: [B, C, T] -> [B, C, T]."""

    def __init__(self, width: int, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)
        nn.init.normal_(self.narrow.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.depthwise(x).transpose(1, 2))
        out: Tensor = x + self.narrow(F.gelu(self.wide(hidden))).transpose(1, 2)
        return out


class TokenEncoder(nn.Module):
    """Log mel to digits."""

    powers: Tensor

    def __init__(self, width: int = _WIDTH) -> None:
        super().__init__()
        self.first = nn.Conv1d(128, width, 3, stride=2, padding=1)
        self.fast = nn.Sequential(ConvNext(width), ConvNext(width))
        self.second = nn.Conv1d(width, width, 4, stride=2, padding=1)
        self.slow = nn.Sequential(ConvNext(width), ConvNext(width), ConvNext(width))
        self.project = nn.Conv1d(width, DIGITS, 1)
        self.register_buffer("powers", torch.tensor([float(LEVELS**digit) for digit in range(DIGITS)]))

    def soft(self, mel: Tensor) -> Tensor:
        """[B, 128, T] -> real-valued digits [B, DIGITS, T / 4] in (-1.5, 1.5)."""
        hidden = self.fast(F.gelu(self.first(mel)))
        out = 1.5 * torch.tanh(self.project(self.slow(self.second(hidden))))
        return out.clamp(-_EDGE, _EDGE)

    def forward(self, mel: Tensor) -> Tensor:
        """Digits -1, 0 or 1, with the gradient of the soft ones."""
        soft = self.soft(mel)
        return soft + (soft.round() - soft).detach()

    def tokens(self, mel: Tensor) -> Tensor:
        """[B, 128, T] -> token numbers [B, T / 4], as float."""
        digits = self.soft(mel).round() + 1
        return (digits * self.powers[:, None]).sum(1)


class TokenReader(nn.Module):
    """Reads phones and, knowing the speaker, the mel from digits: only for the tokenizer's loss and for judging."""

    def __init__(self, phones: int, speakers: int, width: int = _WIDTH) -> None:
        super().__init__()
        self.count = phones
        self.phones = nn.Sequential(nn.Conv1d(DIGITS, 256, 1), nn.GELU(), nn.Conv1d(256, 2 * phones, 1))
        self.enter, self.speaker = nn.Conv1d(DIGITS, width, 1), nn.Embedding(speakers, width)
        self.body = nn.Sequential(ConvNext(width, 3), ConvNext(width, 3))
        self.mel = nn.Conv1d(width, 160, 1)

    def read_phones(self, digits: Tensor) -> Tensor:
        """[B, DIGITS, n] -> scores [B, phones, 2n], one per frame of 20 ms, from each token alone."""
        batch, _, length = digits.shape
        scores = self.phones(digits).view(batch, 2, self.count, length)
        out: Tensor = scores.permute(0, 2, 3, 1).reshape(batch, self.count, 2 * length)
        return out

    def read_mel(self, digits: Tensor, speakers: Tensor) -> Tensor:
        """[B, DIGITS, n], [B] -> mel [B, 2n, 80]."""
        batch, _, length = digits.shape
        hidden = self.body(self.enter(digits) + self.speaker(speakers)[:, :, None])
        mel: Tensor = self.mel(hidden)
        return mel.view(batch, 2, 80, length).permute(0, 3, 1, 2).reshape(batch, 2 * length, 80)


class Tokenizer(nn.Module):
    """Encoder and reader."""

    def __init__(self, phones: int, speakers: int) -> None:
        super().__init__()
        self.encoder, self.reader = TokenEncoder(), TokenReader(phones, speakers)


def digits_of(tokens: Tensor) -> Tensor:
    """Token numbers [B, n] -> digits -1, 0, 1: [B, DIGITS, n]."""
    return torch.stack([(tokens // LEVELS**digit) % LEVELS - 1 for digit in range(DIGITS)], dim=1).float()
