"""The error tree: each leaf has a meaning, a gRPC status and an HTTP status.

    LightTtsError
    ├── InvalidInput        the request cannot be served; the message says what to change
    ├── NotFound            a voice, a style or a model that does not exist here
    ├── AlreadyExists       the name is in use for something else
    ├── Unauthenticated     the request has no valid key; the message says where to put it
    ├── TimedOut            the client took too long
    ├── Overloaded          refused at once because serving it would make others late; has a retry hint
    │   └── QuotaExceeded   refused because this caller has used its quota; has a retry hint
    ├── Unavailable         no worker can serve it now; a later retry may help
    └── Internal            a defect of ours; the log has the details under the request's id

Engines do not import this module, because they must run without gRPC; servers translate the engines' errors.
"""

from __future__ import annotations

from typing import cast

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "lighttts"


class LightTtsError(Exception):
    """Base of all errors that a client may receive. `field` names the request field that caused it, if any."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    http_status: int = 500
    reason: str = "INTERNAL"

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after
        """Seconds after which a retry may succeed; None if a retry does not help."""


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


class Internal(LightTtsError):
    pass


_LEAVES: tuple[type[LightTtsError], ...] = (
    InvalidInput,
    NotFound,
    AlreadyExists,
    Unauthenticated,
    TimedOut,
    Overloaded,
    Unavailable,
)


def to_status(error: LightTtsError) -> status_pb2.Status:
    """Return the rich gRPC status of an error: ErrorInfo, and BadRequest, RetryInfo, QuotaFailure where they apply."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if isinstance(error, Overloaded) and error.stage:
        info.metadata["stage"] = error.stage
    details: list[any_pb2.Any] = [_pack(info)]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(_pack(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    if isinstance(error, QuotaExceeded):
        used_up = error_details_pb2.QuotaFailure.Violation(subject=error.subject, description=error.message)
        details.append(_pack(error_details_pb2.QuotaFailure(violations=[used_up])))
    return status_pb2.Status(code=error.code.value[0], message=error.message, details=details)


def from_rpc_error(error: grpc.aio.AioRpcError) -> LightTtsError:
    """Return the error that a downstream service raised, so that it passes every service with its meaning and hints."""
    field: str | None = None
    retry_after: float | None = None
    stage = ""
    status = rpc_status.from_call(cast(grpc.Call, error))  # it reads only the trailing metadata
    for detail in status.details if status is not None else ():
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            stage = info.metadata.get("stage", "")
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    leaf = next((leaf for leaf in _LEAVES if leaf.code == error.code()), Internal)
    meant = leaf(error.details() or error.code().name, field=field, retry_after=retry_after)
    if isinstance(meant, Overloaded):
        meant.stage = stage
    return meant


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
