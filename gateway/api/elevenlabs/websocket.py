"""ElevenLabs' WebSockets: one text per socket (`stream-input`), or several contexts (`multi-stream-input`)."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect, status
from pydantic import Field, ValidationError

from gateway import metrics, tasks
from gateway.api.common import provenance
from gateway.api.common.fields import named_as
from gateway.api.common.json_body import JsonFields
from gateway.api.common.websocket import check_text_frame, close_code, deadline, error_frame, receive
from gateway.api.elevenlabs.alignment import Characters
from gateway.api.elevenlabs.messages import ClientMessage, audio_message, final_message, named, parse
from gateway.api.elevenlabs.request import FIELDS, VoiceSettings, to_options
from gateway.api.elevenlabs.text_stream import TextStream
from gateway.api.openai.models import Models
from gateway.auth import ticket
from gateway.auth.authentication import key_due
from gateway.auth.caller import bind_caller
from gateway.auth.shares import Shares
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions
from services.common.errors import InvalidInput, LightTtsError, TimedOut

API = "elevenlabs"
MAX_CONTEXTS = 16
"""Most contexts of one socket, those that still speak after their end included."""
MAX_INACTIVITY = 180.0
"""Seconds; longer timeouts count as this one, as at ElevenLabs."""
MAX_REASON_BYTES = 123
"""WebSocket's limit of a close frame."""


class SocketQuery(JsonFields):
    """The options in the address. Others of ElevenLabs have no equivalent and are ignored."""

    model_id: str = ""
    output_format: str = ""
    language_code: str = ""
    inactivity_timeout: float = Field(default=20, gt=0)
    sync_alignment: bool = False
    auto_mode: bool = False
    """Whether each message is a whole phrase, which is spoken without waiting for more text."""


@dataclass
class _Open:
    """A context that the client has not ended."""

    stream: TextStream
    task: asyncio.Task[None]


def router(context: GatewayContext, models: Models, bodies: Shares) -> APIRouter:
    """Return the WebSocket routes. `bodies`: the bytes of all open requests."""
    routes = APIRouter(prefix="/v1/text-to-speech")

    @routes.websocket("/{voice_id}/stream-input")
    async def stream_input(websocket: WebSocket, voice_id: str) -> None:
        await _serve(context, models, bodies, websocket, voice_id, several=False)

    @routes.websocket("/{voice_id}/multi-stream-input")
    async def multi_stream_input(websocket: WebSocket, voice_id: str) -> None:
        await _serve(context, models, bodies, websocket, voice_id, several=True)

    return routes


async def _serve(
    context: GatewayContext, models: Models, bodies: Shares, websocket: WebSocket, voice_id: str, *, several: bool
) -> None:
    await provenance.accept(websocket, context)
    try:
        with metrics.count_errors(API), named_as(FIELDS):
            connection = _Connection(context, models, bodies, websocket, voice_id, several=several)
            first = await connection.authenticate()
            # From its first moment, a socket counts as a stream of its key.
            async with ticket.held(context.quotas):
                error = await connection.serve(first)
        if connection.going_away and error is None:
            await websocket.close(status.WS_1001_GOING_AWAY, "this gateway is stopping; connect again")
        else:
            await _close(websocket, error)
    except WebSocketDisconnect:
        return
    except LightTtsError as error:
        with contextlib.suppress(WebSocketDisconnect):  # the client disconnected before it got the error
            await websocket.send_json(error_frame(websocket.scope["path"], error))
            await _close(websocket, error)


async def _close(websocket: WebSocket, error: LightTtsError | None) -> None:
    if error is None:
        await websocket.close()
        return
    reason = error.message.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
    await websocket.close(close_code(error), reason)


