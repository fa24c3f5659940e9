"""Our own gRPC API for voices, `lighttts.v1.Voices`: the model's voices and the caller's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from gateway import metrics
from gateway.auth.caller import bind_source, current_caller
from gateway.process.relay import client_address
from gateway.session.context import GatewayContext
from gateway.voices.consent import Statement
from gateway.voices.record import NewVoice, VoiceRecord
from lighttts.v1 import tts_pb2, tts_pb2_grpc
from services.common.errors import InvalidInput

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

API = "grpc"


class VoicesServicer(tts_pb2_grpc.VoicesServicer):
    """Handlers raise LightTtsErrors; the server's interceptor turns them into rich statuses."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context

    async def ListVoices(self, request: tts_pb2.ListVoicesRequest, context: Context) -> tts_pb2.ListVoicesResponse:
        with metrics.count_errors(API):
            voices = self._context.voices
            registered = await self._context.registry.owned(current_caller())
            return tts_pb2.ListVoicesResponse(
                voices=[*map(self._bundled, voices.model.voices), *map(_message, registered)],
                default_voice=voices.default_voice,
            )

    async def CreateVoice(
        self, request_iterator: AsyncIterator[tts_pb2.CreateVoiceRequest], context: Context
    ) -> tts_pb2.CreateVoiceResponse:
        with metrics.count_errors(API):
            first = await anext(request_iterator, None)
            if first is None or first.WhichOneof("request") != "header":
                raise InvalidInput("the first message must be the header; then the recording in parts", field="header")
            header = first.header
            bind_source(*_source(context))
            new = NewVoice(
                name=header.name,
                transcript=header.transcript,
                consent=Statement(header.consent, header.consent_given_by, header.consent_given_on, header.consent_id),
                description=header.description,
                languages=tuple(header.languages),
            )
            record, existed = await self._context.registry.create(current_caller(), new, _audio(request_iterator))
            return tts_pb2.CreateVoiceResponse(voice=_message(record), existed=existed)

    async def GetVoice(self, request: tts_pb2.GetVoiceRequest, context: Context) -> tts_pb2.GetVoiceResponse:
        with metrics.count_errors(API):
            if request.voice in self._context.voices.model.voices:
                return tts_pb2.GetVoiceResponse(voice=self._bundled(request.voice))
            record = await self._context.registry.get(current_caller(), request.voice)
            return tts_pb2.GetVoiceResponse(voice=_message(record))

    async def DeleteVoice(self, request: tts_pb2.DeleteVoiceRequest, context: Context) -> tts_pb2.DeleteVoiceResponse:
        with metrics.count_errors(API):
            if request.voice in self._context.voices.model.voices:
                raise InvalidInput(f"{request.voice!r} comes with the model and cannot be deleted", field="voice")
            bind_source(*_source(context))
            record = await self._context.registry.delete(current_caller(), request.voice)
            return tts_pb2.DeleteVoiceResponse(id=record.id)

    def _bundled(self, name: str) -> tts_pb2.Voice:
        model = self._context.voices.model
        return tts_pb2.Voice(name=name, description=f"Comes with {model.name}.", languages=model.languages)


def _source(context: Context) -> tuple[str, str]:
    """Return the address of the client, and those that proxies before it state."""
    forwarded = [value for key, value in context.invocation_metadata() or () if key == "x-forwarded-for"]
    return client_address(context.peer()), ", ".join(map(str, forwarded))


async def _audio(requests: AsyncIterator[tts_pb2.CreateVoiceRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("request") != "audio":
            raise InvalidInput("after the header only parts of the recording may follow", field="request")
        yield request.audio


def _message(record: VoiceRecord) -> tts_pb2.Voice:
    created = Timestamp()
    created.FromNanoseconds(int(record.created * 1e9))
    return tts_pb2.Voice(
        name=record.name,
        description=record.description,
        languages=record.languages,
        id=record.id,
        transcript=record.transcript,
        seconds=record.seconds,
        created=created,
        warnings=record.warnings,
    )
