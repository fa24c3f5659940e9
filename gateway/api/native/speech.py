"""Our own gRPC API for speech, `lighttts.v1.TextToSpeech`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc.aio

from gateway import metrics
from gateway.api.common.options import speech_options
from gateway.api.common.provenance import Trailers
from gateway.api.native.messages import first_config, session_inputs, streaming_response, synthesize_response
from gateway.cache.synthesis import speech
from gateway.preview import preview
from gateway.session.context import GatewayContext
from gateway.session.options import check_text
from gateway.session.output import Event
from gateway.session.session import Session
from gateway.session.voice_conversion import ConversionSession
from lighttts.v1 import audio_pb2, text_pb2, tts_pb2, tts_pb2_grpc

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

API = "grpc"
MAX_TRAILER_WORKERS = 16
"""Most names of workers in the trailing metadata, which clients refuse above 8 kB; the event holds all."""


class TextToSpeechServicer(tts_pb2_grpc.TextToSpeechServicer):
    """Handlers raise LightTtsErrors; the server's interceptor turns them into rich statuses."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context

    async def Synthesize(
        self, request: tts_pb2.SynthesizeRequest, context: Context
    ) -> AsyncIterator[tts_pb2.SynthesizeResponse]:
        with metrics.count_errors(API):
            check_text(request.text, self._context.settings.max_text_chars)
            options = speech_options(self._context, request.config)
            start = request.start_sample
            trailers = Trailers(self._context, context, notes=False)
            async with speech(self._context, options, request.text, start_sample=start) as session:
                async for event in session:
                    trailers.take(event)
                    response = synthesize_response(event)
                    if response is not None:
                        yield response
                    if isinstance(event, tts_pb2.Finished):
                        trailers.add(_figures(event))

    async def StreamingSynthesize(
        self, request_iterator: AsyncIterator[tts_pb2.StreamingSynthesizeRequest], context: Context
    ) -> AsyncIterator[tts_pb2.StreamingSynthesizeResponse]:
        with metrics.count_errors(API):
            config = await first_config(request_iterator)
            options = speech_options(self._context, config)
            options = await self._context.lexicon.applied(options)
            inputs = session_inputs(self._context, request_iterator, config)
            trailers = Trailers(self._context, context, notes=False)
            async with Session(self._context, options, inputs, conversation=True) as session:
                async for event in session:
                    trailers.take(event)
                    yield streaming_response(event)
                    if isinstance(event, tts_pb2.Finished):
                        trailers.add(_figures(event))

    async def PreviewText(self, request: text_pb2.PreviewTextRequest, context: Context) -> text_pb2.PreviewTextResponse:
        with metrics.count_errors(API):
            return await preview(self._context, request)

    async def ConvertVoice(
        self, request: tts_pb2.ConvertVoiceRequest, context: Context
    ) -> AsyncIterator[tts_pb2.ConvertVoiceResponse]:
        with metrics.count_errors(API):
            config = tts_pb2.SynthesisConfig()
            config.CopyFrom(request.config)
            # Only the voice's timbre is used, as in cross-lingual speech: no transcript, no instruction.
            config.mode = tts_pb2.SPEECH_MODE_CROSS_LINGUAL
            config.ClearField("instruct_text")
            # The recording's timing is part of the result.
            config.audio.keep_leading_silence = not config.audio.trim_leading_silence
            options = speech_options(self._context, config)
            trailers = Trailers(self._context, context, notes=False)
            async with ConversionSession(self._context, options, request.audio) as session:
                async for event in session:
                    trailers.take(event)
                    response = _convert_response(event)
                    if response is not None:
                        yield response
                    if isinstance(event, tts_pb2.Finished):
                        trailers.add(_figures(event))


def _convert_response(event: Event) -> tts_pb2.ConvertVoiceResponse | None:
    match event:
        case tts_pb2.Started():
            return tts_pb2.ConvertVoiceResponse(started=event)
        case audio_pb2.AudioChunk():
            return tts_pb2.ConvertVoiceResponse(audio=event)
        case tts_pb2.Warning():
            return tts_pb2.ConvertVoiceResponse(warning=event)
        case tts_pb2.Resumed():
            return tts_pb2.ConvertVoiceResponse(resumed=event)
        case tts_pb2.Finished():
            return tts_pb2.ConvertVoiceResponse(finished=event)
        case _:  # only for speech from text
            return None


def _figures(finished: tts_pb2.Finished) -> tuple[tuple[str, str], ...]:
    return (
        ("lighttts-time-to-first-audio", f"{finished.time_to_first_audio:.4f}"),
        ("lighttts-audio-seconds", f"{finished.audio_seconds:.4f}"),
        ("lighttts-real-time-factor", f"{finished.real_time_factor:.4f}"),
        ("lighttts-underrun-seconds", f"{finished.underrun_seconds:.4f}"),
        ("lighttts-chunks", str(finished.chunks)),
        ("lighttts-decode-workers", ",".join(finished.decode_workers[:MAX_TRAILER_WORKERS])),
        *(
            (f"lighttts-first-audio-{stage.replace('_', '-')}", f"{getattr(finished.first_audio, stage):.4f}")
            for stage in metrics.STAGES
        ),
    )
