"""States in headers and metadata that an answer is synthetic speech (docs/marking.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc.aio
from fastapi import WebSocket

from gateway.api.common.warnings import HEADER as WARNING
from gateway.api.common.warnings import MAX_LINES, lines
from gateway.auth.authentication import chosen_protocol
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions
from gateway.session.output import Event, Events
from lighttts.v1 import audio_pb2, tts_pb2

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

HEADER = "x-synthetic-speech"
VALUE = "true"


def stated(context: GatewayContext, options: SpeechOptions) -> SpeechOptions:
    """Return the options with the form in which files say that their speech is synthetic."""
    audio = dataclasses.replace(options.audio, provenance=context.settings.provenance)
    return dataclasses.replace(options, audio=audio)


def headers(context: GatewayContext) -> dict[str, str]:
    """Return the HTTP headers of an answer with speech."""
    return {} if context.settings.provenance == "off" else {HEADER: VALUE}


async def accept(websocket: WebSocket, context: GatewayContext) -> None:
    """Accept a WebSocket that carries speech."""
    sent = [(name.encode(), value.encode()) for name, value in headers(context).items()]
    await websocket.accept(chosen_protocol(websocket.scope), headers=sent)


class Trailers:
    """Collects the trailing metadata of a gRPC call: the notes of its sessions, and that its audio is synthetic."""

    def __init__(self, context: GatewayContext, call: Context, *, notes: bool = True) -> None:
        """`notes`: whether the metadata has them; they are events of our own API."""
        self._call = call
        self._with_notes = notes
        self._provenance = tuple(headers(context).items())
        self._spoken: tuple[tuple[str, str], ...] = ()
        self._notes: list[tts_pb2.Warning] = []
        self._figures: tuple[tuple[str, str], ...] = ()

    def take(self, event: Event) -> None:
        """Add what the event tells to the metadata."""
        if isinstance(event, tts_pb2.Warning):
            if self._with_notes and len(self._notes) < MAX_LINES:
                self._notes.append(event)
                self._set()
        elif isinstance(event, audio_pb2.AudioChunk) and event.pcm and not self._spoken:
            self._spoken = self._provenance
            self._set()

    def add(self, figures: tuple[tuple[str, str], ...]) -> None:
        """Add further pairs, in the place of those added before."""
        self._figures = figures
        self._set()

    async def taken_from(self, events: Events) -> AsyncGenerator[Event]:
        """Yield all events; add what they tell to the metadata."""
        async for event in events:
            self.take(event)
            yield event

    def _set(self) -> None:
        notes = tuple((WARNING, line) for line in lines(self._notes))
        self._call.set_trailing_metadata((*self._spoken, *notes, *self._figures))