class _Connection:
    """One socket. It ends when its last context has ended and the client, an error or a drain has asked for the end."""

    def __init__(
        self,
        context: GatewayContext,
        models: Models,
        bodies: Shares,
        websocket: WebSocket,
        voice_id: str,
        *,
        several: bool,
    ) -> None:
        self._context = context
        self._models = models
        self._bodies = bodies
        self._websocket = websocket
        self._voice_id = voice_id
        self._several = several
        self._query = _query(websocket)
        self._open: dict[str, _Open] = {}
        """By name; the one of a plain socket is empty."""
        self._running: dict[asyncio.Task[None], str] = {}
        """The contexts that speak, those that the client has ended included."""
        self._touched = asyncio.get_running_loop().time()
        self._ending = False
        self._ended = asyncio.Event()
        self._error: LightTtsError | None = None
        """The first error of a context; its client has it already."""
        self._sending = asyncio.Lock()
        self.going_away = False
        """Whether the socket ends because this gateway drains."""

    async def authenticate(self) -> ClientMessage | None:
        """Find the caller by the key in the first message, if the handshake had none. Return that message.

        Raises Unauthenticated and TimedOut.
        """
        authenticator = key_due(self._websocket.scope)
        if authenticator is None:
            return None
        async with deadline(self._context.settings.first_message_seconds, "first message, with the key,"):
            first = await self._receive()
        bind_caller(authenticator.caller(first.key_headers, self._websocket.url.query))
        return first

    async def serve(self, first: ClientMessage | None) -> LightTtsError | None:
        """Serve the socket to its end. Return the error of a context, if one caused the end.

        Raises the error of the socket itself, and WebSocketDisconnect as soon as the client disconnects.
        """
        await self._options(VoiceSettings())  # an address that cannot be served is refused before the first text
        async with tasks.group() as group:
            if not self._several:
                self._begin(group, "")
            if first is not None:
                self._take(group, first)
            watching = [
                group.create_task(work) for work in (self._read(group), self._watch_idle(), self._leave_on_drain())
            ]
            await self._ended.wait()
            for task in watching:
                task.cancel()
        return self._error

    async def _receive(self) -> ClientMessage:
        frame = await receive(self._websocket)
        if not isinstance(frame, str):
            raise InvalidInput('messages are text frames with JSON, such as {"text": "Hello "}')
        check_text_frame(frame)
        return parse(frame)

    async def _read(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._take(group, await self._receive())

    def _take(self, group: asyncio.TaskGroup, message: ClientMessage) -> None:
        if self._ended.is_set():
            return
        self._touched = asyncio.get_running_loop().time()
        name = message.context if self._several else ""
        if message.close_socket and self._several:
            self._end_all()
            return
        if self._several and name not in self._open and message.text and not message.close_context:
            if len(self._running) >= MAX_CONTEXTS:
                group.create_task(self._fail(TooManyContexts(), name))
                return
            self._begin(group, name)
        if (context := self._open.get(name)) is None:
            return
        context.stream.touch()
        if self._several and message.close_context:
            del self._open[name]
            context.stream.close()
            return
        context.stream.configure(message.voice_settings)
        try:
            if message.text:
                context.stream.feed(message.text)
                if self._query.auto_mode:
                    context.stream.flush(by_client=False)
            if message.flush:
                context.stream.flush(by_client=True)
        except LightTtsError as error:
            del self._open[name]
            context.stream.fail(error)
            return
        if message.text == "" and not message.flush and not self._several:
            del self._open[name]
            context.stream.end()

    def _begin(self, group: asyncio.TaskGroup, name: str) -> None:
        stream = TextStream(self._context, self._bodies, relative=not self._query.sync_alignment)
        before = [task for task, other in self._running.items() if other == name]
        task = group.create_task(self._speak(stream, name, before))
        self._open[name] = _Open(stream, task)
        self._running[task] = name
        # Not in the task: if the client disconnects early, the task is cancelled before its first step.
        task.add_done_callback(lambda _: stream.release())
        task.add_done_callback(self._drop)

    def _drop(self, task: asyncio.Task[None]) -> None:
        """Drop a context whose task has ended."""
        name = self._running.pop(task)
        if (context := self._open.get(name)) is not None and context.task is task:
            del self._open[name]
        self._ending = self._ending or not self._several
        self._touched = asyncio.get_running_loop().time()
        self._end_if_idle()

    def _end_all(self) -> None:
        """End the socket when what has been flushed in its contexts has been spoken."""
        self._ending = True
        for context in self._open.values():
            context.stream.close()
        self._open.clear()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._ending and not self._running:
            self._ended.set()

    async def _speak(self, stream: TextStream, name: str, before: list[asyncio.Task[None]]) -> None:
        """Speak a context. `before`: contexts of the same name that have not ended."""

        async def send(audio: bytes, characters: Characters | None) -> None:
            await self._send(audio_message(audio, characters, name))

        try:
            with metrics.count_errors(API), named_as(FIELDS):
                if before:
                    await asyncio.wait(before)
                await stream.run(lambda: self._options(stream.settings), send)
        except LightTtsError as error:
            await self._fail(error, name)
        else:
            await self._send(final_message(name))

    async def _fail(self, error: LightTtsError, name: str) -> None:
        """Tell the client about the error of a context. The socket ends when the others have ended: some clients show
        nothing but the end of a socket."""
        self._error = self._error or error
        self._ending = True
        await self._send(error_frame(self._websocket.scope["path"], error) | named(name))
        self._end_if_idle()

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._sending:
            await self._websocket.send_json(message)

    async def _options(self, settings: VoiceSettings) -> SpeechOptions:
        query = self._query
        return await to_options(
            self._context,
            self._models,
            voice_id=self._voice_id,
            model_id=query.model_id,
            output_format=query.output_format,
            language_code=query.language_code,
            settings=settings,
            word_times=True,
        )

    async def _watch_idle(self) -> None:
        """After `inactivity_timeout`, end contexts and a socket without any. Raises TimedOut for a plain socket."""
        seconds = min(self._query.inactivity_timeout, MAX_INACTIVITY)
        while True:
            now = asyncio.get_running_loop().time()
            for name, context in list(self._open.items()):
                if context.stream.touched + seconds <= now:
                    if not self._several:
                        raise TimedOut(f"no text has arrived for {seconds:g} s (inactivity_timeout)")
                    del self._open[name]
                    context.stream.end()
            if not self._running and self._touched + seconds <= now:
                self._end_all()
            touched = [context.stream.touched for context in self._open.values()]
            touched = touched or [now if self._running else self._touched]
            await asyncio.sleep(max(0.001, min(touched) + seconds - now))

    async def _leave_on_drain(self) -> None:
        """While this gateway drains, end the socket as soon as it has no context; clients connect again elsewhere."""
        await self._context.admission.retiring.wait()
        self.going_away = self._several and not self._ending
        self._ending = True
        self._end_if_idle()


class TooManyContexts(InvalidInput):
    reason = "MAX_ACTIVE_CONVERSATIONS"

    def __init__(self) -> None:
        super().__init__(
            f"a socket has at most {MAX_CONTEXTS} contexts at once; close one of them first", field="context_id"
        )


def _query(websocket: WebSocket) -> SocketQuery:
    try:
        return SocketQuery.model_validate(dict(websocket.query_params))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        raise InvalidInput(f"{field}: {first['msg']}", field=field) from error
