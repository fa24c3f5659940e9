"""Who a request comes from. Bound to the request's task once, at the door, like its request id."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from lighttts.v1 import audio_pb2


@dataclass(frozen=True)
class Caller:
    """A key's holder. Several keys may share an owner, for example while one replaces another."""

    name: str
    """Of the key: in logs, metrics and quotas."""
    owner: str
    """Whose registered voices it sees."""
    offline: bool = False
    """Nobody listens live: all its work is served last."""
    max_streams: int | None = None
    """Streams at once; None is without limit."""
    requests_per_minute: float | None = None
    """Streams and uploads begun, on average; None is without limit."""
    burst: int = 1
    """Requests that may come at once after a pause."""

    def priority(self, wanted: audio_pb2.Urgency.Priority.ValueType) -> audio_pb2.Urgency.Priority.ValueType:
        """How urgent its work may be."""
        return audio_pb2.Urgency.PRIORITY_OFFLINE if self.offline else wanted


ANONYMOUS = Caller(name="anonymous", owner="anonymous")
"""Everybody, where no keys are configured."""

_caller: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """Whose request the current task serves."""
    return _caller.get()


def bind_caller(caller: Caller) -> None:
    """Makes the current task, and the tasks it starts, serve `caller`."""
    _caller.set(caller)
