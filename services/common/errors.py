"""The one error tree: each leaf has a meaning, a gRPC status and an HTTP status.

    LightTtsError
    ├── InvalidInput        what the client sent cannot be served; the message says what to change
    ├── NotFound            a voice, a style or a model that does not exist here
    ├── AlreadyExists       the name is taken by something else
    ├── Unauthenticated     no valid key came with the request; the message says where it belongs
    ├── TimedOut            the client took too long
    ├── Overloaded          refused at once because serving it would make others late; carries a retry hint
    │   └── QuotaExceeded   refused because this caller has used up its share; carries a retry hint
    ├── Unavailable         no worker can serve it now; trying again later may help
    └── Internal            a defect of ours; the details are in the log under the request's id

Engines do not import this module (they travel without gRPC); servers translate what engines raise.
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
    """Base of every error a client may see. `field` names the offending request field, if there is one."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    http_status: int = 500
    reason: str = "INTERNAL"

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after = retry_after
        """Seconds after which trying again makes sense; None when it does not help."""


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

    def __init__(self, message: str, *, field: str | None = None, retry_after: float | None = 1.0) -> None:
        super().__init__(message, field=field, retry_after=retry_after)


class QuotaExceeded(Overloaded):
    """`subject` is whose share it is, as the caller knows itself."""

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
    """The rich gRPC status of an error: ErrorInfo always; BadRequest, RetryInfo and QuotaFailure where they apply."""
    details: list[any_pb2.Any] = [_pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))]
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
    """The leaf a downstream service meant, so that a refusal crosses every hop with its meaning and hints."""
    field: str | None = None
    retry_after: float | None = None
    status = rpc_status.from_call(cast(grpc.Call, error))  # it reads the trailing metadata alone
    for detail in status.details if status is not None else ():
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    leaf = next((leaf for leaf in _LEAVES if leaf.code == error.code()), Internal)
    return leaf(error.details() or error.code().name, field=field, retry_after=retry_after)


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
