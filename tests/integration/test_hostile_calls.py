"""What clients may do to any service: send bytes that are no message, leave, ask for what makes long errors."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import grpc.aio
import pytest

from lighttts.v1 import decode_pb2_grpc
from services.common.errors import InvalidInput, LightTtsError, NotFound, QuotaExceeded, from_rpc_error
from services.common.telemetry import drop_departures
from tests.integration.test_server_life import Loadable, describe, failure, running
from tests.support.llm import until
from tests.support.logs import capture_logs

UNARY, STREAM = "/lighttts.v1.Encode/DescribeModel", "/lighttts.v1.Decode/Decode"
GARBAGE = b"\xff\xff\xff"
Unary = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
Stream = grpc.aio.StreamStreamMultiCallable[bytes, bytes]


class Reading(Loadable):
    """Its stream reads its requests."""

    async def Decode(self, request_iterator: Any, context: Any) -> Any:
        async for _ in request_iterator:
            break
        async for _ in request_iterator:  # iterating again continues
            pass
        return
        yield


@pytest.mark.parametrize("kind", ["unary", "first message", "later message"])
async def test_bytes_that_are_no_message_are_invalid_and_leave_no_trace(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(Reading()) as (_, channel):
        with capture_logs() as lines:
            if kind == "unary":
                unary: Unary = channel.unary_unary(UNARY)
                call: Any = unary(GARBAGE)
                error = await failure(call)
            else:
                parts = [GARBAGE] if kind == "first message" else [b"", GARBAGE]
                stream: Stream = channel.stream_stream(STREAM)
                call = stream(iter(parts))
                error = await failure(call.read())
    assert isinstance(error, InvalidInput)
    assert "cannot be decoded" in error.message
    assert not [line for line in lines if "exc_info" in line or line["log_level"] == "error"]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "text", ["a" * 9000, "ü" * 9000, "%" * 9000, "\ud800" * 9000], ids=["ascii", "umlaut", "percent", "surrogate"]
)
@pytest.mark.parametrize("kind", [NotFound, QuotaExceeded])
async def test_a_long_error_keeps_its_meaning_over_the_wire(kind: type[LightTtsError], text: str) -> None:
    service = Loadable()
    async with running(service) as (_, channel):
        service.error = kind(text, field=text)
        if isinstance(service.error, QuotaExceeded):
            service.error.subject = text
        call = describe(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is kind.code, caught.value.details()
    error = from_rpc_error(caught.value)
    assert error.message == service.error.message
    assert error.field


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("x" * 128, True), ("x" * 129, False)])
async def test_request_ids_are_bounded(given: str, kept: bool) -> None:
    service = Loadable()
    async with running(service) as (_, channel):
        service.error = RuntimeError("a defect")
        unary: Unary = channel.unary_unary(UNARY)
        stub_call = unary(b"", metadata=(("x-request-id", given),))
        error = await failure(stub_call)
    assert (given in error.message) is kept


async def test_a_client_that_leaves_makes_one_debug_line() -> None:
    service = Loadable()
    async with running(service) as (_, channel):
        with capture_logs() as lines:
            call = decode_pb2_grpc.DecodeStub(channel).Decode()
            await call.read()
            call.cancel()
            await until(lambda: service.cancelled and any(line.get("method") == STREAM for line in lines))
    (line,) = [line for line in lines if line.get("method") == STREAM]
    assert (line["event"], line["log_level"]) == ("the client has left", "debug")


def test_grpc_traces_of_departures_are_dropped_and_others_are_kept() -> None:
    def record(error: BaseException | None) -> logging.LogRecord:
        info = None if error is None else (type(error), error, None)
        return logging.LogRecord("grpc._cython.cygrpc", logging.ERROR, "", 0, "raised", None, info)

    departure = grpc.aio.InternalError('Failed "execute_batch"')
    assert not drop_departures(record(departure))
    assert drop_departures(record(ValueError("a defect")))
    assert drop_departures(record(None))
