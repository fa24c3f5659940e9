"""Simulated CUDA devices: the state that torch keeps per thread and per process, without computing."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode


class Cuda:
    """CUDA devices of any number. Torch's own Python code runs; only its calls of the CUDA library are replaced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fractions: dict[int, float] = {}
        """Fraction of a device's memory that the process may use, by the device's index."""
        self._threads = threading.local()
        zeros = torch.zeros

        def fake_on_cuda(*size: int, device: str | torch.device | None = None, **options: Any) -> torch.Tensor:
            if device is None or torch.device(device).type != "cuda":
                return zeros(*size, device=device, **options)
            with FakeTensorMode():
                return zeros(*size, device=device, **options)

        monkeypatch.setattr(torch, "zeros", fake_on_cuda)
        monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "_exchange_device", self._exchange)
        monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", self._exchange)
        monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", self._set_fraction, raising=False)

    @property
    def current(self) -> int:
        """The calling thread's current device: 0 in a new thread."""
        return getattr(self._threads, "current", 0)

    def _exchange(self, device: int) -> int:
        before = self.current
        if device >= 0:
            self._threads.current = device
        return before

    def _set_fraction(self, fraction: float, device: int) -> None:
        self.fractions[device] = fraction
