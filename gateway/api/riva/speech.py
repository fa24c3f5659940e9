"""NVIDIA Riva's speech API (docs/spec/wire.md, section 3), as used by its client, LiveKit and Pipecat."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc.aio

from gateway import metrics
from gateway.api.common.fields import named_as
from gateway.api.common.options import speech_options
from gateway.api.common.provenance import Trailers
from gateway.api.common.word_times import TimedWord, timed_words
from gateway.api.riva import request as riva_request
from gateway.api.riva.request import FIELDS
from gateway.audio.container_headers import with_length
from gateway.auth.caller import current_caller
from gateway.cache.synthesis import speech
from gateway.session.context import GatewayContext
from gateway.session.options import SpeechOptions, check_text, speakable
from gateway.session.output import Events
from gateway.session.session import FlushInput, Input, Session, TextInput, new_place
from lighttts.compat import riva_common_pb2, riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import audio_pb2, tts_pb2

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Request: TypeAlias = riva_tts_pb2.SynthesizeSpeechRequest
Requests: TypeAlias = AsyncIterator[riva_tts_pb2.SynthesizeSpeechRequest]
Response: TypeAlias = riva_tts_pb2.SynthesizeSpeechResponse

API = "riva"
NAME = "nvidia.riva.tts.RivaSpeechSynthesis"
REQUESTS_AHEAD = 16
"""Requests of one stream that may wait to be spoken; beyond that reading stops, which slows the client down."""
PART_BYTES = 2**20
"""Most bytes of one response message of a stream; clients refuse messages of more than 4 MB."""


class RivaServicer(riva_tts_pb2_grpc.RivaSpeechSynthesisServicer):
    """Handlers raise LightTtsErrors; the server's interceptor turns them into rich statuses."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context

    async def Synthesize(self, request: Request, context: Context) -> Response:
        with metrics.count_errors(API), named_as(FIELDS):
            options = self._options(request)
            parts, words, rate, seconds = list[bytes](), list[TimedWord](), 0, 0.0
            trailers = Trailers(self._context, context)
            async with self._speech(options, request.text) as session:
                async for event in session:
                    trailers.take(event)
                    match event:
                        case audio_pb2.AudioChunk():
                            parts.append(event.pcm)
                            words += timed_words(event, finished=True)
                            rate = event.sample_rate
                        case tts_pb2.Finished():
                            seconds = event.audio_seconds
            audio = with_length(b"".join(parts), options.audio.encoding, round(seconds * rate))
            return _response(request, audio, _timings(words, request.text))

    async def SynthesizeOnline(self, request_iterator: Requests, context: Context) -> AsyncIterator[Response]:
        """Speak the texts of the requests in order; requests with the same voice and format share a session."""
        with metrics.count_errors(API), named_as(FIELDS):
            request = await _next(request_iterator)
            place, trailers, before = new_place(), Trailers(self._context, context), 0.0
            while request is not None:
                stretch = _Stretch(request, request_iterator)
                options = await self._context.lexicon.applied(self._options(request))
                async with Session(self._context, options, stretch.inputs(), place=place) as session:
                    async for event in session:
                        trailers.take(event)
                        match event:
                            case audio_pb2.AudioChunk():
                                for response in stretch.responses(event, before):
                                    yield response
                            case tts_pb2.Mark():
                                stretch.mark()
                            case tts_pb2.Finished():
                                before += event.audio_seconds
                request = stretch.following

    async def GetRivaSynthesisConfig(
        self, request: riva_tts_pb2.RivaSynthesisConfigRequest, context: Context
    ) -> riva_tts_pb2.RivaSynthesisConfigResponse:
        """Return one entry per language, with all voices. The request's model name does not filter them."""
        with metrics.count_errors(API):
            model = self._context.voices.model
            names = await _voice_names(self._context)
            subvoices = ",".join(f"{name}:{number}" for number, name in enumerate(names))
            response = riva_tts_pb2.RivaSynthesisConfigResponse()
            for language in model.languages:
                entry = response.model_config.add(model_name=model.name)
                entry.parameters.update(
                    language_code=riva_request.language_code(language),
                    voice_name=riva_request.VOICE_FAMILY,
                    subvoices=subvoices,
                )
            return response

    def _options(self, request: Request) -> SpeechOptions:
        config, notes = riva_request.to_synthesis_config(request, self._context.voices.model.languages)
        return speech_options(self._context, config, *notes)

    def _speech(self, options: SpeechOptions, text: str) -> contextlib.AbstractAsyncContextManager[Events]:
        """Return the session that speaks a whole text. A text without words gets an answer without sound, as it does in
        a conversation."""
        if not speakable(text):
            return Session(self._context, options, _silence())
        check_text(text, self._context.settings.max_text_chars)
        return speech(self._context, options, text)


