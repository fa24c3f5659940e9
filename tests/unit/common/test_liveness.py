"""Frozen workers are left early, and only when the worker is slow and not the pool, the network or this process.

Time is simulated: streams wait for messages, workers send one every 0.1 s unless they pause, and only workers that do
not pause answer health checks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import MovePolicy, WorkerLost
from services.common.workers.liveness import MOST_ROUNDS, FreezeDetector
from services.common.workers.worker_call import ProgressWatch

STEP = 0.01
PERIOD = 0.1
POLICY = MovePolicy(silence_seconds=3.0, frozen_seconds=0.4)
Pauses = Callable[[str, float], bool]


@dataclass
class Stream:
    address: str
    watch: ProgressWatch
    check_at: float = 0.0
    message_at: float = PERIOD


@dataclass
class Simulation:
    """One stream to each worker."""

    workers: Sequence[str]
    pauses: Pauses
    """Whether a worker sends nothing at a time."""
    answers: Pauses | None = None
    """Whether a worker answers health checks at a time; by default those that do not pause."""
    blocked: tuple[float, float] = (0.0, 0.0)
    """From when until when this process does not run."""
    now: float = 0.0
    left: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    most_rounds: int = 0

    async def run(self, seconds: float) -> dict[str, float]:
        """Return when each stream left its worker, by address; streams that stayed are left out."""
        budget = FailoverBudget(lambda: self.now)
        streams = [Stream(address, self._watch(address, budget)) for address in self.workers]
        for stream in streams:
            stream.watch.await_message()
        while self.now < seconds:
            self.now += STEP
            if self.blocked[0] <= self.now < self.blocked[1]:
                continue
            for stream in streams:
                if stream.address not in self.left:
                    self._advance(stream)
            for _ in range(3):  # health checks run
                await asyncio.sleep(0)
        return self.left

    def _advance(self, stream: Stream) -> None:
        if self.now >= stream.check_at:  # checked before messages are read, as it happens after a block
            try:
                stream.check_at = self.now + stream.watch.check_silence()
            except WorkerLost:
                self.left[stream.address] = self.now
                return
        if self.now >= stream.message_at and not self.pauses(stream.address, self.now):
            stream.message_at = self.now + PERIOD
            stream.watch.receive()
            stream.watch.await_message()
            stream.check_at = self.now + stream.watch.check_silence()

    def _watch(self, address: str, budget: FailoverBudget) -> ProgressWatch:
        def clock() -> float:
            return self.now

        def may_give_up(proven: bool) -> bool:
            return budget.may_give_up(address, len(self.workers), proven=proven)

        others = [other for other in self.workers if other != address]
        freeze = FreezeDetector(budget.liveness, address, POLICY.frozen_seconds, lambda: others, self._probe, clock)
        return ProgressWatch(POLICY, may_give_up, clock, freeze, clock)

    async def _probe(self, addresses: Collection[str], seconds: float) -> set[str]:
        self.rounds += 1
        self.most_rounds = max(self.most_rounds, self.rounds)
        answers, until, answered = self.answers, self.now + seconds, set[str]()
        while self.now < until:
            for address in addresses:
                if answers(address, self.now) if answers else not self.pauses(address, self.now):
                    answered.add(address)
            await asyncio.sleep(0)
        self.rounds -= 1
        return answered


THREE = ("a", "b", "c")


def frozen(*addresses: str, since: float = 1.0, until: float = 9.0) -> Pauses:
    return lambda address, now: address in addresses and since <= now < until


async def test_a_frozen_worker_of_three_is_left_within_half_a_second() -> None:
    left = await Simulation(THREE, frozen("a")).run(2.0)
    assert left.keys() == {"a"}
    assert left["a"] <= 1.5


async def test_a_worker_that_is_frozen_from_the_start_is_left_within_half_a_second() -> None:
    left = await Simulation(THREE, frozen("a", since=0.0)).run(2.0)
    assert left.keys() == {"a"}
    assert left["a"] <= 0.5


async def test_the_streams_of_a_frozen_worker_share_its_health_checks() -> None:
    simulation = Simulation(("a", "a", "a", "b"), frozen("a"))
    assert (await simulation.run(2.0)).keys() == {"a"}
    assert simulation.most_rounds == 1


async def test_a_pause_of_0_3_s_moves_no_stream() -> None:
    assert not await Simulation(THREE, frozen("a", until=1.3)).run(3.0)


async def test_a_pool_that_is_slow_as_a_whole_keeps_its_streams() -> None:
    offsets = {f"w{number}": 0.09 * number for number in range(10)}

    def pauses(address: str, now: float) -> bool:
        """Every worker runs for 0.1 s in every 0.8 s, each at another time."""
        return (now + offsets[address]) % 0.8 > 0.1

    simulation = Simulation(tuple(offsets), pauses)
    assert not await simulation.run(20.0)
    assert simulation.most_rounds <= MOST_ROUNDS


async def test_workers_that_freeze_all_at_once_keep_their_streams_until_the_longer_limit() -> None:
    assert not await Simulation(THREE, frozen(*THREE, until=3.5)).run(6.0)


async def test_a_blocked_process_moves_no_stream() -> None:
    assert not await Simulation(THREE, frozen(), blocked=(1.0, 5.0)).run(7.0)


async def test_a_single_worker_is_left_only_after_the_longer_limit() -> None:
    left = await Simulation(("a",), frozen("a")).run(6.0)
    assert left["a"] >= 1.0 + POLICY.silence_seconds - PERIOD


async def test_a_worker_that_answers_health_checks_is_left_only_after_the_longer_limit() -> None:
    silent = frozen("a", since=0.0)
    left = await Simulation(THREE, silent, answers=lambda address, now: True).run(6.0)
    assert left["a"] >= POLICY.silence_seconds


async def test_a_worker_that_sends_on_another_stream_is_kept() -> None:
    class OneStalls(Simulation):
        def _advance(self, stream: Stream) -> None:
            stream.message_at += 10.0 if stream.message_at == PERIOD and stream.watch is self.first else 0.0
            super()._advance(stream)

        def _watch(self, address: str, budget: FailoverBudget) -> ProgressWatch:
            watch = super()._watch(address, budget)
            self.first = getattr(self, "first", watch)
            return watch

    assert not await OneStalls(("a", "a", "b"), frozen(), answers=lambda address, now: address != "a").run(2.0)


async def test_half_of_a_pool_at_most_is_left_early() -> None:
    left = await Simulation(THREE, frozen("a", "b")).run(3.0)
    assert len(left) == 1


def test_a_stream_that_gets_messages_looks_at_no_other_worker() -> None:
    asked: list[float] = []
    now = 0.0

    def others() -> Sequence[str]:
        asked.append(now)
        return ["b"]

    async def probe(addresses: Collection[str], seconds: float) -> Collection[str]:
        return addresses

    detector = FreezeDetector(FailoverBudget(lambda: now).liveness, "a", 0.4, others, probe, lambda: now)
    for _ in range(20):
        detector.await_message()
        assert 0 < detector.check() <= 0.2
        now += 0.1
        detector.on_message()
    assert not asked
