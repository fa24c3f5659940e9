"""One worker of a pool: its channel, its health and its leases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import grpc.aio
import structlog

from services.common.pool.health import Health, Watch, watch_health
from services.common.pool.metrics import WorkerSeries

log = structlog.get_logger(__name__)

LONGEST_EJECTION_SECONDS = 30.0


class WorkerState(StrEnum):
    """Whether a worker can be leased (SERVING), or why not (all others)."""

    CONNECTING = "connecting"
    """Its health is not known yet."""
    SERVING = "serving"
    NOT_SERVING = "not serving"
    """It reports this: it is loading or draining. Its leases continue."""
    UNREACHABLE = "unreachable"
    """Its connection is lost; the channel keeps trying."""
    EJECTED = "ejected"
    """It reports SERVING, but a lease reported a failure a short time ago."""
    REMOVED = "removed"
    """Discovery no longer lists it; its leases continue."""


class FailureReason(StrEnum):
    """The failures of workers that metrics count."""

    UNREACHABLE = "unreachable"
    """The health watch lost the connection; the pool counts this itself."""
    DIED = "died"
    """A stream broke."""
    STALLED = "stalled"
    """A stream made no progress within its budget."""
    REFUSED = "refused"
    """It refused a stream although it reports SERVING."""
    FAILED = "failed"
    """Different requests failed with an internal error, and other workers completed them."""
    INVALID = "invalid"
    """Its response violated the protocol."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A snapshot of a worker."""

    address: str
    state: WorkerState
    active: int
    """Leases in use."""
    leases: int
    """Leases given since it was added."""
    failures: int
    end_to_end: bool = True
    """It can be leased, and does not report that the services behind it cannot serve."""


class Worker:
    """A worker of the pool. `on_change` is called when its `pickable` may have changed."""

    def __init__(
        self,
        pool: str,
        address: str,
        channel: grpc.aio.Channel,
        service: str,
        ejection_seconds: float,
        on_change: Callable[[], None],
        end_to_end: str = "",
    ) -> None:
        """`end_to_end` names the health service for the services behind this worker; empty if there are none."""
        self.address = address
        self.channel = channel
        self.watch_health: Watch = watch_health
        """Yields the changes of its health."""
        self.generation = 0
        """Number of the credentials that `channel` was dialled with; see `Renewing`."""
        self._previous: dict[grpc.aio.Channel, int] = {}
        """Earlier channels, with the number of leases on each."""
        self.active = 0
        self.listed = False
        self._leases = 0
        self._failures = 0
        self._service = service
        self._on_change = on_change
        self._health: Health | None = None
        self._end_to_end = end_to_end
        self._behind: Health | None = None
        """Health of the services behind it; None while it is not known."""
        self._watches: list[asyncio.Task[None]] = []
        self._ejection: asyncio.TimerHandle | None = None
        self._first_ejection_seconds = ejection_seconds
        self._next_ejection_seconds = ejection_seconds
        self._reset_ejection_at = 0.0
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

    @property
    def serves_end_to_end(self) -> bool:
        if not self.pickable or not self._end_to_end:
            return self.pickable
        # Workers of an older version do not report it; during an upgrade they count as able.
        return self._behind is not None and (self._behind.serving or not self._behind.known)

    def info(self) -> WorkerInfo:
        return WorkerInfo(
            self.address, self.state, self.active, self._leases, self._failures, end_to_end=self.serves_end_to_end
        )

    def enlist(self) -> None:
        """Start to watch its health; it is pickable after its first SERVING."""
        self.listed = True
        self._health = self._behind = None
        self._start_watches()
        self._changed()

    def _start_watches(self) -> None:
        self._watches = [self._watch(self._service, self._set_health)]
        if self._end_to_end:
            self._watches.append(self._watch(self._end_to_end, self._set_behind))

    def _watch(self, service: str, report: Callable[[Health], None]) -> asyncio.Task[None]:
        watch = asyncio.create_task(self._watch_health(service, report), name=f"health of {service} at {self.address}")
        watch.add_done_callback(partial(self._watch_ended, report))
        return watch

    def _cancel_watches(self) -> None:
        for watch in self._watches:
            watch.cancel()

    def delist(self) -> None:
        """Stop picking it and watching its health; the channel stays open for its leases."""
        self.listed = False
        self._end_ejection()
        self._cancel_watches()
        self._changed()

    def remove_metrics(self) -> None:
        """Remove its metric series; call `close` next."""
        self._series.remove()

    async def close(self) -> None:
        """Close the channel of a delisted worker; its running RPCs are cancelled."""
        if self._watches:
            await asyncio.wait(self._watches)
        for channel in (self.channel, *self._previous):
            await channel.close()

    def redial(self, channel: grpc.aio.Channel, generation: int) -> None:
        """Use `channel` for new leases and the health watch; existing leases keep their channel."""
        self._previous[self.channel] = self.active - sum(self._previous.values())
        self.channel, self.generation = channel, generation
        self._cancel_watches()
        self._start_watches()

    def take_unused(self) -> list[grpc.aio.Channel]:
        """Remove and return the earlier channels without leases, for the caller to close."""
        unused = [channel for channel, leases in self._previous.items() if not leases]
        for channel in unused:
            del self._previous[channel]
        return unused

    def begin_lease(self) -> None:
        """Count a lease on the current `channel`."""
        self.active += 1
        self._leases += 1
        self._series.active.inc()
        self._series.leases.inc()

    def end_lease(self, channel: grpc.aio.Channel) -> None:
        """End a lease on `channel`."""
        self.active -= 1
        if channel in self._previous:
            self._previous[channel] -= 1
        self._series.active.dec()

    def eject(self, reason: FailureReason) -> None:
        """Count a failure and exclude the worker from picks, twice as long as the last time.

        The exclusion ends, and its length is reset, when the health changes to SERVING again (a restart). The length is
        also reset when no failure occurred for the time of the longest ejection.
        """
        self._count_failure(reason)
        if not self.listed or self._ejection is not None:  # many streams fail at once when their worker does
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._reset_ejection_at:
            self._next_ejection_seconds = self._first_ejection_seconds
        seconds = self._next_ejection_seconds
        self._next_ejection_seconds = min(2 * seconds, LONGEST_EJECTION_SECONDS)
        self._reset_ejection_at = loop.time() + seconds + LONGEST_EJECTION_SECONDS
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

    async def _watch_health(self, service: str, report: Callable[[Health], None]) -> None:
        async with aclosing(self.watch_health(self.channel, service)) as changes:
            async for health in changes:
                report(health)

    def _watch_ended(self, report: Callable[[Health], None], watch: asyncio.Task[None]) -> None:
        """A watch runs until it is cancelled. If a defect ends it, the worker must not stay SERVING."""
        if not watch.cancelled() and (defect := watch.exception()) is not None:
            self._log.error("health watch failed", exc_info=defect)
            report(Health(reachable=False, serving=False, detail=f"health watch failed: {defect!r}"))

    def _set_behind(self, health: Health) -> None:
        self._behind = health
        self._on_change()

    def _set_health(self, health: Health) -> None:
        self._health = health
        if health.serving:
            self._end_ejection()
            self._reset_ejection_at = 0.0
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
