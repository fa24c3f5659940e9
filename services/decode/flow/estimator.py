"""What an estimator network is: the seam between the flow and CosyVoice2's UNet, CosyVoice3's DiT, and later ones."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from services.decode.flow.forward_pass import ForwardContext
from services.decode.flow.kv_cache import KvLayout

Condition = Literal["mu", "speaker", "cond"]
"""What an estimator sees besides the noisy mel: the front's mean mel, the speaker, the prompt's mel."""


class EstimatorNetwork(nn.Module):
    """The velocity of the flow at one flow time, for the new frames of a `ForwardContext`.

    Inputs and outputs are [R, N, channels], R = guidance rows * streams. Convolutions are causal (`frames.left`) and
    attention goes through `frames.attend`, so the context decides whether frames before the new ones are recomputed,
    cached, or in the fixed shapes of a program.
    """

    conditions: tuple[Condition, ...]
    """Order of the inputs after the noisy mel, each with as many channels as the mel."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision of the computation."""

    @property
    @abstractmethod
    def mel(self) -> int:
        """Channels of the mel and of the velocity."""

    @property
    def inputs(self) -> int:
        """Channels of x."""
        return (1 + len(self.conditions)) * self.mel

    @abstractmethod
    def layout(self, positions: int, steps: int, rows: int) -> KvLayout:
        """Shape of its cache, for blocks of `positions` frames."""

    @abstractmethod
    def time_terms(self, t: Tensor) -> list[Tensor]:
        """Everything that depends on flow time alone: t [T] -> tensors [T, 1, channels], equally wide.

        The solver computes them once per Euler step, in float32.
        """

    @abstractmethod
    def compile_parts(self) -> None:
        """Compile the operations between attention and convolutions at first use, once for all layers.

        Attention and convolutions are one kernel each, and their caches must stay outside the compiled region.
        """

    @abstractmethod
    def forward(self, x: Tensor, time_terms: list[Tensor], frames: ForwardContext) -> Tensor:
        """x [R, N, inputs] = (noisy mel | conditions) -> velocity [R, N, mel].

        `time_terms` are a result of `time_terms`, for one flow time or one per row.
        """
