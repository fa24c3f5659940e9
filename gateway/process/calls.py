"""What a gRPC call must do: have quota left, send its first message in time, and fit into the budget of bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
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

    def __init__(self, quotas: Quotas, seconds: float, idle_seconds: float, budget: Shares) -> None:
        """`seconds`: longest wait for the first message. `idle_seconds`: longest time in which a client sends nothing
        and does not read the next response of a stream; then the call is cancelled. `budget`: the bytes of all open
        requests."""
        self._quotas = quotas
        self._seconds = seconds
        self._idle_seconds = idle_seconds
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

        async def stream(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            requests = _Requests(messages)
            writes = _WriteLimit(requests, self._idle_seconds)
            try:
                async with entered(requests) as given, contextlib.aclosing(behaviour(given, context)) as responses:
                    async for response in responses:
                        writes.begin()
                        yield response
                        writes.end()
            finally:
                writes.close()

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
                    again = self._again(first, requests, held if method in KEPT else None)
                    # Closed here, because a handler that ends early leaves it at a message whose bytes it still holds.
                    yield await held.enter_async_context(contextlib.aclosing(again))
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
    ) -> AsyncGenerator[Any]:
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


class _Requests:
    """The messages of a call, counted."""

    def __init__(self, messages: AsyncIterator[Any]) -> None:
        self._messages = messages
        self.taken = 0

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        message = await anext(self._messages)
        self.taken += 1
        return message


class _WriteLimit:
    """Cancels the call if the write of a response takes `seconds` in which no message is taken.

    A write waits without a limit for a client that does not read, and holds the call's messages. One timer serves all
    writes of a call, because most of them end at once.
    """

    def __init__(self, requests: _Requests, seconds: float) -> None:
        self._requests = requests
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._call = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_since: float | None = None
        """Time from which on the write has waited while no message was taken; None between two writes."""
        self._taken = 0

    def begin(self) -> None:
        self._quiet_since, self._taken = self._loop.time(), self._requests.taken
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._check)

    def end(self) -> None:
        self._quiet_since = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        self._timer = None
        if self._quiet_since is None:
            return  # the next write begins another timer
        now = self._loop.time()
        if self._requests.taken > self._taken:
            self._quiet_since, self._taken = now, self._requests.taken
        left = self._quiet_since + self._seconds - now
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        elif self._call is not None:
            self._call.cancel()
