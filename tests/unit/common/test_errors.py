"""Errors on their way over gRPC: texts of any size fit into the trailers, and no answer makes decoding fail."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from services.common.errors import (
    MAX_MESSAGE_BYTES,
    Internal,
    InvalidInput,
    LightTtsError,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    Unsupported,
    from_rpc_error,
    listed,
    quoted,
    to_status,
)

DETAILS = "grpc-status-details-bin"


def received(code: grpc.StatusCode, details: str, rich: bytes) -> LightTtsError:
    trailers = grpc.aio.Metadata((DETAILS, rich))
    return from_rpc_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details))


@pytest.mark.parametrize(
    "text", ["a" * 9000, "ü" * 9000, "語" * 9000, "%" * 9000, "\ud800" * 9000], ids=["a", "ü", "語", "%", "surrogate"]
)
def test_a_message_of_any_text_is_cut_to_what_trailers_hold(text: str) -> None:
    error = QuotaExceeded(text, field=text, subject=text)
    assert len(error.message.encode()) <= MAX_MESSAGE_BYTES
    status = to_status(error)
    percent_encoded = 3 * len(status.message.encode())
    in_base64 = len(status.SerializeToString()) * 4 // 3
    assert percent_encoded + in_base64 < 7900, "room for the names of the trailers and gRPC's own"


def test_a_short_message_stays_as_it_is() -> None:
    assert InvalidInput("größer").message == "größer"


def test_values_and_lists_in_messages_are_cut() -> None:
    assert quoted("anna") == "'anna'"
    assert quoted("x" * 9000) == f"'{'x' * 60}'... (9000 characters)"
    assert listed(["a", "b"]) == "a, b"
    assert listed([]) == ""
    text = listed([f"{number:064}" for number in range(60)])
    assert len(text) < 450
    assert text.endswith("and 54 more")


@pytest.mark.parametrize(
    "rich",
    [
        b"\xff\xff",
        status_pb2.Status(code=13, message="another code").SerializeToString(),
        status_pb2.Status(code=5, message="another text").SerializeToString(),
        status_pb2.Status(
            code=5,
            message="no voice",
            details=[
                any_pb2.Any(type_url=f"type.googleapis.com/{kind.DESCRIPTOR.full_name}", value=b"\xff")
                for kind in (
                    error_details_pb2.ErrorInfo,
                    error_details_pb2.BadRequest,
                    error_details_pb2.RetryInfo,
                )
            ],
        ).SerializeToString(),
    ],
    ids=["no protobuf", "another code", "another text", "no details"],
)
def test_details_that_cannot_be_decoded_leave_the_plain_status(rich: bytes) -> None:
    error = received(grpc.StatusCode.NOT_FOUND, "no voice", rich)
    assert isinstance(error, NotFound)
    assert (error.message, error.field, error.retry_after) == ("no voice", None, None)


@pytest.mark.parametrize("seconds", [-5, 2**62])
def test_a_strange_retry_hint_can_be_passed_on(seconds: int) -> None:
    retry = any_pb2.Any()
    hint = error_details_pb2.RetryInfo()
    hint.retry_delay.seconds = seconds
    retry.Pack(hint)
    rich = status_pb2.Status(code=8, message="full", details=[retry]).SerializeToString()
    error = received(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", rich)
    assert isinstance(error, Overloaded)
    assert to_status(error).code == 8


@pytest.mark.parametrize(
    "error",
    [PermissionDenied("no"), Overloaded("full", stage="decode"), Unsupported("too old"), Internal("broken")],
    ids=lambda e: e.reason,
)
def test_an_error_keeps_its_meaning(error: LightTtsError) -> None:
    again = received(error.code, error.message, to_status(error).SerializeToString())
    assert type(again) is type(error)
    assert vars(again) == vars(error)
