"""What the engine asks of whatever makes audio, and a backend that keeps time instead of computing.

The real one is `torch_backend.TorchBackend`. `SimulatedBackend` lets the whole stack run at a GPU's
speed, be loaded and be broken, on a machine that has none: it sleeps for a measured cost model and emits audio that
is a function of absolute sample, tokens and seed. Neither torch nor weights are needed for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import ModelDir
from services.decode.engine.speed import frames_ready
from services.decode.engine.state import ResumeRecord, StreamError, StreamSpec

if TYPE_CHECKING:
    import torch

Samples = NDArray[np.float32]
MAX_FRAMES = 15000


@dataclass(frozen=True)
class AudioFormat:
    """The arithmetic of tokens, frames and samples of one checkpoint."""

    sample_rate: int = 24000
    frame_samples: int = 480
    frames_per_token: int = 2
    lookahead_tokens: int = 3
    """Tokens that must be known beyond a hop's end, unless the utterance ends there."""
    vocab_size: int = 6561
    max_tokens: int = 7500
    """Longest utterance, prompt included: as far as the flow's noise reaches (300 s, spec section 5.3)."""

    @classmethod
    def of(cls, model: ModelDir) -> AudioFormat:
        return cls(
            sample_rate=model.sample_rate,
            frame_samples=model.vocoder.hop,
            frames_per_token=model.flow.mel_frames_per_token,
            lookahead_tokens=model.flow.lookahead_tokens,
            vocab_size=model.flow.vocab_size,
            max_tokens=MAX_FRAMES // model.flow.mel_frames_per_token,
        )


@dataclass(frozen=True)
class Hop:
    """Decode one stream up to absolute token `end` (prompt included).

    `tokens` are all generated tokens known so far; `final` says that none will follow.
    """

    state: Any
    tokens: Sequence[int]
    end: int
    final: bool


@dataclass(frozen=True, eq=False)
class HopAudio:
    """What a hop made: samples [n] from absolute sample `first_sample` on, and the record to continue after them."""

    first_sample: int
    samples: Samples
    record: ResumeRecord


@dataclass(frozen=True)
class BackendCounts:
    """Counted since the start, but for `kept_bytes`."""

    kept_bytes: int = 0
    """Memory of kept states now, shared parts once."""
    budget_bytes: int = 0
    """Memory that states may take."""
    recomputed_frames: int = 0
    """Mel frames computed again because their stream had lost its state, could not keep it, or came from elsewhere."""
    non_finite: int = 0
    """Hops computed again in float32 because the faster way gave values that are not finite."""
    unprepared_batches: int = 0
    """Batches that ran without a CUDA graph, though the backend uses graphs, because none has their shape."""
    prompts_computed: int = 0
    prompts_shared: int = 0
    flow_s: float = 0.0
    vocoder_s: float = 0.0
    """Seconds spent in each phase."""


class Backend(Protocol):
    """Makes audio. Its states are opaque to the engine; all calls come from one thread at a time."""

    format: AudioFormat

    @property
    def device(self) -> torch.device | None:
        """Where it computes, which the engine's thread makes its current device; None when nothing is computed."""

    def check(self, spec: StreamSpec) -> None:
        """Raises StreamError when the stream cannot be opened. May be called from any thread."""

    def open(self, spec: StreamSpec) -> Any:
        """A stream's state, continuing `spec.resume` when there is one."""

    def run(self, hops: Sequence[Hop], beat: Callable[[], None]) -> list[HopAudio | Exception]:
        """Runs hops of different streams as one batch; `beat` is called as it goes, so that progress shows.

        An exception in the list fails that stream alone. If the call itself raises, no state has changed: the engine
        runs the same hops again, one by one, to find the culprit.
        """

    def state_bytes(self, state: Any) -> int:
        """Memory that a stream's state holds, what it shares with others included."""

    def kept_tokens(self, state: Any) -> int:
        """How many of a stream's first tokens need not be computed again."""

    def has_room(self, hops: Sequence[Hop]) -> bool:
        """Whether all of these hops' streams can keep what makes their next hop cheap."""

    def evict(self, state: Any) -> int:
        """Forgets what can be computed again, which changes cost and not audio; returns the bytes given up."""

    def forget_voice(self, voice: str) -> None:
        """Drops what is kept of a voice's prompt for streams to come."""

    def counts(self) -> BackendCounts:
        """What the backend has done since the start."""

    def warm_up(self) -> None:
        """Decodes a short made-up utterance, so that the first real one is as fast as the next."""


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raises StreamError naming the first id outside the vocabulary."""
    bad = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if bad is not None:
        raise StreamError(f"speech token {bad} is outside this model's range 0 to {vocab_size - 1}")


@dataclass(frozen=True)
class CostModel:
    """Seconds a batch takes: `batch_s + stream_s * streams + frame_s * frames + pair_s * pairs`.

    `frames` are the mel frames computed; `pairs` are those times the frames they attend over, summed over the streams.
    """

    batch_s: float
    stream_s: float
    frame_s: float
    holdback_frames: int = 12
    """Frames the vocoder holds back for its right context."""
    pair_s: float = 0.0

    @classmethod
    def read(cls, path: Path) -> CostModel:
        """Reads a JSON object of these fields. Raises ValueError naming the file and what is wrong with it."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            numbers = {str(key): float(value) for key, value in data.items()}
            holdback = int(numbers.pop("holdback_frames", cls.holdback_frames))
            costs = cls(**numbers, holdback_frames=holdback)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"cost file {path} must be a JSON object of numbers named {names} ({error})") from error
        if not all(0 <= getattr(costs, field.name) < float("inf") for field in fields(cls)):
            raise ValueError(f"cost file {path}: costs must be finite and not negative")
        return costs

    def seconds(self, streams: int, frames: int, pairs: int = 0) -> float:
        return self.batch_s + self.stream_s * streams + self.frame_s * frames + self.pair_s * pairs


