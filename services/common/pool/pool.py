"""The pool: it gets addresses from discovery, watches each worker's health, and leases healthy workers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

import grpc
import grpc.aio
import structlog

from services.common.discovery import Discovery
from services.common.errors import Unavailable
from services.common.pool.channel import Renewing, open_channel
from services.common.pool.health import Watch, check_health, watch_health
from services.common.pool.metrics import REFUSALS, WORKERS_KNOWN
from services.common.pool.picker import Picker, RoundRobin
from services.common.pool.worker import FailureReason, Worker, WorkerInfo

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_AFTER_SECONDS = 1.0
DIAL_SECONDS = 5.0
"""Longest wait for a connection with renewed credentials."""


class Lease:
    """The right to run streams on one worker; its channel stays open until the lease is released."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.channel = worker.channel
        """The worker's channel; it belongs to the pool, do not close it."""

    @property
    def address(self) -> str:
        """`host:port` of the worker, as `exclude` takes it."""
        return self._worker.address

    def report_failure(self, reason: FailureReason) -> None:
        """Report that the worker failed this lease. It gets no new leases until its health changes to SERVING again or
        a short ejection has passed, which doubles with each failure."""
        self._worker.eject(reason)


class Pool:
    """The workers of one gRPC service, one channel each.

    A worker can be leased while discovery lists it, its standard health watch reports SERVING and no failure was
    reported recently. A worker that discovery no longer lists gets no new leases and keeps its channel until its last
    lease is released. Everything runs on the event loop that calls `start`; only `lease`, `call_all` and `close` wait.
    """

    def __init__(
        self,
        discovery: Discovery,
        service: str,
        *,
        name: str,
        picker: Picker | None = None,
        dial: Callable[[str], grpc.aio.Channel] = open_channel,
        wait_seconds: float = 5.0,
        max_waiting: int = 1000,
        ejection_seconds: float = 1.0,
        renewal_seconds: float = 10.0,
        end_to_end: str = "",
        clock: Callable[[], float] = time.monotonic,
        watch: Watch = watch_health,
    ) -> None:
        """
        Args:
            discovery: the source of addresses, see `services.common.discovery.discover`.
            service: full name of the gRPC service whose health is watched, `lighttts.v1.Decode`.
            name: short name in metrics, logs and errors, unique in the process: `decode`.
            picker: picks the next worker; round robin by default.
            dial: opens a channel to an address; if it is Renewing, workers are dialled again after a renewal.
            wait_seconds: longest wait of a lease for a healthy worker.
            max_waiting: leases that may wait at a time; more are refused at once.
            ejection_seconds: length of a worker's ejection after its first reported failure.
            renewal_seconds: interval of the checks for renewed credentials.
            end_to_end: full name of the health service with which workers report that the services behind them serve
                too, `lighttts.v1.Llm/EndToEnd`; empty if nothing is behind them. It affects only `serves_end_to_end`.
            clock: returns seconds.
            watch: yields the changes of a worker's health; a simulation replaces it.
        """
        self._discovery = discovery
        self._service = service
        self._name = name
        self._picker: Picker = picker if picker is not None else RoundRobin()
        self._dial = dial
        self._wait_seconds = wait_seconds
        self._max_waiting = max_waiting
        self._ejection_seconds = ejection_seconds
        self._renewal_seconds = renewal_seconds
        self._end_to_end = end_to_end
        self._renewing: asyncio.Task[None] | None = None
        self._workers: dict[str, Worker] = {}
        self._found: tuple[list[Worker], tuple[str, ...]] | None = None
        """The workers that can be leased, in order of address, and their addresses; None after a change."""
        self._discovering: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._clock = clock
        self._empty_since: float | None = None
        """Time since which discovery lists no worker; None while it lists one and before its first list."""
        self._waiting = 0
        self._closed = False
        self._watch = watch

    async def start(self) -> None:
        """Start discovery and return at once. Raises RuntimeError when called twice."""
        if self._discovering is not None or self._closed:
            raise RuntimeError(f"the pool {self._name!r} has already been started")
        WORKERS_KNOWN.labels(self._name).set(0)
        REFUSALS.labels(self._name)  # an alert cannot see an increase in a series that appears with its first event
        self._discovering = self._spawn(self._discover(), "discovery")
        if isinstance(self._dial, Renewing):
            self._renewing = self._spawn(self._renew(self._dial), "renewal")

    async def close(self) -> None:
        """End all tasks and channels of the pool. Waiting leases are refused; running RPCs are cancelled."""
        self._closed = True
        running = [task for task in (self._discovering, self._renewing) if task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        for worker in list(self._workers.values()):
            worker.delist()
            self._drop(worker)
        self._wake()
        if self._closing:
            await asyncio.wait(self._closing)
        WORKERS_KNOWN.remove_by_labels({"pool": self._name})
        REFUSALS.remove_by_labels({"pool": self._name})

    @property
    def serves_end_to_end(self) -> bool:
        """Whether a worker can be leased, and the services behind it serve too."""
        return any(worker.serves_end_to_end for worker in self._workers.values())

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return all workers by address, including removed ones that are still leased."""
        return tuple(worker.info() for _, worker in sorted(self._workers.items()))

    def serving(self) -> Sequence[str]:
        """Return the addresses of the workers that can be leased, in order.

        It is cheap, unlike `workers`: calls ask it for every utterance, of pools with hundreds of workers.
        """
        return self._pickable()[1]

    def _pickable(self) -> tuple[list[Worker], tuple[str, ...]]:
        if self._found is None:
            workers = [worker for _, worker in sorted(self._workers.items()) if worker.pickable]
            self._found = workers, tuple(worker.address for worker in workers)
        return self._found

    @asynccontextmanager
    async def lease(self, *, exclude: Collection[str] = (), wait_seconds: float | None = None) -> AsyncIterator[Lease]:
        """Lease the next healthy worker whose address is not in `exclude`, for one utterance.

        Waits up to `wait_seconds` (default: the pool's) for one to become healthy; 0 means not at all. Raises
        Unavailable, with a retry hint, when none does, when too many leases wait already, or when the pool is closed.
        It does not wait while discovery has listed no worker for that long: the service is scaled to zero.
        """
        worker = await self._acquire(exclude, self._wait_seconds if wait_seconds is None else wait_seconds)
        lease = Lease(worker)
        try:
            yield lease
        finally:
            self._end_lease(worker, lease.channel)

    async def probe(self, addresses: Collection[str], seconds: float) -> set[str]:
        """Send a health check to each of these workers; return those that answered within `seconds`."""

        async def check(channel: grpc.aio.Channel) -> bool:
            await check_health(channel, self._service, seconds)
            return True

        answers = await self.call_all(check, only=addresses)
        return {address for address, answer in answers.items() if answer is True}

    async def call_all(
        self, call: Callable[[grpc.aio.Channel], Awaitable[T]], *, only: Collection[str] | None = None
    ) -> dict[str, T | grpc.aio.AioRpcError]:
        """Make one concurrent call to every worker, healthy or not, and return each answer or failure by address.

        `only` selects workers by address. `call` sets its own timeout. An exception other than AioRpcError is raised
        after all calls have ended.
        """
        called = [
            (worker, worker.channel) for worker in self._workers.values() if only is None or worker.address in only
        ]
        for worker, _ in called:  # keeps their channels open
            worker.begin_lease()
        try:
            answers = await asyncio.gather(*(call(channel) for _, channel in called), return_exceptions=True)
        finally:
            for worker, channel in called:
                self._end_lease(worker, channel)
        outcomes: dict[str, T | grpc.aio.AioRpcError] = {}
        for (worker, _), answer in zip(called, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, grpc.aio.AioRpcError):
                raise answer
            outcomes[worker.address] = answer
        return outcomes

    def _end_lease(self, worker: Worker, channel: grpc.aio.Channel) -> None:
        worker.end_lease(channel)
        self._close_unused(worker)
        if not worker.listed and worker.active == 0:
            self._drop(worker)

    async def _acquire(self, exclude: Collection[str], wait_seconds: float) -> Worker:
        """Pick a worker and begin a lease on it, without a wait between the two."""
        worker = self._take(exclude)
        empty = self._empty_since is not None and self._clock() - self._empty_since >= wait_seconds
        if worker is None and wait_seconds > 0 and self._waiting < self._max_waiting and not empty:
            self._waiting += 1
            try:
                async with asyncio.timeout(wait_seconds):
                    while worker is None and not self._closed:
                        await self._changed.wait()
                        worker = self._take(exclude)
            except TimeoutError:
                log.warning("no worker became healthy in time", pool=self._name, seconds=wait_seconds)
            finally:
                self._waiting -= 1
        if worker is None:
            raise self._refusal(exclude)
        return worker

    def _take(self, exclude: Collection[str]) -> Worker | None:
        candidates = self._pickable()[0]
        if exclude:
            candidates = [worker for worker in candidates if worker.address not in exclude]
        if not candidates:
            return None
        worker = self._picker.pick(candidates)
        worker.begin_lease()
        return worker

    def _refusal(self, exclude: Collection[str]) -> Unavailable:
        if self._closed:
            return Unavailable(
                f"this process is stopping and uses no {self._name} workers", retry_after=RETRY_AFTER_SECONDS
            )
        if not self._pickable()[0]:  # not if the workers that are healthy are full or refused the stream
            REFUSALS.labels(self._name).inc()
        states = Counter(
            "tried before" if worker.pickable and worker.address in exclude else worker.state.value
            for worker in self._workers.values()
        )
        why = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none is known"
        return Unavailable(f"no {self._name} worker can take this now ({why})", retry_after=RETRY_AFTER_SECONDS)

    async def _discover(self) -> None:
        async with aclosing(self._discovery.watch()) as sets:
            async for addresses in sets:
                self._apply(addresses)

    async def _renew(self, dial: Renewing) -> None:
        """Dial workers again, one after the other, after the credentials have been renewed."""
        while True:
            await asyncio.sleep(self._renewal_seconds)
            generation = dial.generation()
            for worker in [one for one in self._workers.values() if one.listed and one.generation < generation]:
                channel = dial(worker.address)
                try:
                    async with asyncio.timeout(DIAL_SECONDS):
                        await channel.channel_ready()
                except TimeoutError:
                    log.warning("no connection with the renewed certificate", pool=self._name, peer=worker.address)
                if worker.listed and channel.get_state() is grpc.ChannelConnectivity.READY:
                    worker.redial(channel, generation)
                    self._close_unused(worker)
                else:  # the worker keeps its connection; the next check tries again
                    await channel.close()

    def _close_unused(self, worker: Worker) -> None:
        for channel in worker.take_unused():
            self._close_later(channel.close(), f"closing a channel to {worker.address}")

    def _apply(self, addresses: frozenset[str]) -> None:
        listed = {worker.address for worker in self._workers.values() if worker.listed}
        log.info("workers listed", pool=self._name, target=self._discovery.target, addresses=sorted(addresses))
        if addresses:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = self._clock()
        for address in addresses - listed:
            self._enlist(address)
        for address in listed - addresses:
            worker = self._workers[address]
            worker.delist()
            if worker.active == 0:
                self._drop(worker)
        WORKERS_KNOWN.labels(self._name).set(len(addresses))

    def _enlist(self, address: str) -> None:
        """Add a worker, or list one again that was removed but is still leased."""
        worker = self._workers.get(address)
        if worker is None:
            channel = self._dial(address)
            worker = Worker(
                self._name, address, channel, self._service, self._ejection_seconds, self._wake, self._end_to_end
            )
            worker.watch_health = self._watch
            worker.generation = self._dial.generation() if isinstance(self._dial, Renewing) else 0
            self._workers[address] = worker
        worker.enlist()

    def _drop(self, worker: Worker) -> None:
        """Remove a worker and close its channel in the background; does nothing if it has been removed."""
        if self._workers.get(worker.address) is worker:
            del self._workers[worker.address]
            self._found = None
            worker.remove_metrics()
            self._close_later(worker.close(), f"closing {worker.address}")

    def _close_later(self, closing: Coroutine[None, None, None], what: str) -> None:
        task = self._spawn(closing, what)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _wake(self) -> None:
        """Let every waiting lease check again; called when a worker's `pickable` may have changed."""
        self._found = None
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, work: Coroutine[None, None, None], what: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"pool {self._name}: {what}")
        task.add_done_callback(self._report_defect)
        return task

    def _report_defect(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (defect := task.exception()) is not None:
            log.error("a task of the pool failed", pool=self._name, task=task.get_name(), exc_info=defect)
