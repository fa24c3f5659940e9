"""Our own WebSocket: the messages of `lighttts.v1.TextToSpeech` as JSON, audio and recordings as binary frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from gateway import metrics, tasks
from gateway.api.common import provenance
from gateway.api.common.options import speech_options
from gateway.api.common.websocket import (
    CONVERSATION_PATH,
    FRAMES_AHEAD,
    check_text_frame,
    deadline,
    receive,
    refuse,
)
from gateway.api.native.json_messages import parse_object, to_fields, to_message
from gateway.api.native.messages import first_config, session_inputs, streaming_response, synthesize_response
from gateway.auth import ticket
from gateway.auth.caller import current_caller
from gateway.auth.shares import Shares
from gateway.cache.synthesis import speech
from gateway.closable_queue import ClosableQueue
from gateway.session.context import GatewayContext
from gateway.session.options import check_text
from gateway.session.session import Session
from lighttts.v1 import tts_pb2
from services.common.errors import InvalidInput, LightTtsError

API = "conversation"
WHOLE_TEXT = "synthesize"
"""The first message of a socket that speaks one whole text."""
THREAD_CHARS = 16 * 1024
"""Longer frames are parsed in a thread, which lets the event loop run in between."""
Request = tts_pb2.StreamingSynthesizeRequest


def router(context: GatewayContext, bodies: Shares) -> APIRouter:
    """Return the WebSocket route. `bodies`: the bytes of all open requests."""
    routes = APIRouter()

    @routes.websocket(CONVERSATION_PATH)
    async def conversation(websocket: WebSocket) -> None:
        await provenance.accept(websocket, context)
        try:
            with metrics.count_errors(API):
                # From its first moment, a socket counts as a stream of its key.
                async with ticket.held(context.quotas):
                    await _Connection(context, websocket, bodies).serve()
            await websocket.close()
        except WebSocketDisconnect:
            return
        except LightTtsError as error:
            await refuse(websocket, error)

    return routes


class _Connection:
    """One socket. Its methods raise LightTtsErrors, and WebSocketDisconnect as soon as the client disconnects."""

    def __init__(self, context: GatewayContext, websocket: WebSocket, bodies: Shares) -> None:
        self._context = context
        self._websocket = websocket
        self._bodies = bodies
        self._caller = current_caller()
        self._waiting = 0
        """Bytes of the messages that wait for the session."""

    async def serve(self) -> None:
        first = await self._read(self._context.settings.first_message_seconds, first=True)
        with self._bodies.hold(self._caller, first.ByteSize()):
            if isinstance(first, tts_pb2.SynthesizeRequest):
                await self._speak(first)
                return
            try:
                await self._converse(first)
            finally:
                self._bodies.give(self._caller, self._waiting)

    async def _speak(self, request: tts_pb2.SynthesizeRequest) -> None:
        """Speak a whole text."""
        check_text(request.text, self._context.settings.max_text_chars)
        options = speech_options(self._context, request.config)
        async with tasks.group() as group:
            receiving = group.create_task(self._receive_nothing())
            async with speech(self._context, options, request.text, start_sample=request.start_sample) as session:
                async for event in session:
                    await self._send(synthesize_response(event))
            receiving.cancel()

    async def _converse(self, first: Request) -> None:
        inputs: ClosableQueue[Request] = ClosableQueue(FRAMES_AHEAD)
        async with tasks.group() as group, aclosing(self._requests(first, inputs)) as requests:
            config = await first_config(requests)
            options = await self._context.lexicon.applied(speech_options(self._context, config))
            receiving = group.create_task(self._receive_requests(inputs))
            session_in = session_inputs(self._context, requests, config)
            async with Session(self._context, options, session_in, conversation=True) as session:
                async for event in session:
                    await self._send(streaming_response(event))
            receiving.cancel()

    async def _requests(self, first: Request, inputs: ClosableQueue[Request]) -> AsyncGenerator[Request]:
        yield first
        async for request in inputs:
            yield request
            self._bodies.give(self._caller, request.ByteSize())
            self._waiting -= request.ByteSize()

    async def _receive_requests(self, inputs: ClosableQueue[Request]) -> None:
        """Pass messages to the session until `end`, then wait for the client to disconnect."""
        while True:
            request = await self._read()
            self._bodies.take(self._caller, request.ByteSize())
            self._waiting += request.ByteSize()
            await inputs.send(request)
            if request.WhichOneof("request") == "end":
                break
        while True:
            await receive(self._websocket)

    async def _receive_nothing(self) -> None:
        await receive(self._websocket)
        raise InvalidInput(f"no message may follow {WHOLE_TEXT}; close the socket to stop the speech", field=WHOLE_TEXT)

    async def _read(self, seconds: float | None = None, *, first: bool = False) -> Any:
        """Return the next message, with the recording that follows it in a frame of its own, if any."""
        async with deadline(seconds, "first frame"):
            frame = await receive(self._websocket)
        if isinstance(frame, bytes):
            raise InvalidInput(
                "a binary frame may only follow a config whose prompt has no audio: it is the recording; the other"
                ' frames are JSON, such as {"text": "Hello."}',
                field="prompt.audio",
            )
        check_text_frame(frame)
        long = len(frame) > THREAD_CHARS
        message = await asyncio.to_thread(_parse, frame, first) if long else _parse(frame, first)
        config = message.config
        if isinstance(message, Request) and message.WhichOneof("request") == "configure":
            config = message.configure.config
        if config.WhichOneof("voice") == "prompt" and not config.prompt.audio:
            config.prompt.audio = await self._recording()
        return message

    async def _recording(self) -> bytes:
        async with deadline(self._context.settings.body_seconds, "prompt's recording, the frame after the config,"):
            audio = await receive(self._websocket)
        if isinstance(audio, bytes):
            return audio
        raise InvalidInput(
            "the frame after a config whose prompt has no audio must be binary: the whole audio file",
            field="prompt.audio",
        )

    async def _send(self, response: tts_pb2.StreamingSynthesizeResponse | tts_pb2.SynthesizeResponse | None) -> None:
        """Send an event as JSON. The bytes of audio follow in a frame of their own."""
        if response is None:
            return
        if response.WhichOneof("event") != "audio":
            await self._websocket.send_json(to_fields(response))
            return
        audio = response.audio.pcm
        response.audio.ClearField("pcm")
        fields = to_fields(response)
        del fields["audio"]["pcm"]
        await self._websocket.send_json(fields)
        await self._websocket.send_bytes(audio)


def _parse(frame: str, first: bool) -> Request | tts_pb2.SynthesizeRequest:
    fields = parse_object(frame)
    if first and fields.get(WHOLE_TEXT) is not None:
        if len(fields) > 1:
            raise InvalidInput(f"{WHOLE_TEXT} must be alone in its message", field=WHOLE_TEXT)
        return to_message(fields[WHOLE_TEXT], tts_pb2.SynthesizeRequest, WHOLE_TEXT)
    return to_message(fields, Request)
