"""Virtual time: an event loop whose clock jumps to the next timer, and engine threads that sleep on this clock.

The engines run in greenlets of the loop's thread: an engine runs until it sleeps or has no work, and then hands control
back to the loop. So a simulation repeats exactly, and an engine costs no switch of threads per batch.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar, TypeVarTuple

import greenlet
import torch

from services.common.engine.thread import EngineThread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NEVER = 1e9
"""Seconds; longer than any simulation."""
LEAST_WAIT = 1e-6
"""Seconds; time passes with every wait, as it does in reality."""


class StandstillError(RuntimeError):
    """Nothing can happen any more, and the simulation has not ended: a defect of the simulated system."""


class _JumpingSelector(selectors.BaseSelector):
    """Advances the loop's clock to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StandstillError("nothing is due any more, and the simulation has not ended")
        self.now += timeout  # without a look at the system: no file and no thread takes part
        return []


class Execution:
    """Whether a process runs, or is frozen as by SIGSTOP: then none of its callbacks runs until it goes on."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.frozen = False
        self.context = contextvars.Context()
        """Tasks and callbacks that begin in it, or in a copy of it, belong to the process."""
        self.context.run(_EXECUTION.set, self)
        self._loop = loop
        self._held: list[tuple[Callable[[], None], contextvars.Context]] = []

    def freeze(self) -> None:
        self.frozen = True

    def go_on(self) -> None:
        """Run what was due meanwhile, in order."""
        self.frozen = False
        held, self._held = self._held, []
        for callback, context in held:
            self._loop.call_soon(callback, context=context)

    def hold(self, callback: Callable[[], None], context: contextvars.Context) -> None:
        self._held.append((callback, context))


_EXECUTION: contextvars.ContextVar[Execution] = contextvars.ContextVar("execution")


class _Gate:
    """A callback of a process that may freeze."""

    handle: asyncio.Handle

    def __init__(self, execution: Execution, callback: Callable[[], object], context: contextvars.Context) -> None:
        self._execution, self._callback, self._context = execution, callback, context

    def __call__(self) -> None:
        if self.handle.cancelled():  # while it was held
            return
        if self._execution.frozen:
            self._execution.hold(self, self._context)
        else:
            self._callback()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop under virtual time, which begins at 0. An error of a callback ends the simulation."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self.defect: BaseException | None = None
        self.set_exception_handler(_stop_at_defect)

    def time(self) -> float:
        return self._jumping.now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call at a time; never if it is beyond the end of every simulation, which costs no place among the timers."""
        if when < NEVER:
            return super().call_at(when, callback, *args, context=context)
        return asyncio.TimerHandle(when, callback, args, self, context)

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Call soon; there are no other threads, so nothing has to be woken."""
        return self.call_soon(callback, *args, context=context)


class FreezableLoop(VirtualLoop):
    """A loop for processes that may freeze; it is slower."""

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call after some time. A wait for a rounding error must not end at the same time, and begin again for ever."""
        delay = max(delay, LEAST_WAIT) if delay > 0 else delay
        return super().call_later(delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        gate = self._gate(callback, args, context) if when < NEVER else None
        if gate is None:
            return super().call_at(when, callback, *args, context=context)
        gate.handle = handle = super().call_at(when, gate, context=context)
        return handle

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        gate = self._gate(callback, args, context)
        if gate is None:
            return super().call_soon(callback, *args, context=context)
        gate.handle = handle = super().call_soon(gate, context=context)
        return handle

    def _gate(
        self, callback: Callable[[*Ts], object], args: tuple[*Ts], context: contextvars.Context | None
    ) -> _Gate | None:
        """Return what runs a callback of a process that may freeze; None for any other callback."""
        if isinstance(callback, _Gate):
            return None
        context = contextvars.copy_context() if context is None else context
        execution = context.get(_EXECUTION)
        return None if execution is None else _Gate(execution, lambda: callback(*args), context)


def _stop_at_defect(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(loop, VirtualLoop) and error is not None and loop.defect is None:
        loop.defect = error
        loop.stop()


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], *, freezes: bool = False) -> T:
    """Run `main` under virtual time; with `freezes`, processes may freeze.

    Raises StandstillError, and the first error of a callback.
    """
    loop = FreezableLoop() if freezes else VirtualLoop()
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(main(loop))
    except RuntimeError as error:
        raise (loop.defect or error) from None


class _Killed(BaseException):
    """Ends an engine within a batch, as the end of its process does; no `except Exception` catches it."""


class VirtualThread(EngineThread):
    """The thread of an engine under virtual time: a greenlet of the loop's thread."""

    def __init__(self, loop: VirtualLoop, context: contextvars.Context | None, *arguments: Any, **options: Any) -> None:
        """`context` is the one of its process."""
        super().__init__(*arguments, **options)
        self._loop, self._hub = loop, greenlet.getcurrent()
        self._context = None if context is None else context.copy()
        self._work = greenlet.greenlet(self._run)
        self._due: asyncio.Handle | None = None
        """When it runs next; None while it has nothing to do, and while it runs."""
        self._busy = False

    def start(self) -> None:
        """Do nothing: the first command starts it."""

    def post(self, command: Callable[[], object]) -> None:
        self._commands.append(command)
        if self._due is None and not self._busy and self.alive:
            self._due = self._loop.call_soon(self._resume, context=self._context)

    def close(self) -> None:
        """End it at once, also within a batch."""
        began, ended = bool(self._work), self._work.dead or not self.alive
        self.alive = False
        if ended or greenlet.getcurrent() is self._work:
            return
        if self._due is not None:
            self._due.cancel()
        if began:
            self._work.throw(_Killed)
        else:
            self._end()

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass; called within a turn."""
        self._due = self._loop.call_later(seconds, self._resume, context=self._context)
        self._hand_back()

    def _resume(self) -> None:
        """Run until it sleeps, has no work or ends."""
        self._due, self._busy = None, True
        self._work.switch()

    def _hand_back(self) -> None:
        self._busy = False
        self._hub.switch()

    def _run(self) -> None:
        try:
            busy = False
            while self.alive:
                if not busy and not self._commands:
                    self._hand_back()
                commands, self._commands = self._commands, []
                for command in commands:
                    command()
                busy = self._turn()
        except _Killed:
            pass
        finally:
            self.alive = self._busy = False
            self._end()


class EngineTime:
    """Gives one engine a thread under virtual time, and its backend the `sleep` of this thread."""

    def __init__(self, loop: VirtualLoop, context: contextvars.Context | None = None) -> None:
        """`context` is the one of its process."""
        self._loop, self._context = loop, context
        self._thread: VirtualThread | None = None

    def thread(
        self,
        name: str,
        turn: Callable[[], bool],
        end: Callable[[], None],
        heartbeat_s: float,
        device: torch.device | None = None,
    ) -> EngineThread:
        """Make the engine's thread; its arguments are those of EngineThread."""
        self._thread = VirtualThread(self._loop, self._context, name, turn, end, heartbeat_s, device)
        return self._thread

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass for the engine."""
        if self._thread is None:
            raise RuntimeError("the engine has no thread yet")
        self._thread.sleep(seconds)
