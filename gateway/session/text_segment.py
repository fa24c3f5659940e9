"""Text up to a flush or the end: one `EncodeText` call.

A flush half-closes the call instead of keeping it open. Any worker encodes the later text in the same way, so a paused
conversation holds no call open and does not depend on the worker that encoded its last turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

import grpc
import grpc.aio

from gateway import tasks
from gateway.downstream import map_rpc_error
from gateway.session.options import speakable
from gateway.session.text_queue import Boundary, TextQueue
from lighttts.v1 import encode_pb2, encode_pb2_grpc
from services.common import tracing
from services.common.errors import Internal
from services.common.pool import Pool
from services.common.workers.call_end import CallEnd, answers

_Call: TypeAlias = "grpc.aio.StreamStreamCall[encode_pb2.EncodeTextRequest, encode_pb2.EncodeTextResponse]"


class TextSegment:
    """Reads text from a queue up to the next boundary and encodes it."""

    def __init__(self, text_queue: TextQueue) -> None:
        self._text_queue = text_queue
        self._text = ""
        self.characters = 0
        """Characters read so far."""
        self.boundary: Boundary | None = None
        """The boundary that ended the segment, once it was read."""

    async def begin(self) -> bool:
        """Wait for text that can be spoken; return False if the boundary comes first. No call is open until then."""
        while self.boundary is None and not speakable(self._text):
            self._text += await self._read()
        return self.boundary is None

    async def encode(
        self, pool: Pool, start: encode_pb2.EncodeTextStart, on_run: Callable[[encode_pb2.EncodedText], Awaitable[None]]
    ) -> None:
        """Call `on_run` with each run of ids up to the boundary. `start` is modified: it gets the segment's first text.

        Raises the encode service's error.
        """
        while self.boundary is None and not self._text_queue.empty:
            self._text += await self._read()
        start.text, start.complete = self._text, self.boundary is not None
        async with pool.lease() as worker:
            metadata = tracing.outgoing(start.request_id)
            call = encode_pb2_grpc.EncodeStub(worker.channel).EncodeText(metadata=metadata)
            end = CallEnd(call)
            try:
                async with aclosing(answers(call, end)) as responses, tasks.group() as group:
                    writer = group.create_task(self._write(call, start))
                    async for response in responses:
                        await on_run(response.text)
                    if self.boundary is None:
                        raise Internal("an encode worker ended a text before its end")
                    writer.cancel()
            except grpc.aio.AioRpcError as error:
                raise map_rpc_error(error) from error
            finally:
                call.cancel()

    async def _write(self, call: _Call, start: encode_pb2.EncodeTextStart) -> None:
        try:
            await call.write(encode_pb2.EncodeTextRequest(start=start))
            while self.boundary is None and (text := await self._read()):
                await call.write(encode_pb2.EncodeTextRequest(fragment=text))
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call has ended; its reader gets the reason

    async def _read(self) -> str:
        """Return more text, or an empty string at the boundary."""
        item = await self._text_queue.take()
        if isinstance(item, str):
            self.characters += len(item)
            return item
        self.boundary = item
        return ""
