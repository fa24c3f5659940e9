"""The encode service: its gRPC surface, and what it loads and releases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc.aio

from lighttts.v1 import encode_pb2, encode_pb2_grpc
from services.common.errors import InvalidInput, Unavailable
from services.common.modeldir import ModelDir, open_model_dir
from services.common.server import StartError
from services.common.voice import Voice, voice_identity
from services.common.voice_cache import VoiceCache
from services.common.voice_message import to_message
from services.encode.extraction import VoiceSource
from services.encode.frontend import TextFrontend
from services.encode.graphs import GraphOptions
from services.encode.normalise import Normaliser
from services.encode.settings import EncodeSettings
from services.encode.text_encoder import InterleavedEncoder, Piece, SentenceEncoder, TextEncoder
from services.encode.voice import VoiceExtractor

TEXT_THREADS = 1
"""Text work has a thread of its own, so that it never waits behind audio work."""


@dataclass(frozen=True)
class _Loaded:
    model: ModelDir
    identity: str
    frontend: TextFrontend
    voices: VoiceSource


class EncodeService(encode_pb2_grpc.EncodeServicer):
    """`lighttts.v1.Encode`: text to token ids, prompts to voices."""

    name: str = "encode"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Encode",)

    def __init__(self, settings: EncodeSettings) -> None:
        self._settings = settings
        self._state: _Loaded | None = None
        self._text_threads = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="text")

    def register(self, server: grpc.aio.Server) -> None:
        encode_pb2_grpc.add_EncodeServicer_to_server(self, server)

    async def start(self) -> None:
        self._state = await asyncio.to_thread(_load, self._settings)
        for name in self._state.voices.names:  # warms the graphs, and the voices of the house are ready
            try:
                await self._state.voices.bundled(name)
            except InvalidInput as error:
                raise StartError(f"voice {name!r} of {self._settings.model_dir} cannot be used: {error}") from error

    async def drain(self) -> None:
        """Running calls are short; the server waits for them."""

    async def close(self) -> None:
        self._text_threads.shutdown(cancel_futures=True)
        if self._state is not None:
            await asyncio.to_thread(self._state.voices.close)

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
        voice, cached = await self._find(loaded.voices, first.header, request_iterator)
        return encode_pb2.EncodeVoiceResponse(voice=to_message(voice, loaded.identity), cached=cached)

    async def _find(
        self,
        voices: VoiceSource,
        header: encode_pb2.EncodeVoiceHeader,
        parts: AsyncIterator[encode_pb2.EncodeVoiceRequest],
    ) -> tuple[Voice, bool]:
        match header.WhichOneof("prompt"):
            case "bundled_voice":
                return await voices.bundled(header.bundled_voice)
            case "voice_hash":
                return voices.known(header.voice_hash), True
            case "transcript":
                return await voices.prompt(await self._receive(parts), header.transcript)
            case _:
                raise InvalidInput("transcript is missing; send the words the prompt audio speaks", field="transcript")

    async def _receive(self, parts: AsyncIterator[encode_pb2.EncodeVoiceRequest]) -> bytes:
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
        encoder = self._text_encoder(first.start)
        numbered = _Numbering()
        loop = asyncio.get_running_loop()
        async for request in request_iterator:
            match request.WhichOneof("request"):
                case "fragment":
                    pieces = await loop.run_in_executor(self._text_threads, encoder.push, request.fragment)
                case "flush":
                    pieces = await loop.run_in_executor(self._text_threads, encoder.flush)
                case _:
                    raise InvalidInput("after start only fragment and flush may follow", field="request")
            for piece in pieces:
                yield numbered.response(piece)
            if request.HasField("flush"):
                yield encode_pb2.EncodeTextResponse(flushed=encode_pb2.EncodeTextFlush())
        for piece in await loop.run_in_executor(self._text_threads, encoder.finish):
            yield numbered.response(piece)

    def _text_encoder(self, start: encode_pb2.EncodeTextStart) -> TextEncoder:
        loaded = self._loaded
        if not start.interleaved:
            return SentenceEncoder(loaded.frontend, self._settings.max_text_chars)
        if loaded.model.card.text_streaming != "interleaved":
            raise InvalidInput("this model speaks sentence by sentence; leave interleaved unset", field="interleaved")
        return InterleavedEncoder(loaded.frontend, self._settings.max_text_chars)


class _Numbering:
    """Counts utterances: one ends with each final piece."""

    def __init__(self) -> None:
        self._utterance = 0

    def response(self, piece: Piece) -> encode_pb2.EncodeTextResponse:
        text = encode_pb2.EncodedText(
            utterance=self._utterance,
            ids=piece.ids,
            text=piece.text,
            start=piece.start,
            end=piece.end,
            last=piece.final,
        )
        self._utterance += piece.final
        return encode_pb2.EncodeTextResponse(text=text)


def _load(settings: EncodeSettings) -> _Loaded:
    model = open_model_dir(settings.model_dir)
    frontend = TextFrontend(model, Normaliser(settings.normaliser))
    graphs = GraphOptions(providers=settings.onnx_providers, threads=settings.onnx_threads)
    extractor = VoiceExtractor(model, frontend, graphs=graphs)
    cache = VoiceCache(settings.cache_capacity, settings.cache_bytes)
    voices = VoiceSource(extractor, model, cache, settings.parallel, settings.max_queue)
    return _Loaded(model, voice_identity(model), frontend, voices)
