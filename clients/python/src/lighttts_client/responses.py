"""The responses of a call, read without a loss of memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Call(AsyncIterable[T_co], Protocol[T_co]):
    """A call of grpcio whose responses are a stream."""

    def cancel(self) -> bool:
        """End the call."""


async def responses(call: Call[T_co]) -> AsyncGenerator[T_co]:
    """Yield the responses of a call; close the generator to end the call.

    grpcio keeps the memory of a message if the task that waits for it is cancelled (grpc/grpc issue 43360). So each
    read is a task of its own, which ends with the call.
    """
    messages = aiter(call)
    reading: asyncio.Future[T_co | None] | None = None
    try:
        while True:
            reading = asyncio.ensure_future(anext(messages, None))
            response = await asyncio.shield(reading)
            if response is None:
                return
            yield response
    finally:
        call.cancel()
        if reading is not None:
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # its caller is gone: no other code retrieves the error
