"""Failover of one stream: which worker to try after a loss, and when to give up.

The gateway uses it towards llm, llm towards decode. `Failover` records the losses of a stream; `worker_call` runs the
stream on one worker.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import structlog
from prometheus_client import Counter, Gauge

from services.common.errors import Internal, Overloaded, StateMismatch, Unavailable
from services.common.pool import FailureReason, Lease, Pool
from services.common.workers.budget import FailoverBudget
from services.common.workers.liveness import FreezeDetector

log = structlog.get_logger(__name__)


class LossReason(StrEnum):
    """Why a stream left a worker, as metrics count it."""

    DIED = "died"
    SILENT = "silent"
    STALLED = "stalled"
    BROKE_PROTOCOL = "broke protocol"
    REFUSED = "refused"
    """It is alive and answered that it cannot serve: it is draining, or has no worker behind it."""
    FULL = "full"
    FAILED = "failed"
    """It answered INTERNAL. A stream moves once for this reason; a second worker that fails shows that the request is
    the cause."""
    STATE_MISMATCH = "state mismatch"
    """It has other weights, or does not read this version of the state to resume from."""
    DRAINING = "draining"


class WorkerLost(Exception):
    """This worker will not finish the stream; another one may."""

    def __init__(self, reason: LossReason, detail: str = "", retry_after: float | None = 1.0, stage: str = "") -> None:
        super().__init__(detail or reason.value)
        self.reason = reason
        self.detail = detail
        """The worker's error message, or what it did wrong; may be empty."""
        self.retry_after = retry_after
        self.stage = stage
        """With FULL: the service that is full, if the worker named it. It may be a service behind the worker."""


@dataclass(frozen=True)
class MovePolicy:
    """When a stream gives a worker up, and how often that may happen."""

    silence_seconds: float = 3.0
    """Longest time without any message before the worker counts as frozen."""
    stall_seconds: float = 15.0
    """Longest time with heartbeats but without an engine step before the engine counts as hung."""
    max_moves: int = 3
    """Moves one stream may make before it fails. Workers that were full, have other weights or drain do not count, nor
    does the one move after an internal error."""
    patience_seconds: float = 30.0
    """Longest time that a stream of an admitted session waits in line for a worker before it fails."""
    frozen_seconds: float = 0.3
    """Shortest time without any message after which a worker counts as frozen if the other workers of the pool answer
    and it does not; 0 if only `silence_seconds` counts."""


_NOT_NOW = {LossReason.FULL, LossReason.REFUSED}
"""Answers of a live worker. The stream does not try the worker again until another worker has delivered audio."""
_NOT_MOVES = {LossReason.FULL, LossReason.FAILED, LossReason.STATE_MISMATCH, LossReason.DRAINING}
"""Losses that do not count against `max_moves`; each has a bound of its own."""
WAITING_IN_LINE = Gauge(
    "lighttts_streams_waiting_in_line", "Streams of admitted sessions that wait for a place at a worker.", ["stage"]
)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
"""Pauses between two attempts of a stream that waits in line; each pause is twice as long as the one before."""
_FAILURES = {
    LossReason.DIED: FailureReason.DIED,
    LossReason.SILENT: FailureReason.STALLED,
    LossReason.STALLED: FailureReason.STALLED,
    LossReason.BROKE_PROTOCOL: FailureReason.INVALID,
}
"""What to report to the pool. A worker that refuses has not failed: its health or its next answer shows its state."""


def moves_counter(name: str, stage: str) -> Counter:
    """Make the counter of streams that lost their `stage` worker, by `reason` and `outcome` (moved or failed).

    All series exist from the start, because an alert cannot see an increase in a series that appears with its first
    event.
    """
    text = f"Utterances that lost their {stage} worker, by reason and outcome: moved to another one, or failed."
    counter = Counter(name, text, ["reason", "outcome"])
    for reason, outcome in itertools.product(LossReason, ("moved", "failed")):
        counter.labels(reason.value, outcome)
    WAITING_IN_LINE.labels(stage)
    return counter


