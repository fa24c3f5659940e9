"""One stream to one worker: send requests and read responses concurrently, and watch the worker's progress."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast

import grpc
import grpc.aio
from grpc_status import rpc_status

from lighttts.v1 import audio_pb2
from services.common.errors import Internal, InvalidInput, NotFound, Overloaded, StateMismatch, from_rpc_error
from services.common.workers.call_end import CallEnd, answers
from services.common.workers.failover import LossReason, MovePolicy, WorkerLost
from services.common.workers.liveness import CHECK_SECONDS, FreezeDetector

LONGEST_LAG_SECONDS = 0.1
"""A check of silence that is later than this shows that this process was blocked."""
_IDLE_STATES = (audio_pb2.Heartbeat.STATE_WAITING, audio_pb2.Heartbeat.STATE_WARMING)
# Statuses that gRPC itself sets when a connection or a process breaks.
_BROKEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


class Response(Protocol):
    """A response of llm or decode: one of several messages; a heartbeat is one of them."""

    @property
    def heartbeat(self) -> audio_pb2.Heartbeat: ...

    def WhichOneof(self, oneof_group: Literal["response"], /) -> str | None: ...


RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT", bound=Response)


class ProgressWatch:
    """Tell a slow worker from a failed one: a failed one sends nothing, or heartbeats whose step count stands still."""

    def __init__(
        self,
        policy: MovePolicy,
        may_give_up: Callable[[bool], bool] = lambda proven: True,
        clock: Callable[[], float] = time.monotonic,
        freeze: FreezeDetector | None = None,
        process_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            policy: the limits in seconds.
            may_give_up: called before a worker is given up, with whether it is proven to be frozen; while it returns
                false, the stream keeps waiting.
            clock: returns seconds; all limits are measured with it.
            freeze: finds a frozen worker before the policy's limit of silence; none by default.
            process_clock: returns seconds; shows when this process was blocked.
        """
        self._freeze = freeze
        self._process_clock = process_clock
        self._check_due = math.inf
        """Time of the next check by the process clock."""
        self._policy = policy
        self._may_give_up = may_give_up
        self._clock = clock
        self._steps = -1
        self._progress_at = clock()
        self._quiet_since = clock()

    def await_message(self) -> None:
        """Start to measure silence: the stream has begun to wait for a message. A check that is due stays due."""
        self._quiet_since = self._clock()
        if self._freeze is not None:
            self._freeze.await_message()

    def receive(self) -> None:
        """Record that a message was received, as evidence about the other workers."""
        if self._freeze is not None:
            self._freeze.on_message()

    def progress(self) -> None:
        """Record that a message was received and handled: the worker is alive, whatever its step count is."""
        self._progress_at = self._clock()

    def beat(self, beat: audio_pb2.Heartbeat) -> None:
        """Handle a heartbeat. Raises WorkerLost when the engine has work and has made no step for too long."""
        if beat.steps != self._steps or beat.state in _IDLE_STATES:
            self._steps = beat.steps
            self.progress()
        elif self._clock() - self._progress_at > self._policy.stall_seconds:
            self._give_up(LossReason.STALLED)
            self.progress()

    def check_silence(self) -> float:
        """Return the seconds until the next check. Raises WorkerLost when the worker counts as silent and may be given
        up.

        A late check shows that this process was blocked. Messages may have arrived meanwhile, so silence is measured
        again from there.
        """
        if self._process_clock() > self._check_due + LONGEST_LAG_SECONDS:
            self.await_message()
        wait = self._check()
        self._check_due = self._process_clock() + wait
        return wait

    def _check(self) -> float:
        limit = self._policy.silence_seconds
        left = self._quiet_since + limit - self._clock()
        if left > 0:
            wait = left if self._freeze is None else min(left, self._freeze.check())
            if wait > 0:
                return wait
            self._give_up(LossReason.SILENT, proven=True)
            return min(left, CHECK_SECONDS)
        self._give_up(LossReason.SILENT)
        self._quiet_since = self._clock()
        return limit

    def _give_up(self, reason: LossReason, *, proven: bool = False) -> None:
        if self._may_give_up(proven):
            raise WorkerLost(reason)