@dataclass
class _Stretch:
    """Consecutive requests of one stream that differ only in text and id."""

    first: Request
    requests: Requests
    following: Request | None = None
    """The first request that differs; it starts the next stretch."""
    _unspoken: deque[Request] = field(default_factory=deque)
    _speaking: Request = field(default_factory=Request)
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REQUESTS_AHEAD))

    speaking_from: int = 0
    """Characters of the session's text before that of `speaking`."""

    @property
    def speaking(self) -> Request:
        """The request whose audio is sent now; it stays the last one while the encoder holds the end of its audio."""
        return self._unspoken[0] if self._unspoken else self._speaking

    def responses(self, chunk: audio_pb2.AudioChunk, before: float) -> Iterator[Response]:
        """Yield a chunk in messages of at most PART_BYTES. `before`: seconds of the audio of earlier sessions."""
        words = timed_words(chunk, after=before, finished=True)
        timings = _timings(words, self.speaking.text, self.speaking_from)
        for start in range(0, max(len(chunk.pcm), len(timings)), PART_BYTES):
            yield _response(self.speaking, chunk.pcm[start : start + PART_BYTES], timings if not start else ())

    def mark(self) -> None:
        """Record that the audio of one more request has been sent."""
        self._speaking = self._unspoken.popleft()
        self.speaking_from += len(self._speaking.text) if speakable(self._speaking.text) else 0
        self._room.release()

    async def inputs(self) -> AsyncGenerator[Input]:
        request: Request | None = self.first
        while request is not None:
            await self._room.acquire()
            self._unspoken.append(request)
            if speakable(request.text):  # agents send texts that are empty, or only a dash or an emoji: skip them
                yield TextInput(request.text)
            yield FlushInput()
            request = await _next(self.requests)
            if request is not None and not _one_session(request, self.first):
                self.following = request
                return


async def _silence() -> AsyncGenerator[Input]:
    yield FlushInput()


async def _next(requests: Requests) -> Request | None:
    async for request in requests:
        return request
    return None


def _one_session(one: Request, other: Request) -> bool:
    """Return whether one session can speak both."""

    def rest(request: Request) -> Request:
        copy = Request()
        copy.CopyFrom(request)
        copy.ClearField("text")
        copy.ClearField("id")
        return copy

    return rest(one) == rest(other)


def _timings(words: Iterable[TimedWord], text: str, before: int = 0) -> list[riva_tts_pb2.WordTiming]:
    """Return the words with their times in milliseconds. `before`: characters of the session's text before `text`."""
    return [
        riva_tts_pb2.WordTiming(
            word=text[word.offset - before : word.offset - before + word.length],
            start_time=round(1000 * word.start),
            end_time=round(1000 * (word.start if word.end is None else word.end)),
        )
        for word in words
        if word.offset >= before
    ]


def _response(request: Request, audio: bytes, words: Iterable[riva_tts_pb2.WordTiming] = ()) -> Response:
    meta = riva_tts_pb2.SynthesizeSpeechResponseMetadata(text=request.text, words=words)
    response = Response(audio=audio, meta=meta)
    if request.HasField("id"):
        response.id.CopyFrom(riva_common_pb2.RequestId(value=request.id.value))
    return response


async def _voice_names(context: GatewayContext) -> tuple[str, ...]:
    """Return the names of the checkpoint's voices, then those of the caller's own."""
    registered = await context.registry.owned(current_caller())
    return (*context.voices.model.voices, *(record.name for record in registered))
