"""Our own gRPC API for speech, `lighttts.v1.TextToSpeech`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc.aio

from gateway import metrics
from gateway.api.common.options import speech_options
from gateway.auth.caller import current_caller
from gateway.cache.synthesis import speech
from gateway.preview import preview
from gateway.session.context import GatewayContext
from gateway.session.options import check_text
from gateway.session.output import Event
from gateway.session.session import CancelInput, ConfigureInput, FlushInput, Input, PositionInput, Session, TextInput
from gateway.session.voice_conversion import ConversionSession
from lighttts.v1 import audio_pb2, text_pb2, tts_pb2, tts_pb2_grpc
from services.common.errors import InvalidInput

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
            async with speech(self._context, options, request.text, start_sample=start) as session:
                async for event in session:
                    response = _synthesize_response(event)
                    if response is not None:
                        yield response
                    if isinstance(event, tts_pb2.Finished):
                        context.set_trailing_metadata(_trailers(event))

    async def StreamingSynthesize(
        self, request_iterator: AsyncIterator[tts_pb2.StreamingSynthesizeRequest], context: Context
    ) -> AsyncIterator[tts_pb2.StreamingSynthesizeResponse]:
        with metrics.count_errors(API):
            config = await _config(request_iterator)
            options = speech_options(self._context, config)
            options = await self._context.lexicon.applied(options)
            inputs = _inputs(self._context, request_iterator, config)
            async with Session(self._context, options, inputs, conversation=True) as session:
                async for event in session:
                    yield _streaming_response(event)
                    if isinstance(event, tts_pb2.Finished):
                        context.set_trailing_metadata(_trailers(event))

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
            async with ConversionSession(self._context, options, request.audio) as session:
                async for event in session:
                    response = _convert_response(event)
                    if response is not None:
                        yield response
                    if isinstance(event, tts_pb2.Finished):
                        context.set_trailing_metadata(_trailers(event))


async def _config(requests: AsyncIterator[tts_pb2.StreamingSynthesizeRequest]) -> tts_pb2.SynthesisConfig:
    async for request in requests:
        if request.WhichOneof("request") == "config":
            return request.config
        break
    raise InvalidInput(
        "the first message must be the config; then text, flush, cancel, position and end", field="config"
    )


async def _inputs(
    context: GatewayContext,
    requests: AsyncIterator[tts_pb2.StreamingSynthesizeRequest],
    config: tts_pb2.SynthesisConfig,
) -> AsyncGenerator[Input]:
    """Yield the inputs of a stream that begins with `config`."""
    async for request in requests:
        match request.WhichOneof("request"):
            case "text":
                yield TextInput(request.text)
            case "flush":
                yield FlushInput()
            case "cancel":
                yield CancelInput()
            case "position":
                yield PositionInput(request.position.seconds)
            case "configure":
                config = changed(config, request.configure.config)
                if request.configure.config.HasField("prompt"):  # it costs as much as a request with a prompt
                    await context.quotas.spend(current_caller())
                yield ConfigureInput(await context.lexicon.applied(speech_options(context, config)))
            case "end":
                return
            case "config":
                raise InvalidInput("a stream has one config, its first message; send configure", field="config")
            case _:
                raise InvalidInput(
                    "an empty message; send text, flush, cancel, position, configure or end", field="request"
                )


CHANGEABLE = frozenset(
    {
        "voice_name",
        "prompt",
        "style",
        "speed",
        "mode",
        "instruct_text",
        "language",
        "lexicon",
        "max_text_wait_seconds",
    }
)
"""Fields of the config that a stream may change."""


def changed(config: tts_pb2.SynthesisConfig, change: tts_pb2.SynthesisConfig) -> tts_pb2.SynthesisConfig:
    """Return `config` with the fields that are set in `change`. Raises InvalidInput for one that cannot change."""
    merged = tts_pb2.SynthesisConfig()
    merged.CopyFrom(config)
    fields = [descriptor.name for descriptor, _ in change.ListFields()]
    for name in fields:
        if name not in CHANGEABLE:
            raise InvalidInput(
                f"{name} holds for the whole stream; open a new stream to change it", field=f"configure.config.{name}"
            )
        merged.ClearField(name)  # type: ignore[arg-type]  # a name of the descriptor
    if "mode" in fields and "instruct_text" not in fields:
        merged.ClearField("instruct_text")
    merged.MergeFrom(change)
    return merged


def _streaming_response(event: Event) -> tts_pb2.StreamingSynthesizeResponse:
    match event:
        case tts_pb2.Mark():
            return tts_pb2.StreamingSynthesizeResponse(mark=event)
        case tts_pb2.Spoken():
            return tts_pb2.StreamingSynthesizeResponse(spoken=event)
        case tts_pb2.Started():
            return tts_pb2.StreamingSynthesizeResponse(started=event)
        case audio_pb2.AudioChunk():
            return tts_pb2.StreamingSynthesizeResponse(audio=event)
        case tts_pb2.Warning():
            return tts_pb2.StreamingSynthesizeResponse(warning=event)
        case tts_pb2.Resumed():
            return tts_pb2.StreamingSynthesizeResponse(resumed=event)
        case tts_pb2.Reconnect():
            return tts_pb2.StreamingSynthesizeResponse(reconnect=event)
        case tts_pb2.FirstAudio():
            return tts_pb2.StreamingSynthesizeResponse(first_audio=event)
        case tts_pb2.Finished():
            return tts_pb2.StreamingSynthesizeResponse(finished=event)
        case tts_pb2.Configured():
            return tts_pb2.StreamingSynthesizeResponse(configured=event)


def _synthesize_response(event: Event) -> tts_pb2.SynthesizeResponse | None:
    match event:
        case tts_pb2.Started():
            return tts_pb2.SynthesizeResponse(started=event)
        case audio_pb2.AudioChunk():
            return tts_pb2.SynthesizeResponse(audio=event)
        case tts_pb2.Warning():
            return tts_pb2.SynthesizeResponse(warning=event)
        case tts_pb2.Resumed():
            return tts_pb2.SynthesizeResponse(resumed=event)
        case tts_pb2.FirstAudio():
            return tts_pb2.SynthesizeResponse(first_audio=event)
        case tts_pb2.Finished():
            return tts_pb2.SynthesizeResponse(finished=event)
        case _:  # only for streams in which text and audio overlap
            return None


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


def _trailers(finished: tts_pb2.Finished) -> tuple[tuple[str, str], ...]:
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
