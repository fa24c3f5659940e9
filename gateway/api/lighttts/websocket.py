"""LightTTS's WebSocket API (docs/spec/wire.md, section 1): text arrives in fragments while PCM is sent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from fastapi import APIRouter, WebSocket, WebSocketDisconnect, status
from pydantic import BaseModel, ValidationError

from gateway import metrics, tasks
from gateway.api.common import provenance
from gateway.api.common.fields import named_as
from gateway.api.common.json_body import JsonFields
from gateway.api.common.options import speech_options
from gateway.api.common.response import audio_bytes
from gateway.api.common.websocket import FRAMES_AHEAD, check_text_frame, deadline, receive, refuse
from gateway.api.lighttts.http import DEFAULT_STYLE, FIELDS, SAMPLE_RATE, pcm, style_of
from gateway.auth import ticket
from gateway.auth.caller import current_caller
from gateway.auth.shares import Shares
from gateway.closable_queue import ClosableQueue
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions
from gateway.session.session import Input, Session, TextInput
from gateway.settings import GatewaySettings
from lighttts.v1 import tts_pb2
from services.common.errors import InvalidInput, LightTtsError

API = "websocket"
BAD_AUDIO = "audio file format is incorrect"

M = TypeVar("M", bound=BaseModel)


class StartFrame(JsonFields):
    """The first frame; the prompt's audio file follows in a binary frame."""

    prompt_text: str
    tts_model_name: str = DEFAULT_STYLE
    language: str = ""


class TextFrame(JsonFields):
    """Every later frame."""

    tts_text: str = ""
    finish: bool = False


def router(context: GatewayContext, bodies: Shares) -> APIRouter:
    """Return the WebSocket route. `bodies`: the bytes of all open requests."""
    routes = APIRouter()

    @routes.websocket("/inference_zero_shot_bistream")
    async def inference_zero_shot_bistream(websocket: WebSocket) -> None:
        await provenance.accept(websocket, context)
        try:
            with metrics.count_errors(API), named_as(FIELDS):
                # From its first moment, a socket counts as a stream of its key.
                async with ticket.held(context.quotas):
                    await _converse(context, websocket, bodies)
            await websocket.close()
        except WebSocketDisconnect:
            return
        except LightTtsError as error:
            await _refuse(websocket, error)

    return routes


async def _converse(context: GatewayContext, websocket: WebSocket, bodies: Shares) -> None:
    """Serve a client from its first frame to the last audio. Raises WebSocketDisconnect once the client is gone."""
    start, audio = await _prompt(websocket, context.settings)
    with bodies.hold(current_caller(), len(audio)):
        await _speak(context, websocket, _options(context, start, audio))


async def _speak(context: GatewayContext, websocket: WebSocket, options: SpeechOptions) -> None:
    options = await context.lexicon.applied(options)
    inputs: ClosableQueue[Input] = ClosableQueue(FRAMES_AHEAD)
    async with tasks.group() as group:
        receiving = group.create_task(_receive_frames(websocket, inputs))
        async with Session(context, options, _each(inputs)) as session:
            async for part in audio_bytes(session):
                await websocket.send_bytes(part)
        receiving.cancel()


async def _prompt(websocket: WebSocket, settings: GatewaySettings) -> tuple[StartFrame, bytes]:
    """Receive the first two frames. Raises TimedOut."""
    async with deadline(settings.first_message_seconds, "first frame"):
        start = _parse(StartFrame, await _receive_text(websocket))
    async with deadline(settings.body_seconds, "second frame, the prompt's audio,"):
        audio = await receive(websocket)
    if not isinstance(audio, bytes):
        raise InvalidInput("the second frame must be binary: the whole prompt audio file")
    return start, audio


def _options(context: GatewayContext, start: StartFrame, audio: bytes) -> SpeechOptions:
    config = tts_pb2.SynthesisConfig(
        prompt=tts_pb2.Prompt(audio=audio, transcript=start.prompt_text),
        style=style_of(start.tts_model_name),
        audio=pcm(SAMPLE_RATE),
        language=start.language,
    )
    return speech_options(context, config)


async def _receive_frames(websocket: WebSocket, inputs: ClosableQueue[Input]) -> None:
    """Pass text to the session until `finish`, then wait for the client to disconnect, which raises."""
    finished = False
    while True:
        text = await _receive_text(websocket)
        if finished:
            continue
        frame = _parse(TextFrame, text)
        if frame.tts_text:
            await inputs.send(TextInput(frame.tts_text))
        if frame.finish:
            finished = True
            inputs.close()


async def _each(inputs: ClosableQueue[Input]) -> AsyncGenerator[Input]:
    async for item in inputs:
        yield item


async def _receive_text(websocket: WebSocket) -> str:
    text = await receive(websocket)
    if not isinstance(text, str):
        raise InvalidInput('only one frame, the second, is binary; the others are text: {"tts_text": "..."}')
    check_text_frame(text)
    return text


def _parse(kind: type[M], text: str) -> M:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"a frame cannot be read: {field + ': ' if field else ''}{first['msg']}") from error


async def _refuse(websocket: WebSocket, error: LightTtsError) -> None:
    """Send the error as docs/spec/wire.md defines: bad audio has a close code, other errors have a text frame first."""
    if not (isinstance(error, InvalidInput) and error.field == FIELDS["audio"]):
        await refuse(websocket, error)
        return
    with contextlib.suppress(WebSocketDisconnect):  # the client disconnected before it got the error
        await websocket.close(status.WS_1003_UNSUPPORTED_DATA, BAD_AUDIO)
