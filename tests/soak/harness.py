"""A soak: clients of all APIs, hostile clients and faults together, and what the processes hold before and after."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from cli.local.ports import HOST
from cli.local.process import Worker
from tests.faults.kinds import KINDS, Faults, possible
from tests.faults.stacks import Target, own_stack
from tests.soak.acts import ACTS, HUNG, WHOLE, Doors, native_stream, perform
from tests.soak.held import Held, held_by
from tests.soak.pace import Pace

SETTLE_SECONDS = 60.0
"""Time in which something of what ended work held must become free, until all is."""
FAULT_INTERVAL = (1.0, 6.0)
"""Seconds between two faults: least and most."""
LONGEST_RESTART = 120.0
"""Every process must serve again within these seconds after the last fault, or RESTART_FACTOR times the first start."""
RESTART_FACTOR = 5.0
UNBROKEN = ("gateway", "encode")
TENTHS = 10


@dataclass
class Soak:
    """The figures of one soak."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """Outcomes of each kind of act."""
    faults: Counter[str] = field(default_factory=Counter)
    before: dict[str, Held] = field(default_factory=dict)
    after: dict[str, Held] = field(default_factory=dict)
    tenths: dict[str, list[float]] = field(default_factory=dict)
    """Memory in MiB after each tenth of the time, of the processes that no fault restarts."""
    last_request: str = ""
    """Outcome of a request after everything."""

    def count(self, outcome: str) -> int:
        return sum(counter[outcome] for counter in self.outcomes.values())

    def so_far(self) -> str:
        """Return a line for whoever waits for the end."""
        memory = "".join(f", {name} {values[-1]:.0f} MiB" for name, values in sorted(self.tenths.items()))
        acts, tenths = sum(map(Counter.total, self.outcomes.values())), max(map(len, self.tenths.values()), default=0)
        return f"{tenths} of {TENTHS} tenths: {acts} acts, {self.faults.total()} faults{memory}"

    def wrong(self) -> list[str]:
        """Return what must not be: leaks, acts without an end, no speech."""
        found = [
            f"{name} holds {excess}"
            for name, held in self.after.items()
            for excess in held.excess(self.before.get(name))
        ]
        found += [f"{name} is not running" for name in self.before if name not in self.after]
        if hung := self.count(HUNG) + self.count("TIMED_OUT"):
            found.append(f"{hung} acts did not end")
        if not self.count(WHOLE):
            found.append("no request was spoken whole")
        if self.last_request != WHOLE:
            found.append(f"the request after everything ended with {self.last_request}")
        return found

    def report(self) -> str:
        lines = [f"{name}: {_counts(counter)}" for name, counter in sorted(self.outcomes.items())]
        lines.append(f"faults: {_counts(self.faults)}")
        lines.append("process      memory MiB     descriptors   threads      tasks        slots")
        for name, after in sorted(self.after.items()):
            before = self.before.get(name, after)
            pairs = (
                f"{getattr(before, column):.0f} -> {getattr(after, column):.0f}"
                for column in ("memory_mib", "descriptors", "threads", "tasks", "slots")
            )
            restarted = "" if before.pid == after.pid else "  restarted"
            lines.append(f"{name:12} " + " ".join(f"{pair:12}" for pair in pairs) + restarted)
        for name, memory in sorted(self.tenths.items()):
            shown, growth = " ".join(f"{one:.0f}" for one in memory), memory[-1] / memory[0] - 1
            lines.append(f"{name}: {shown} MiB by tenths, {growth:+.0%} after the first")
        return "\n".join([*lines, *(f"WRONG: {reason}" for reason in self.wrong())])


@contextlib.asynccontextmanager
async def soak_stack(folder: Path) -> AsyncIterator[tuple[Target, Doors]]:
    """Start two llm and two decode workers that simulate; processes that die are restarted."""
    began = time.monotonic()
    async with own_stack(folder, 2, 2, simulated=True) as target:
        seconds = time.monotonic() - began
        yield target, Doors(target.access, target.http, target.cosyvoice, start_seconds=seconds)


def kinds_for(target: Target) -> list[str]:
    """Return the kinds of faults. UNBROKEN processes stay alive: their figures before and after are compared."""
    without = ("kill-gateway", "term-gateway", "kill-encode")
    return [kind for kind in KINDS if possible(kind, target) and kind not in without]


async def soak(
    target: Target,
    doors: Doors,
    seconds: float,
    clients: int,
    seed: int,
    kinds: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Soak:
    """Let clients act and faults of `kinds` (default: all) happen for `seconds`, then wait until everything is free.

    `tell` is called with a line after each tenth of the time.
    """
    result, choose, pace = Soak(), random.Random(seed), Pace(clients)
    for act in dict.fromkeys(ACTS):  # what is made at the first use is there before the figures are taken
        _note(result, act.__name__, await perform(act, doors, choose, pace))
    await asyncio.gather(*(perform(native_stream, doors, choose, pace) for _ in range(clients)))
    result.before = await _settled(target, {})
    end = time.monotonic() + seconds
    working = [
        asyncio.create_task(_client(doors, result, random.Random(choose.random()), pace, end)) for _ in range(clients)
    ]
    sampling = asyncio.create_task(_sample(target, result, seconds / TENTHS, tell))
    await _break(target, result, choose, end, kinds or kinds_for(target))
    await asyncio.gather(*working, sampling)
    await target.heal()
    restarted = time.monotonic() + max(LONGEST_RESTART, RESTART_FACTOR * doors.start_seconds)
    while result.last_request != WHOLE and time.monotonic() < restarted:
        result.last_request = await perform(native_stream, doors, choose, pace)
        await asyncio.sleep(0.5)
    result.after = await _settled(target, result.before)
    return result


async def _client(doors: Doors, result: Soak, choose: random.Random, pace: Pace, end: float) -> None:
    while time.monotonic() < end:
        act = choose.choice(ACTS)
        _note(result, act.__name__, await perform(act, doors, choose, pace))


async def _break(target: Target, result: Soak, choose: random.Random, end: float, kinds: Sequence[str]) -> None:
    faults = Faults(target, choose)
    while time.monotonic() < end:
        kind = choose.choice(kinds)
        await faults.inflict(kind)
        result.faults[kind] += 1
        await asyncio.sleep(max(0.0, min(choose.uniform(*FAULT_INTERVAL), end - time.monotonic())))
    await faults.ended()


async def _sample(target: Target, result: Soak, interval: float, tell: Callable[[str], None]) -> None:
    lasting = [one for one in target.processes() if isinstance(one, Worker) and one.name in UNBROKEN]
    for _ in range(TENTHS):
        await asyncio.sleep(interval)
        for process in lasting:
            with contextlib.suppress(psutil.Error):  # it has died, which the report says
                if process.pid is not None:
                    memory = psutil.Process(process.pid).memory_info().rss / 2**20
                    result.tenths.setdefault(process.name, []).append(memory)
        tell(result.so_far())


async def _settled(target: Target, before: dict[str, Held]) -> dict[str, Held]:
    """Measure every process until nothing is held in excess, or nothing has become free for SETTLE_SECONDS."""
    end, least = time.monotonic() + SETTLE_SECONDS, math.inf
    while True:
        found = {}
        for process in target.processes():
            if isinstance(process, Worker) and process.pid is not None:
                try:
                    url = f"http://{HOST}:{process.spec.metrics_port}/metrics"
                    found[process.name] = await held_by(process.pid, url)
                except (httpx.HTTPError, psutil.Error):
                    continue  # it is being restarted
        kept = sum(held.slots + held.tasks for held in found.values()) + len(set(before) - set(found))
        if kept < least:
            end, least = time.monotonic() + SETTLE_SECONDS, kept
        free = not any(held.excess(before.get(name)) for name, held in found.items())
        if (free and set(found) >= set(before)) or time.monotonic() > end:
            return found
        await asyncio.sleep(0.5)


def _note(result: Soak, act: str, outcome: str) -> None:
    result.outcomes.setdefault(act, Counter())[outcome] += 1


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common()) or "none"
