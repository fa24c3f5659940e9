"""Voice conversion: a session that speaks the words of a recording with another voice, without text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import grpc.aio

from gateway.downstream import answer, call_with_retry
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions
from gateway.session.session import Input, Session
from gateway.session.turn import utterance_seed
from gateway.utterance.utterance import AudioPart, UtteranceStream
from gateway.voices.resolver import UPLOAD_PART_BYTES
from lighttts.v1 import encode_pb2, encode_pb2_grpc, llm_pb2, tts_pb2
from services.common import tracing
from services.common.errors import InvalidInput
from services.common.pool import Pool
from services.common.telemetry import current_request_id


class ConversionSession(Session):
    """A session that sends Started, then the audio of one utterance, then Finished."""

    def __init__(self, context: GatewayContext, options: SpeechOptions, recording: bytes) -> None:
        """Raises InvalidInput if the recording is empty or too large."""
        limit = context.settings.max_prompt_bytes
        if not recording:
            raise InvalidInput("the audio is missing; send a recording", field="audio")
        if len(recording) > limit:
            raise InvalidInput(
                f"the audio has {len(recording)} bytes; at most {limit} are allowed: shorten it", field="audio"
            )
        super().__init__(context, options, _no_inputs())
        self._recording = recording

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        self._stats.on_text()
        speech = await _encode(self._context.encode, self._recording)
        voice = await asyncio.shield(self._voice)
        for warning in speech.warnings:
            await self._output.send(tts_pb2.Warning(message=warning))
        start = llm_pb2.GenerateStart(
            request_id=current_request_id(),
            style=self._options.style,
            voice_hash=voice.voice_hash,
            prompt_use=llm_pb2.PROMPT_USE_TIMBRE,
            seed=utterance_seed(self._options.seed, 0, 0),
            speed=self._options.speed,
            text_order=llm_pb2.TEXT_ORDER_WHOLE,
            speech_tokens=speech.speech_tokens,
        )
        rate = self._output.model_rate
        utterance = UtteranceStream(self._context.llm_client_context, start, voice, rate, self._place)
        group.create_task(utterance.run())
        self._stats.begin_utterance(utterance.times)
        async for part in utterance.parts:
            if isinstance(part, AudioPart):
                await self._output.send_audio(part.pcm, last=part.last)
            else:
                await self._output.send(part)
        self._stats.end_utterance(utterance.decode_worker, utterance.speech_tokens)


async def _no_inputs() -> AsyncGenerator[Input]:
    return
    yield  # makes this an (empty) generator


async def _encode(pool: Pool, recording: bytes) -> encode_pb2.EncodeSpeechResponse:
    """Return the recording's speech tokens. Raises the encode service's error."""
    header = encode_pb2.EncodeSpeechHeader(request_id=current_request_id())

    async def parts() -> AsyncIterator[encode_pb2.EncodeSpeechRequest]:
        yield encode_pb2.EncodeSpeechRequest(header=header)
        for start in range(0, len(recording), UPLOAD_PART_BYTES):
            yield encode_pb2.EncodeSpeechRequest(audio=recording[start : start + UPLOAD_PART_BYTES])

    async def encode(channel: grpc.aio.Channel) -> encode_pb2.EncodeSpeechResponse:
        metadata = tracing.outgoing(header.request_id)
        return await answer(encode_pb2_grpc.EncodeStub(channel).EncodeSpeech(parts(), metadata=metadata))

    return await call_with_retry(pool, encode, may_repeat=lambda: True)
