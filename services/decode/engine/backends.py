"""The interface of backends, which make audio for the engine, and a backend that sleeps instead of computing.

The real one is `torch_backend.TorchBackend`. `SimulatedBackend` runs load and fault tests of the whole stack at a GPU's
speed on a machine without one: it sleeps for a measured cost model and emits audio that is a function of absolute
sample, tokens and seed. It needs neither torch nor weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import ModelDir
from services.decode.engine.service_time import ServiceTime
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
    """Tokens after a hop's end that must be known, unless the utterance ends there."""
    vocab_size: int = 6561
    max_tokens: int = 7500
    """Longest utterance, prompt included: the length of the flow's noise (300 s, spec section 5.3)."""
    mel_bins: int = 80
    speaker_dim: int = 192
    held_frames: int = 12
    """Mel frames that the vocoder holds back for its right context."""

    @classmethod
    def of(cls, model: ModelDir) -> AudioFormat:
        return cls(
            sample_rate=model.sample_rate,
            frame_samples=model.vocoder.hop,
            frames_per_token=model.flow.mel_frames_per_token,
            lookahead_tokens=model.flow.lookahead_tokens,
            vocab_size=model.flow.vocab_size,
            max_tokens=MAX_FRAMES // model.flow.mel_frames_per_token,
            mel_bins=model.flow.output_size,
            speaker_dim=model.flow.speaker_dim,
        )


@dataclass(frozen=True)
class Hop:
    """Decode one stream up to absolute token `end` (prompt included).

    `tokens` are all generated tokens known so far; with `final`, none will follow.
    """

    state: Any
    tokens: Sequence[int]
    end: int
    final: bool


@dataclass(frozen=True, eq=False)
class HopAudio:
    """Result of a hop: samples [n] from absolute sample `first_sample` on, and the record to continue after them."""

    first_sample: int
    samples: Samples
    record: ResumeRecord


@dataclass(frozen=True)
class BackendCounts:
    """Counters since the start, except `kept_bytes` and `budget_bytes`."""

    kept_bytes: int = 0
    """Current memory of states; shared parts count once."""
    budget_bytes: int = 0
    """Memory available for states."""
    recomputed_frames: int = 0
    """Mel frames computed again because their stream's state was evicted, not stored, or on another worker."""
    non_finite: int = 0
    """Hops computed again in float32 because lower precision gave values that are not finite."""
    unprepared_batches: int = 0
    """Batches that ran without a CUDA graph, though the backend uses graphs, because none has their shape."""
    prompts_computed: int = 0
    prompts_shared: int = 0
    flow_s: float = 0.0
    vocoder_s: float = 0.0
    """Seconds spent in each phase."""


class Backend(Protocol):
    """Makes audio. Its states are opaque to the engine; one thread at a time calls it."""

    format: AudioFormat

    @property
    def device(self) -> torch.device | None:
        """The device it computes on, which becomes the engine thread's current device; None if it computes nothing."""

    def check(self, spec: StreamSpec) -> None:
        """Raise StreamError if the stream cannot be opened. May be called from any thread."""

    def open(self, spec: StreamSpec) -> Any:
        """Return a stream's initial state, or the one that continues `spec.resume`."""

    def begin(self, state: Any, beat: Callable[[], None]) -> None:
        """Compute what a new stream's first hop needs and does not depend on its tokens: the prompt of its voice.

        If it raises, the state has not changed, and the first hop computes the same.
        """

    def run(self, hops: Sequence[Hop], beat: Callable[[], None]) -> list[HopAudio | Exception]:
        """Run hops of different streams as one batch, and call `beat` repeatedly, which shows progress.

        An exception in the list fails that stream alone. If the call itself raises, no state has changed: the engine
        runs the same hops again, one by one, to find the one that fails.
        """

    def state_bytes(self, state: Any) -> int:
        """Bytes of a stream's state, including parts that it shares."""

    def cached_tokens(self, state: Any) -> int:
        """The number of a stream's first tokens that need not be computed again. May be called from any thread."""

    def prompt_tokens(self, voice: str, plan: ChunkPlan) -> int:
        """The number of a voice's first prompt tokens that a new stream need not compute. May be called from any
        thread."""

    def has_room(self, hops: Sequence[Hop]) -> bool:
        """Whether there is memory for the states of all these hops' streams."""

    def evict(self, state: Any) -> int:
        """Drop what can be computed again, which changes cost but not audio; return the number of bytes."""

    def evict_voice(self, voice: str) -> None:
        """Evict the cached prompt of a voice."""

    def counts(self) -> BackendCounts:
        """Return the counters."""

    def warm_up(self) -> None:
        """Decode a short synthetic utterance, so that the first real one is as fast as later ones."""