@asynccontextmanager
async def conversation(
    call: grpc.aio.StreamStreamCall[RequestT, ResponseT], requests: AsyncGenerator[RequestT], watch: ProgressWatch
) -> AsyncGenerator[AsyncIterator[ResponseT]]:
    """Send `requests` in a task while the block reads the responses, without heartbeats, until the call ends.

    The call is cancelled when the block ends. Reading raises WorkerLost if another worker could take over, otherwise
    the error the worker sent for the client, and any error of `requests`.
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


@dataclass
class Acceptance:
    """Whether a worker has accepted a call."""

    given: bool = False


@asynccontextmanager
async def accepting_state(resumes: bool) -> AsyncGenerator[Acceptance]:
    """Convert the refusal of a state to resume from into WorkerLost; the block sets `given` when the call is accepted.

    Another worker accepted the same request before, so a refusal as invalid or not found concerns what this worker
    lacks: a style, or the version of the state. Workers of earlier releases answer so.
    """
    acceptance = Acceptance()
    try:
        yield acceptance
    except (InvalidInput, NotFound) as error:
        if resumes and not acceptance.given:
            raise WorkerLost(LossReason.STATE_MISMATCH, error.message) from error
        raise


async def _send(call: grpc.aio.StreamStreamCall[RequestT, Any], requests: AsyncGenerator[RequestT]) -> None:
    try:
        async with aclosing(requests):
            async for request in requests:
                await call.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return  # the call has ended; the reader raises its status
    except Exception:
        call.cancel()  # a defect on this side; the reader raises it
        raise


async def _responses(
    messages: AsyncIterator[ResponseT], sender: asyncio.Task[None], watch: ProgressWatch
) -> AsyncGenerator[ResponseT]:
    silence = _SilenceCheck(watch)
    try:
        while (response := await _next(messages, sender, silence)) is not None:
            watch.receive()
            if response.WhichOneof("response") == "heartbeat":
                watch.beat(response.heartbeat)
            else:
                yield response
                watch.progress()  # after the yield, because time that our own reader takes is not the worker's
    except grpc.aio.AioRpcError as error:
        raise lost_or_refused(error) from error
    finally:
        silence.close()


async def _next(
    messages: AsyncIterator[ResponseT], sender: asyncio.Task[None], silence: _SilenceCheck
) -> ResponseT | None:
    """Return the next message, or None at the end. Raises WorkerLost when the worker is silent and may be given up."""
    # The message is awaited here and a timer checks the silence: a task per message would cost more than the message.
    task = _current_task()
    cancels = task.cancelling()
    silence.begin(task)
    try:
        return await anext(messages, None)
    except asyncio.CancelledError:
        if silence.loss is not None and task.uncancel() <= cancels:
            raise silence.loss from None
        if task.cancelling() > cancels:
            raise
        if sender.done() and not sender.cancelled():
            sender.result()
        raise WorkerLost(LossReason.DIED, "this side closed the connection") from None
    finally:
        silence.end()


class _SilenceCheck:
    """Cancels the task that waits for a worker's message when the worker is given up; `loss` is the reason then.

    One timer serves the whole stream. A message does not move it: if it is early, it is set again for the rest.
    """

    def __init__(self, watch: ProgressWatch) -> None:
        self.loss: Exception | None = None
        self._watch = watch
        self._task: asyncio.Task[Any] | None = None
        """The task that waits; None between two messages."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._watch.await_message()
        if self._timer is None:
            self._set_timer()

    def end(self) -> None:
        self._task = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._watch.check_silence(), self._check)

    def _check(self) -> None:
        self._timer = None
        if self._task is None:
            return  # the next wait sets the timer again
        try:
            self._set_timer()
        except Exception as error:  # noqa: BLE001 - a defect must reach the reader too
            self.loss = error
            self._task.cancel()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a stream is read in a task")
    return task


def lost_or_refused(error: grpc.aio.AioRpcError) -> Exception:
    """Return the error to raise for a failed stream: WorkerLost if another worker could take over, otherwise the
    worker's own error."""
    sent, code = from_rpc_error(error), error.code()
    answered = rpc_status.from_call(cast(grpc.Call, error)) is not None  # a broken connection carries no status of ours
    if isinstance(sent, Overloaded):
        return WorkerLost(LossReason.FULL, sent.message, sent.retry_after, sent.stage)
    if isinstance(sent, StateMismatch):
        return WorkerLost(LossReason.STATE_MISMATCH, sent.message, sent.retry_after)
    if answered and code is grpc.StatusCode.INTERNAL and isinstance(sent, Internal) and not sent.repeated:
        return WorkerLost(LossReason.FAILED, sent.message, sent.retry_after)
    if answered and code is grpc.StatusCode.UNAVAILABLE:
        return WorkerLost(LossReason.REFUSED, sent.message, sent.retry_after)
    if not answered and code in _BROKEN:
        return WorkerLost(LossReason.DIED, sent.message, sent.retry_after)
    return sent
