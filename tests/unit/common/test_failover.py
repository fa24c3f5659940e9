"""Failover's choice between refusing a stream and letting it wait in line, on a pool without gRPC and a fake clock."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter

from services.common.errors import Overloaded, Unavailable
from services.common.pool import Pool, WorkerState
from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import Failover, LossReason, MovePolicy, WorkerLost


@dataclass
class Worker:
    address: str
    state: WorkerState = WorkerState.SERVING

    def report_failure(self, reason: object) -> None: ...


@dataclass
class Workers:
    """Stands for a pool: leases the first worker that is not excluded."""

    known: list[Worker] = field(default_factory=list)

    def workers(self) -> tuple[Worker, ...]:
        return tuple(self.known)

    def serving(self) -> tuple[str, ...]:
        return tuple(worker.address for worker in self.known if worker.state is WorkerState.SERVING)

    @asynccontextmanager
    async def lease(
        self, *, exclude: Collection[str] = (), wait_seconds: float | None = None
    ) -> AsyncGenerator[Worker]:
        free = [worker for worker in self.known if worker.address not in exclude]
        if not free:
            raise Unavailable("no decode worker can take this now")
        yield free[0]


@dataclass
class Time:
    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def failover(workers: Workers, time: Time, **options: Any) -> Failover:
    moves = Counter("moves", "Moves.", ["reason", "outcome"], registry=CollectorRegistry())
    pool = cast(Pool, workers)
    return Failover(
        pool, MovePolicy(max_moves=3), "decode", moves, FailoverBudget(), clock=time, pause=time.pause, **options
    )


async def attempts(failover: Failover, answers: list[WorkerLost | None]) -> list[str]:
    """Try workers until one accepts (None); return the addresses that were tried."""
    tried = []
    while True:
        async with failover.lease() as worker:
            tried.append(worker.address)
            if (answer := answers.pop(0)) is None:
                failover.on_accepted()
                return tried
            failover.record_loss(worker, answer)


def full(stage: str = "decode") -> WorkerLost:
    return WorkerLost(LossReason.FULL, f"every {stage} worker is full; try again shortly", stage=stage)


async def test_a_new_session_tries_each_worker_once_and_is_refused_by_the_stage_s_name() -> None:
    time, answers = Time(), [full(), full()]
    with pytest.raises(Overloaded, match="every decode worker is full") as refusal:
        await attempts(failover(Workers([Worker("a"), Worker("b")]), time), list(answers))
    assert refusal.value.stage == "decode"
    assert not time.pauses


async def test_an_admitted_session_waits_in_line_until_a_worker_accepts() -> None:
    time = Time()
    busy: list[WorkerLost | None] = [full() for _ in range(12)]
    tried = await attempts(failover(Workers([Worker("a"), Worker("b")]), time, admitted=True), [*busy, None])
    assert len(tried) == 13
    assert time.pauses == sorted(time.pauses)
    assert max(time.pauses) <= 1.0


async def test_streams_that_wait_in_line_are_counted() -> None:
    def waiting() -> float | None:
        return REGISTRY.get_sample_value("lighttts_streams_waiting_in_line", {"stage": "decode"})

    counts: list[float | None] = []
    stream = failover(Workers([Worker("a")]), Time(), admitted=True)

    async def pause(seconds: float) -> None:
        counts.append(waiting())

    stream._pause = pause
    await attempts(stream, [full(), full(), None])
    assert (counts, waiting()) == ([1, 1], 0)


async def test_a_stream_that_a_worker_accepted_waits_in_line_when_it_has_to_move() -> None:
    time, stream = Time(), failover(Workers([Worker("a"), Worker("b")]), Time())
    await attempts(stream, [None])
    answers: list[WorkerLost | None] = [WorkerLost(LossReason.DIED), full(), full(), full(), None]
    await attempts(stream, answers)
    assert stream.admitted
    assert not time.pauses


async def test_an_admitted_session_outlasts_an_empty_pool_and_refusals_are_no_moves() -> None:
    time, workers = Time(), Workers()
    stream = failover(workers, time, admitted=True)
    refusals: list[WorkerLost | None] = [WorkerLost(LossReason.REFUSED, "draining") for _ in range(8)]

    async def pause(seconds: float) -> None:
        await Time.pause(time, seconds)
        if len(time.pauses) == 4:
            workers.known.append(Worker("back"))

    stream._pause = pause
    assert set(await attempts(stream, [*refusals, None])) == {"back"}


async def test_patience_ends() -> None:
    time = Time()
    with pytest.raises(Unavailable, match="no decode worker"):
        await attempts(failover(Workers(), time, admitted=True), [])
    assert 30 <= time.now <= 32


async def test_a_full_service_behind_the_worker_refuses_a_new_session_at_once() -> None:
    moves = Counter("moves", "Moves.", ["reason", "outcome"], registry=CollectorRegistry())
    pool = cast(Pool, Workers([Worker("a"), Worker("b")]))
    stream = Failover(pool, MovePolicy(), "llm", moves, FailoverBudget())
    with pytest.raises(Overloaded, match="every decode worker is full") as refusal:
        await attempts(stream, [full("decode")])
    assert refusal.value.stage == "decode"
