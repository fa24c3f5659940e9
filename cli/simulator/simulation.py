"""Runs a scenario: the processes, the sessions and what happens to the workers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cli.bench.generator import Outcome, Run
from cli.bench.load import arrivals
from cli.bench.report import Report, Target, report
from cli.simulator.process import Group, Process, World
from cli.simulator.processes import DecodeProcess, LlmProcess
from cli.simulator.scenario import Change, Scenario
from cli.simulator.sessions import Gateway, Session
from cli.simulator.virtual_time import VirtualLoop, run
from services.common.pool import Pool

COLLECTIONS = 200_000, 50, 50
"""Thresholds of the garbage collector's three generations during a simulation."""


@dataclass(frozen=True)
class Result:
    """What a scenario brought about."""

    report: Report
    sessions: Sequence[Session]
    seconds: float
    """Virtual seconds from the first arrival to the end of the last session."""
    took: float
    """Seconds that the simulation took."""
    decode_busy: float
    """Mean share of their time that the decode workers which ran to the end spent in batches."""
    most_streams: int
    """Largest number of sessions at once."""
    given_up: bool = False
    """It ended early, when it was certain that the load is not held; the report has the sessions until then."""

    @property
    def cut(self) -> int:
        """Sessions that ended with an error after audio."""
        return sum(session.cut for session in self.sessions)

    @property
    def moves(self) -> int:
        """Utterances that another worker continued."""
        return sum(session.moves for session in self.sessions)

    @property
    def refusals(self) -> Counter[str]:
        """Refused sessions by the stage that was full."""
        return Counter(session.refused_by for session in self.sessions if session.refused_by)