CANARY_TOKENS = (0, 1, 2, 3)
TRIALS = ((25, (50,)), (75, (100,)), (75, (125,)), (75, (150, 100)))
"""Batches that measure a backend: tokens of the prompt, and the ends of the hops of one or two utterances. They tell
the costs of a batch, of a hop and of a token apart."""
TRIAL_SECONDS = 2.0
"""Batches that would end later are left out, apart from the first one; a large model on a CPU needs minutes for all."""


def run_canary(backend: Backend, beat: Callable[[], None]) -> None:
    """Decode an utterance of four tokens without a prompt, which keeps no state. Raises what the backend raises."""
    audio = backend.format
    spec = StreamSpec(
        prompt_tokens=np.zeros(0, np.int32),
        prompt_mel=np.zeros((0, audio.mel_bins), np.float32),
        embedding=np.ones(audio.speaker_dim, np.float32),
    )
    [result] = backend.run([Hop(backend.open(spec), CANARY_TOKENS, len(CANARY_TOKENS), final=True)], beat)
    if isinstance(result, Exception):
        raise result


def run_trials(backend: Backend, times: ServiceTime, clock: Callable[[], float], beat: Callable[[], None]) -> None:
    """Decode a few batches of synthetic utterances and record their durations. Raises what the backend raises."""
    began = clock()
    states: dict[int, list[Any]] = {}
    for prompt, ends in TRIALS:
        opened = states.setdefault(prompt, [])
        opened += [backend.open(_trial_spec(backend, prompt)) for _ in range(len(ends) - len(opened))]
        tokens = [0] * (max(ends) - prompt + backend.format.lookahead_tokens)
        hops = [Hop(state, tokens, end, final=False) for state, end in zip(opened, ends, strict=False)]
        computed = [hop.end - backend.cached_tokens(hop.state) for hop in hops]
        started = clock()
        if times.known and started - began + times.seconds(computed) > TRIAL_SECONDS:
            return
        for result in backend.run(hops, beat):
            if isinstance(result, Exception):
                raise result
        times.observe(len(hops), sum(computed), clock() - started)


def _trial_spec(backend: Backend, prompt: int) -> StreamSpec:
    audio = backend.format
    return StreamSpec(
        prompt_tokens=np.zeros(prompt, np.int32),
        prompt_mel=np.zeros((audio.frames_per_token * prompt, audio.mel_bins), np.float32),
        embedding=np.ones(audio.speaker_dim, np.float32),
    )


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    """Raise StreamError that names the first id outside the vocabulary."""
    bad = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if bad is not None:
        raise StreamError(f"speech token {bad} is outside this model's range 0 to {vocab_size - 1}")


