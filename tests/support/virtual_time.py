"""Simulated time for engines: a queue of actions, and engines whose work takes time on this clock alone.

A test replaces an engine module's `EngineThread` by `EngineTime.thread`. Then no thread runs: each turn of the engine
is an action, and what its backend sleeps is the duration of the turn. A run is the same on every machine.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable


class VirtualTime:
    """Runs actions in order of their times, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def at(self, when: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._due, (when, next(self._order), action))

    def run(self) -> None:
        """Run until no action is left."""
        while self._due:
            when, _, action = heapq.heappop(self._due)
            self.now = max(self.now, when)
            action()


class EngineTime:
    """The time of one engine: `clock` and `sleep` for its backend, and `thread` in place of its thread."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._slept = 0.0
        self._free_at = 0.0
        self._commands: list[Callable[[], object]] = []
        self._planned = False
        self._turn: Callable[[], bool] = lambda: False

    def clock(self) -> float:
        """The present time; within a turn, with what the turn has slept."""
        return self._time.now + self._slept

    def sleep(self, seconds: float) -> None:
        self._slept += seconds

    def thread(self, name: str, turn: Callable[[], bool], *_: object) -> ManualThread:
        """Return what an engine takes for its thread."""
        self._turn = turn
        return ManualThread(self._post)

    def _post(self, command: Callable[[], object]) -> None:
        self._commands.append(command)
        self._plan()

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._time.at(max(self._time.now, self._free_at), self._run)

    def _run(self) -> None:
        commands, self._commands = self._commands, []
        for command in commands:
            command()
        busy = self._turn()
        self._free_at, self._slept = self.clock(), 0.0
        self._planned = False
        if busy or self._commands:
            self._plan()


class ManualThread:
    """Has the interface of `services.common.engine.thread.EngineThread`."""

    def __init__(self, post: Callable[[Callable[[], object]], None]) -> None:
        self.lock = threading.Condition()
        self.alive = True
        self.post = post

    def start(self) -> None:
        """Do nothing: turns follow from commands."""

    def close(self) -> None:
        self.alive = False