class Failover:
    """The workers that lost one stream, and the next one to try.

    failover = Failover(pool, policy, "decode", MOVES, budget)
    async with failover.lease() as worker:
        try:
            ...  # call `failover.on_accepted()` when the worker accepts, `failover.on_audio()` for its audio and
            # `failover.on_finished()` after the last audio
        except WorkerLost as loss:
            failover.record_loss(worker, loss)
    """

    def __init__(
        self,
        pool: Pool,
        policy: MovePolicy,
        stage: str,
        moves: Counter,
        budget: FailoverBudget,
        *,
        admitted: bool = False,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """
        Args:
            pool: the workers.
            policy: limits of this stream.
            stage: short name of the workers' service in errors and logs.
            moves: from `moves_counter`.
            budget: shared by all streams of this process to the pool.
            admitted: whether the stream's session was admitted before. Such a stream waits in line where a stream of a
                new session is refused. A stream counts as admitted as soon as a worker has accepted it.
            clock: returns seconds.
            pause: waits for a number of seconds.
        """
        self.policy = policy
        self._pool = pool
        self._stage = stage
        self._moves = moves
        self._budget = budget
        self._lost: dict[str, LossReason] = {}
        """The latest reason, by address."""
        self._failed: Lease | None = None
        """The worker that answered INTERNAL."""
        self._current: Lease | None = None
        self._pending: list[LossReason] = []
        """Losses since a worker last accepted the stream."""
        self._accepted = False
        self._admitted = admitted
        self._clock = clock
        self._pause = pause
        self._waits_since: float | None = None
        self._attempts = 0
        """Attempts to wait in line since a worker last accepted the stream."""
        self._count = 0
        self._last: Unavailable | None = None
        """The error of the last loss."""

    @property
    def admitted(self) -> bool:
        """Whether the stream waits in line instead of being refused."""
        return self._admitted

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Lease]:
        """Lease the next worker to try. Raises Overloaded when all are full, Unavailable when there is none.

        A stream of an admitted session waits up to the policy's patience before either is raised.
        """
        async with AsyncExitStack() as stack:
            worker: Lease | None = None
            while worker is None:
                try:
                    worker = await self._next_worker(stack)
                except (Overloaded, Unavailable):
                    if self._mismatches_everywhere() or not await self._wait_in_line():
                        self._count_outcome("failed")
                        raise
            self._current = worker
            yield worker

    async def _next_worker(self, stack: AsyncExitStack) -> Lease:
        reasons = set(self._lost.values())
        # A worker that lost the stream is tried again only if no other worker serves, after its health has recovered.
        retry_lost = not self.others_serve()
        exclude = [
            address
            for address, reason in self._lost.items()
            if reason in _NOT_NOW or reason is LossReason.STATE_MISMATCH or not retry_lost
        ]
        if self._failed is not None and self._serving({self._failed.address}):
            exclude.append(self._failed.address)  # also if the others are full, because a second failure is the last
        # If all losses are refusals, return the workers' answer at once instead of waiting for another worker.
        answered = bool(reasons) and reasons <= {*_NOT_NOW, LossReason.STATE_MISMATCH}
        wait_seconds = 0 if answered or self._mismatches_everywhere() else None
        try:
            return await stack.enter_async_context(self._pool.lease(exclude=exclude, wait_seconds=wait_seconds))
        except Unavailable as error:
            if self._mismatches_everywhere():
                raise StateMismatch(
                    f"the {self._stage} workers that serve have other weights or another version than the one that"
                    " began this utterance; send its text again",
                    retry_after=1.0,
                ) from error
            if reasons == {LossReason.FULL}:
                raise self._overloaded(self._stage) from error
            raise self._last or error from error

    async def _wait_in_line(self) -> bool:
        """Pause before the next attempt; return false if the stream must not wait (any longer)."""
        if not self._admitted:
            return False
        now = self._clock()
        self._waits_since = now if self._waits_since is None else self._waits_since
        if now - self._waits_since >= self.policy.patience_seconds:
            return False
        with WAITING_IN_LINE.labels(self._stage).track_inprogress():
            await self._pause(min(FIRST_PAUSE_SECONDS * 2**self._attempts, LONGEST_PAUSE_SECONDS))
        self._attempts += 1
        self._clear_refusals()
        return True

    @asynccontextmanager
    async def lease_other(self, current: Lease) -> AsyncGenerator[Lease]:
        """Lease a worker other than `current` that has not lost the stream. Raises Unavailable at once without one."""
        async with self._pool.lease(exclude={*self._lost, current.address}, wait_seconds=0) as worker:
            yield worker

    def record_refusal(self, worker: Lease, loss: WorkerLost) -> None:
        """Record that a worker other than the current one did not accept the stream, which continues where it is."""
        self._lost[worker.address] = loss.reason
        if loss.reason in _FAILURES:
            worker.report_failure(_FAILURES[loss.reason])
        log.info(
            "worker refused a stream",
            stage=self._stage,
            peer=worker.address,
            reason=loss.reason.value,
            detail=loss.detail,
        )

    @staticmethod
    def _overloaded(stage: str) -> Overloaded:
        return Overloaded(f"every {stage} worker is full; try again shortly", stage=stage)

    def others_serve(self, current: Lease | None = None) -> bool:
        """Return whether a worker other than `current` serves that has not lost the stream."""
        return self._serving({*self._lost} if current is None else {*self._lost, current.address})

    def _serving(self, without: set[str]) -> bool:
        """Return whether a worker serves that is not one of `without`."""
        return any(address not in without for address in self._pool.serving())

    def _mismatches_everywhere(self) -> bool:
        """Return whether workers refused the state to resume from, and no other worker serves."""
        mismatched = {address for address, reason in self._lost.items() if reason is LossReason.STATE_MISMATCH}
        return bool(mismatched) and not self._serving(mismatched)

    def may_give_up(self, worker: Lease, proven: bool = False) -> bool:
        """Return whether the stream may leave a worker that seems to have failed; `proven`: that is frozen."""
        return self._budget.may_give_up(worker.address, len(self._pool.workers()), proven=proven)

    def freeze_detector(self, worker: Lease) -> FreezeDetector | None:
        """Return the watch for a freeze of this worker, or None if the policy has none."""
        if not self.policy.frozen_seconds:
            return None

        def others() -> list[str]:
            return [address for address in self._pool.serving() if address != worker.address]

        return FreezeDetector(
            self._budget.liveness, worker.address, self.policy.frozen_seconds, others, self._pool.probe, self._clock
        )

    def on_accepted(self) -> LossReason | None:
        """Mark the stream as accepted. Returns why the previous worker lost it, or None for the first worker."""
        reason = self._pending[0] if self._pending and self._accepted else None
        self._accepted = self._admitted = True
        self._waits_since, self._attempts = None, 0
        self._count_outcome("moved")
        return reason

    def on_audio(self) -> None:
        """Allow workers that refused the stream to be tried again, because another worker has delivered audio."""
        self._clear_refusals()

    def on_finished(self) -> None:
        """Record that the current worker delivered the last audio.

        If another worker failed before on this utterance, the failure was that worker's. It is ejected when utterances
        of different requests failed there.
        """
        failed, current = self._failed, self._current
        if failed is None or current is None or failed.address == current.address:
            return
        if self._budget.failures.add(failed.address):
            failed.report_failure(FailureReason.FAILED)

    def on_restart(self) -> None:
        """Allow workers that refused the state to be tried again, because the stream starts without it."""
        self._lost = {
            address: reason for address, reason in self._lost.items() if reason is not LossReason.STATE_MISMATCH
        }

    def _clear_refusals(self) -> None:
        self._lost = {address: reason for address, reason in self._lost.items() if reason not in _NOT_NOW}

    def record_loss(self, worker: Lease, loss: WorkerLost) -> None:
        """Count a loss and report it to the pool.

        Raises Unavailable when the stream has moved too often. Raises Internal when a second worker fails: the failure
        follows the request, and callers do not move it again. Raises Overloaded when the session is new and a service
        behind the worker is full, because all workers of a stage use the same service behind them.
        """
        self._lost[worker.address] = loss.reason
        self._pending.append(loss.reason)
        detail = loss.detail if loss.reason is not LossReason.DIED else ""  # then it has gRPC's words, for the log only
        detail = detail or f"the {self._stage} worker was lost ({loss.reason.value}); try again"
        self._last = Unavailable(detail, retry_after=loss.retry_after)
        waits = self._admitted and loss.reason in _NOT_NOW  # in line, where no attempt counts as a move
        self._count += loss.reason not in _NOT_MOVES and not waits
        if loss.reason in _FAILURES:
            worker.report_failure(_FAILURES[loss.reason])
        report = log.debug if waits else log.warning  # a stream in line makes many attempts
        report(
            "worker lost a stream", stage=self._stage, peer=worker.address, reason=loss.reason.value, detail=loss.detail
        )
        if loss.reason is LossReason.FAILED:
            if self._failed is not None:
                self._count_outcome("failed")
                raise Internal(detail, repeated=True)
            self._failed = worker
        if loss.reason is LossReason.FULL and loss.stage not in ("", self._stage) and not self._admitted:
            self._count_outcome("failed")
            raise Overloaded(loss.detail, retry_after=loss.retry_after, stage=loss.stage)
        if loss.reason is LossReason.REFUSED and not self._admitted and not self._pool.serves_end_to_end:
            self._count_outcome("failed")  # a service behind the worker is away; at each other one it is awaited again
            raise self._last
        if self._count > self.policy.max_moves:
            self._count_outcome("failed")
            raise Unavailable(f"{self._count} {self._stage} workers lost this utterance; {detail}", retry_after=1.0)

    def _count_outcome(self, outcome: str) -> None:
        for reason in self._pending:
            self._moves.labels(reason.value, outcome).inc()
        self._pending.clear()
