"""A training step that a GPU repeats from a recording.

The networks are small: launched one by one, their kernels take several times as long as they run. A CUDA graph holds
all kernels of a step, from the forward pass to the optimizer, and one call launches them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Figures = Mapping[str, Tensor]
Kind = TypeVar("Kind", bound=Hashable)
_PLAIN_STEPS = 3
"""Steps of each kind before one is recorded: they make the optimizer's state, and libraries choose their kernels."""


@dataclass(frozen=True)
class _Recording:
    """A graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    figures: Figures

    def play(self, inputs: tuple[Tensor, ...]) -> Figures:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.figures


class Recorded(Generic[Kind]):
    """Calls `step(kind, inputs)`, or on a GPU replays what it did the last time for this kind and these shapes.

    The step must read nothing back from the GPU, and all its decisions must depend on `kind`. Random numbers follow
    `torch.manual_seed` in a replay, too. The figures of a replay are overwritten by the next one.
    """

    def __init__(
        self, step: Callable[[Kind, tuple[Tensor, ...]], Figures], device: torch.device, *, records: bool = True
    ) -> None:
        self._step, self._device = step, device
        self._records = records and device.type == "cuda"
        self._seen: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}
        if self._records:
            torch.backends.cudnn.benchmark = True  # all shapes come back thousands of times
            self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, kind: Kind, inputs: tuple[Tensor, ...]) -> Figures:
        """Take a step. The inputs may lie on the host."""
        if not self._records:
            return self._step(kind, tuple(one.to(self._device) for one in inputs))
        key = (kind, tuple(one.shape for one in inputs))
        if key not in self._recordings:
            self._seen[key] += 1
            if self._seen[key] <= _PLAIN_STEPS or not self._record(key, kind, inputs):
                return self._plain(kind, inputs)
        return self._recordings[key].play(inputs)

    def _plain(self, kind: Kind, inputs: tuple[Tensor, ...]) -> Figures:
        """Take a step without a recording, on the stream that records."""
        moved = tuple(one.to(self._device) for one in inputs)
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            figures = self._step(kind, moved)
        current.wait_stream(self._stream)
        return figures

    def _record(self, key: Hashable, kind: Kind, inputs: tuple[Tensor, ...]) -> bool:
        """Record a step without taking it; if that fails, say why and record nothing more."""
        own = tuple(one.to(self._device, copy=True) for one in inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                figures = self._step(kind, own)
        except RuntimeError as error:
            sys.stdout.write(f"steps are not recorded, which makes them slower: {error}\n")
            self._records = False
            return False
        self._recordings[key] = _Recording(graph, own, figures)
        return True
