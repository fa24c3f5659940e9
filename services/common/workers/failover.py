"""How one stream outlives its workers: when a worker has lost it, which one is next, and when to give up.

The same policy serves gateway → llm and llm → decode. `Losses` keeps a stream's account, `worker_call`
talks to one worker of it.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import structlog
from prometheus_client import Counter

from services.common.errors import Overloaded, Unavailable
from services.common.pool import FailureReason, Lease, Pool, WorkerState
from services.common.workers.budget import FailoverBudget

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


_NOT_NOW = {LossReason.FULL, LossReason.REFUSED}
"""What a worker says that lives: the stream does not ask it again before another one has spoken."""
_FAILURES = {
    LossReason.DIED: FailureReason.DIED,
    LossReason.SILENT: FailureReason.STALLED,
    LossReason.STALLED: FailureReason.STALLED,
    LossReason.BROKE_PROTOCOL: FailureReason.INVALID,
}
"""What the pool should hear of it. A worker that answers has not failed; its health or its next answer tells."""


def moves_counter(name: str, stage: str) -> Counter:
    """Counts streams that lost their `stage` worker, by `reason` and `outcome`: moved to another one, or failed.

    All its series exist from the beginning: an alert cannot see a counter grow that appears with its first event.
    """
    text = f"Utterances that lost their {stage} worker, by reason and outcome: moved to another one, or failed."
    counter = Counter(name, text, ["reason", "outcome"])
    for reason, outcome in itertools.product(LossReason, ("moved", "failed")):
        counter.labels(reason.value, outcome)
    return counter


class Failover:
    """The workers that lost one stream, and the next one to try.

    losses = Losses(pool, policy, "decode", MOVES, suspects)
    async with losses.lease() as worker:
        try:
            ...  # and `losses.taken()` once the worker has begun
        except WorkerLost as loss:
            losses.note(worker, loss)
    """

    def __init__(self, pool: Pool, policy: MovePolicy, stage: str, moves: Counter, suspects: FailoverBudget) -> None:
        """
        Args:
            pool: where the workers are.
            policy: when one has lost the stream.
            stage: short name of the workers in errors and logs.
            moves: from `moves_counter`.
            suspects: shared by all streams of this process to the pool.
        """
        self.policy = policy
        self._pool = pool
        self._stage = stage
        self._moves = moves
        self._suspects = suspects
        self._lost: dict[str, LossReason] = {}
        """By address; the latest reason of each."""
        self._pending: list[LossReason] = []
        """Since a worker took the stream last."""
        self._begun = False
        self._count = 0
        self._last: Unavailable | None = None
        """Why the last worker lost it."""

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Lease]:
        """The next worker to try. Raises Overloaded when all are full, Unavailable when there is none."""
        reasons = set(self._lost.values())
        # A worker that lost the stream is tried again only where no other serves, once its health has come back.
        again = not self.others_serve()
        exclude = [address for address, reason in self._lost.items() if reason in _NOT_NOW or not again]
        async with AsyncExitStack() as stack:
            try:
                # What the workers answered tells more than a vain wait for another one.
                wait_seconds = 0 if reasons and reasons <= _NOT_NOW else None
                lease = self._pool.lease(exclude=exclude, wait_seconds=wait_seconds)
                worker = await stack.enter_async_context(lease)
            except Unavailable as error:
                self._settle("failed")
                if reasons == {LossReason.FULL}:
                    raise Overloaded(f"every {self._stage} worker is full; try again shortly") from error
                raise self._last or error from error
            yield worker

    def others_serve(self, besides: Lease | None = None) -> bool:
        """Whether a worker serves that has not lost the stream, `besides` the one named."""
        known = {*self._lost, besides.address} if besides is not None else self._lost.keys()
        return any(
            worker.state is WorkerState.SERVING and worker.address not in known for worker in self._pool.workers()
        )

    def may_suspect(self, worker: Lease) -> bool:
        """Whether the stream may leave a worker that merely seems to have failed."""
        return self._suspects.suspect(worker.address, len(self._pool.workers()))

    def taken(self) -> LossReason | None:
        """A worker has begun. Returns why the one that had begun before lost the stream; None when it is the first."""
        reason = self._pending[0] if self._pending and self._begun else None
        self._begun = True
        self._settle("moved")
        return reason

    def heard(self) -> None:
        """Audio came: a worker that was full at the time may be asked again if this one is lost too."""
        self._lost = {address: reason for address, reason in self._lost.items() if reason not in _NOT_NOW}

    def note(self, worker: Lease, loss: WorkerLost) -> None:
        """Counts a loss and tells the pool. Raises Unavailable when the stream has moved too often."""
        self._lost[worker.address] = loss.reason
        self._pending.append(loss.reason)
        said = loss.said or f"the {self._stage} worker was lost ({loss.reason.value}); try again"
        self._last = Unavailable(said, retry_after=loss.retry_after)
        self._count += loss.reason is not LossReason.FULL
        if loss.reason in _FAILURES:
            worker.report_failure(_FAILURES[loss.reason])
        log.warning(
            "worker lost a stream", stage=self._stage, peer=worker.address, reason=loss.reason.value, said=loss.said
        )
        if self._count > self.policy.max_moves:
            self._settle("failed")
            raise Unavailable(f"{self._count} {self._stage} workers lost this utterance; {said}", retry_after=1.0)

    def _settle(self, outcome: str) -> None:
        for reason in self._pending:
            self._moves.labels(reason.value, outcome).inc()
        self._pending.clear()
