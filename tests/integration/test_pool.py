"""The pool with real gRPC workers on loopback: picking, health, membership, leases, metrics, and no leftovers."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from services.common.discovery import Discovery, discover
from services.common.errors import Unavailable
from services.common.pool import FailureReason, Lease, LeastLoaded, Pool, WorkerState, health
from tests.support.dns_server import DnsServer
from tests.support.workers import NOT_SERVING, SERVICE, SERVING, EchoWorker, ListedWorkers

LIMIT_SECONDS = 400


@pytest_asyncio.fixture
async def start_worker() -> AsyncIterator[Callable[..., Awaitable[EchoWorker]]]:
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> EchoWorker:
            worker = EchoWorker()
            await worker.start(**options)
            stack.push_async_callback(worker.kill)
            return worker

        yield start


StartWorker = Callable[..., Awaitable[EchoWorker]]


@asynccontextmanager
async def running(discovery: Discovery, **options: Any) -> AsyncIterator[Pool]:
    """Run a pool, with a limit on the test's time and a check that closing leaves no task."""
    before = client_tasks()
    pool = Pool(discovery, SERVICE, name="decode", **options)
    async with asyncio.timeout(LIMIT_SECONDS):
        await pool.start()
        try:
            yield pool
        finally:
            await pool.close()
        await until(lambda: not (client_tasks() - before))
        assert not series()


