"""Sends the audio of a session as an HTTP response, streamed or whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import structlog
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import metrics
from gateway.api.common import provenance
from gateway.api.common.fields import named_as
from gateway.api.common.warnings import HEADER, lines
from gateway.audio.container_headers import with_length
from gateway.cache.synthesis import speech
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions
from gateway.session.output import Event, Events
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import LightTtsError

log = structlog.get_logger(__name__)

T = TypeVar("T")

RATE_HEADER = "x-sample-rate"


class SpeechResponse(Response):
    """Speaks one text. The status is sent with the first audio: an earlier error becomes an error response.

    A client that disconnects cancels the synthesis at any time. An error after the first audio closes the connection,
    so that the client does not take the partial audio for the whole.
    """

    def __init__(
        self,
        context: GatewayContext,
        options: SpeechOptions,
        text: str,
        fields: Mapping[str, str],
        *,
        stream: bool = True,
        media_type: str | None = None,
        frame: Callable[[Events], AsyncGenerator[bytes]] | None = None,
    ) -> None:
        """`fields`: the API's names of our fields, for errors. `frame`: converts a session to a body of `media_type`;
        without it the body is the encoded audio.
        """
        self.status_code = 200
        self.media_type = media_type or options.audio.encoding.media_type
        self.background = None
        self.init_headers()  # not Response.__init__, which states the length of the body: it is not known yet
        self._context = context
        self._options = options
        self._text = text
        self._fields = fields
        self._stream = stream
        self._frame = frame or audio_bytes
        self._begun = False
        self._warnings: list[tts_pb2.Warning] = []
        self._seconds = 0.0
        """Audio of the whole answer, once it has ended."""
        self._rate = options.audio.encoding.rate(options.audio.sample_rate, context.voices.model.sample_rate)
        self.headers[RATE_HEADER] = str(self._rate)
        self.headers.update(provenance.headers(context))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._speak(send))

    async def _speak(self, send: Send) -> None:
        try:
            with named_as(self._fields):
                await self._send_speech(send)
        except LightTtsError as error:
            if not self._begun:
                raise
            metrics.ERRORS.labels("http", error.reason).inc()
            log.warning("synthesis failed after its first audio", message=error.message)

    async def _send_speech(self, send: Send) -> None:
        async with (
            speech(self._context, self._options, self._text) as session,
            contextlib.aclosing(self._frame(self._noted(session))) as parts,
        ):
            await (self._send_stream(parts, send) if self._stream else self._send_whole(parts, send))

    async def _noted(self, session: Events) -> AsyncGenerator[Event]:
        """Yield the session's events; record those that the headers tell."""
        async for event in session:
            match event:
                case tts_pb2.Warning() if not self._begun:
                    self._warnings.append(event)
                case tts_pb2.Finished():
                    self._seconds = event.audio_seconds
            yield event

    async def _send_stream(self, parts: AsyncIterator[bytes], send: Send) -> None:
        async for part in parts:
            if not self._begun:
                await self._begin(send)
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if not self._begun:
            await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_whole(self, parts: AsyncIterator[bytes], send: Send) -> None:
        body = b"".join([part async for part in parts])
        if self._frame is audio_bytes:
            encoding = self._options.audio.encoding
            body = with_length(body, encoding, round(self._seconds * self._rate))
            if self._context.credentials is not None:
                body = await self._context.credentials.signed(body, encoding)
        self.raw_headers.append((b"content-length", str(len(body)).encode()))
        await self._begin(send)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _begin(self, send: Send) -> None:
        self._begun = True
        self.raw_headers += [(HEADER.encode(), line.encode()) for line in lines(self._warnings)]
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


async def audio_bytes(session: Events) -> AsyncGenerator[bytes]:
    """Yield the encoded audio of a session in pieces."""
    async for event in session:
        if isinstance(event, audio_pb2.AudioChunk) and event.pcm:
            yield event.pcm


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `work`, or None if the client disconnected, which cancels it."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
        await asyncio.wait({working, leaving})
    return None if working.cancelled() else working.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
