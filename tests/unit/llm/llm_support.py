"""Shared code of the llm tests: a listener that collects events, and a family of requests."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from services.common.engine.shell import FailedEvent
from services.llm.engine.backends import Backend
from services.llm.engine.engine import LlmEngine
from services.llm.engine.layout import Prompt
from services.llm.engine.scheduler import EngineLimits, Order, fifo
from services.llm.engine.sequence import Event, Request, SamplingOptions

ROOT = Path(__file__).parents[3]
PATIENCE_S = 400.0
"""A longer wait is a defect; no test measures time with it."""


class Listener:
    """Collects one sequence's events; a test can wait for them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for_tokens(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.raw_ids) >= count, PATIENCE_S)

    def wait(self) -> Listener:
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, PATIENCE_S), "the sequence never ended"
        return self

    @property
    def ended(self) -> bool:
        return bool(self.events) and (isinstance(self.events[-1], FailedEvent) or self.events[-1].last)

    @property
    def raw_ids(self) -> tuple[int, ...]:
        return tuple(i for event in self.events if not isinstance(event, FailedEvent) for i in event.raw_ids)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(i for event in self.events if not isinstance(event, FailedEvent) for i in event.ids)

    @property
    def finish_reason(self) -> str | None:
        return None if isinstance(self.events[-1], FailedEvent) else self.events[-1].finish_reason

    @property
    def error(self) -> Exception | None:
        return self.events[-1].error if isinstance(self.events[-1], FailedEvent) else None


class MakeEngine(Protocol):
    def __call__(
        self, limits: EngineLimits | None = None, backend: Backend | None = None, order: Order = fifo
    ) -> AbstractContextManager[LlmEngine]: ...


def utterance(number: int, max_seconds: float = 1.0) -> Request:
    """Return one of a family of requests to the mini model that differ in text, prompt lengths and seed."""
    text = tuple((37 * number + 11 * k) % 400 for k in range(1 + number % 7))
    prompt = Prompt(tuple(range(number % 5)), tuple(101 * k for k in range(3 * number % 23)))
    return Request(text, prompt, SamplingOptions(seed=number), max_seconds=max_seconds)


def run(engine: LlmEngine, request: Request) -> Listener:
    listener = Listener()
    engine.submit(request, listener)
    return listener.wait()
