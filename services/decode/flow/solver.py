"""The flow-matching solver: Euler steps from noise to mel with classifier-free guidance (spec section 5.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from services.common.checkpoint.flow_config import Schedule, SolverConfig
from services.decode.flow.estimator import Condition, EstimatorNetwork
from services.decode.flow.forward_pass import Pass

NOISE_FRAMES = 15000
"""Frames of noise, prompt included: the longest utterance (300 s)."""


class Estimator(Protocol):
    """What the solver runs: an `EstimatorNetwork`, or an exported graph of one."""

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(self, x: Tensor, time_terms: list[Tensor], frames: Pass) -> Tensor: ...


def noise_table(mel: int = 80) -> Tensor:
    """The model's constant noise [15000, mel] (the transpose of the spec's, so that frames come first)."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(1, mel, NOISE_FRAMES, generator=generator)[0].T.contiguous()


def euler_times(steps: int, schedule: Schedule = "cosine") -> list[tuple[Tensor, Tensor]]:
    """(t, dt) of each Euler step on the schedule, t accumulated in float32 as upstream does."""
    even = torch.linspace(0, 1, steps + 1)
    span = 1 - torch.cos(even * 0.5 * math.pi) if schedule == "cosine" else even
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

    def inputs(self, conditions: Sequence[Condition], rows: int) -> Tensor:
        """The estimator's input without x, which each step writes to the first mel channels: [rows, S, N, 4 * mel].

        Row 0 has the conditions, row 1 (guidance) has zeros in place of them.
        """
        streams, frames, mel = self.mu.shape
        inputs = self.mu.new_zeros(rows, streams, frames, (1 + len(conditions)) * mel)
        given = {"mu": self.mu, "speaker": self.speakers[:, None], "cond": self.cond}
        for index, name in enumerate(conditions, start=1):
            inputs[0, ..., index * mel : (index + 1) * mel] = given[name]
        return inputs


class Solver:
    """Runs the estimator over all Euler steps for the new frames of a batch of streams."""

    def __init__(
        self, estimator: Estimator, network: EstimatorNetwork, config: SolverConfig, mel: int, device: torch.device
    ) -> None:
        """`estimator` is `network`, a copy of it in lower precision, or a graph of it.

        The estimator may run in lower precision than float32; x and the Euler sum stay in float32. The time terms are
        computed by `network`, in its precision.
        """
        self.estimator, self.conditions, self.rows = estimator, network.conditions, config.rows
        self.inputs = network.inputs
        """Channels of the estimator's input."""
        self._cfg_rate = config.cfg_rate
        self._noise = noise_table(mel).to(device)
        times = euler_times(config.steps, config.schedule)
        self.dts = [float(dt) for _, dt in times]
        with torch.inference_mode():
            terms = [network.time_terms(t.reshape(1).to(device)) for t, _ in times]
        self.terms = [[term.to(estimator.dtype) for term in step] for step in terms]
        """Time terms per step and stage: [1, 1, channels]."""

    @property
    def steps(self) -> int:
        return len(self.dts)

    def noise(self, start: int, end: int) -> Tensor:
        """Frames [start, end) of the constant noise, prompt included: [end - start, mel]."""
        return self._noise[start:end]

    def noise_from(self, first: Tensor, frames: int) -> Tensor:
        """`frames` frames of the constant noise from each of `first` [S] on: [S, frames, mel]."""
        frame = first[:, None] + torch.arange(frames, device=first.device)
        return self._noise[frame.clamp_(max=NOISE_FRAMES - 1)]

    def solve(self, start: Start, open_pass: Callable[[int], Pass], on_step: Callable[[], None]) -> Tensor:
        """Noise to mel for new frames, [S, N, mel].

        `open_pass(step)` returns each step's pass over its own cached keys (they differ: keys depend on that step's x).
        `on_step` is called after each step, so that the engine's step count shows progress.
        """
        x, inputs = start.noise, start.inputs(self.conditions, self.rows)
        for step, (dt, terms) in enumerate(zip(self.dts, self.terms, strict=True)):
            x = self.euler(x, dt, self.estimator(self.put(x, inputs), terms, open_pass(step)))
            on_step()
        return x

    def put(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Write x [S, N, mel] into `inputs` (of `Start.inputs`); return them as the estimator takes them."""
        inputs[..., : x.shape[-1]] = x
        return inputs.flatten(0, 1).to(self.estimator.dtype)

    def euler(self, x: Tensor, dt: float | Tensor, velocity: Tensor) -> Tensor:
        """Return x after one step with the velocity of all rows, which is guided if there are two."""
        velocities = velocity.float().view(self.rows, *x.shape)
        guided = velocities[0]
        if self.rows > 1:
            guided = (1.0 + self._cfg_rate) * velocities[0] - self._cfg_rate * velocities[1]
        after: Tensor = x + dt * guided
        return after
