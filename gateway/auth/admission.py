"""Who may speak now: a bounded number of sessions, and none once the process drains."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Protocol

from gateway import metrics
from services.common.errors import LightTtsError, Overloaded, Unavailable


class Admitted(Protocol):
    """Something that runs for a client."""

    def retire(self) -> None:
        """Asks its client to go on elsewhere, at a moment that does not hurt."""

    def abort(self, error: LightTtsError) -> None:
        """Ends it at once; its client gets `error`."""


class Admission:
    """Counts the sessions of all fronts."""

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._sessions: set[Admitted] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def draining(self) -> bool:
        return self._draining

    @contextlib.contextmanager
    def admit(self, session: Admitted) -> Iterator[None]:
        """Holds a place while the block runs. Raises Overloaded or, while draining, Unavailable."""
        if self._draining:
            raise Unavailable("this gateway is stopping; another one will serve you", retry_after=1.0)
        if len(self._sessions) >= self._max_sessions:
            raise Overloaded(f"all {self._max_sessions} streams of this gateway are in use; try again shortly")
        self._sessions.add(session)
        self._idle.clear()
        metrics.SESSIONS_ACTIVE.inc()
        try:
            yield
        finally:
            metrics.SESSIONS_ACTIVE.dec()
            self._sessions.discard(session)
            if not self._sessions:
                self._idle.set()

    async def drain(self, grace_seconds: float) -> None:
        """Admits no more, asks those running to leave, and aborts what is left after `grace_seconds`."""
        self._draining = True
        for session in list(self._sessions):
            session.retire()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        for session in list(self._sessions):
            session.abort(Unavailable("this gateway is stopping; send the rest of the text to another one"))
        await self._idle.wait()
