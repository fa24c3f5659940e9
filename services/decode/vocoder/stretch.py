"""Applies the speaking rate to a stream of mel frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from services.decode.engine.speed import frames_ready, position


class Stretch:
    """Interpolates a stream of mel frames linearly; keeps only the frames that later output needs."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._made = 0
        self._known: Tensor | None = None
        self._dropped = 0

    def append(self, mel: Tensor, last: bool) -> Tensor:
        """Append input frames [n, mel]; return the output frames that are now determined."""
        if self._speed == 1.0:
            return mel
        known = mel if self._known is None else torch.cat((self._known, mel))
        total = self._dropped + known.shape[0]
        ready = frames_ready(total, self._speed, last)
        frames = torch.arange(self._made, ready, dtype=torch.float64, device=mel.device)
        where = ((frames + 0.5) * self._speed - 0.5).clamp(0, max(total - 1, 0))
        before = where.floor().long()
        after = (before + 1).clamp(max=total - 1)
        share = (where - before)[:, None].to(mel.dtype)
        earlier, later = known[before - self._dropped], known[after - self._dropped]
        self._made = ready
        keep = max(self._dropped, min(total, math.floor(position(ready, self._speed))))
        self._known = known[keep - self._dropped :].clone()
        self._dropped = keep
        return torch.lerp(earlier, later, share)
