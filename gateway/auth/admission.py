"""Admission of sessions: a bounded number at once, and none after the process has drained."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Protocol

from gateway import metrics
from services.common.errors import LightTtsError, Overloaded, Unavailable


class Admitted(Protocol):
    """The part of a running session that admission uses."""

    def retire(self) -> None:
        """Ask the client to reconnect elsewhere, in a pause of the speech."""

    def abort(self, error: LightTtsError) -> None:
        """End the session at once; the client gets `error`."""


class Admission:
    """Counts the sessions of all APIs."""

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._sessions: set[Admitted] = set()
        self.retiring = asyncio.Event()
        """Set by `retire`; for connections that outlast their sessions."""
        self._end = 0.0
        """When the grace of a drain has passed, on the loop's clock."""
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def draining(self) -> bool:
        return self.retiring.is_set()

    @contextlib.contextmanager
    def admit(self, session: Admitted, *, continues: bool = False) -> Iterator[None]:
        """Hold a place while the block runs. Raises Overloaded, or Unavailable at the end of a drain.

        During a drain, clients that still come are served, because they found no other gateway yet.

        `continues`: the session continues one that was admitted, which the number of sessions does not prevent.
        """
        if self._closed:
            raise Unavailable("this gateway is stopping; try again on another one", retry_after=1.0)
        if len(self._sessions) >= self._max_sessions and not continues:
            message = f"all {self._max_sessions} streams of this gateway are in use; try again shortly"
            raise Overloaded(message, stage="gateway")
        self._sessions.add(session)
        self._idle.clear()
        metrics.SESSIONS_ACTIVE.inc()
        if self.draining:
            session.retire()
        try:
            yield
        finally:
            metrics.SESSIONS_ACTIVE.dec()
            self._sessions.discard(session)
            if not self._sessions:
                self._idle.set()

    def retire(self, grace_seconds: float) -> None:
        """Ask the clients of all sessions, also of those that still come, to reconnect elsewhere in a pause."""
        self.retiring.set()
        self._end = asyncio.get_running_loop().time() + grace_seconds
        for session in list(self._sessions):
            session.retire()

    async def drain(self) -> None:
        """Wait until no session is left; when the grace has passed, abort the rest. Admit no more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._end):
                await self._idle.wait()
        self._closed = True
        for session in list(self._sessions):
            session.abort(Unavailable("this gateway is stopping; send the rest of the text to another one"))
        await self._idle.wait()
