"""One utterance at the decode pool: tokens go in, audio comes out; failures of workers do not interrupt it.

If a worker dies, goes silent, makes no progress or drains, another one continues the utterance: it receives all tokens
so far and the last resume record, and audio that was delivered before is dropped by sample index.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from prometheus_client import Histogram

from lighttts.v1 import audio_pb2, decode_pb2, decode_pb2_grpc
from services.common import tracing
from services.common.metrics import LATENCY_BUCKETS
from services.common.pool import Lease, Pool
from services.common.voices.message import to_message
from services.common.voices.voice import Voice
from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import Failover, LossReason, MovePolicy, WorkerLost, moves_counter
from services.common.workers.worker_call import ProgressWatch, accepting_state, conversation
from services.llm.stream.hand_over import handing_over
from services.llm.stream.next_audio import NextAudio

MOVES = moves_counter("lighttts_llm_decode_moves_total", "decode")
SEAM = Histogram(
    "lighttts_llm_decode_seam_seconds",
    "Time from the loss of a decode worker to the utterance's next audio; the listener's lead must cover it.",
    buckets=LATENCY_BUCKETS,
)
SAMPLE_BYTES = 4
"""Workers send 32-bit floats."""


@dataclass(frozen=True)
class Started:
    """A worker accepted the utterance."""

    worker: str
    sample_rate: int


@dataclass(frozen=True)
class Moved:
    """Another worker continues the utterance; reported once it has accepted it."""

    from_worker: str
    to_worker: str
    reason: str


Event = Started | Moved | decode_pb2.DecodedAudio


@dataclass
class _Outgoing:
    """What has been sent on one call."""

    voice_requested: bool = False
    tokens: int = 0
    last: bool = False
    position: float = 0.0


class DecodeStream:
    """Takes tokens by `push` and returns audio by `events`. For one event loop; `push` never blocks."""

    def __init__(
        self,
        pool: Pool,
        start: decode_pb2.DecodeStart,
        voice: Voice,
        model_id: str,
        policy: MovePolicy,
        *,
        record: bytes = b"",
        next_sample: int = 0,
        default_target: float = 0.5,
        elapsed: float = 0.0,
        failover_budget: FailoverBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
        process_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`record` and `next_sample` continue the audio of an earlier run; all tokens are pushed from the first one on.

        `default_target`: seconds until the first audio is due if `start` names none. `elapsed`: seconds since the
        target was set. `failover_budget` is shared by all streams of a pool; `clock` returns seconds and measures
        silence, stalls and deadlines; `process_clock` shows when this process was blocked.
        """
        self._start = start
        self._voice = voice
        self._model_id = model_id
        self._failover = Failover(
            pool,
            policy,
            "decode",
            MOVES,
            failover_budget or FailoverBudget(),
            admitted=start.place.admitted,
            clock=clock,
        )
        self._clock, self._process_clock = clock, process_clock
        self._tokens: list[int] = []
        self._last = False
        self._position = 0.0
        self._changed = asyncio.Event()
        self._record = record
        self._next_sample = next_sample
        self._due = NextAudio(clock, start.urgency.first_audio_target, default_target, elapsed)
        self._sample_rate = 0
        """Samples per second; 0 until a worker has named it."""
        self._calls = 0
        self._sequence = 0
        self._worker: str | None = None
        """Name of the worker that accepted the utterance last."""
        self._lost_at: float | None = None
        """Time of the last loss of a worker; None from the next audio on."""

    def push(self, ids: Sequence[int], *, last: bool) -> None:
        """Add speech tokens; `last` ends the utterance."""
        self._tokens.extend(ids)
        self._last = self._last or last
        self._changed.set()

    def report_position(self, seconds: float) -> None:
        """Forward the playback position, in seconds of this utterance's audio."""
        self._position = seconds
        self._due.on_position(seconds)
        self._changed.set()

    @property
    def _seconds(self) -> float:
        """Seconds of audio delivered by workers that have named their sample rate."""
        return self._next_sample / self._sample_rate if self._sample_rate else 0.0

    async def events(self) -> AsyncGenerator[Event]:
        """Yield until the last audio. Raises Unavailable or Overloaded if no worker is left, or a worker's refusal."""
        while True:
            async with self._failover.lease() as worker:
                try:
                    async with aclosing(self._converse(worker)) as events:
                        async for event in events:
                            yield event
                    return
                except WorkerLost as loss:
                    self._lost_at = self._lost_at or self._clock()
                    self._failover.record_loss(worker, loss)

    async def _converse(self, worker: Lease) -> AsyncGenerator[Event]:
        """Yield one worker's part of the utterance: up to the last audio, or until WorkerLost."""
        call = decode_pb2_grpc.DecodeStub(worker.channel).Decode(metadata=tracing.outgoing())
        outgoing, draining = _Outgoing(), False
        async with (
            handing_over(self._failover, worker, self._offer, call.cancel) as hand_over,
            accepting_state(bool(self._record)) as acceptance,
            conversation(call, self._requests(outgoing), self._watch(worker)) as responses,
        ):
            async for response in responses:
                match response.WhichOneof("response"):
                    case "need_voice":
                        outgoing.voice_requested = True
                        self._changed.set()
                    case "started":
                        acceptance.given = True
                        for event in self._on_started(response.started):
                            yield event
                    case "audio":
                        if response.audio.audio.last:
                            self._check_end(response.audio, outgoing)
                            self._failover.on_finished()
                        audio = self._advance(response.audio)
                        if audio is not None:
                            yield audio
                        if response.audio.audio.last:
                            return
                    case "hand_over":
                        draining = True
                if draining and self._failover.others_serve(worker):
                    hand_over.seek()
        raise WorkerLost(LossReason.BROKE_PROTOCOL, "a decode worker ended an utterance before its last audio")

    async def _offer(self, worker: Lease) -> None:
        """Open the utterance on a worker, and return when it accepts it, before it decodes anything.

        Raises WorkerLost or the worker's refusal otherwise.
        """
        call = decode_pb2_grpc.DecodeStub(worker.channel).Decode(metadata=tracing.outgoing())
        voice_requested = asyncio.Event()

        async def requests() -> AsyncGenerator[decode_pb2.DecodeRequest]:
            yield decode_pb2.DecodeRequest(start=self._next_start())
            await voice_requested.wait()
            yield decode_pb2.DecodeRequest(voice=to_message(self._voice, self._model_id))
            await asyncio.Event().wait()  # until the call ends

        async with (
            accepting_state(bool(self._record)),
            conversation(call, requests(), self._watch(worker)) as responses,
        ):
            async for response in responses:
                if response.HasField("started"):
                    return
                voice_requested.set()
        raise WorkerLost(LossReason.BROKE_PROTOCOL, "a decode worker ended an utterance before it accepted it")

    def _watch(self, worker: Lease) -> ProgressWatch:
        may_give_up = partial(self._failover.may_give_up, worker)
        freeze = self._failover.freeze_detector(worker)
        return ProgressWatch(self._failover.policy, may_give_up, self._clock, freeze, self._process_clock)

    def _check_end(self, decoded: decode_pb2.DecodedAudio, outgoing: _Outgoing) -> None:
        """Raise WorkerLost if the last audio does not speak all tokens."""
        if not outgoing.last or decoded.tokens_spoken != len(self._tokens):
            detail = f"a decode worker ended the audio after {decoded.tokens_spoken} of {len(self._tokens)} tokens"
            raise WorkerLost(LossReason.BROKE_PROTOCOL, detail)

    def _on_started(self, started: decode_pb2.DecodeStarted) -> list[Event]:
        events: list[Event] = [Started(started.worker, started.sample_rate)]
        reason = self._failover.on_accepted()
        if self._worker is not None and reason is not None:
            tracing.event("moved", to_worker=started.worker, reason=reason.value)
            events.insert(0, Moved(self._worker, started.worker, reason.value))
        self._worker = started.worker
        self._sample_rate = started.sample_rate or self._sample_rate
        return events

    def _next_start(self) -> decode_pb2.DecodeStart:
        """Return the first message to the next worker: it continues after the last audio."""
        start = decode_pb2.DecodeStart()
        start.CopyFrom(self._start)
        start.resume_record = self._record
        start.place.admitted = self._failover.admitted
        if self._calls or self._start.urgency.first_audio_target:
            # Time has passed since the target was set, and a worker that continues is due when the listener runs dry.
            start.urgency.first_audio_target = self._due.target_from(self._seconds)
        return start

    async def _requests(self, outgoing: _Outgoing) -> AsyncGenerator[decode_pb2.DecodeRequest]:
        """Yield what has not been sent on this call yet, after every change."""
        start = self._next_start()
        self._calls += 1
        yield decode_pb2.DecodeRequest(start=start)
        while True:
            self._changed.clear()
            if outgoing.voice_requested:
                outgoing.voice_requested = False
                yield decode_pb2.DecodeRequest(voice=to_message(self._voice, self._model_id))
            fresh = self._tokens[outgoing.tokens :]
            if fresh or self._last > outgoing.last:
                tokens = decode_pb2.SpeechTokens(ids=fresh, first_index=outgoing.tokens, last=self._last)
                outgoing.tokens += len(fresh)
                outgoing.last = self._last
                yield decode_pb2.DecodeRequest(tokens=tokens)
            if self._position > outgoing.position:
                outgoing.position = self._position
                yield decode_pb2.DecodeRequest(position=audio_pb2.PlaybackPosition(seconds=self._position))
            await self._changed.wait()

    def _advance(self, decoded: decode_pb2.DecodedAudio) -> decode_pb2.DecodedAudio | None:
        """Number the audio for the listener and drop samples that were delivered; None if no sample is new."""
        audio = decoded.audio
        pcm = audio.pcm  # each access copies it
        delivered = self._next_sample - audio.first_sample
        if delivered < 0 or len(pcm) % SAMPLE_BYTES:
            raise WorkerLost(LossReason.BROKE_PROTOCOL, f"a decode worker skipped {-delivered} samples")
        self._failover.on_audio()
        self._record = decoded.resume_record
        if delivered:
            pcm = audio.pcm = pcm[delivered * SAMPLE_BYTES :]
        if not pcm and not audio.last:
            return None
        if self._lost_at is not None:
            SEAM.observe(self._clock() - self._lost_at)
            self._lost_at = None
        self._due.on_audio(self._seconds)
        audio.first_sample = self._next_sample
        audio.sequence = self._sequence
        self._next_sample += len(pcm) // SAMPLE_BYTES
        self._sequence += 1
        return decoded
