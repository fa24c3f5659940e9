"""The encode service: its gRPC API, and the model it loads and releases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import grpc.aio

from lighttts.v1 import encode_pb2, encode_pb2_grpc, voice_pb2_grpc
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.engine.memory import check_caches
from services.common.errors import InvalidInput, Overloaded, Unavailable
from services.common.start_error import StartError
from services.common.voices import deletion as voice_deletion
from services.common.voices.cache import VoiceCache
from services.common.voices.message import to_message
from services.common.voices.voice import voice_identity
from services.encode import metrics
from services.encode.settings import EncodeSettings
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.text_encoder import InterleavedEncoder, Piece, SentenceEncoder, TextEncoder
from services.encode.text.turns import TextThreads
from services.encode.voice.extraction import Found, VoiceExtractorCache
from services.encode.voice.extractor import VoiceExtractor
from services.encode.voice.graphs import GraphOptions


@dataclass(frozen=True)
class _Loaded:
    model: ModelDir
    identity: str
    frontend: TextFrontend
    voices: VoiceExtractorCache


class EncodeService(encode_pb2_grpc.EncodeServicer):
    """`lighttts.v1.Encode`: text to token ids, prompts to voices."""

    name: str = "encode"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Encode", voice_deletion.NAME)

    def __init__(self, settings: EncodeSettings) -> None:
        self._settings = settings
        self._state: _Loaded | None = None
        self._uploads = 0
        self._text_threads = TextThreads(settings.text_threads)

    def register(self, server: grpc.aio.Server) -> None:
        encode_pb2_grpc.add_EncodeServicer_to_server(self, server)
        voice_pb2_grpc.add_VoiceCacheServicer_to_server(voice_deletion.VoiceCacheServicer(self._evict_voice), server)

    async def start(self) -> None:
        self._state = await asyncio.to_thread(_load, self._settings)
        for name in self._state.voices.names:  # runs the graphs once and caches the bundled voices
            try:
                await self._state.voices.named(name)
            except InvalidInput as error:
                raise StartError(f"voice {name!r} of {self._settings.model_dir} is unusable: {error}") from error

    async def drain(self) -> None:
        """Running calls are short; the server waits for them."""

    async def close(self) -> None:
        self._text_threads.close()
        if self._state is not None:
            await asyncio.to_thread(self._state.voices.close)

    async def _evict_voice(self, voice_hash: str) -> int:
        self._loaded.voices.evict(voice_hash)
        return 0

    @property
    def _loaded(self) -> _Loaded:
        if self._state is None:
            raise Unavailable("loading the model; try again shortly", retry_after=1.0)
        return self._state

    async def DescribeModel(
        self,
        request: encode_pb2.DescribeModelRequest,
        context: grpc.aio.ServicerContext[encode_pb2.DescribeModelRequest, encode_pb2.DescribeModelResponse],
    ) -> encode_pb2.DescribeModelResponse:
        loaded = self._loaded
        card = loaded.model.card
        return encode_pb2.DescribeModelResponse(
            model=loaded.identity,
            name=card.name,
            description=card.description,
            family=loaded.model.family,
            sample_rate=loaded.model.sample_rate,
            languages=card.languages,
            voices=loaded.voices.names,
            interleaved_text=card.text_streaming == "interleaved",
            end_of_prompt=loaded.frontend.follows_instructions,
        )

    async def EncodeVoice(
        self,
        request_iterator: AsyncIterator[encode_pb2.EncodeVoiceRequest],
        context: grpc.aio.ServicerContext[encode_pb2.EncodeVoiceRequest, encode_pb2.EncodeVoiceResponse],
    ) -> encode_pb2.EncodeVoiceResponse:
        loaded = self._loaded
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("request") != "header":
            raise InvalidInput("the first message must be header", field="header")
        found = await self._find(loaded.voices, first.header, request_iterator)
        return encode_pb2.EncodeVoiceResponse(
            voice=to_message(found.voice, loaded.identity), cached=found.cached, seconds=found.seconds
        )

    async def EncodeSpeech(
        self,
        request_iterator: AsyncIterator[encode_pb2.EncodeSpeechRequest],
        context: grpc.aio.ServicerContext[encode_pb2.EncodeSpeechRequest, encode_pb2.EncodeSpeechResponse],
    ) -> encode_pb2.EncodeSpeechResponse:
        loaded = self._loaded
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("request") != "header":
            raise InvalidInput("the first message must be header", field="header")
        speech = await loaded.voices.speech(await self._receive(request_iterator))
        return encode_pb2.EncodeSpeechResponse(speech_tokens=speech.tokens.tolist(), warnings=speech.warnings)

    async def _find(
        self,
        voices: VoiceExtractorCache,
        header: encode_pb2.EncodeVoiceHeader,
        parts: AsyncIterator[encode_pb2.EncodeVoiceRequest],
    ) -> Found:
        match header.WhichOneof("prompt"):
            case "bundled_voice":
                return await voices.named(header.bundled_voice)
            case "voice_hash":
                return voices.cached(header.voice_hash)
            case "transcript":
                return await voices.prompt(await self._receive(parts), header.transcript)
            case "timbre_only":
                return await voices.prompt(await self._receive(parts), None)
            case _:
                raise InvalidInput("transcript is missing; send the words of the prompt audio", field="transcript")

    async def _receive(
        self, parts: AsyncIterator[encode_pb2.EncodeVoiceRequest] | AsyncIterator[encode_pb2.EncodeSpeechRequest]
    ) -> bytes:
        if self._uploads >= self._settings.max_uploads:
            raise Overloaded(f"{self._uploads} recordings are being uploaded; try again shortly", stage="encode")
        self._uploads += 1
        try:
            return await self._read_audio(parts)
        finally:
            self._uploads -= 1

    async def _read_audio(
        self, parts: AsyncIterator[encode_pb2.EncodeVoiceRequest] | AsyncIterator[encode_pb2.EncodeSpeechRequest]
    ) -> bytes:
        audio = bytearray()
        async for part in parts:
            if part.WhichOneof("request") != "audio":
                raise InvalidInput("after the header only audio may follow", field="request")
            if len(audio) + len(part.audio) > self._settings.max_prompt_bytes:
                limit = self._settings.max_prompt_bytes
                raise InvalidInput(
                    f"the prompt audio is larger than {limit} bytes; send 3 to 30 seconds", field="audio"
                )
            audio += part.audio
        if not audio:
            raise InvalidInput("the prompt audio is missing; send a WAV, FLAC, MP3 or Ogg file", field="audio")
        return bytes(audio)

    async def EncodeText(
        self,
        request_iterator: AsyncIterator[encode_pb2.EncodeTextRequest],
        context: grpc.aio.ServicerContext[encode_pb2.EncodeTextRequest, encode_pb2.EncodeTextResponse],
    ) -> AsyncGenerator[encode_pb2.EncodeTextResponse]:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("request") != "start":
            raise InvalidInput("the first message must be start", field="start")
        start = first.start
        encoder = self._text_encoder(start)
        numbered = _Numbering(await self._instruct_ids(start))
        async with aclosing(self._work(encoder, start, request_iterator)) as work:
            async for steps in work:
                async for pieces in self._text_threads.each(steps):
                    for piece in pieces:
                        yield numbered.response(piece)

    async def _work(
        self,
        encoder: TextEncoder,
        start: encode_pb2.EncodeTextStart,
        request_iterator: AsyncIterator[encode_pb2.EncodeTextRequest],
    ) -> AsyncGenerator[Iterator[list[Piece]]]:
        """Yield the encoder's steps for each request, for each pause, and for the end of the text."""
        if start.text:
            metrics.TEXT_CHARACTERS.inc(len(start.text))
            yield encoder.push(start.text)
        if not start.complete:
            idle_seconds = self._settings.text_idle_seconds
            async with aclosing(_with_pauses(request_iterator, idle_seconds, begun=bool(start.text))) as requests:
                async for request in requests:
                    yield _steps(encoder, request)
        yield encoder.finish()

    async def _instruct_ids(self, start: encode_pb2.EncodeTextStart) -> tuple[int, ...]:
        if not start.HasField("instruct_text"):
            return ()
        return await self._text_threads.run(partial(self._loaded.frontend.instruct_ids, start.instruct_text))

    def _text_encoder(self, start: encode_pb2.EncodeTextStart) -> TextEncoder:
        loaded = self._loaded
        if not start.interleaved:
            return SentenceEncoder(loaded.frontend, self._settings.max_text_chars)
        if loaded.model.card.text_streaming != "interleaved":
            raise InvalidInput("this model speaks whole sentences only; leave interleaved unset", field="interleaved")
        return InterleavedEncoder(loaded.frontend, self._settings.max_text_chars)