@dataclass
class SimulatedState:
    """A stream of the simulated backend."""

    seed: int
    plan: ChunkPlan
    prompt: int
    speed: float
    done: int = 0
    emitted: int = 0


class SimulatedBackend:
    """Sleeps for the cost model; emits one tone per token, a function of absolute sample, token and seed."""

    BEATS = 10
    device = None

    def __init__(
        self,
        costs: CostModel,
        audio: AudioFormat,
        sleep: Callable[[float], None] = time.sleep,
        *,
        recompute: bool = False,
    ) -> None:
        """With `recompute`, every hop pays for its whole history, as backends without state do."""
        self.format = audio
        self._costs, self._sleep, self._recompute = costs, sleep, recompute

    def check(self, spec: StreamSpec) -> None:
        check_tokens(spec.prompt_tokens.tolist(), self.format.vocab_size)
        if spec.prompt_mel.shape[0] != self.format.frames_per_token * spec.prompt_tokens.shape[0]:
            raise StreamError("prompt mel and prompt tokens differ in duration; cut both to the same")
        if spec.resume:
            ResumeRecord.from_bytes(spec.resume)

    def open(self, spec: StreamSpec) -> SimulatedState:
        prompt = spec.prompt_tokens.shape[0]
        if not spec.resume:
            return SimulatedState(spec.seed, spec.plan, prompt, spec.speed)
        record = ResumeRecord.from_bytes(spec.resume)
        return SimulatedState(record.seed, record.plan, prompt, spec.speed, emitted=record.emitted)

    def run(self, hops: Sequence[Hop], beat: Callable[[], None]) -> list[HopAudio | Exception]:
        ratio = self.format.frames_per_token
        frames = [ratio * (hop.end - self.kept_tokens(hop.state)) for hop in hops]
        pairs = sum(new * ratio * hop.end for new, hop in zip(frames, hops, strict=True))
        seconds = self._costs.seconds(len(hops), sum(frames), pairs)
        for _ in range(self.BEATS):
            self._sleep(seconds / self.BEATS)
            beat()
        return [self._emit(hop) for hop in hops]

    def state_bytes(self, state: SimulatedState) -> int:
        return 0

    def kept_tokens(self, state: SimulatedState) -> int:
        return 0 if self._recompute else state.done

    def has_room(self, hops: Sequence[Hop]) -> bool:
        return True

    def evict(self, state: SimulatedState) -> int:
        return 0

    def forget_voice(self, voice: str) -> None:
        """Nothing is kept."""

    def counts(self) -> BackendCounts:
        return BackendCounts()

    def warm_up(self) -> None:
        """Nothing to warm."""

    def _emit(self, hop: Hop) -> HopAudio:
        state: SimulatedState = hop.state
        whole = hop.final and hop.end == state.prompt + len(hop.tokens)
        known = self.format.frames_per_token * (hop.end - state.prompt)
        ready = frames_ready(known, state.speed, whole)
        ready = ready if whole else max(state.emitted, ready - self._costs.holdback_frames)
        first, state.done = state.emitted, hop.end
        state.emitted = max(first, ready)
        samples = self._tone(hop.tokens, state, first, state.emitted)
        empty = np.zeros((0, 80), np.float32)
        record = ResumeRecord(state.plan, state.seed, hop.end, state.emitted, state.emitted, empty, np.zeros(0))
        return HopAudio(first * self.format.frame_samples, samples, record)

    def _tone(self, tokens: Sequence[int], state: SimulatedState, start: int, end: int) -> Samples:
        size = self.format.frame_samples
        sample = np.arange(start * size, end * size, dtype=np.int64)
        spoken = (sample // size * state.speed).astype(np.int64) // self.format.frames_per_token
        ids = np.asarray(tokens, np.int64)[np.minimum(spoken, len(tokens) - 1)] if sample.size else spoken
        hertz = 120 + (ids * 37 + state.seed % 1009) % 400
        turns = (hertz * sample % self.format.sample_rate) / self.format.sample_rate
        return (0.3 * np.sin(2 * np.pi * turns)).astype(np.float32)
