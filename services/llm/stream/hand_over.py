"""A draining decode worker is left only for a worker that accepts the utterance as it is.

In a rolling upgrade of weights or code, the workers that replace a draining one may refuse its resume records. If no
worker accepts the utterance, the draining one speaks it on until its grace ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.common.errors import LightTtsError, Unavailable
from services.common.pool import Lease
from services.common.workers.failover import Failover, LossReason, WorkerLost


class HandOver:
    """Offers one stream to other workers, while the draining one continues it."""

    def __init__(
        self,
        failover: Failover,
        current: Lease,
        offer: Callable[[Lease], Awaitable[None]],
        leave: Callable[[], object],
    ) -> None:
        """
        Args:
            failover: of the stream.
            current: the draining worker.
            offer: opens the stream on a worker and returns when that one accepts it. Raises WorkerLost or the worker's
                refusal otherwise.
            leave: called once a worker has accepted the stream; it ends the call to `current`.
        """
        self.accepted = False
        self._failover = failover
        self._current = current
        self._offer = offer
        self._leave = leave
        self._offers: asyncio.Task[None] | None = None

    def seek(self) -> None:
        """Start to offer the stream to the workers that have not refused it, unless this is under way."""
        if not self.accepted and (self._offers is None or self._offers.done()):
            self._offers = asyncio.create_task(self._offer_to_all())

    async def close(self) -> None:
        if self._offers is not None:
            self._offers.cancel()
            await asyncio.wait({self._offers})

    async def _offer_to_all(self) -> None:
        while True:
            try:
                async with self._failover.lease_other(self._current) as worker:
                    self.accepted = await self._accepts(worker)
            except Unavailable:  # no further worker serves
                return
            if self.accepted:
                self._leave()
                return

    async def _accepts(self, worker: Lease) -> bool:
        try:
            await self._offer(worker)
        except WorkerLost as loss:
            self._failover.record_refusal(worker, loss)
        except LightTtsError as error:
            self._failover.record_refusal(worker, WorkerLost(LossReason.REFUSED, error.message))
        else:
            return True
        return False


@asynccontextmanager
async def handing_over(
    failover: Failover, current: Lease, offer: Callable[[Lease], Awaitable[None]], leave: Callable[[], object]
) -> AsyncGenerator[HandOver]:
    """Yield a HandOver for a block that serves the stream on `current`; its arguments are those of HandOver.

    If a worker has accepted the stream, the end of the call to `current` is raised as WorkerLost because of a drain.
    """
    hand_over = HandOver(failover, current, offer, leave)
    try:
        yield hand_over
    except WorkerLost as loss:
        if hand_over.accepted:
            raise WorkerLost(LossReason.DRAINING) from loss
        raise
    finally:
        await hand_over.close()
