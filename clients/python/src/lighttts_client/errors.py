"""Errors of a gateway: what is wrong, which field is at fault, and when a retry may succeed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "lighttts"
"""In the details of every error that a gateway sends; an error without it comes from the connection."""
_DETAILS = "grpc-status-details-bin"


class LightTtsError(Exception):
    """Base of all errors of this package."""

    def __init__(
        self, message: str, *, field: str | None = None, retry_after: float | None = None, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        """The field of the request that is at fault, such as `config.speed`; None if none is."""
        self.retry_after = retry_after
        """Seconds after which a retry may succeed; None if the gateway names no time."""
        self.reason = reason
        """The gateway's name of the error, such as QUOTA_EXCEEDED."""


class InvalidInput(LightTtsError):
    """The request cannot be served; the message says what to change."""


class NotFound(LightTtsError):
    """There is no such voice or style."""


class AlreadyExists(LightTtsError):
    """The name is in use for something else."""


class Unauthenticated(LightTtsError):
    """The gateway needs a key, or this one is not valid."""


class PermissionDenied(LightTtsError):
    """The key may not do this."""


class TimedOut(LightTtsError):
    """The stream was idle for too long, or a message came too late."""


class Overloaded(LightTtsError):
    """Refused for load or for a quota; retried if the gateway says when."""


class Unavailable(LightTtsError):
    """No gateway or no worker can serve it now; retried."""


class ConnectionLost(Unavailable):
    """The connection ended without an answer of the gateway; retried."""


class Unsupported(LightTtsError):
    """The server is of an earlier version that lacks this function."""


class Internal(LightTtsError):
    """A defect of the server; its log has the details."""


_KINDS: dict[grpc.StatusCode, type[LightTtsError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
}
_BROKEN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
}
"""How gRPC reports a stream that was reset or a connection that ended."""


def check_text(field: str, text: str) -> None:
    """Raise InvalidInput if `text` has surrogates, such as half of an emoji: UTF-8 has no bytes for them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{field} has half of a character ({text[error.start]!a} at {error.start}), which UTF-8 cannot hold; send "
            "both halves as one character, or drop it",
            field=field,
        ) from error


def from_rpc_error(error: Any) -> LightTtsError:
    """Return the error of a gRPC call, of `grpc` or of `grpc.aio`."""
    field: str | None = None
    retry_after: float | None = None
    reason = domain = ""
    for detail in _details(error.trailing_metadata()):
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, domain = info.reason, info.domain
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after = max(0.0, retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    kind = _KINDS.get(error.code(), Internal)
    if domain != DOMAIN and error.code() in _BROKEN:
        kind = ConnectionLost
    return kind(error.details() or error.code().name, field=field, retry_after=retry_after, reason=reason)


def _details(metadata: Iterable[tuple[str, Any]] | None) -> Iterable[Any]:
    for name, value in metadata or ():
        if name == _DETAILS:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:  # of other software on the way
                return ()
    return ()
