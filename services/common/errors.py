"""The error tree: each leaf has a meaning, a gRPC status and an HTTP status.

    LightTtsError
    ├── InvalidInput        the request cannot be served; the message says what to change
    ├── NotFound            a voice, a style or a model that does not exist here
    ├── AlreadyExists       the name is in use for something else
    ├── Unauthenticated     the request has no valid key; the message says where to put it
    ├── PermissionDenied    the request comes from a place that may not send it, such as a page of another site
    ├── TimedOut            the client took too long
    ├── Overloaded          refused at once because serving it would make others late; has a retry hint
    │   └── QuotaExceeded   refused because this caller has used its quota; has a retry hint
    ├── Unavailable         no worker can serve it now; a later retry may help
    ├── Unsupported         the workers are of an earlier version that lacks this function
    └── Internal            a defect of ours; the log has the details under the request's id

Engines do not import this module, because they must run without gRPC; servers translate the engines' errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "lighttts"
MAX_MESSAGE_BYTES = 1000
"""Longest message, in bytes of UTF-8. gRPC's trailers, which clients refuse above 8 kB, carry a message up to three
times: percent-encoded (three characters for a byte) as text, and in base64 in two details."""
MAX_NAME_BYTES = 100
"""Longest name of a field, of a quota's subject or of a stage in the details, in bytes."""
MAX_RETRY_SECONDS = 86_400.0
_TOO_LARGE = "message larger than max"
"""In gRPC's own RESOURCE_EXHAUSTED for a message over the limit of one side; our own errors have details instead."""
MAX_QUOTED_CHARS = 60
"""Longest value of a request that a message repeats."""
MAX_LISTED_BYTES = 400
"""Longest list of names in a message, in bytes of UTF-8."""


def quoted(value: str) -> str:
    """Return a value of the request in quotation marks, for a message; the rest of a long one is left out."""
    return (
        repr(value) if len(value) <= MAX_QUOTED_CHARS else f"{value[:MAX_QUOTED_CHARS]!r}... ({len(value)} characters)"
    )


def listed(names: Iterable[str]) -> str:
    """Return names separated by commas, for a message; those that do not fit are counted."""
    found = list(names)
    kept: list[str] = []
    room = MAX_LISTED_BYTES
    for name in found:
        room -= len(name.encode("utf-8", "replace")) + 2
        if room < 0:
            break
        kept.append(name)
    left = len(found) - len(kept)
    return ", ".join([*kept, f"and {left} more"] if left else kept)


def _bounded(text: str, max_bytes: int) -> str:
    """Return text that protobuf can hold (no lone surrogates), cut to `max_bytes` of UTF-8."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - 3].decode("utf-8", "ignore") + "..."


class LightTtsError(Exception):
    """Base of all errors that a client may receive. `field` names the request field that caused it, if any."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    http_status: int = 500
    reason: str = "INTERNAL"

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        """`message` is cut to `MAX_MESSAGE_BYTES`."""
        self.message = _bounded(message, MAX_MESSAGE_BYTES)
        super().__init__(self.message)
        self.field = field
        self.retry_after = retry_after
        """Seconds after which a retry may succeed; None if a retry does not help."""

    def rename_field(self, ours: str, theirs: str) -> None:
        """Let the message name the field as the client does: in the place of our name at its start, or before it."""
        if self.message.startswith(f"{ours} "):
            self.message = _bounded(theirs + self.message.removeprefix(ours), MAX_MESSAGE_BYTES)
        elif theirs not in self.message:
            self.message = _bounded(f"{theirs}: {self.message}", MAX_MESSAGE_BYTES)
        self.args = (self.message,)


class InvalidInput(LightTtsError):
    code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    reason = "INVALID_INPUT"


class NotFound(LightTtsError):
    code = grpc.StatusCode.NOT_FOUND
    http_status = 404
    reason = "NOT_FOUND"


class AlreadyExists(LightTtsError):
    code = grpc.StatusCode.ALREADY_EXISTS
    http_status = 409
    reason = "ALREADY_EXISTS"


class Unauthenticated(LightTtsError):
    code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401
    reason = "UNAUTHENTICATED"


class PermissionDenied(LightTtsError):
    code = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403
    reason = "PERMISSION_DENIED"


