"""One utterance at the decode pool: tokens go in, audio comes out, whatever happens to the workers.

A worker that dies, falls silent, stands still or drains loses the utterance to another one: every token so far is sent
again with the last resume record, and what the listener already has is dropped by sample index.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import grpc.aio
import structlog
from prometheus_client import Counter, Histogram

from lighttts.v1 import audio_pb2, decode_pb2, decode_pb2_grpc
from services.common import tracing
from services.common.call_end import CallEnd
from services.common.errors import Overloaded, Unavailable, from_rpc_error
from services.common.metrics import LATENCY_BUCKETS
from services.common.pool import FailureReason, Lease, Pool, WorkerState
from services.common.voice import Voice
from services.common.voice_message import to_message
from services.llm.suspicion import Suspects
from services.llm.watch import LossReason, MovePolicy, ProgressWatch, WorkerLost

log = structlog.get_logger(__name__)

MOVES = Counter("lighttts_llm_decode_moves_total", "Utterances moved to another decode worker.", ["reason"])
LOSSES = Counter("lighttts_llm_decode_losses_total", "Utterances lost by a decode worker, moved or not.", ["reason"])
SEAM = Histogram(
    "lighttts_llm_decode_seam_seconds",
    "From the loss of an utterance to its next audio; what the listener's lead must cover.",
    buckets=LATENCY_BUCKETS,
)
SAMPLE_BYTES = 4
"""Workers answer in 32-bit floats."""
Call: TypeAlias = "grpc.aio.StreamStreamCall[decode_pb2.DecodeRequest, decode_pb2.DecodeResponse]"


@dataclass(frozen=True)
class Started:
    """A worker took the utterance."""

    worker: str
    sample_rate: int


@dataclass(frozen=True)
class Moved:
    """The utterance went on elsewhere; told when the new worker has taken it."""

    from_worker: str
    to_worker: str
    reason: str


Event = Started | Moved | decode_pb2.DecodedAudio


# What the pool should hear of it. A full or draining worker has not failed; its health or its next answer tells.
_FAILURES = {
    LossReason.DIED: FailureReason.DIED,
    LossReason.SILENT: FailureReason.STALLED,
    LossReason.STALLED: FailureReason.STALLED,
    LossReason.BROKE_PROTOCOL: FailureReason.INVALID,
}
# Statuses that say more about the worker than about the utterance: another worker may do better.
_ELSEWHERE = {
    grpc.StatusCode.UNAVAILABLE: LossReason.DIED,
    grpc.StatusCode.CANCELLED: LossReason.DIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LossReason.FULL,
}
_OWES_NOTHING = (audio_pb2.Heartbeat.STATE_WAITING, audio_pb2.Heartbeat.STATE_WARMING)


@dataclass
class _Outgoing:
    """What one call has been sent."""

    voice_wanted: bool = False
    tokens: int = 0
    last: bool = False
    position: float = 0.0


class DecodeStream:
    """Tokens in by `push`, audio out by `events`. Belongs to one event loop; `push` never blocks."""

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
        suspects: Suspects | None = None,
    ) -> None:
        """`record` and `next_sample` continue audio of an earlier run; the tokens are pushed from the first one on.

        `suspects` is shared by all streams of a pool.
        """
        self._pool = pool
        self._start = start
        self._voice = voice
        self._model_id = model_id
        self._policy = policy
        self._suspects = suspects or Suspects()
        self._lost: dict[str, LossReason] = {}
        """Workers that lost this utterance, by address."""
        self._tokens: list[int] = []
        self._last = False
        self._position = 0.0
        self._changed = asyncio.Event()
        self._record = record
        self._next_sample = next_sample
        self._sequence = 0
        self._worker: str | None = None
        """The worker that took the utterance last, by name."""
        self._lost_at: float | None = None
        """When a worker lost it, until its next audio."""
        self._loss: LossReason | None = None
        """Why that worker lost it, until the next one has taken it."""

    def push(self, ids: Sequence[int], *, last: bool) -> None:
        """Adds speech tokens; `last` ends the utterance."""
        self._tokens.extend(ids)
        self._last = self._last or last
        self._changed.set()

    def report_position(self, seconds: float) -> None:
        """Passes the listener's position on, in seconds of this utterance's audio."""
        self._position = seconds
        self._changed.set()

    async def events(self) -> AsyncGenerator[Event]:
        """Yields until the last audio. Raises Unavailable or Overloaded when no worker is left, or what one refused."""
        lost = self._lost
        while True:
            async with self._lease(lost) as worker:
                try:
                    async with aclosing(self._converse(worker)) as events:
                        async for event in events:
                            yield event
                            if isinstance(event, decode_pb2.DecodedAudio) and event.audio.last:
                                return
                except WorkerLost as error:
                    reason = error.reason
                    if reason in _FAILURES:
                        worker.report_failure(_FAILURES[reason])
            lost[worker.address] = self._loss = reason
            LOSSES.labels(reason.value).inc()
            self._lost_at = time.monotonic()
            losses = sum(reason is not LossReason.FULL for reason in lost.values())
            log.warning("decode worker lost an utterance", peer=worker.address, reason=reason.value, losses=losses)
            if losses > self._policy.max_moves:
                message = f"{losses} decode workers lost this utterance; the last one {reason.value}"
                raise Unavailable(message, retry_after=1.0)

    @asynccontextmanager
    async def _lease(self, lost: Mapping[str, LossReason]) -> AsyncGenerator[Lease]:
        """A worker that has not lost this utterance yet; without any, the reason that helps the client most."""
        full = bool(lost) and all(reason is LossReason.FULL for reason in lost.values())
        try:
            async with self._pool.lease(exclude=lost.keys(), wait_seconds=0 if full else None) as worker:
                yield worker
        except Unavailable as error:
            if full:
                raise Overloaded("every decode worker is full; try again shortly") from error
            raise

    async def _converse(self, worker: Lease) -> AsyncGenerator[Event]:
        """One worker's part of the utterance: until its last audio, or WorkerLost."""
        stub = decode_pb2_grpc.DecodeStub(worker.channel)
        call = stub.Decode(metadata=tracing.outgoing())
        end = CallEnd(call)
        outgoing = _Outgoing()
        writer = asyncio.create_task(self._write(call, outgoing))
        writer.add_done_callback(lambda _: call.cancel())  # without a writer there is nothing more to read
        watch = ProgressWatch(self._policy, lambda: self._may_leave(worker))
        draining = False
        try:
            while True:
                response = await _read(call, end, watch)
                match response.WhichOneof("response"):
                    case "need_voice":
                        outgoing.voice_wanted = True
                        self._changed.set()
                    case "started":
                        for news in self._taken_by(response.started):
                            yield news
                    case "audio":
                        if response.audio.audio.last and not outgoing.last:
                            raise WorkerLost(LossReason.BROKE_PROTOCOL)
                        audio = self._advance(response.audio)
                        if audio is not None:
                            yield audio
                    case "hand_over":
                        draining = True
                if draining and self._elsewhere(worker):
                    raise WorkerLost(LossReason.DRAINING)
                watch.progress()  # only now: our own reader may have kept us, which is not the worker's fault
        except WorkerLost:
            if writer.done() and not writer.cancelled():
                writer.result()  # a defect of ours, if that is what ended the call
            raise
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def _elsewhere(self, worker: Lease) -> bool:
        """Whether another worker could go on. Without one, a draining worker is better than none: it speaks on."""
        others = (info for info in self._pool.workers() if info.address not in (worker.address, *self._lost))
        return any(info.state is WorkerState.SERVING for info in others)

    def _may_leave(self, worker: Lease) -> bool:
        return self._suspects.suspect(worker.address, len(self._pool.workers()))

    def _taken_by(self, started: decode_pb2.DecodeStarted) -> list[Event]:
        news: list[Event] = [Started(started.worker, started.sample_rate)]
        if self._worker is not None and self._loss is not None:
            MOVES.labels(self._loss.value).inc()
            tracing.event("moved", to_worker=started.worker, reason=self._loss.value)
            news.insert(0, Moved(self._worker, started.worker, self._loss.value))
        self._worker, self._loss = started.worker, None
        return news

    async def _write(self, call: Call, outgoing: _Outgoing) -> None:
        """Sends what this call has not been sent yet, whenever something changes."""
        start = decode_pb2.DecodeStart()
        start.CopyFrom(self._start)
        start.resume_record = self._record
        try:
            await call.write(decode_pb2.DecodeRequest(start=start))
            while True:
                self._changed.clear()
                if outgoing.voice_wanted:
                    outgoing.voice_wanted = False
                    await call.write(decode_pb2.DecodeRequest(voice=to_message(self._voice, self._model_id)))
                fresh = self._tokens[outgoing.tokens :]
                if fresh or self._last > outgoing.last:
                    tokens = decode_pb2.SpeechTokens(ids=fresh, first_index=outgoing.tokens, last=self._last)
                    outgoing.tokens += len(fresh)
                    outgoing.last = self._last
                    await call.write(decode_pb2.DecodeRequest(tokens=tokens))
                if self._position > outgoing.position:
                    outgoing.position = self._position
                    position = audio_pb2.PlaybackPosition(seconds=self._position)
                    await call.write(decode_pb2.DecodeRequest(position=position))
                await self._changed.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended; its reader learns why

    def _advance(self, decoded: decode_pb2.DecodedAudio) -> decode_pb2.DecodedAudio | None:
        """Numbers the audio for the listener and drops what they have; None when nothing of it is new."""
        audio = decoded.audio
        known = self._next_sample - audio.first_sample
        if known < 0 or len(audio.pcm) % SAMPLE_BYTES:
            raise WorkerLost(LossReason.BROKE_PROTOCOL)
        self._record = decoded.resume_record
        audio.pcm = audio.pcm[known * SAMPLE_BYTES :]
        if not audio.pcm and not audio.last:
            return None
        if self._lost_at is not None:
            SEAM.observe(time.monotonic() - self._lost_at)
            self._lost_at = None
        audio.first_sample = self._next_sample
        audio.sequence = self._sequence
        self._next_sample += len(audio.pcm) // SAMPLE_BYTES
        self._sequence += 1
        return decoded


async def _read(call: Call, end: CallEnd, watch: ProgressWatch) -> decode_pb2.DecodeResponse:
    """The next message that is no heartbeat. Raises WorkerLost, or the error the worker meant for the client."""
    while True:
        try:
            response = await _next(call, watch)
        except grpc.aio.AioRpcError as error:
            answer = await end.error(error)
            if answer.code() in _ELSEWHERE:
                raise WorkerLost(_ELSEWHERE[answer.code()]) from error
            raise from_rpc_error(answer) from error
        if not isinstance(response, decode_pb2.DecodeResponse):  # grpc.aio.EOF
            raise WorkerLost(LossReason.BROKE_PROTOCOL)
        if response.WhichOneof("response") != "heartbeat":
            return response
        beat = response.heartbeat
        watch.beat(beat.steps, owes_nothing=beat.state in _OWES_NOTHING)


async def _next(call: Call, watch: ProgressWatch) -> object:
    """The next message, or gRPC's end mark. Raises WorkerLost when a worker is silent and may be left for that."""
    read = asyncio.ensure_future(call.read())
    try:
        while not read.done():
            await asyncio.wait({read}, timeout=watch.silence_seconds)
            if not read.done():
                watch.silent()
        return read.result()
    finally:
        read.cancel()
