"""The caller of a request. The authenticator binds it to the request's task, like the request id."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from lighttts.v1 import audio_pb2


@dataclass(frozen=True)
class Caller:
    """The holder of an API key. Several keys may share an owner, for example while one replaces another."""

    name: str
    """Name of the key, for logs, metrics and quotas."""
    owner: str
    """Owner of the registered voices that this caller can use."""
    offline: bool = False
    """Whether all work of this caller has offline priority."""
    max_streams: int | None = None
    """Most streams at once; None: no limit."""
    requests_per_minute: float | None = None
    """Most streams and uploads started per minute, on average; None: no limit."""
    burst: int = 1
    """Requests that may arrive at once after a pause."""

    def priority(self, wanted: audio_pb2.Urgency.Priority.ValueType) -> audio_pb2.Urgency.Priority.ValueType:
        """Return the priority of work that asks for `wanted`."""
        return audio_pb2.Urgency.PRIORITY_OFFLINE if self.offline else wanted


ANONYMOUS = Caller(name="anonymous", owner="anonymous")
"""The caller of every request if no keys are configured."""

UNKNOWN = "unknown"
MAX_SOURCE_CHARS = 200

_caller: ContextVar[Caller] = ContextVar("caller", default=ANONYMOUS)
_source: ContextVar[str] = ContextVar("source", default=UNKNOWN)


def current_caller() -> Caller:
    """Return the caller whose request the current task serves."""
    return _caller.get()


def bind_caller(caller: Caller) -> None:
    """Set the caller of the current task and of the tasks that it starts."""
    _caller.set(caller)


def current_source() -> str:
    """Return the address that the current task's request came from, for the audit."""
    return _source.get()


def bind_source(address: str, forwarded_for: str = "") -> None:
    """Set the address of the current task's request. `forwarded_for`: the addresses that proxies state, unchecked."""
    text = f"{address or UNKNOWN} for {forwarded_for}" if forwarded_for else address or UNKNOWN
    _source.set("".join(filter(str.isprintable, text))[:MAX_SOURCE_CHARS])
