"""One worker of a pool: its channel, its health, the leases on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum

import grpc.aio
import structlog

from services.common.pool.health import Health, watch_health
from services.common.pool.metrics import WorkerSeries

log = structlog.get_logger(__name__)

LONGEST_EJECTION_SECONDS = 30.0


class WorkerState(StrEnum):
    """Why a worker may be given leases (SERVING) or not (all others)."""

    CONNECTING = "connecting"
    """Its health has not been heard yet."""
    SERVING = "serving"
    NOT_SERVING = "not serving"
    """It says so itself: loading or draining. Leases on it go on."""
    UNREACHABLE = "unreachable"
    """Its connection is lost; the channel keeps trying."""
    EJECTED = "ejected"
    """It says SERVING, but a lease reported a failure a short while ago."""
    REMOVED = "removed"
    """Discovery lists it no more; leases on it go on."""


class FailureReason(StrEnum):
    """What went wrong with a worker, as metrics count it."""

    UNREACHABLE = "unreachable"
    """The health watch lost it; counted by the pool itself."""
    DIED = "died"
    """A stream broke."""
    STALLED = "stalled"
    """A stream made no progress within its budget."""
    REFUSED = "refused"
    """It would not take a stream although it says SERVING."""
    INVALID = "invalid"
    """Its answer broke the protocol."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker at one moment."""

    address: str
    state: WorkerState
    active: int
    """Leases held now."""
    leases: int
    """Leases given in all."""
    failures: int


class Worker:
    """A worker the pool knows. `on_change` is called when it may have become, or ceased to be, `pickable`."""

    def __init__(
        self,
        pool: str,
        address: str,
        channel: grpc.aio.Channel,
        service: str,
        ejection_seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        self.address = address
        self.channel = channel
        self.generation = 0
        """Of the credentials that `channel` was dialled with."""
        self._before: dict[grpc.aio.Channel, int] = {}
        """Channels dialled before that one, and the leases on each."""
        self.active = 0
        self.listed = False
        self._leases = 0
        self._failures = 0
        self._service = service
        self._on_change = on_change
        self._health: Health | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ejection: asyncio.TimerHandle | None = None
        self._first_ejection_seconds = ejection_seconds
        self._next_ejection_seconds = ejection_seconds
        self._forgiven_at = 0.0
        self._series = WorkerSeries(pool, address)
        self._log = log.bind(pool=pool, peer=address)

    @property
    def state(self) -> WorkerState:
        if not self.listed:
            return WorkerState.REMOVED
        if self._health is None:
            return WorkerState.CONNECTING
        if not self._health.reachable:
            return WorkerState.UNREACHABLE
        if not self._health.serving:
            return WorkerState.NOT_SERVING
        return WorkerState.SERVING if self._ejection is None else WorkerState.EJECTED

    @property
    def pickable(self) -> bool:
        return self.state is WorkerState.SERVING

    def info(self) -> WorkerInfo:
        return WorkerInfo(self.address, self.state, self.active, self._leases, self._failures)

    def enlist(self) -> None:
        """Starts watching its health; it is pickable from its first SERVING on."""
        self.listed = True
        self._health = None
        self._start_watch()
        self._changed()

    def _start_watch(self) -> None:
        self._watch = asyncio.create_task(self._watch_health(), name=f"health of {self.address}")
        self._watch.add_done_callback(self._watch_ended)

    def delist(self) -> None:
        """No longer pickable, health no longer watched; the channel stays for the leases on it."""
        self.listed = False
        self._end_ejection()
        if self._watch is not None:
            self._watch.cancel()
        self._changed()

    def forget(self) -> None:
        """Ends its series; to be followed by `close`."""
        self._series.remove()

    async def close(self) -> None:
        """Closes the channel of a delisted worker; RPCs that still run on it are cancelled."""
        if self._watch is not None:
            await asyncio.wait([self._watch])
        for channel in (self.channel, *self._before):
            await channel.close()

    def redial(self, channel: grpc.aio.Channel, generation: int) -> None:
        """Leases from now on, and the health watch, use `channel`; leases there are keep theirs."""
        self._before[self.channel] = self.active - sum(self._before.values())
        self.channel, self.generation = channel, generation
        if self._watch is not None:
            self._watch.cancel()
        self._start_watch()

    def take_unused(self) -> list[grpc.aio.Channel]:
        """Channels of before that no lease needs any more, for the caller to close."""
        unused = [channel for channel, leases in self._before.items() if not leases]
        for channel in unused:
            del self._before[channel]
        return unused

    def begin_lease(self) -> None:
        """The lease is on `channel` as it is now."""
        self.active += 1
        self._leases += 1
        self._series.active.inc()
        self._series.leases.inc()

    def end_lease(self, channel: grpc.aio.Channel) -> None:
        """`channel`: what the lease was on."""
        self.active -= 1
        if channel in self._before:
            self._before[channel] -= 1
        self._series.active.dec()

    def eject(self, reason: FailureReason) -> None:
        """Counts a failure and keeps the worker out of the picks for a while, twice as long as the last time.

        It is forgiven, and the time starts small again, when its health turns to SERVING anew (a restart) or when no
        failure followed for the longest ejection.
        """
        self._count_failure(reason)
        if not self.listed or self._ejection is not None:  # many streams fail at once when their worker does
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._forgiven_at:
            self._next_ejection_seconds = self._first_ejection_seconds
        seconds = self._next_ejection_seconds
        self._next_ejection_seconds = min(2 * seconds, LONGEST_EJECTION_SECONDS)
        self._forgiven_at = loop.time() + seconds + LONGEST_EJECTION_SECONDS
        self._ejection = loop.call_later(seconds, self._readmit)
        self._log.warning("worker ejected", reason=reason.value, seconds=seconds)
        self._changed()

    def _readmit(self) -> None:
        self._ejection = None
        self._changed()

    def _end_ejection(self) -> None:
        if self._ejection is not None:
            self._ejection.cancel()
            self._ejection = None

    async def _watch_health(self) -> None:
        async with aclosing(watch_health(self.channel, self._service)) as changes:
            async for health in changes:
                self._note(health)

    def _watch_ended(self, watch: asyncio.Task[None]) -> None:
        """A watch goes on until it is cancelled; should it fail by a defect, the worker must not stay SERVING."""
        if not watch.cancelled() and (defect := watch.exception()) is not None:
            self._log.error("health watch failed", exc_info=defect)
            self._note(Health(reachable=False, serving=False, detail=f"health watch failed: {defect!r}"))

    def _note(self, health: Health) -> None:
        self._health = health
        if health.serving:
            self._end_ejection()
            self._forgiven_at = 0.0
            self._log.info("worker serving")
        else:
            self._log.warning("worker not serving", reason=health.detail)
        if not health.reachable:
            self._count_failure(FailureReason.UNREACHABLE)
        self._changed()

    def _count_failure(self, reason: FailureReason) -> None:
        self._failures += 1
        self._series.failed(reason.value)

    def _changed(self) -> None:
        self._series.healthy.set(self.pickable)
        self._on_change()
