"""What a gRPC call must do: have quota left, send its first message in time, and fit into the budget of bytes."""

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
from gateway.auth.shares import Shares
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

KEPT = frozenset({"/lighttts.v1.Voices/CreateVoice"})
"""The methods that keep all messages of their stream until the call ends: parts of a recording."""


class FirstMessage(grpc.aio.ServerInterceptor):
    """Ends a call whose first message does not arrive, and refuses one without quota before its message is read.

    gRPC reads the message of a unary request before the handler runs, without a deadline, so such handlers are called
    as handlers of a stream with one message. The first message counts against the budget until its call ends, because
    a recording in it is part of the call's voice; a later one counts while it is handled, or as long if it is `KEPT`.
    """

    def __init__(self, quotas: Quotas, seconds: float, budget: Shares) -> None:
        """`budget`: the bytes of all open requests."""
        self._quotas = quotas
        self._seconds = seconds
        self._budget = budget

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
        entered = self._entered(method, handler.request_streaming)

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
        self, method: str, streamed: bool
    ) -> Callable[[AsyncIterator[Any]], contextlib.AbstractAsyncContextManager[Any]]:
        """Return a context manager that yields what the handler gets: the requests, or the only one."""
        speaks = method in SPEAKING

        @contextlib.asynccontextmanager
        async def enter(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async with contextlib.AsyncExitStack() as held:
                try:
                    if speaks and streamed:
                        await held.enter_async_context(ticket.held(self._quotas))
                    elif speaks:
                        await self._quotas.check(current_caller())
                    first = await self._first(requests)
                    for message in first:
                        held.enter_context(self._budget.hold(current_caller(), message.ByteSize()))
                except LightTtsError as error:
                    metrics.ERRORS.labels("grpc", error.reason).inc()
                    raise
                if streamed:
                    yield self._again(first, requests, held if method in KEPT else None)
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

    async def _again(
        self, first: list[Any], requests: AsyncIterator[Any], kept: contextlib.AsyncExitStack | None
    ) -> AsyncIterator[Any]:
        """Yield the first message and the rest of the stream; `kept` holds the bytes of each message."""
        for request in first:
            yield request
        if not first:
            return
        async for request in requests:
            hold = self._budget.hold(current_caller(), request.ByteSize())
            if kept is not None:
                kept.enter_context(hold)
                yield request
            else:
                with hold:
                    yield request