def simulate(scenario: Scenario, target: Target | None = None) -> Result:
    """Run a scenario to the end of its last session; with a target, until it is certain that it is not met."""
    with _rare_collections():
        return run(lambda loop: _Simulation(scenario, loop, target).run(), freezes=scenario.freezes)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the garbage collector examine young objects alone, and seldom.

    Most objects of a simulation live as long as their session. To examine all of them again and again takes a third of
    the time at 2,000 sessions, and more at more.
    """
    before = gc.get_threshold()
    gc.set_threshold(*COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _Hope:
    """Whether a load of a known number of sessions can still be held."""

    def __init__(self, target: Target, sessions: int) -> None:
        self._target, self._sessions = target, sessions
        self._late = self._dry = 0
        self.lost = asyncio.Event()
        """Set once it is certain that the load is not held."""

    def take(self, outcome: Outcome) -> None:
        """Count a session that ended."""
        answer = outcome.answer
        self._late += outcome.after(answer.playback.began_at) > self._target.p95_first_audio
        self._dry += answer.playback.underruns > 0
        late = self._late > 0.05 * self._sessions  # then the 95th percentile is late, whatever follows
        if not outcome.completed or late or self._dry > self._target.silent_streams * self._sessions:
            self.lost.set()


class _Simulation:
    def __init__(self, scenario: Scenario, loop: VirtualLoop, target: Target | None) -> None:
        self._scenario, self._loop = scenario, loop
        self._chance = random.Random(scenario.seed)
        self._world = World(scenario, loop, random.Random(scenario.seed + 1))
        self._llm, self._decode = Group("llm"), Group("decode")
        self._changes: set[asyncio.Task[None]] = set()
        self._now = self._most = 0
        self._arrivals = list(arrivals(scenario.load))
        self._hope = _Hope(target, len(self._arrivals)) if target is not None else None
        self._sessions: list[Session] = []
        self._pools: list[Pool] = []

    async def run(self) -> Result:
        scenario, began = self._scenario, time.perf_counter()
        try:
            await self._start_all()
            gateways = [Gateway(self._world, self._llm, f"gateway-{number}") for number in range(scenario.gateways)]
            self._pools += [gateway.pool for gateway in gateways]
            for gateway in gateways:
                await gateway.pool.start()
            await asyncio.sleep(1.0)  # the pools receive the workers' health
            started = self._loop.time()
            for change in scenario.changes:
                self._loop.call_later(change.at, self._apply, change)
            given_up = not await self._speak_all(gateways)
            seconds = self._loop.time() - started
            found = report(Run(scenario.load, [session.outcome for session in self._sessions], (0.0,), seconds))
            took, busy = time.perf_counter() - began, self._busy(seconds)
            return Result(found, self._sessions, seconds, took, busy, self._most, given_up)
        finally:
            for task in self._changes:
                task.cancel()
            for group in (self._llm, self._decode):
                for process in group.processes.values():
                    process.kill()
            for pool in self._pools:  # their metrics would stay in this process
                await pool.close()

    async def _speak_all(self, gateways: Sequence[Gateway]) -> bool:
        """Speak all sessions; return false if that ended early, because the target cannot be met."""
        load = asyncio.create_task(self._load(gateways))
        wanted = {load} if self._hope is None else {load, asyncio.create_task(self._hope.lost.wait())}
        try:
            await asyncio.wait(wanted, return_when=asyncio.FIRST_COMPLETED)
            if load.done():
                load.result()
                return True
            return False
        finally:
            for task in wanted:
                task.cancel()
            await asyncio.gather(*wanted, return_exceptions=True)

    async def _load(self, gateways: Sequence[Gateway]) -> None:
        tasks: list[asyncio.Task[None]] = []
        started = self._loop.time()
        try:
            for number, at in enumerate(self._arrivals):
                await asyncio.sleep(max(0.0, started + at - self._loop.time()))
                self._sessions.append(session := Session(Outcome(self._loop.time())))
                tasks.append(asyncio.create_task(self._speak(gateways[number % len(gateways)], session, number)))
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _speak(self, gateway: Gateway, session: Session, number: int) -> None:
        self._now += 1
        self._most = max(self._most, self._now)
        await gateway.speak(session, self._scenario.seed * 1_000_003 + number)
        self._now -= 1
        if self._hope is not None:
            self._hope.take(session.outcome)

    async def _start_all(self) -> None:
        decode = [self._make(self._decode) for _ in range(self._scenario.decode_workers)]
        await asyncio.gather(*(process.start() for process in decode))
        for process in decode:
            self._decode.add(process)
        for _ in range(self._scenario.llm_workers):
            process = self._make(self._llm)
            await process.start()
            self._llm.add(process)

    def _make(self, group: Group) -> LlmProcess | DecodeProcess:
        if group is self._decode:
            return DecodeProcess(self._world, group.next_address())
        made = LlmProcess(self._world, group.next_address(), self._decode)
        self._pools.append(made.pool)
        return made

    def _apply(self, change: Change) -> None:
        group = self._llm if change.service == "llm" else self._decode
        if change.action == "add":
            work = [self._add(group) for _ in range(change.count)]
        else:
            running = group.running
            chosen = self._chance.sample(running, min(change.count, len(running)))
            if change.action == "freeze":
                work = [process.freeze(change.seconds) for process in chosen]
            else:
                work = [self._end(process, group, kill=change.action == "kill") for process in chosen]
        for one in work:
            task = asyncio.create_task(one)
            self._changes.add(task)
            task.add_done_callback(self._changes.discard)

    async def _add(self, group: Group) -> None:
        process = self._make(group)
        await asyncio.sleep(self._scenario.start_seconds)
        await process.start()
        group.add(process)

    async def _end(self, process: Process, group: Group, *, kill: bool) -> None:
        if kill:
            process.kill()
        else:
            await process.drain()
        group.remove(process.address)

    def _busy(self, seconds: float) -> float:
        alive = [one for one in self._decode.running if isinstance(one, DecodeProcess)]
        busy = [one.engine.stats().busy_s for one in alive]
        return sum(busy) / len(busy) / seconds if busy and seconds else 0.0
