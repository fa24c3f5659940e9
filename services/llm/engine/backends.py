"""What the engine asks of whatever computes tokens, and a backend that keeps time instead of computing.

The real one is `torch_backend.TorchBackend`. `SimulatedBackend` lets the whole stack run at a GPU's speed,
be loaded and be broken, on a machine that has none: it sleeps for a measured cost model and emits tokens that are a
function of seed and position alone. Neither torch nor weights are needed for it.
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from services.common.checkpoint.model_dir import LlmConfig
from services.llm.engine.scheduler import ScheduledSequence

if TYPE_CHECKING:
    import torch


class NonFiniteLogits(ArithmeticError):
    """The model produced NaN or infinity; the input or the precision does not suit it."""


class Backend(Protocol):
    """Computes one engine step."""

    @property
    def device(self) -> torch.device | None:
        """Where it computes, which the engine's thread makes its current device; None when nothing is computed."""

    def reserve(self, num_blocks: int, block_size: int) -> None:
        """Makes room for the K/V cache; called once, before the first step."""

    def step(self, batch: Sequence[ScheduledSequence]) -> list[Sequence[int]]:
        """Feeds every item's rows and returns its tokens: none if it does not sample, else 1 to `burst` of them.

        After each token but the last its row has been fed too. Nothing follows an id that is not speech.
        Must be repeatable: when it raises, the engine runs the same items again, one by one, to find the culprit.
        """


@dataclass(frozen=True)
class CostModel:
    """Seconds a step takes: `step_s + step_s_per_sequence * sequences + prefill_s_per_token * prompt rows`."""

    step_s: float
    step_s_per_sequence: float
    prefill_s_per_token: float
    tokens_per_text_id: float = 6.0
    """How much speech a text yields, within the checkpoint's length rules."""

    @classmethod
    def read(cls, path: Path) -> CostModel:
        """Reads a JSON object of these fields. Raises ValueError naming the file and what is wrong with it."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            costs = cls(**{str(key): float(value) for key, value in data.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"cost file {path} must be a JSON object of numbers named {names} ({error})") from error
        if not all(0 <= getattr(costs, field.name) < float("inf") for field in fields(cls)):
            raise ValueError(f"cost file {path}: costs must be finite and not negative")
        return costs

    def seconds(self, batch: Sequence[ScheduledSequence]) -> float:
        prefill = sum(work.count for work in batch if work.count > 1)
        return self.step_s + self.step_s_per_sequence * len(batch) + self.prefill_s_per_token * prefill


class SimulatedBackend:
    """Sleeps for the cost model; emits tokens by (seed, position) and ends by the length of the text."""

    device = None

    def __init__(self, config: LlmConfig, costs: CostModel, sleep: Callable[[float], None] = time.sleep) -> None:
        self._config = config
        self._costs = costs
        self._sleep = sleep

    def reserve(self, num_blocks: int, block_size: int) -> None:
        """Nothing to reserve: no K/V is kept."""

    def step(self, batch: Sequence[ScheduledSequence]) -> list[Sequence[int]]:
        self._sleep(self._costs.seconds(batch))
        return [[self._token(work)] if work.samples else [] for work in batch]

    def _token(self, work: ScheduledSequence) -> int:
        sequence = work.sequence
        constraint = sequence.layout.constraint()
        if constraint.forced is not None:
            return constraint.forced
        position = len(sequence.decoded)
        enough = position >= round(self._costs.tokens_per_text_id * sequence.text_length)
        if enough and self._config.eos in constraint.allowed:
            return self._config.eos
        key = struct.pack("<QQ", sequence.request.sampling.seed, position)
        return zlib.crc32(key) % self._config.speech_tokens
