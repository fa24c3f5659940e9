"""Handling around every call: request id, readiness, metrics, and errors as rich statuses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from services.common import metrics, tracing
from services.common.errors import Internal, InvalidInput, LightTtsError, Unavailable, from_rpc_error, to_status
from services.common.telemetry import REQUEST_ID_KEY, bind_request_id, current_request_id, given_or_new_request_id

log = structlog.get_logger(__name__)


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Return the gRPC options of both ends: message limit, and keepalive that detects a frozen peer in about 3 s."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 2000),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.http2.ping_timeout_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        # Small buffers: a reader that stops must block its sender within a second of audio, not after minutes.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 64 * 1024),
    ]


class _Undecodable:
    """Takes the place of a request whose bytes are not a message of its type."""


_UNDECODABLE = _Undecodable()


def _tolerant(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Return a deserializer that returns `_UNDECODABLE` instead of raising, since gRPC would log a trace."""
    if deserializer is None:
        return None

    def deserialize(raw: bytes) -> Any:
        try:
            return deserializer(raw)
        except DecodeError:
            return _UNDECODABLE

    return deserialize


def _checked(request: Any) -> Any:
    if request is _UNDECODABLE:
        raise InvalidInput("the request cannot be decoded: it is not a protobuf message of this method's type")
    return request


class _Requests:
    """The requests of a stream. Raises InvalidInput in the place of one that cannot be decoded."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        return _checked(await anext(self._requests))


UNREGISTERED = "unregistered"
"""The label of methods that no service has."""


def registered_methods(services: Iterable[str]) -> frozenset[str]:
    """Return the methods of the named services, such as "/lighttts.v1.Llm/Generate"; none of one without descriptor."""
    pool = descriptor_pool.Default()
    methods: set[str] = set()
    for name in services:
        with contextlib.suppress(KeyError):
            methods |= {f"/{name}/{method}" for method in pool.FindServiceByName(name).methods_by_name}
    return frozenset(methods)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wrap every handler except gRPC's own (health, reflection).

    While `refusal` is set, new calls are refused with UNAVAILABLE and that text (loading, draining). Handlers raise
    `LightTtsError`s; any other exception is a defect: it is logged in full and answered with INTERNAL.
    """

    def __init__(self, methods: frozenset[str]) -> None:
        """`methods`: the registered ones, such as "/lighttts.v1.Llm/Generate". Other names are not used as labels of
        metrics, spans and logs, because clients invent them."""
        self._methods = methods
        self.refusal: str | None = "loading the model; try again shortly"
        self.idle = asyncio.Event()
        """Set while no call runs. gRPC's own calls do not count: a health watch lasts as long as its client wants."""
        self.idle.set()
        self.watches = 0
        """Health watches that run."""
        self._active = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None:
            return None
        if method.startswith("/grpc."):
            return self._counted(handler)  # type: ignore[no-any-return]
        if method not in self._methods:  # another interceptor answers it, for example without a key
            method = UNREGISTERED
        kind = "_".join("stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming))
        wrap = self._streaming if handler.response_streaming else self._unary
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        checked = _Requests if handler.request_streaming else _checked
        return make(  # type: ignore[no-any-return]
            wrap(method, getattr(handler, kind), checked),
            request_deserializer=_tolerant(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _counted(self, handler: Any) -> Any:
        """Count the watches of one of gRPC's own handlers."""
        if handler.unary_stream is None:
            return handler

        async def watch(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            self.watches += 1
            try:
                await handler.unary_stream(request, context)
            finally:
                self.watches -= 1

        return grpc.unary_stream_rpc_method_handler(watch, handler.request_deserializer, handler.response_serializer)

    def _unary(
        self, method: str, behaviour: Callable[..., Awaitable[Any]], checked: Callable[[Any], Any]
    ) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with self._guard(method, context):
                return await behaviour(checked(request), context)

        return call

    def _streaming(
        self, method: str, behaviour: Callable[..., Any], checked: Callable[[Any], Any]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with (
                self._guard(method, context),
                contextlib.aclosing(behaviour(checked(request), context)) as responses,
            ):
                async for response in responses:
                    yield response

        return call

    @contextlib.asynccontextmanager
    async def _guard(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        metadata = dict(context.invocation_metadata() or ())
        bind_request_id(given_or_new_request_id(metadata.get(REQUEST_ID_KEY, "")))
        with tracing.serving(method.lstrip("/"), metadata):
            async with self._answer(method, context):
                yield

    @contextlib.asynccontextmanager
    async def _answer(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        """Count the call, and convert exceptions to its status."""
        metrics.RPC_STARTED.labels(method).inc()
        self._count(method, 1)
        started = time.monotonic()
        code = grpc.StatusCode.CANCELLED
        try:
            if self.refusal is not None:
                raise Unavailable(self.refusal, retry_after=1.0)
            yield
            code = grpc.StatusCode.OK
        except (LightTtsError, grpc.aio.AioRpcError) as error:
            refused = error if isinstance(error, LightTtsError) else from_rpc_error(error)
            code = refused.code
            log.info("call refused", method=method, code=code.name, message=refused.message)
            await _abort(context, refused)
        except grpc.aio.AbortError:
            code = context.code() or grpc.StatusCode.UNKNOWN
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL
            log.exception("call failed", method=method)
            defect = Internal(f"internal error; the server's log has the details under request {current_request_id()}")
            await _abort(context, defect)
        finally:
            if code is grpc.StatusCode.CANCELLED:
                log.debug("the client has left", method=method)
            self._count(method, -1)
            metrics.RPC_FINISHED.labels(method, code.name).inc()
            metrics.RPC_SECONDS.labels(method).observe(time.monotonic() - started)

    def _count(self, method: str, change: int) -> None:
        metrics.RPC_ACTIVE.labels(method).inc(change)
        self._active += change
        if self._active:
            self.idle.clear()
        else:
            self.idle.set()


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: LightTtsError) -> None:
    """End a call with an error; keep the trailing metadata that the handler has set."""
    status = rpc_status.to_status(to_status(error))
    details = tuple(status.trailing_metadata or ())
    kept = tuple(context.trailing_metadata() or ())
    await context.abort(status.code, status.details, (*kept, *details))