class TimedOut(LightTtsError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 408
    reason = "TIMED_OUT"


class Overloaded(LightTtsError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    reason = "OVERLOADED"

    def __init__(
        self, message: str, *, field: str | None = None, retry_after: float | None = 1.0, stage: str = ""
    ) -> None:
        super().__init__(message, field=field, retry_after=retry_after)
        self.stage = stage
        """The service that is full: gateway, encode, llm or decode; empty if the service does not matter."""


class QuotaExceeded(Overloaded):
    """`subject` identifies the quota's owner by the name that the caller uses."""

    reason = "QUOTA_EXCEEDED"

    def __init__(
        self, message: str, *, field: str | None = None, retry_after: float | None = 1.0, subject: str = ""
    ) -> None:
        super().__init__(message, field=field, retry_after=retry_after)
        self.subject = subject


class Unavailable(LightTtsError):
    code = grpc.StatusCode.UNAVAILABLE
    http_status = 503
    reason = "UNAVAILABLE"


class StateMismatch(Unavailable):
    """The state to resume an utterance from is of a version or of weights that this worker does not have."""

    reason = "STATE_MISMATCH"


class Unsupported(LightTtsError):
    code = grpc.StatusCode.UNIMPLEMENTED
    http_status = 501
    reason = "UNSUPPORTED"


class Internal(LightTtsError):
    """`repeated`: a second worker failed too, so the request is the likely cause and no caller moves it again."""

    def __init__(
        self, message: str, *, field: str | None = None, retry_after: float | None = None, repeated: bool = False
    ) -> None:
        super().__init__(message, field=field, retry_after=retry_after)
        self.repeated = repeated


_LEAVES: tuple[type[LightTtsError], ...] = (
    InvalidInput,
    NotFound,
    AlreadyExists,
    Unauthenticated,
    PermissionDenied,
    TimedOut,
    Overloaded,
    Unavailable,
    Unsupported,
)


def to_status(error: LightTtsError) -> status_pb2.Status:
    """Return the rich gRPC status of an error: ErrorInfo, and BadRequest, RetryInfo, QuotaFailure where they apply."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if isinstance(error, Overloaded) and error.stage:
        info.metadata["stage"] = _bounded(error.stage, MAX_NAME_BYTES)
    if isinstance(error, Internal) and error.repeated:
        info.metadata["repeated"] = "true"
    details: list[any_pb2.Any] = [_pack(info)]
    if error.field is not None:
        name = _bounded(error.field, MAX_NAME_BYTES)
        violation = error_details_pb2.BadRequest.FieldViolation(field=name, description=error.message)
        details.append(_pack(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(min(error.retry_after, MAX_RETRY_SECONDS) * 1e9))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    if isinstance(error, QuotaExceeded):
        subject = _bounded(error.subject, MAX_NAME_BYTES)
        used_up = error_details_pb2.QuotaFailure.Violation(subject=subject, description=error.message)
        details.append(_pack(error_details_pb2.QuotaFailure(violations=[used_up])))
    return status_pb2.Status(code=error.code.value[0], message=error.message, details=details)


def from_rpc_error(error: grpc.aio.AioRpcError) -> LightTtsError:
    """Return the error that a downstream service raised, so that it passes every service with its meaning and hints.

    Never raises: details that cannot be decoded, as other software may send them, are left out.
    """
    field: str | None = None
    retry_after: float | None = None
    stage = reason = ""
    repeated = False
    for detail in _details(error):
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        try:
            if detail.Unpack(info):
                stage, reason = info.metadata.get("stage", ""), info.reason
                repeated = info.metadata.get("repeated", "") == "true"
            elif detail.Unpack(bad) and bad.field_violations:
                field = bad.field_violations[0].field
            elif detail.Unpack(retry):
                retry_after = max(0.0, retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
        except DecodeError:
            continue
    leaf = next((leaf for leaf in _LEAVES if leaf.code == error.code()), Internal)
    if leaf is Unavailable and reason == StateMismatch.reason:
        leaf = StateMismatch
    if leaf is Overloaded and not reason and _TOO_LARGE in (error.details() or ""):
        leaf = Internal  # no retry and no other worker helps
    meant = leaf(error.details() or error.code().name, field=field, retry_after=retry_after)
    if isinstance(meant, Overloaded):
        meant.stage = stage
    if isinstance(meant, Internal):
        meant.repeated = repeated
    return meant


def _details(error: grpc.aio.AioRpcError) -> Iterable[any_pb2.Any]:
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))  # it reads only the trailing metadata
    except (DecodeError, ValueError):  # ValueError: the rich status contradicts the plain one
        return ()
    return () if status is None else status.details


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
