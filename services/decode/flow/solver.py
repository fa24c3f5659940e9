"""The flow-matching solver: Euler steps from noise to mel with classifier-free guidance (spec section 5.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from services.decode.flow.forward_pass import Pass
from services.decode.flow.kv_cache import KvLayout

NOISE_FRAMES = 15000
"""Frames of noise, prompt included: the longest utterance (300 s)."""
GUIDANCE_ROWS = 2
"""Row 0 has the conditioning, row 1 does not."""


class Estimator(Protocol):
    """The network interface of the solver: CosyVoice2's UNet now; CosyVoice3's transformer fits it too."""

    @property
    def dtype(self) -> torch.dtype: ...

    def layout(self, positions: int, steps: int, rows: int) -> KvLayout: ...

    def time_terms(self, t: Tensor) -> list[Tensor]: ...

    def __call__(self, x: Tensor, time_terms: list[Tensor], frames: Pass) -> Tensor: ...


def noise_table(mel: int = 80) -> Tensor:
    """The model's constant noise [15000, mel] (the transpose of the spec's, so that frames come first)."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(1, mel, NOISE_FRAMES, generator=generator)[0].T.contiguous()


def euler_times(steps: int) -> list[tuple[Tensor, Tensor]]:
    """(t, dt) of each Euler step on the cosine schedule, t accumulated in float32 as upstream does."""
    span = 1 - torch.cos(torch.linspace(0, 1, steps + 1) * 0.5 * math.pi)
    t, dt = span[0], span[1] - span[0]
    times = []
    for step in range(1, steps + 1):
        times.append((t, dt))
        t = t + dt
        if step < steps:
            dt = span[step + 1] - t
    return times


@dataclass(frozen=True)
class Start:
    """Input of the solver for new frames: noise, mu and cond [S, N, mel], speakers [S, mel]."""

    noise: Tensor
    mu: Tensor
    speakers: Tensor
    cond: Tensor

    def rows(self) -> Tensor:
        """The estimator's input without x, which each step writes to the first mel channels: [2, S, N, 4 * mel]."""
        streams, frames, mel = self.mu.shape
        rows = self.mu.new_zeros(GUIDANCE_ROWS, streams, frames, 4 * mel)
        rows[0, ..., mel : 2 * mel] = self.mu
        rows[0, ..., 2 * mel : 3 * mel] = self.speakers[:, None]
        rows[0, ..., 3 * mel :] = self.cond
        return rows


class Solver:
    """Runs the estimator over all Euler steps for the new frames of a batch of streams."""

    def __init__(self, estimator: Estimator, *, steps: int, cfg_rate: float, mel: int, device: torch.device) -> None:
        """The estimator may run in lower precision than float32; x and the Euler sum stay in float32."""
        self.estimator, self._cfg_rate = estimator, cfg_rate
        self._noise = noise_table(mel).to(device)
        times = euler_times(steps)
        self.dts = [float(dt) for _, dt in times]
        with torch.inference_mode():
            terms = [estimator.time_terms(t.reshape(1).to(device)) for t, _ in times]
        self.terms = [[term.to(estimator.dtype) for term in step] for step in terms]
        """Time terms per step and stage: [1, 1, channels]."""

    @property
    def steps(self) -> int:
        return len(self.dts)

    def noise(self, start: int, end: int) -> Tensor:
        """Frames [start, end) of the constant noise, prompt included: [end - start, mel]."""
        return self._noise[start:end]

    def solve(self, start: Start, open_pass: Callable[[int], Pass], on_step: Callable[[], None]) -> Tensor:
        """Noise to mel for new frames, [S, N, mel].

        `open_pass(step)` returns each step's pass over its own cached keys (they differ: keys depend on that step's x).
        `on_step` is called after each step, so that the engine's step count shows progress.
        """
        x, rows = start.noise, start.rows()
        for step, (dt, terms) in enumerate(zip(self.dts, self.terms, strict=True)):
            x = self.euler(x, dt, self.estimator(self.put(x, rows), terms, open_pass(step)))
            on_step()
        return x

    def put(self, x: Tensor, rows: Tensor) -> Tensor:
        """Write x [S, N, mel] into `rows` (of `Start.rows`); return them as the estimator's input."""
        rows[..., : x.shape[-1]] = x
        return rows.flatten(0, 1).to(self.estimator.dtype)

    def euler(self, x: Tensor, dt: float | Tensor, velocity: Tensor) -> Tensor:
        """Return x after one step with the guided velocity of both rows."""
        with_voice, without = velocity.float().view(GUIDANCE_ROWS, *x.shape)
        after: Tensor = x + dt * ((1.0 + self._cfg_rate) * with_voice - self._cfg_rate * without)
        return after
