"""One utterance at the llm stage: text in, audio out, whatever happens to the workers."""

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
from gateway.utterance.utterance_state import UtteranceState
from lighttts.v1 import llm_pb2, tts_pb2, voice_pb2
from services.common import tracing
from services.common.errors import Internal, LightTtsError
from services.common.pool import Pool
from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import Failover, MovePolicy, WorkerLost
from services.common.workers.worker_call import ProgressWatch


@dataclass(frozen=True)
class AudioPart:
    """Consecutive float32 samples (little endian) of one utterance."""

    pcm: bytes
    last: bool


@dataclass(frozen=True)
class LlmClientContext:
    """What all utterances share."""

    pool: Pool
    policy: MovePolicy
    request_stats: RequestStats
    queue_messages: int
    """Audio messages held while nobody reads; then reading stops and the worker feels it."""
    failover_budget: FailoverBudget = field(default_factory=FailoverBudget)
    """One for all utterances of the process."""
    clock: Callable[[], float] = time.monotonic
    """Seconds; measures the silence and the stalls of llm workers."""


@dataclass
class UtteranceStream:
    """Text tokens in by `say`, audio out by `parts`. Everything is freed when `run` ends or is cancelled.

    A worker that dies, falls silent or stands still loses the utterance to another one, which goes on from the record:
    no sample is repeated or missing.
    """

    stage: LlmClientContext
    start: llm_pb2.GenerateStart
    voice: voice_pb2.VoiceContent
    sample_rate: int
    """What the session has promised; a worker that differs is an error."""
    end_offset: int = 0
    """Characters of the session's text that have been spoken when this utterance has."""
    decode_worker: str = ""
    speech_tokens: int = 0
    """Generated, once it has ended."""
    parts: ClosableQueue[AudioPart | tts_pb2.Resumed] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = ClosableQueue(self.stage.queue_messages)
        self._record = UtteranceState(self.start, self.voice)
        stage = self.stage
        self._failover = Failover(stage.pool, stage.policy, "llm", metrics.LLM_MOVES, stage.failover_budget)
        self.times = SpeechTimes()
        self.audible = asyncio.Event()
        """Its first audio has come, or never will."""

    @property
    def waiting(self) -> int:
        """Audio messages that wait for the listener."""
        return self.parts.waiting

    def say(self, ids: Sequence[int], *, last: bool) -> None:
        """Adds text tokens; `last` ends the utterance."""
        self._record.say(ids, last=last)

    def report_position(self, seconds: float) -> None:
        """Tells the workers how much of this utterance the listener has played."""
        self._record.report_position(seconds)

    async def run(self) -> None:
        """Generates until the last audio. Errors reach the reader of `parts`, after the audio that came before."""
        try:
            with self.stage.request_stats.utterance(self), tracing.span("utterance"):
                await self._generate()
        except LightTtsError as error:
            self.parts.close(error)
        else:
            self.parts.close()
        finally:
            self.audible.set()

    async def _generate(self) -> None:
        while not self._record.complete:
            async with self._failover.lease() as worker:
                if not self._record.samples:
                    self.times.called_at = time.monotonic()
                    self.times.asked_at = self.times.asked_at or self.times.called_at
                may_give_up = partial(self._failover.may_give_up, worker)
                watch = ProgressWatch(self.stage.policy, may_give_up, self.stage.clock)
                try:
                    await generate(worker, self._record, watch, self._handle)
                except WorkerLost as loss:
                    if not self._record.complete:
                        self._failover.record_loss(worker, loss)

    async def _handle(self, response: llm_pb2.GenerateResponse) -> None:
        match response.WhichOneof("response"):
            case "started":
                await self._started(response.started)
            case "audio":
                if response.audio.HasField("first") and not self._record.samples:
                    self.times.first = response.audio.first
                pcm = self._record.take(response.audio)
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
                f"encode and decode disagree about the sample rate: {self.sample_rate} and "
                f"{started.sample_rate}; do they serve the same model?"
            )
        self.decode_worker = started.decode_worker
        self._record.start.text_order = started.text_order  # whoever goes on keeps to it
        if (lost := self._failover.on_accepted()) is not None:
            tracing.event("moved", to_worker=started.llm_worker, reason=lost.value)
            reason = f"an llm worker was lost ({lost.value}); {started.llm_worker} went on"
            await self.parts.send(tts_pb2.Resumed(reason=reason))
