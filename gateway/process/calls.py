"""What a gRPC call must do before its handler runs: have quota left, and send its first message in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from gateway import metrics
from gateway.auth import ticket
from gateway.auth.caller import current_caller
from gateway.auth.quota import Quotas
from services.common.errors import InvalidInput, LightTtsError, TimedOut

SPEAKING = frozenset(
    {
        "/lighttts.v1.TextToSpeech/Synthesize",
        "/lighttts.v1.TextToSpeech/StreamingSynthesize",
        "/lighttts.v1.TextToSpeech/ConvertVoice",
        "/nvidia.riva.tts.RivaSpeechSynthesis/Synthesize",
        "/nvidia.riva.tts.RivaSpeechSynthesis/SynthesizeOnline",
        "/cosyvoice.CosyVoice/Inference",
    }
)
"""The methods that count against a caller's quota."""


class FirstMessage(grpc.aio.ServerInterceptor):
    """Ends a call whose first message does not arrive, and refuses one without quota before its message is read.

    gRPC reads the message of a unary request before the handler runs, without a deadline, so such handlers are called
    as handlers of a stream with one message.
    """

    def __init__(self, quotas: Quotas, seconds: float) -> None:
        self._quotas = quotas
        self._seconds = seconds

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith("/grpc."):
            return handler  # type: ignore[no-any-return]
        kind = "_".join("stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming))
        behaviour = getattr(handler, kind)
        entered = self._entered(method in SPEAKING, handler.request_streaming)

        async def stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async with entered(requests) as given, contextlib.aclosing(behaviour(given, context)) as responses:
                async for response in responses:
                    yield response

        async def unary(requests: AsyncIterator[Any], context: Any) -> Any:
            async with entered(requests) as given:
                return await behaviour(given, context)

        make: Any = grpc.stream_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
        return make(  # type: ignore[no-any-return]
            stream if handler.response_streaming else unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _entered(
        self, speaks: bool, streamed: bool
    ) -> Callable[[AsyncIterator[Any]], contextlib.AbstractAsyncContextManager[Any]]:
        """Return a context manager that yields what the handler gets: the requests, or the only one."""

        @contextlib.asynccontextmanager
        async def enter(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async with contextlib.AsyncExitStack() as held:
                try:
                    if speaks and streamed:
                        await held.enter_async_context(ticket.held(self._quotas))
                    elif speaks:
                        await self._quotas.check(current_caller())
                    first = await self._first(requests)
                except LightTtsError as error:
                    metrics.ERRORS.labels("grpc", error.reason).inc()
                    raise
                if streamed:
                    yield _again(first, requests)
                elif first:
                    yield first[0]
                else:
                    raise InvalidInput("the call has no request message; send one")

        return enter

    async def _first(self, requests: AsyncIterator[Any]) -> list[Any]:
        """Return the first message, or nothing if the stream has none. Raises TimedOut."""
        try:
            async with asyncio.timeout(self._seconds):
                return [await anext(requests)]
        except StopAsyncIteration:
            return []
        except TimeoutError as error:
            raise TimedOut(f"the first message did not arrive within {self._seconds:g} s") from error


async def _again(first: list[Any], requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    for request in first:
        yield request
    if first:
        async for request in requests:
            yield request
