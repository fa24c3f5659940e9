"""One stream to one worker: written to as things change, read message by message, and watched for progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal, Protocol, TypeVar, cast

import grpc
import grpc.aio
from grpc_status import rpc_status

from lighttts.v1 import audio_pb2
from services.common.errors import from_rpc_error
from services.common.workers.call_end import CallEnd, answers
from services.common.workers.failover import LossReason, MovePolicy, WorkerLost

_OWES_NOTHING = (audio_pb2.Heartbeat.STATE_WAITING, audio_pb2.Heartbeat.STATE_WARMING)
# Statuses that gRPC itself makes when a connection or a process breaks.
_BROKEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


class Response(Protocol):
    """What both services answer: one of several messages, a sign of life among them."""

    @property
    def heartbeat(self) -> audio_pb2.Heartbeat: ...

    def WhichOneof(self, oneof_group: Literal["response"], /) -> str | None: ...


RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT", bound=Response)


class ProgressWatch:
    """Tells a slow worker from a failed one by its heartbeats: only a step count that stands still means failure."""

    def __init__(self, policy: MovePolicy, may_suspect: Callable[[], bool] = lambda: True) -> None:
        """`may_suspect` is asked before a worker is given up on suspicion; if not, the stream waits on."""
        self.silence_seconds = policy.silence_seconds
        self._stall_seconds = policy.stall_seconds
        self._may_suspect = may_suspect
        self._steps = -1
        self._progress_at = time.monotonic()

    def progress(self) -> None:
        """A message came and was dealt with: the worker is alive whatever its count says."""
        self._progress_at = time.monotonic()

    def beat(self, beat: audio_pb2.Heartbeat) -> None:
        """Raises WorkerLost when the engine owes us work and has not stepped for too long."""
        if beat.steps != self._steps or beat.state in _OWES_NOTHING:
            self._steps = beat.steps
            self.progress()
        elif time.monotonic() - self._progress_at > self._stall_seconds:
            self._suspect(LossReason.STALLED)
            self.progress()

    def silent(self) -> None:
        """Nothing came for `silence_seconds`. Raises WorkerLost when the worker may be left for that."""
        self._suspect(LossReason.SILENT)

    def _suspect(self, reason: LossReason) -> None:
        if self._may_suspect():
            raise WorkerLost(reason)


@asynccontextmanager
async def conversation(
    call: grpc.aio.StreamStreamCall[RequestT, ResponseT], requests: AsyncGenerator[RequestT], watch: ProgressWatch
) -> AsyncGenerator[AsyncIterator[ResponseT]]:
    """Sends `requests` beside the block, which reads what the worker answers, heartbeats left out, to its proper end.

    The call ends with the block. Reading raises WorkerLost where another worker may do better, else what the worker
    meant for the client, and whatever `requests` raises.
    """
    end = CallEnd(call)
    sender = asyncio.create_task(_send(call, requests))
    try:
        async with aclosing(_responses(answers(call, end), sender, watch)) as responses:
            yield responses
    finally:
        sender.cancel()
        call.cancel()
        await asyncio.gather(sender, return_exceptions=True)


async def _send(call: grpc.aio.StreamStreamCall[RequestT, Any], requests: AsyncGenerator[RequestT]) -> None:
    try:
        async with aclosing(requests):
            async for request in requests:
                await call.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return  # the call has ended; its reader learns why
    except Exception:
        call.cancel()  # a defect of ours; the reader raises it
        raise


async def _responses(
    messages: AsyncIterator[ResponseT], sender: asyncio.Task[None], watch: ProgressWatch
) -> AsyncGenerator[ResponseT]:
    try:
        while (response := await _next(messages, sender, watch)) is not None:
            if response.WhichOneof("response") == "heartbeat":
                watch.beat(response.heartbeat)
            else:
                yield response
                watch.progress()  # only now: our own reader may have kept us, which is not the worker's fault
    except grpc.aio.AioRpcError as error:
        raise lost_or_refused(error) from error


async def _next(
    messages: AsyncIterator[ResponseT], sender: asyncio.Task[None], watch: ProgressWatch
) -> ResponseT | None:
    """The next message, None at the end. Raises WorkerLost when a worker is silent and may be left for that."""
    read = asyncio.ensure_future(anext(messages, None))
    try:
        while not read.done():
            await asyncio.wait({read}, timeout=watch.silence_seconds)
            if not read.done():
                watch.silent()
        if not read.cancelled():
            return read.result()
        if sender.done() and not sender.cancelled():
            sender.result()
        raise WorkerLost(LossReason.DIED, "this end closed the connection")
    finally:
        read.cancel()


def lost_or_refused(error: grpc.aio.AioRpcError) -> Exception:
    """What to raise for a failed stream: WorkerLost where another worker may do better, else what the worker meant."""
    meant, code = from_rpc_error(error), error.code()
    answered = rpc_status.from_call(cast(grpc.Call, error)) is not None  # a broken connection brings no status of ours
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return WorkerLost(LossReason.FULL, meant.message, meant.retry_after)
    if answered and code is grpc.StatusCode.UNAVAILABLE:
        return WorkerLost(LossReason.REFUSED, meant.message, meant.retry_after)
    if not answered and code in _BROKEN:
        return WorkerLost(LossReason.DIED, meant.message, meant.retry_after)
    return meant
