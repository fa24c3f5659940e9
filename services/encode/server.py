"""The encode service: its gRPC API, and the model it loads and releases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
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
from services.encode.text.pronunciation.lexicon_file import LexiconFile
from services.encode.text.text_encoder import InterleavedEncoder, SentenceEncoder, TextEncoder
from services.encode.text.turns import TextThreads
from services.encode.text_call import TextCall, messages
from services.encode.text_request import TextRequests, previewed
from services.encode.voice.extraction import Found, VoiceExtractorCache
from services.encode.voice.extractor import VoiceExtractor
from services.encode.voice.graphs import GraphOptions


@dataclass(frozen=True)
class _Loaded:
    model: ModelDir
    identity: str
    frontend: TextFrontend
    lexicon: LexiconFile
    requests: TextRequests
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
            family=loaded.model.family.name,
            sample_rate=loaded.model.sample_rate,
            languages=card.languages,
            voices=loaded.voices.names,
            interleaved_text=card.text_streaming == "interleaved",
            end_of_prompt=loaded.frontend.follows_instructions,
            lexicon=loaded.lexicon.version,
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

    async def BundledVoices(
        self,
        request: encode_pb2.BundledVoicesRequest,
        context: grpc.aio.ServicerContext[encode_pb2.BundledVoicesRequest, encode_pb2.BundledVoicesResponse],
    ) -> AsyncGenerator[encode_pb2.BundledVoicesResponse]:
        loaded = self._loaded
        for name in loaded.voices.names:
            found = await loaded.voices.named(name)
            yield encode_pb2.BundledVoicesResponse(name=name, voice=to_message(found.voice, loaded.identity))

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
            case "transcript" if header.transcript:  # an empty one has the hash of a voice for its timbre only
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
        loaded = self._loaded
        call = TextCall(
            loaded.frontend,
            await self._text_encoder(start),
            start,
            self._text_threads,
            start.idle_seconds or self._settings.text_idle_seconds,
        )
        async with aclosing(call.responses(request_iterator)) as responses:
            async for response in responses:
                yield response

    async def ReadText(
        self,
        request: encode_pb2.ReadTextRequest,
        context: grpc.aio.ServicerContext[encode_pb2.ReadTextRequest, encode_pb2.ReadTextResponse],
    ) -> encode_pb2.ReadTextResponse:
        loaded = self._loaded
        start = encode_pb2.EncodeTextStart(
            language=request.language, lexicon=request.lexicon, interleaved=request.interleaved
        )
        if request.timbre_only:
            start.instruct_text = ""
        encoder = await self._text_encoder(start)
        metrics.TEXT_CHARACTERS.inc(len(request.text))
        answer = encode_pb2.ReadTextResponse()
        for work in (encoder.push(request.text), encoder.finish()):
            async for pieces in self._text_threads.each(work):
                answer.utterances.extend(previewed(loaded.frontend, piece) for piece in pieces)
                answer.warnings.extend(messages(encoder.warnings.take()))
        answer.warnings.extend(messages(encoder.warnings.take()))  # of text of which nothing is left
        return answer

    async def _text_encoder(self, start: encode_pb2.EncodeTextStart) -> TextEncoder:
        loaded = self._loaded
        if loaded.lexicon.due or start.lexicon:  # both may take milliseconds
            return await self._text_threads.run(partial(self._make_encoder, loaded, start))
        return self._make_encoder(loaded, start)

    def _make_encoder(self, loaded: _Loaded, start: encode_pb2.EncodeTextStart) -> TextEncoder:
        loaded.lexicon.refresh()
        request = loaded.requests.checked(start, loaded.lexicon.current)
        limit = self._settings.max_text_chars
        if not start.interleaved:
            return SentenceEncoder(loaded.frontend, limit, request)
        if loaded.model.card.text_streaming != "interleaved":
            raise InvalidInput("this model speaks whole sentences only; leave interleaved unset", field="interleaved")
        return InterleavedEncoder(loaded.frontend, limit, request)


def _load(settings: EncodeSettings) -> _Loaded:
    check_caches({"cache_bytes": settings.cache_bytes})
    model = open_model_dir(settings.model_dir)
    frontend = TextFrontend(model, Normaliser(settings.normaliser), cleaning=settings.text_cleaning)
    lexicon = LexiconFile(settings.lexicon, frontend.pronouncer)
    graphs = GraphOptions(providers=settings.onnx_providers, threads=settings.onnx_threads)
    extractor = VoiceExtractor(model, frontend, graphs=graphs)
    cache = VoiceCache(settings.cache_capacity, settings.cache_bytes)
    voices = VoiceExtractorCache(extractor, model, cache, settings.parallel, settings.max_queue)
    return _Loaded(model, voice_identity(model), frontend, lexicon, TextRequests(frontend), voices)
