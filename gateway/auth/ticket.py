"""Quota that a request takes before its session starts: before an extraction, or while a socket is silent.

async with ticket.held(quotas):           # one request and one stream are counted from here on
    async with Session(...):              # this session is the one that was counted
        ...
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass

from gateway.auth.caller import current_caller
from gateway.auth.quota import Quotas


@dataclass
class _Ticket:
    """What the current request has counted and no session has used yet."""

    request: bool = False
    stream: bool = False

    def use_request(self) -> bool:
        used, self.request = self.request, False
        return used


_current: ContextVar[_Ticket | None] = ContextVar("ticket", default=None)


async def spend(quotas: Quotas) -> None:
    """Count one request of the caller now; the next session of this request does not count it again."""
    ticket = _current.get()
    if ticket is None:
        ticket = _Ticket()
        _current.set(ticket)
    if not ticket.request:
        await quotas.spend(current_caller())
        ticket.request = True


def spent() -> None:
    """Mark the counted request as used, by an answer that needs no session."""
    if (ticket := _current.get()) is not None:
        ticket.use_request()


@contextlib.asynccontextmanager
async def held(quotas: Quotas) -> AsyncIterator[None]:
    """Count one request and one stream of the caller while the block runs; its sessions, one at a time, use both."""
    async with quotas.stream(current_caller()):
        _current.set(_Ticket(request=True, stream=True))
        try:
            yield
        finally:
            _current.set(None)


@contextlib.asynccontextmanager
async def stream(quotas: Quotas) -> AsyncIterator[None]:
    """Count a session: what its request has not counted before. Raises QuotaExceeded."""
    ticket = _current.get()
    if ticket is None or not ticket.stream:
        counted = ticket is not None and ticket.use_request()
        async with quotas.stream(current_caller(), counted=counted):
            yield
        return
    ticket.stream = False
    try:
        if not ticket.use_request():
            await quotas.spend(current_caller())
        yield
    finally:
        ticket.stream = True