@dataclass(frozen=True)
class CostModel:
    """Seconds of a batch: `batch_s + stream_s * streams + frame_s * frames + pair_s * pairs`.

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
        """Read a JSON object of these fields. Raises ValueError that names the file and the problem.

        The file may state under `measured` where its numbers come from.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data.pop("measured", None)
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
    voice: str = ""
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
        beats: int = BEATS,
        tones: bool = True,
    ) -> None:
        """
        Args:
            costs: seconds of a batch.
            audio: the format; the costs name the frames that are held back.
            sleep: lets a number of seconds pass.
            recompute: every hop costs its stream's whole history, as in backends without state.
            beats: how often a batch sleeps.
            tones: if false, the samples are zero, which costs less.
        """
        self.format = replace(audio, held_frames=costs.holdback_frames)
        self._costs, self._sleep, self._recompute = costs, sleep, recompute
        self._beats, self._tones = beats, tones
        self._prompts: dict[tuple[str, ChunkPlan], int] = {}
        """Tokens of a voice's prompt that are kept for all its streams, as the real backend does."""

    def check(self, spec: StreamSpec) -> None:
        check_tokens(spec.prompt_tokens.tolist(), self.format.vocab_size)
        if spec.prompt_mel.shape[0] != self.format.frames_per_token * spec.prompt_tokens.shape[0]:
            raise StreamError("prompt mel and prompt tokens differ in duration; cut both to the same")
        if spec.resume:
            ResumeRecord.from_bytes(spec.resume)

    def open(self, spec: StreamSpec) -> SimulatedState:
        prompt = spec.prompt_tokens.shape[0]
        if not spec.resume:
            return SimulatedState(spec.seed, spec.plan, prompt, spec.speed, spec.voice)
        record = ResumeRecord.from_bytes(spec.resume)
        return SimulatedState(record.seed, record.plan, prompt, spec.speed, spec.voice, emitted=record.emitted)

    def begin(self, state: SimulatedState, beat: Callable[[], None]) -> None:
        """Do nothing: the first hop has the cost of the prompt."""

    def run(self, hops: Sequence[Hop], beat: Callable[[], None]) -> list[HopAudio | Exception]:
        ratio, frames = self.format.frames_per_token, []
        for hop in hops:
            frames.append(ratio * (hop.end - self.cached_tokens(hop.state)))
            self._keep_prompt(hop.state)  # at once: streams of one batch share it too
        pairs = sum(new * ratio * hop.end for new, hop in zip(frames, hops, strict=True))
        seconds = self._costs.seconds(len(hops), sum(frames), pairs)
        for _ in range(self._beats):
            self._sleep(seconds / self._beats)
            beat()
        return [self._emit(hop) for hop in hops]

    def state_bytes(self, state: SimulatedState) -> int:
        return 0

    def cached_tokens(self, state: SimulatedState) -> int:
        if self._recompute:
            return 0
        return state.done or self.prompt_tokens(state.voice, state.plan)

    def prompt_tokens(self, voice: str, plan: ChunkPlan) -> int:
        return self._prompts.get((voice, plan), 0)

    def has_room(self, hops: Sequence[Hop]) -> bool:
        return True

    def evict(self, state: SimulatedState) -> int:
        return 0

    def evict_voice(self, voice: str) -> None:
        self._prompts = {key: tokens for key, tokens in self._prompts.items() if key[0] != voice}

    def counts(self) -> BackendCounts:
        return BackendCounts()

    def warm_up(self) -> None:
        """Do nothing."""

    def _keep_prompt(self, state: SimulatedState) -> None:
        end = state.plan.boundary_at_or_before(state.prompt - self.format.lookahead_tokens)
        if state.voice and end > 0 and not self._recompute:
            self._prompts[state.voice, state.plan] = end

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
        if not self._tones:
            return np.zeros((end - start) * size, np.float32)
        sample = np.arange(start * size, end * size, dtype=np.int64)
        spoken = (sample // size * state.speed).astype(np.int64) // self.format.frames_per_token
        ids = np.asarray(tokens, np.int64)[np.minimum(spoken, len(tokens) - 1)] if sample.size else spoken
        hertz = 120 + (ids * 37 + state.seed % 1009) % 400
        turns = (hertz * sample % self.format.sample_rate) / self.format.sample_rate
        return (0.3 * np.sin(2 * np.pi * turns)).astype(np.float32)
