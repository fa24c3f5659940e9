"""What the llm and the decode engine share: the items they serve, the handles of callers, and how an item ends.

An item is an llm sequence or a decode stream. A failure stays with the item that caused it. Whatever ends an item (its
last event, an error, a cancel, closing) goes through `EngineShell._drop`, which releases the item's resources once.

After an error that is not the caller's, such as one of memory or of the device, the engine runs a canary: a fixed short
piece of work. If that fails too, the backend is broken and the engine ends, so that its process is replaced.

Imports the standard library alone.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

log = logging.getLogger(__name__)

Outcome = Literal["finished", "cancelled", "failed"]
"""How an item ended; each outcome has a counter of this name."""


class EngineFull(Exception):
    """The engine's limits do not allow another item; try another worker, or try again later."""


class EngineClosed(Exception):
    """The engine is closed and runs no items."""


@dataclass(frozen=True)
class FailedEvent:
    """The last event of an item that failed; its resources are free.

    An error of the engine's input error type is the caller's to correct; any other error is a defect.
    """

    error: Exception


class Item(Protocol):
    """What an engine serves; compared and hashed by identity."""

    closed: bool
    """Finished, failed or cancelled: no further event is sent."""


class Thread(Protocol):
    """The part of `services.common.engine.thread.EngineThread` that the shell uses; that module imports torch."""

    lock: threading.Condition
    alive: bool

    def post(self, command: Callable[[], object]) -> None: ...

    def close(self) -> None: ...


ItemT = TypeVar("ItemT", bound=Item)
EventT = TypeVar("EventT")
StatsT = TypeVar("StatsT")


class ItemHandle(Generic[ItemT, EventT]):
    """An item that was submitted, as its caller names it to the engine. Only the engine uses the attributes."""

    __slots__ = ("item", "on_event")

    def __init__(self, item: ItemT, on_event: Callable[[EventT | FailedEvent], None]) -> None:
        self.item = item
        self.on_event = on_event


class EngineShell(ABC, Generic[ItemT, EventT, StatsT]):
    """Base of both engines: their live items and the public methods that are the same. Thread-safe.

    Methods that begin with an underscore belong to the engine thread, except `_add` and `_admit`.
    """

    def __init__(self, thread: Thread, input_error: type[Exception]) -> None:
        """`input_error` is what bad input of a caller raises."""
        self._thread = thread
        self._input_error = input_error
        self._live: dict[ItemT, ItemHandle[ItemT, EventT]] = {}
        """Changed with the thread's lock held."""
        self._counts: Counter[str] = Counter()
        self._canary_due = True
        """Whether no canary ran in this turn."""
        self._broken = False
        self.on_canary_failure: Callable[[], None] = lambda: None
        """Called from the engine thread when the canary fails."""

    @property
    def alive(self) -> bool:
        """False once the engine is closed or its canary has failed; it then refuses every new item."""
        return self._thread.alive

    @abstractmethod
    def stats(self) -> StatsT:
        """The engine's state and counters now. Any thread may call it; the engine may go on between two fields."""

    def cancel(self, handle: ItemHandle[ItemT, EventT]) -> None:
        """End an item before the next step at the latest; no event follows. Do nothing if the item has ended."""
        handle.item.closed = True  # at once, so that a step in progress sends no further event
        self._thread.post(lambda: self._drop(handle, "cancelled"))

    def close(self) -> None:
        """Fail every live item with EngineClosed and end the thread. It may be called twice."""
        self._thread.close()

    @abstractmethod
    def _admit(self, item: ItemT) -> None:
        """Raise EngineFull if there is no room for `item`. Called with the lock held, from the caller's thread."""

    @abstractmethod
    def _release(self, item: ItemT) -> None:
        """Free all resources of `item`; called once per item."""

    @abstractmethod
    def _run_canary(self) -> None:
        """Run a fixed short piece of work on the backend. Raises whatever the backend raises."""

    def _add(self, handle: ItemHandle[ItemT, EventT]) -> None:
        """Make an item live. Raises EngineClosed or EngineFull."""
        with self._thread.lock:
            if not self._thread.alive:
                raise EngineClosed("the engine is closed")
            self._admit(handle.item)
            self._live[handle.item] = handle

    def _end(self) -> None:
        """Fail what is left; the engine thread calls it after its last turn."""
        with self._thread.lock:
            handles = list(self._live.values())
        for handle in handles:
            self._fail(handle, EngineClosed("the engine was closed before the utterance ended"))

    def _guarded(self, handle: ItemHandle[ItemT, EventT], change: Callable[[], None]) -> None:
        """Apply a caller's change to a live item; an input error fails the item."""
        try:
            if not handle.item.closed:
                change()
        except self._input_error as error:
            self._fail(handle, error)

    def _emit(self, handle: ItemHandle[ItemT, EventT], event: EventT | FailedEvent) -> None:
        try:
            handle.on_event(event)
        except Exception:  # noqa: BLE001 - a callback that raises ends its own item and no other
            self._drop(handle, "failed")

    def _fail(self, handle: ItemHandle[ItemT, EventT], error: Exception) -> None:
        """End an item with a FailedEvent; without one if it was cancelled.

        If the error shows that the backend is broken, the event has an EngineClosed: the item can move elsewhere.
        """
        if not (isinstance(error, (self._input_error, EngineClosed)) or self._works_after(error)):
            error = EngineClosed("this worker's engine has failed; another worker continues")
        cancelled = handle.item.closed
        if self._drop(handle, "cancelled" if cancelled else "failed") and not cancelled:
            self._emit(handle, FailedEvent(error))

    def _works_after(self, error: Exception) -> bool:
        """Return whether the backend still works; run the canary to find out, at most once per turn."""
        if self._canary_due and not self._broken:
            self._canary_due = False
            try:
                self._run_canary()
            except Exception as failure:  # noqa: BLE001 - devices raise many types
                self._broken = True
                reason = {"error": repr(error), "canary": repr(failure)}
                log.critical("the canary failed after an engine error; the worker must be restarted", extra=reason)
                self.on_canary_failure()
                self._thread.close()
        return not self._broken

    def _drop(self, handle: ItemHandle[ItemT, EventT], outcome: Outcome) -> bool:
        """Remove an item and free its resources; false if it was removed before."""
        with self._thread.lock:
            live = self._live.pop(handle.item, None) is not None
        handle.item.closed = True
        if live:
            self._release(handle.item)
            self._counts[outcome] += 1
        return live
