"""The interface of what computes tokens, and a backend that simulates it.

`services.llm.model.torch_backend.TorchBackend` computes. `SimulatedBackend` is for load and fault tests of the whole
stack at a GPU's speed on a machine without one: it sleeps for a measured cost model and emits tokens that depend on
seed and position alone. It needs neither torch nor weights.
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

from services.common.checkpoint.model_dir import LlmConfig, ModelDir
from services.llm.engine.scheduler import EngineLimits, ScheduledSequence
from services.llm.engine.sequence import Request
from services.llm.engine.sequence import Sequence as EngineSequence

if TYPE_CHECKING:
    import torch


class NonFiniteLogits(ArithmeticError):
    """The model produced NaN or infinity; it does not suit the input or the precision."""


class Backend(Protocol):
    """Computes one engine step."""

    @property
    def device(self) -> torch.device | None:
        """The device, which the engine thread makes its current one; None if nothing is computed."""

    def reserve(self, num_blocks: int, block_size: int) -> None:
        """Allocate the K/V cache; called once, before the first step.

        One more block, of index `num_blocks`, belongs to no sequence; the canary and unused rows write to it.
        """

    def step(self, batch: Sequence[ScheduledSequence]) -> list[Sequence[int]]:
        """Feed each sequence's inputs and return its tokens: none if it does not sample, else 1 to `num_steps` tokens.

        Each token except the last has been fed as well. No token follows an id that is not speech.
        A step must be repeatable: if it raises, the engine runs the sequences again, one by one, to find the one
        that fails.
        """


def run_canary(backend: Backend, model: ModelDir, limits: EngineLimits) -> None:
    """Feed a text of two ids and sample a token. It needs no block of the cache that sequences use.

    Raises whatever the backend raises.
    """
    sequence = EngineSequence(Request(text_ids=(0, 0)), model, limits.max_request_tokens, arrival=0)
    sequence.blocks += [limits.num_blocks] * -(-sequence.pending // limits.block_size)
    [tokens] = backend.step([ScheduledSequence(sequence, 0, sequence.pending, samples=True)])
    if not tokens:
        raise ArithmeticError("the model sampled no token")


@dataclass(frozen=True)
class CostModel:
    """Seconds per step: `step_s + step_s_per_sequence * sequences + prefill_s_per_token * prompt tokens`."""

    step_s: float
    step_s_per_sequence: float
    prefill_s_per_token: float
    tokens_per_text_id: float = 6.0
    """Length of the speech, in speech tokens per text id; the checkpoint's length rules apply too."""

    @classmethod
    def read(cls, path: Path) -> CostModel:
        """Read a JSON object with these fields. Raises ValueError with the file and the reason.

        The file may state under `measured` where its numbers come from.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data.pop("measured", None)
            costs = cls(**{str(key): float(value) for key, value in data.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"cost file {path} must be a JSON object of numbers named {names} ({error})") from error
        if not all(0 <= getattr(costs, field.name) < float("inf") for field in fields(cls)):
            raise ValueError(f"cost file {path}: costs must be finite and not negative")
        return costs

    def seconds(self, batch: Sequence[ScheduledSequence]) -> float:
        prefill = sum(scheduled.count for scheduled in batch if scheduled.count > 1)
        return self.step_s + self.step_s_per_sequence * len(batch) + self.prefill_s_per_token * prefill


class SimulatedBackend:
    """Sleeps for the cost model. Seed and position determine a token, the length of the text determines the end."""

    device = None

    def __init__(self, config: LlmConfig, costs: CostModel, sleep: Callable[[float], None] = time.sleep) -> None:
        self._config = config
        self._costs = costs
        self._sleep = sleep

    def reserve(self, num_blocks: int, block_size: int) -> None:
        """Do nothing: this backend keeps no K/V."""

    def step(self, batch: Sequence[ScheduledSequence]) -> list[Sequence[int]]:
        found: list[Sequence[int]] = [self._tokens(scheduled) if scheduled.samples else [] for scheduled in batch]
        self._sleep(self._costs.seconds(batch) * max(1, *map(len, found)))
        return found

    def _tokens(self, scheduled: ScheduledSequence) -> list[int]:
        """Return the tokens of a run of several steps: up to an id that is not speech."""
        sequence, config = scheduled.sequence, self._config
        constraint = sequence.layout.constraint()  # the same for all steps of a run
        if constraint.forced is not None:
            return [constraint.forced]
        length = round(self._costs.tokens_per_text_id * sequence.text_length)
        may_end, seed = config.eos in constraint.allowed, sequence.request.sampling.seed
        tokens: list[int] = []
        for position in range(len(sequence.decoded), len(sequence.decoded) + scheduled.num_steps):
            if may_end and position >= length:
                return [*tokens, config.eos]
            tokens.append(zlib.crc32(struct.pack("<QQ", seed, position)) % config.speech_tokens)
        return tokens
