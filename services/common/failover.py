"""How one stream outlives its workers: when a worker has lost it, which one is next, and when to give up."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import grpc
import grpc.aio
import structlog
from grpc_status import rpc_status

from services.common.errors import Overloaded, Unavailable, from_rpc_error
from services.common.pool import FailureReason, Lease, Pool, WorkerState

log = structlog.get_logger(__name__)


class LossReason(StrEnum):
    """Why a stream left a worker, as metrics count it."""

    DIED = "died"
    SILENT = "silent"
    STALLED = "stalled"
    BROKE_PROTOCOL = "broke protocol"
    REFUSED = "refused"
    """It lives and said that it cannot serve: draining, or nothing behind it."""
    FULL = "full"
    DRAINING = "draining"


class WorkerLost(Exception):
    """This worker will not finish the stream; another one may."""

    def __init__(self, reason: LossReason, said: str = "", retry_after: float | None = 1.0) -> None:
        super().__init__(said or reason.value)
        self.reason = reason
        self.said = said
        """The worker's own words, if it had any."""
        self.retry_after = retry_after


@dataclass(frozen=True)
class MovePolicy:
    """When a worker has lost a stream, and how often that may happen."""

    silence_seconds: float = 3.0
    """Without any message for so long, a worker is taken for frozen."""
    stall_seconds: float = 15.0
    """With heartbeats but no engine step for so long, its engine is taken for hung."""
    max_moves: int = 3
    """Moves one stream may make before it fails; workers that were full do not count."""


class ProgressWatch:
    """Tells a slow worker from a failed one by its heartbeats: only a step count that stands still means failure."""

    def __init__(self, policy: MovePolicy) -> None:
        self._policy = policy
        self._steps = -1
        self._progress_at = time.monotonic()

    @property
    def silence_seconds(self) -> float:
        return self._policy.silence_seconds

    def progress(self) -> None:
        """A message came and was dealt with: the worker is alive whatever its count says."""
        self._progress_at = time.monotonic()

    def beat(self, steps: int, *, owes_nothing: bool) -> None:
        """Raises WorkerLost when the engine owes us work and has not stepped for too long."""
        if steps != self._steps or owes_nothing:
            self._steps = steps
            self._progress_at = time.monotonic()
        elif time.monotonic() - self._progress_at > self._policy.stall_seconds:
            raise WorkerLost(LossReason.STALLED)


# Statuses that say more about the worker than about the stream: another worker may do better.
_ELSEWHERE = {
    grpc.StatusCode.UNAVAILABLE: LossReason.DIED,
    grpc.StatusCode.CANCELLED: LossReason.DIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LossReason.FULL,
}
_NOT_AGAIN = {LossReason.FULL, LossReason.REFUSED}
# What the pool should hear of it. A worker that answers has not failed; its health or its next answer tells.
_FAILURES = {
    LossReason.DIED: FailureReason.DIED,
    LossReason.SILENT: FailureReason.STALLED,
    LossReason.STALLED: FailureReason.STALLED,
    LossReason.BROKE_PROTOCOL: FailureReason.INVALID,
}


def lost_or_refused(error: grpc.aio.AioRpcError) -> Exception:
    """What to raise for a failed stream: WorkerLost where another worker may do better, else what the worker meant."""
    meant, reason = from_rpc_error(error), _ELSEWHERE.get(error.code())
    if reason is None:
        return meant
    if reason is LossReason.DIED and rpc_status.from_call(cast(grpc.Call, error)) is not None:
        reason = LossReason.REFUSED  # a broken connection brings no status of ours
    return WorkerLost(reason, meant.message, meant.retry_after)


class Losses:
    """The workers that lost one stream, and the next one to try."""

    def __init__(self, pool: Pool, policy: MovePolicy, stage: str) -> None:
        """`stage`: short name of the workers in errors and logs."""
        self._pool = pool
        self._policy = policy
        self._stage = stage
        self._lost: dict[str, LossReason] = {}
        self._moves = 0
        self._last: Unavailable | None = None
        """Why the last worker lost it."""

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Lease]:
        """The next worker to try. Raises Overloaded when all are full, Unavailable when there is none."""
        reasons = set(self._lost.values())
        # A worker that lost the stream is tried again only where no other serves, once its health has come back.
        again = not self._others_serve()
        exclude = [address for address, reason in self._lost.items() if reason in _NOT_AGAIN or not again]
        async with AsyncExitStack() as stack:
            try:
                # What the workers answered tells more than a vain wait for another one.
                wait_seconds = 0 if reasons and reasons <= _NOT_AGAIN else None
                lease = self._pool.lease(exclude=exclude, wait_seconds=wait_seconds)
                worker = await stack.enter_async_context(lease)
            except Unavailable as error:
                if reasons == {LossReason.FULL}:
                    raise Overloaded(f"every {self._stage} worker is full; try again shortly") from error
                raise self._last or error from error
            yield worker

    def _others_serve(self) -> bool:
        return any(
            worker.state is WorkerState.SERVING and worker.address not in self._lost for worker in self._pool.workers()
        )

    def note(self, worker: Lease, loss: WorkerLost) -> None:
        """Counts a loss and tells the pool. Raises Unavailable when the stream has moved too often."""
        self._lost[worker.address] = loss.reason
        said = loss.said or f"the {self._stage} worker was lost ({loss.reason.value}); try again"
        self._last = Unavailable(said, retry_after=loss.retry_after)
        self._moves += loss.reason is not LossReason.FULL
        if loss.reason in _FAILURES:
            worker.report_failure(_FAILURES[loss.reason])
        log.warning(
            "worker lost a stream", stage=self._stage, peer=worker.address, reason=loss.reason.value, said=loss.said
        )
        if self._moves > self._policy.max_moves:
            raise Unavailable(f"{self._moves} {self._stage} workers lost this stream; {said}", retry_after=1.0)
