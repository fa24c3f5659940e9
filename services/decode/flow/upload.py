"""Numbers of the host on their way to the device: those of a batch go as one copy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Sent = Callable[[], Tensor]
"""Returns the device's copy of what was added to an `Upload`, once that has been sent."""


def uploaded(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy numbers of the host to the device; to a GPU from pinned memory, so that the host need not wait for it."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)


class Upload:
    """Whole numbers that the host has computed for a batch."""

    def __init__(self) -> None:
        self._numbers: list[Tensor] = []
        self._sent: list[Tensor] = []

    def add(self, numbers: Tensor) -> Sent:
        """Add int64 numbers of any shape; what this returns gives the device's copy after `send`."""
        place = len(self._numbers)
        self._numbers.append(numbers)
        return lambda: self._sent[place]

    def send(self, device: torch.device) -> None:
        """Copy all numbers to the device together."""
        together = uploaded(torch.cat([numbers.flatten() for numbers in self._numbers]), device)
        parts = together.split([numbers.numel() for numbers in self._numbers])  # type: ignore[no-untyped-call]
        self._sent = [part.view(numbers.shape) for part, numbers in zip(parts, self._numbers, strict=True)]
