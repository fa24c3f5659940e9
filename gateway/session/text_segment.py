"""Text up to a flush or the end: one `EncodeText` call, and a second one if the first worker is lost.

A flush half-closes the call instead of keeping it open. Any worker encodes the later text in the same way, so a paused
conversation holds no call open and does not depend on the worker that encoded its last turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import grpc.aio
import structlog

from gateway import tasks
from gateway.session.options import speakable
from gateway.session.text_queue import Boundary, TextQueue
from lighttts.v1 import encode_pb2, encode_pb2_grpc, text_pb2
from services.common import tracing
from services.common.errors import Internal, LightTtsError, Overloaded, Unavailable
from services.common.pool import FailureReason, Lease, Pool
from services.common.workers.call_end import CallEnd, answers
from services.common.workers.failover import LossReason, WorkerLost
from services.common.workers.worker_call import lost_or_refused

log = structlog.get_logger(__name__)

MOST_WORKERS = 2
"""Encode workers that one text tries."""

_OpenCall: TypeAlias = "grpc.aio.StreamStreamCall[encode_pb2.EncodeTextRequest, encode_pb2.EncodeTextResponse]"
_WholeCall: TypeAlias = "grpc.aio.UnaryStreamCall[encode_pb2.EncodeTextRequest, encode_pb2.EncodeTextResponse]"


@dataclass
class _Position:
    """The place in a text up to which its ids have been received."""

    utterance: int = 0
    ids: int = 0
    """Of this utterance."""

    def advance(self, run: encode_pb2.EncodedText) -> None:
        self.ids = len(run.ids) + (self.ids if run.utterance == self.utterance else 0)
        self.utterance = run.utterance
        if run.last:
            self.utterance, self.ids = run.utterance + 1, 0


class TextSegment:
    """Reads text from a queue up to the next boundary and encodes it."""

    def __init__(self, text_queue: TextQueue) -> None:
        self._text_queue = text_queue
        self._fragments: list[str] = []
        """All text read so far; a worker that takes over gets it whole."""
        self._received = _Position()
        self._releases: list[int] = []
        """Places in the text that a worker released in a pause; a worker that takes over does the same."""
        self.characters = 0
        """Characters read so far."""
        self.boundary: Boundary | None = None
        """The boundary that ended the segment, once it was read."""

    async def begin(self) -> bool:
        """Wait for text that can be spoken; return False if the boundary comes first. No call is open until then."""
        while self.boundary is None and not speakable("".join(self._fragments)):
            await self._read()
        return self.boundary is None

    async def encode(
        self,
        pool: Pool,
        start: encode_pb2.EncodeTextStart,
        on_run: Callable[[encode_pb2.EncodedText], Awaitable[None]],
        on_warning: Callable[[text_pb2.TextWarning], Awaitable[None]],
        *,
        patience: float,
        waits: bool,
    ) -> None:
        """Call `on_run` with each run of ids up to the boundary. `start` is modified: it gets the segment's first text.

        If the session `waits`, and after a loss, the text waits up to `patience` seconds for a worker, longer than one
        takes to start again. Other texts wait as long as the pool's leases do.

        If the worker is lost, another one gets the text so far, and ids that were received are left out: they depend
        neither on the worker nor on the fragments of the text, but the runs do. Raises the encode service's error, and
        Unavailable when the second worker is lost too or there is none.
        """
        tried: list[str] = []
        lost: WorkerLost | None = None
        while True:
            while self.boundary is None and not self._text_queue.empty:
                await self._read()
            start.text, start.complete = "".join(self._fragments), self.boundary is not None
            start.releases[:] = self._releases
            wait = patience if waits or lost is not None else None
            try:
                async with pool.lease(exclude=_avoid(pool, tried, lost), wait_seconds=wait) as worker:
                    tried.append(worker.address)
                    try:
                        await self._converse(worker, start, on_run, on_warning)
                    except WorkerLost as loss:
                        lost = loss
                        _record(worker, loss)
                    else:
                        return
            except Unavailable as error:
                raise error if lost is None else _error_of(lost) from error
            if lost.reason is LossReason.FULL or len(tried) >= MOST_WORKERS:
                raise _error_of(lost) from lost

    async def _converse(
        self,
        worker: Lease,
        start: encode_pb2.EncodeTextStart,
        on_run: Callable[[encode_pb2.EncodedText], Awaitable[None]],
        on_warning: Callable[[text_pb2.TextWarning], Awaitable[None]],
    ) -> None:
        """Encode on one worker. Raises WorkerLost if another one could encode the text."""
        metadata, position = tracing.outgoing(start.request_id), _Position()
        call: _OpenCall | _WholeCall
        if start.complete:
            call = _whole_text(worker.channel)(encode_pb2.EncodeTextRequest(start=start), metadata=metadata)
        else:
            call = encode_pb2_grpc.EncodeStub(worker.channel).EncodeText(metadata=metadata)
        try:
            async with aclosing(answers(call, CallEnd(call))) as responses, tasks.group() as group:
                writer = None
                if isinstance(call, grpc.aio.StreamStreamCall):
                    writer = group.create_task(self._write(call, start))
                async for response in responses:
                    for warning in response.warnings:
                        await on_warning(warning)
                    if not response.HasField("text"):
                        continue
                    fresh = self._take_fresh(response.text, position)
                    if fresh is not None:
                        await on_run(fresh)
                if self.boundary is None:
                    raise WorkerLost(LossReason.BROKE_PROTOCOL, "an encode worker ended a text before its end")
                if writer is not None:
                    writer.cancel()
        except grpc.aio.AioRpcError as error:
            raise lost_or_refused(error) from error
        finally:
            call.cancel()

    def _take_fresh(self, run: encode_pb2.EncodedText, position: _Position) -> encode_pb2.EncodedText | None:
        """Return the part of a run that was not received before, or None. `position`: of this call, before the run."""
        begin = position.ids if run.utterance == position.utterance else 0
        position.advance(run)
        if run.utterance < self._received.utterance:
            return None
        if run.utterance == self._received.utterance:
            repeated = self._received.ids - begin
            if repeated > 0:
                del run.ids[:repeated]
                if not run.ids and not run.last:
                    return None
        self._received.advance(run)
        if run.HasField("released") and run.released not in self._releases:
            self._releases.append(run.released)
        return run

    async def _write(self, call: _OpenCall, start: encode_pb2.EncodeTextStart) -> None:
        try:
            await call.write(encode_pb2.EncodeTextRequest(start=start))
            while self.boundary is None and (text := await self._read()):
                await call.write(encode_pb2.EncodeTextRequest(fragment=text))
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended; its reader gets the reason

    async def _read(self) -> str:
        """Keep and return more text; return an empty string at the boundary."""
        item = await self._text_queue.take()
        if isinstance(item, str):
            self.characters += len(item)
            self._fragments.append(item)
            return item
        self.boundary = item
        return ""


def _whole_text(
    channel: grpc.aio.Channel,
) -> grpc.aio.UnaryStreamMultiCallable[encode_pb2.EncodeTextRequest, encode_pb2.EncodeTextResponse]:
    """Return `EncodeText` for a text that one message holds.

    gRPC sends it together with the call. A stream of requests would wait for the call to begin, then write the message
    in a task of its own, and end the stream.
    """
    return channel.unary_stream(
        "/lighttts.v1.Encode/EncodeText",
        request_serializer=encode_pb2.EncodeTextRequest.SerializeToString,
        response_deserializer=encode_pb2.EncodeTextResponse.FromString,
    )


def _avoid(pool: Pool, tried: list[str], lost: WorkerLost | None) -> list[str]:
    """Return the workers not to try: those that lost the text, unless the only worker may have been restarted."""
    others = any(address not in tried for address in pool.serving())
    return [] if lost is not None and lost.reason is LossReason.DIED and not others else tried


def _record(worker: Lease, loss: WorkerLost) -> None:
    log.warning("encode worker lost a text", peer=worker.address, reason=loss.reason.value, detail=loss.detail)
    if loss.reason is LossReason.DIED:
        worker.report_failure(FailureReason.DIED)


def _error_of(loss: WorkerLost) -> LightTtsError:
    """Return the client's error for a text that no worker encoded."""
    if loss.reason is LossReason.FULL:
        return Overloaded(loss.detail, retry_after=loss.retry_after, stage=loss.stage)
    if loss.reason is LossReason.FAILED:
        return Internal(loss.detail, repeated=True)
    if loss.reason is LossReason.REFUSED:
        return Unavailable(loss.detail, retry_after=loss.retry_after)
    return Unavailable("the encode workers were lost while they read this text; try again", retry_after=1.0)