def _steps(encoder: TextEncoder, request: encode_pb2.EncodeTextRequest | None) -> Iterator[list[Piece]]:
    """Return the encoder's steps for a request; None stands for a pause."""
    if request is None:
        return encoder.pause()
    if request.WhichOneof("request") != "fragment":
        raise InvalidInput("after start only fragments may follow", field="request")
    metrics.TEXT_CHARACTERS.inc(len(request.fragment))
    return encoder.push(request.fragment)


class _Numbering:
    """Numbers utterances: a final piece ends one, and the first piece of each carries the instruction."""

    def __init__(self, instruct_ids: tuple[int, ...]) -> None:
        self._instruct_ids = instruct_ids
        self._utterance = 0
        self._begun = False

    def response(self, piece: Piece) -> encode_pb2.EncodeTextResponse:
        text = encode_pb2.EncodedText(
            utterance=self._utterance,
            ids=piece.ids,
            text=piece.text,
            start=piece.start,
            end=piece.end,
            last=piece.final,
            instruct_ids=() if self._begun else self._instruct_ids,
        )
        self._begun = not piece.final
        self._utterance += piece.final
        return encode_pb2.EncodeTextResponse(text=text)


async def _with_pauses(
    requests: AsyncIterator[encode_pb2.EncodeTextRequest], idle_seconds: float, *, begun: bool
) -> AsyncGenerator[encode_pb2.EncodeTextRequest | None]:
    """Yield the requests, and None once for each pause of `idle_seconds`. `begun`: some text preceded the requests."""

    async def receive() -> encode_pb2.EncodeTextRequest | None:
        return await anext(requests, None)

    paused = not begun  # nothing is held back before the first text
    while True:
        arriving = asyncio.ensure_future(receive())
        try:
            if not paused and not (await asyncio.wait({arriving}, timeout=idle_seconds))[0]:
                yield None
            request = await arriving
        finally:
            arriving.cancel()
        if request is None:
            return
        paused = False
        yield request


def _load(settings: EncodeSettings) -> _Loaded:
    check_caches({"cache_bytes": settings.cache_bytes})
    model = open_model_dir(settings.model_dir)
    frontend = TextFrontend(model, Normaliser(settings.normaliser))
    graphs = GraphOptions(providers=settings.onnx_providers, threads=settings.onnx_threads)
    extractor = VoiceExtractor(model, frontend, graphs=graphs)
    cache = VoiceCache(settings.cache_capacity, settings.cache_bytes)
    voices = VoiceExtractorCache(extractor, model, cache, settings.parallel, settings.max_queue)
    return _Loaded(model, voice_identity(model), frontend, voices)