def client_tasks() -> set[asyncio.Task[Any]]:
    """Return all tasks except those in which the test's servers wait for calls."""
    return {task for task in asyncio.all_tasks() if "AioServer" not in repr(task)}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the enclosing limit ends the wait otherwise."""
    while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
        await asyncio.sleep(0.005)


async def all_serving(pool: Pool, count: int) -> None:
    await until(lambda: [worker.state for worker in pool.workers()] == [WorkerState.SERVING] * count)


def state(pool: Pool, worker: EchoWorker) -> WorkerState | None:
    return next((info.state for info in pool.workers() if info.address == worker.address), None)


async def picks(pool: Pool, count: int, exclude: frozenset[str] = frozenset()) -> Counter[str]:
    taken: Counter[str] = Counter()
    for _ in range(count):
        async with pool.lease(exclude=exclude) as lease:
            taken[lease.address] += 1
    return taken


def echo(lease: Lease) -> Any:
    return lease.channel.stream_stream("/test.Echo/Echo")()


def series() -> set[tuple[str, ...]]:
    """Return the label values of every series of the pool."""
    return {
        tuple(sample.labels.values())
        for metric in REGISTRY.collect()
        if metric.name.startswith("lighttts_pool_")
        for sample in metric.samples
    }


def value(name: str, worker: EchoWorker | None = None, **labels: str) -> float | None:
    if worker is not None:
        labels["worker"] = worker.address
    return REGISTRY.get_sample_value(f"lighttts_pool_{name}", {"pool": "decode", **labels})


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_leases_are_split_evenly(start_worker: StartWorker, count: int) -> None:
    workers = [await start_worker() for _ in range(count)]
    async with running(ListedWorkers(*(worker.address for worker in workers))) as pool:
        await all_serving(pool, count)
        assert await picks(pool, 6 * count) == {worker.address: 6 for worker in workers}


async def test_the_least_loaded_worker_is_picked(start_worker: StartWorker) -> None:
    a, b = [await start_worker() for _ in range(2)]
    async with running(ListedWorkers(a.address, b.address), picker=LeastLoaded()) as pool:
        await all_serving(pool, 2)
        async with pool.lease(exclude={b.address}):
            assert await picks(pool, 4) == {b.address: 4}


async def test_leases_and_health_are_measured_per_worker(start_worker: StartWorker) -> None:
    worker = await start_worker()
    async with running(ListedWorkers(worker.address)) as pool:
        await all_serving(pool, 1)
        async with pool.lease() as lease:
            assert value("leases_active", worker) == 1
            lease.report_failure(FailureReason.STALLED)
            assert value("healthy", worker) == 0
        assert value("leases_active", worker) == 0
        assert value("leases_total", worker) == 1
        assert value("failures_total", worker, reason="stalled") == 1
        assert value("workers_known") == 1
        info = pool.workers()[0]
        assert (info.address, info.state, info.active, info.leases, info.failures) == (
            worker.address,
            WorkerState.EJECTED,
            0,
            1,
            1,
        )


async def test_a_killed_worker_is_skipped_until_it_returns(start_worker: StartWorker) -> None:
    stays, dies = [await start_worker() for _ in range(2)]
    async with running(ListedWorkers(stays.address, dies.address)) as pool:
        await all_serving(pool, 2)
        await dies.kill()
        await until(lambda: state(pool, dies) is WorkerState.UNREACHABLE)
        assert await picks(pool, 4) == {stays.address: 4}
        assert value("failures_total", dies, reason="unreachable") == 1
        await dies.start()
        await all_serving(pool, 2)
        assert await picks(pool, 4) == {stays.address: 2, dies.address: 2}


async def test_a_frozen_worker_is_skipped_until_it_answers(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "CHECK_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(health, "CHECK_TIMEOUT_SECONDS", 1.0)
    stays, freezes = [await start_worker() for _ in range(2)]
    async with running(ListedWorkers(stays.address, freezes.address)) as pool:
        await all_serving(pool, 2)
        freezes.freeze()
        await until(lambda: state(pool, freezes) is WorkerState.UNREACHABLE)
        assert await picks(pool, 4) == {stays.address: 4}
        assert value("failures_total", freezes, reason="unreachable") == 1
        freezes.thaw()
        await all_serving(pool, 2)


async def test_a_probe_returns_the_workers_that_answer(start_worker: StartWorker) -> None:
    answers, freezes, unasked = [await start_worker() for _ in range(3)]
    async with running(ListedWorkers(answers.address, freezes.address, unasked.address)) as pool:
        await all_serving(pool, 3)
        freezes.freeze()
        assert await pool.probe([answers.address, freezes.address], 1.0) == {answers.address}
        freezes.thaw()
        assert await pool.probe([freezes.address, "gone:1"], 30.0) == {freezes.address}


async def test_end_to_end_needs_a_worker_that_reports_it(start_worker: StartWorker) -> None:
    worker = await start_worker()
    async with running(ListedWorkers(worker.address), end_to_end="test.Echo/EndToEnd") as pool:
        await until(lambda: pool.serves_end_to_end)  # a worker of an older version does not report it
        await worker.report(NOT_SERVING, "test.Echo/EndToEnd")
        await until(lambda: not pool.serves_end_to_end)
        await all_serving(pool, 1)
        await worker.report(SERVING, "test.Echo/EndToEnd")
        await until(lambda: pool.serves_end_to_end)
        await worker.report(NOT_SERVING)
        await until(lambda: not pool.serves_end_to_end)


async def test_a_worker_that_is_not_up_yet_is_used_once_it_is(start_worker: StartWorker) -> None:
    late = await start_worker()
    await late.kill()
    async with running(ListedWorkers(late.address)) as pool:
        await until(lambda: state(pool, late) is WorkerState.UNREACHABLE)
        waiting = asyncio.ensure_future(picks(pool, 1))
        await late.start()
        assert await waiting == {late.address: 1}


async def test_a_worker_not_serving_gets_nothing_new_and_keeps_its_streams(start_worker: StartWorker) -> None:
    stays, drains = [await start_worker() for _ in range(2)]
    async with running(ListedWorkers(stays.address, drains.address)) as pool:
        await all_serving(pool, 2)
        async with pool.lease(exclude={stays.address}) as lease:
            call = echo(lease)
            await drains.report(NOT_SERVING)
            await until(lambda: state(pool, drains) is WorkerState.NOT_SERVING)
            assert await picks(pool, 4) == {stays.address: 4}
            await call.write(b"still here")
            assert await call.read() == b"still here"
            await call.done_writing()
        await drains.report(SERVING)
        await all_serving(pool, 2)


async def test_a_removed_worker_keeps_its_running_lease(start_worker: StartWorker) -> None:
    stays, leaves = [await start_worker() for _ in range(2)]
    listed = ListedWorkers(stays.address, leaves.address)
    async with running(listed) as pool:
        await all_serving(pool, 2)
        async with pool.lease(exclude={stays.address}) as lease:
            call = echo(lease)
            listed.put(stays.address)
            await until(lambda: state(pool, leaves) is WorkerState.REMOVED)
            assert value("workers_known") == 1
            assert await picks(pool, 4) == {stays.address: 4}
            await call.write(b"still here")
            assert await call.read() == b"still here"
            assert value("leases_active", leaves) == 1
            await call.done_writing()
        assert state(pool, leaves) is None
        assert all(leaves.address not in labels for labels in series())


async def test_a_worker_listed_again_while_leased_is_used_again(start_worker: StartWorker) -> None:
    worker = await start_worker()
    listed = ListedWorkers(worker.address)
    async with running(listed) as pool, pool.lease() as lease:
        listed.put()
        await until(lambda: state(pool, worker) is WorkerState.REMOVED)
        listed.put(worker.address)
        async with pool.lease() as second:
            assert second.channel is lease.channel


async def test_a_worker_with_a_reported_failure_is_ejected_and_returns(start_worker: StartWorker) -> None:
    good, bad = [await start_worker() for _ in range(2)]
    async with running(ListedWorkers(good.address, bad.address), ejection_seconds=0.3) as pool:
        await all_serving(pool, 2)
        async with pool.lease(exclude={good.address}) as first, pool.lease(exclude={good.address}) as second:
            first.report_failure(FailureReason.DIED)
            second.report_failure(FailureReason.DIED)
            assert state(pool, bad) is WorkerState.EJECTED
        assert await picks(pool, 4) == {good.address: 4}
        assert await picks(pool, 1, exclude=frozenset({good.address})) == {bad.address: 1}


async def test_serving_again_ends_an_ejection(start_worker: StartWorker) -> None:
    worker = await start_worker()
    async with running(ListedWorkers(worker.address), ejection_seconds=3600) as pool:
        async with pool.lease() as lease:
            lease.report_failure(FailureReason.DIED)
        await worker.kill()
        await worker.start()
        await picks(pool, 1)


async def test_no_healthy_worker_is_unavailable_with_a_retry_hint(start_worker: StartWorker) -> None:
    loading, tried = await start_worker(status=NOT_SERVING), await start_worker()
    async with running(ListedWorkers(loading.address, tried.address)) as pool:
        await until(lambda: state(pool, loading) is WorkerState.NOT_SERVING)
        await until(lambda: state(pool, tried) is WorkerState.SERVING)
        for seconds in (0, 0.01):
            with pytest.raises(Unavailable, match=r"no decode worker .*\(1 not serving, 1 tried before\)") as caught:
                async with pool.lease(exclude={tried.address}, wait_seconds=seconds):
                    pass
            assert caught.value.retry_after is not None
        assert value("refusals_total") == 0, "a worker is healthy: that it refused this lease is no outage"
        await tried.report(NOT_SERVING)
        await until(lambda: state(pool, tried) is WorkerState.NOT_SERVING)
        with pytest.raises(Unavailable, match="2 not serving"):
            async with pool.lease(wait_seconds=0):
                pass
        assert value("refusals_total") == 1


async def test_a_worker_without_the_named_service_is_not_used(start_worker: StartWorker) -> None:
    worker = await start_worker()
    before = client_tasks()
    pool = Pool(ListedWorkers(worker.address), "lighttts.v1.Llm", name="llm", wait_seconds=0)
    async with asyncio.timeout(LIMIT_SECONDS):
        await pool.start()
        await until(lambda: state(pool, worker) is WorkerState.NOT_SERVING)
        await pool.close()
        await until(lambda: not (client_tasks() - before))


async def test_no_known_worker_is_unavailable() -> None:
    async with running(ListedWorkers(), wait_seconds=0.01) as pool:
        with pytest.raises(Unavailable, match="none is known"):
            await picks(pool, 1)


async def test_the_number_of_waiting_leases_is_limited(start_worker: StartWorker) -> None:
    worker = await start_worker(status=NOT_SERVING)
    async with running(ListedWorkers(worker.address), max_waiting=2, wait_seconds=3600) as pool:
        waiting = [asyncio.ensure_future(picks(pool, 1)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await picks(pool, 1)
        await worker.report(SERVING)
        assert await asyncio.gather(*waiting) == [{worker.address: 1}] * 2


async def test_cancelling_a_waiting_lease_leaves_nothing_behind(start_worker: StartWorker) -> None:
    worker = await start_worker(status=NOT_SERVING)
    async with running(ListedWorkers(worker.address), max_waiting=1, wait_seconds=3600) as pool:
        waiting = asyncio.ensure_future(picks(pool, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        next_one = asyncio.ensure_future(picks(pool, 1))  # there is room to wait again
        await worker.report(SERVING)
        assert await next_one == {worker.address: 1}
        assert [info.active for info in pool.workers()] == [0]


async def test_cancelling_a_running_lease_releases_it(start_worker: StartWorker) -> None:
    worker = await start_worker()
    async with running(ListedWorkers(worker.address)) as pool:

        async def hold() -> None:
            async with pool.lease():
                await asyncio.Event().wait()

        holding = asyncio.ensure_future(hold())
        await until(lambda: [info.active for info in pool.workers()] == [1])
        holding.cancel()
        with suppress(asyncio.CancelledError):
            await holding
        assert [info.active for info in pool.workers()] == [0]


async def test_closing_refuses_waiting_leases_and_ends_running_ones(start_worker: StartWorker) -> None:
    worker = await start_worker()
    async with running(ListedWorkers(worker.address)) as pool:
        async with pool.lease() as lease:
            call = echo(lease)
            waiting = asyncio.ensure_future(picks(pool, 1, exclude=frozenset({worker.address})))
            await asyncio.sleep(0)
            await pool.close()
            with pytest.raises(Unavailable, match="stopping"):
                await waiting
            assert call.done()
            lease.report_failure(FailureReason.DIED)  # too late to have an effect; must not create the series again
        with pytest.raises(Unavailable, match="stopping"):
            await picks(pool, 1)
        with pytest.raises(RuntimeError):
            await pool.start()


async def test_no_channel_is_left_open(start_worker: StartWorker) -> None:
    a, b = [await start_worker() for _ in range(2)]
    listed = ListedWorkers(a.address, b.address)
    async with running(listed) as pool:
        await all_serving(pool, 2)
        async with pool.lease(exclude={b.address}) as lease:
            channels = {lease.channel}
        async with pool.lease(exclude={a.address}) as lease:
            channels.add(lease.channel)
        listed.put(a.address)
        await until(lambda: state(pool, b) is None)
    for channel in channels:
        call: Any = channel.unary_unary
        with pytest.raises(Exception, match="closed"):
            await call("/test.Echo/Echo")(b"")
    gc.collect()


async def test_added_and_removed_workers_are_noticed_through_dns(start_worker: StartWorker) -> None:
    first = await start_worker()
    second = await start_worker(host="127.0.0.2", port=first.port)
    async with DnsServer(ttl=1) as server:
        server.records["decode.test"] = ["127.0.0.1"]
        async with running(discover(f"dns://127.0.0.1:{server.port}/decode.test:{first.port}")) as pool:
            await all_serving(pool, 1)
            server.records["decode.test"] = ["127.0.0.1", "127.0.0.2"]
            await all_serving(pool, 2)
            assert await picks(pool, 4) == {first.address: 2, second.address: 2}
            server.records["decode.test"] = ["127.0.0.2"]
            await until(lambda: state(pool, first) is None)
            assert await picks(pool, 4) == {second.address: 4}
