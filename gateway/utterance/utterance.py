"""One utterance over the llm workers: text in, audio out, also when workers fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from gateway import metrics
from gateway.audio.samples import FLOAT_BYTES
from gateway.closable_queue import ClosableQueue
from gateway.request_stats import RequestStats
from gateway.stream_stats import SpeechTimes
from gateway.utterance.generate_call import generate
from gateway.utterance.recent_refusal import RecentRefusal
from gateway.utterance.utterance_state import UtteranceState
from gateway.utterance.words import UtteranceWords
from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2, voice_pb2
from services.common import tracing
from services.common.errors import Internal, LightTtsError, Overloaded
from services.common.pool import Pool
from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import Failover, LossReason, MovePolicy, WorkerLost
from services.common.workers.worker_call import ProgressWatch


@dataclass(frozen=True)
class AudioPart:
    """Consecutive float32 samples (little endian) of one utterance."""

    pcm: bytes
    last: bool


@dataclass(frozen=True)
class LlmClientContext:
    """What all utterances of a gateway share."""

    pool: Pool
    policy: MovePolicy
    request_stats: RequestStats
    queue_messages: int
    """Audio messages held for a slow reader; beyond them the gateway stops reading, which holds the worker back."""
    failover_budget: FailoverBudget = field(default_factory=FailoverBudget)
    """Shared by all utterances of the process."""
    clock: Callable[[], float] = time.monotonic
    """Seconds; measures the silence and the stalls of llm workers."""
    recent_refusal: RecentRefusal = field(default_factory=partial(RecentRefusal, 0.0))
    """Shared by all sessions of the process."""
    process_clock: Callable[[], float] = time.monotonic
    """Seconds; shows when this process was blocked."""


@dataclass
class UtteranceStream:
    """Text tokens in by `add_text`, audio out by `parts`. Everything is freed when `run` ends or is cancelled.

    If the worker dies, goes silent or stops making progress, another worker resumes the utterance from the saved
    state: no sample is repeated or missing.
    """

    context: LlmClientContext
    start: llm_pb2.GenerateStart
    voice: voice_pb2.VoiceContent
    sample_rate: int
    """The rate announced to the client; a worker with another rate is an error."""
    place: audio_pb2.SessionPlace
    """The session's place at the workers, shared by its utterances. The first utterance that a worker accepts marks the
    session as admitted; a full worker queues later ones instead of refusing them."""
    lead: Callable[[], float] = float
    """Returns the seconds until the listener has played all audio before this utterance; 0 by default."""
    gain: float = 1.0
    """Factor of the samples; applied by the reader of `parts`."""
    end_offset: int = 0
    """Characters of the session's text that have been spoken once this utterance has."""
    decode_worker: str = ""
    speech_tokens: int = 0
    """Tokens generated; set when the utterance has ended."""
    parts: ClosableQueue[AudioPart | tts_pb2.Resumed] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = ClosableQueue(self.context.queue_messages)
        self._state = UtteranceState(self.start, self.voice, self.place, self.lead)
        context = self.context
        self._failover = Failover(
            context.pool,
            context.policy,
            "llm",
            metrics.LLM_MOVES,
            context.failover_budget,
            admitted=self.place.admitted,
            clock=context.clock,
        )
        self.times = SpeechTimes()
        self.audible = asyncio.Event()
        """Set when the first audio has arrived, or when none can arrive any more."""

    @property
    def words(self) -> UtteranceWords:
        return self._state.words

    @property
    def waiting(self) -> int:
        """Audio messages that wait for the reader."""
        return self.parts.waiting

    def add_text(self, ids: Sequence[int], *, last: bool) -> None:
        """Add text tokens; `last` ends the utterance."""
        self._state.add_text(ids, last=last)

    def report_position(self, seconds: float) -> None:
        """Report to the workers how many seconds of this utterance the listener has played."""
        self._state.report_position(seconds)

    async def run(self) -> None:
        """Generate until the last audio. The reader of `parts` gets errors after the audio that came before them."""
        try:
            with self.context.request_stats.utterance(self), tracing.span("utterance"):
                await self._generate()
        except LightTtsError as error:
            if isinstance(error, Overloaded) and not self.place.admitted:
                self.context.recent_refusal.record(error, self.start.urgency.priority)
            self.parts.close(error)
        else:
            self.parts.close()
        finally:
            if self.place.admitted:
                self.context.recent_refusal.clear()
            self.audible.set()

    async def _generate(self) -> None:
        while not self._state.complete:
            async with self._failover.lease() as worker:
                if not self._state.samples:
                    self.times.called_at = time.monotonic()
                    self.times.asked_at = self.times.asked_at or self.times.called_at
                may_give_up = partial(self._failover.may_give_up, worker)
                freeze = self._failover.freeze_detector(worker)
                context = self.context
                watch = ProgressWatch(context.policy, may_give_up, context.clock, freeze, context.process_clock)
                try:
                    await generate(worker, self._state, watch, self._handle)
                except WorkerLost as loss:
                    if not self._state.complete:
                        self._failover.record_loss(worker, loss)
                    if loss.reason is LossReason.STATE_MISMATCH and not self.parts.taken:
                        self._restart()
        self._failover.on_finished()

    def _restart(self) -> None:
        """Start the utterance again, because a worker refused its state and nothing of it has left the gateway."""
        self._state.restart()
        self._failover.on_restart()
        self.parts.drop_waiting()
        self.audible.clear()

    async def _handle(self, response: llm_pb2.GenerateResponse) -> None:
        match response.WhichOneof("response"):
            case "started":
                await self._started(response.started)
            case "audio":
                if response.audio.HasField("first") and not self._state.samples:
                    self.times.first = response.audio.first
                pcm = self._state.add_audio(response.audio)
                self._failover.on_audio()
                metrics.AUDIO_RECEIVED_SECONDS.inc(len(pcm) / FLOAT_BYTES / self.sample_rate)
                self.audible.set()
                if pcm or response.audio.audio.last:
                    await self.parts.send(AudioPart(pcm, response.audio.audio.last))
            case "moved":
                reason = f"decode worker {response.moved.from_worker} was lost: {response.moved.reason}"
                await self.parts.send(tts_pb2.Resumed(reason=reason))
            case "done":
                self.decode_worker = response.done.decode_worker or self.decode_worker
                self.speech_tokens = response.done.speech_tokens

    async def _started(self, started: llm_pb2.GenerateStarted) -> None:
        if started.sample_rate != self.sample_rate:
            raise Internal(
                f"encode and decode have different sample rates, {self.sample_rate} and {started.sample_rate};"
                " start both with the same model"
            )
        self.place.admitted = True
        self.decode_worker = started.decode_worker
        self._state.origin = started.origin or self._state.origin
        self._state.words.start(started.samples_per_token)
        self._state.start.text_order = started.text_order  # a worker that resumes must use the same
        if (lost := self._failover.on_accepted()) is not None:
            tracing.event("moved", to_worker=started.llm_worker, reason=lost.value)
            reason = f"an llm worker was lost ({lost.value}); {started.llm_worker} continued"
            await self.parts.send(tts_pb2.Resumed(reason=reason))
