"""The messages of our own APIs, over gRPC and the WebSocket: requests to inputs of a session, events to answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from gateway.api.common.options import speech_options
from gateway.auth.caller import current_caller
from gateway.session.context import GatewayContext
from gateway.session.output import Event
from gateway.session.session import CancelInput, ConfigureInput, FlushInput, Input, PositionInput, TextInput
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import InvalidInput


async def first_config(requests: AsyncIterator[tts_pb2.StreamingSynthesizeRequest]) -> tts_pb2.SynthesisConfig:
    """Return the config with which a stream begins. Raises InvalidInput for another message."""
    async for request in requests:
        if request.WhichOneof("request") == "config":
            return request.config
        break
    raise InvalidInput(
        "the first message must be the config; then text, flush, cancel, position and end", field="config"
    )


async def session_inputs(
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


def streaming_response(event: Event) -> tts_pb2.StreamingSynthesizeResponse:
    """Return the message of an event of a conversation."""
    match event:
        case tts_pb2.Mark():
            return tts_pb2.StreamingSynthesizeResponse(mark=event)
        case tts_pb2.Spoken():
            return tts_pb2.StreamingSynthesizeResponse(spoken=event)
        case tts_pb2.Started():
            return tts_pb2.StreamingSynthesizeResponse(started=event)
        case audio_pb2.AudioChunk():
            response = tts_pb2.StreamingSynthesizeResponse()
            response.audio.CopyFrom(event)  # as an argument it would be copied several times
            return response
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


def synthesize_response(event: Event) -> tts_pb2.SynthesizeResponse | None:
    """Return the message of an event of a whole text, or None if it has none."""
    match event:
        case tts_pb2.Started():
            return tts_pb2.SynthesizeResponse(started=event)
        case audio_pb2.AudioChunk():
            response = tts_pb2.SynthesizeResponse()
            response.audio.CopyFrom(event)  # as an argument it would be copied several times
            return response
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
