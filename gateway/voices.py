"""The voices a gateway can speak with: the checkpoint's own, the caller's registered ones, any other by a prompt."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import structlog

from gateway.access.caller import current_caller
from gateway.downstream import at_one_or_another
from gateway.library.record import VoiceRecord
from gateway.library.store import VoiceStore, find
from gateway.options import NamedVoice, PromptVoice
from gateway.single_flight import SingleFlight
from lighttts.v1 import encode_pb2, encode_pb2_grpc, voice_pb2
from services.common import tracing
from services.common.errors import NotFound, Unavailable
from services.common.pool import Pool
from services.common.telemetry import current_request_id
from services.common.voice import voice_hash

log = structlog.get_logger(__name__)

UPLOAD_PART_BYTES = 64 * 1024

T = TypeVar("T")


class Voices:
    """Knows what the encode service serves and turns a request's voice into its content, once per voice."""

    def __init__(self, encode: Pool, store: VoiceStore, *, default_voice: str, cache_bytes: int) -> None:
        """`default_voice`: name of the voice of requests that name none; empty means the checkpoint's first."""
        self._encode = encode
        self._store = store
        self._default_voice = default_voice
        self._cache = _ContentCache(cache_bytes)
        self._flights: SingleFlight[str, voice_pb2.VoiceContent] = SingleFlight()
        self._model: encode_pb2.DescribeModelResponse | None = None

    @property
    def model(self) -> encode_pb2.DescribeModelResponse:
        """What the encode service serves. Raises Unavailable before the first `refresh` has succeeded."""
        if self._model is None:
            raise Unavailable("the encode service has not been reached yet; try again shortly", retry_after=1.0)
        return self._model

    @property
    def default_voice(self) -> str:
        """Name of the voice of requests that name none; empty when the checkpoint has no voices."""
        return self._default_voice or next(iter(self.model.voices), "")

    async def refresh(self) -> None:
        """Looks up what is served. Raises Unavailable, or what the encode service answered."""

        async def describe(stub: encode_pb2_grpc.EncodeAsyncStub) -> encode_pb2.DescribeModelResponse:
            return await stub.DescribeModel(encode_pb2.DescribeModelRequest())

        model = await self._call(describe)
        if self._model is None or self._model.model != model.model:
            log.info("model served", model=model.name, identity=model.model, voices=list(model.voices))
            self._cache.clear()
        self._model = model

    async def resolve(self, voice: NamedVoice | PromptVoice) -> voice_pb2.VoiceContent:
        """The voice's content. Raises NotFound, naming the known voices, or InvalidInput for a bad prompt."""
        if isinstance(voice, NamedVoice):
            name = voice.name or self.default_voice
            if name not in self.model.voices:
                return await self._registered(current_caller().owner, name)
            key = f"name {name}"
            header = encode_pb2.EncodeVoiceHeader(request_id=current_request_id(), bundled_voice=name)
            audio = b""
        else:
            audio = voice.audio
            # Megabytes: hashing them here would hold up everybody's audio.
            key = await asyncio.to_thread(voice_hash, audio, voice.transcript, self.model.model)
            header = encode_pb2.EncodeVoiceHeader(request_id=current_request_id())
            if voice.transcript:
                header.transcript = voice.transcript
            else:
                header.timbre_only = True
        content = self._cache.get(key)
        if content is None:
            content = await self._flights.run(key, lambda: self._extract(key, header, audio))
        return content

    async def examine(self, audio: bytes, transcript: str) -> voice_pb2.VoiceContent:
        """What the models make of a prompt; nothing is kept. Raises InvalidInput when they cannot speak with it."""
        header = encode_pb2.EncodeVoiceHeader(request_id=current_request_id(), transcript=transcript)
        return await self._encode_voice(header, audio)

    def forget(self, record: VoiceRecord) -> None:
        """Drops what is held here of a registered voice that was deleted."""
        self._cache.drop(_registered_key(record.owner, record.id))

    async def sweep(self) -> None:
        """Drops what is held of registered voices that were deleted by way of another gateway."""
        for key in self._cache.held():
            kind, *address = key.split(" ")
            if kind == _REGISTERED and await self._store.get(*address) is None:
                self._cache.drop(key)

    async def _registered(self, owner: str, name: str) -> voice_pb2.VoiceContent:
        # The store is asked every time, so that a deleted voice speaks no more, whichever gateway deleted it.
        record = await find(self._store, owner, name)
        if record is None:
            names = [*self.model.voices, *(record.name for record in await self._store.owned(owner))]
            known = ", ".join(sorted(names)) or "none: send a prompt instead"
            raise NotFound(f"there is no voice {name!r}; known voices: {known}", field="config.voice_name")
        key = _registered_key(owner, record.id)
        content = self._cache.get(key)
        if content is None:
            content = await self._flights.run(key, lambda: self._load(key, record))
        return content

    async def _load(self, key: str, record: VoiceRecord) -> voice_pb2.VoiceContent:
        model = self.model.model
        stored = await self._store.content(record.owner, record.id, model)
        if stored is not None:
            content = voice_pb2.VoiceContent.FromString(stored)
        else:  # registered with another model
            audio = await self._store.audio(record.owner, record.id)
            if audio is None:
                raise NotFound(f"the voice {record.name!r} has just been deleted", field="config.voice_name")
            content = await self.examine(audio, record.transcript)
            await self._store.keep_content(record.owner, record.id, model, content.SerializeToString())
        self._cache.put(key, content)
        return content

    async def _extract(self, key: str, header: encode_pb2.EncodeVoiceHeader, audio: bytes) -> voice_pb2.VoiceContent:
        content = await self._encode_voice(header, audio)
        self._cache.put(key, content)
        return content

    async def _encode_voice(self, header: encode_pb2.EncodeVoiceHeader, audio: bytes) -> voice_pb2.VoiceContent:
        metadata = tracing.outgoing(header.request_id)

        async def encode(stub: encode_pb2_grpc.EncodeAsyncStub) -> encode_pb2.EncodeVoiceResponse:
            return await stub.EncodeVoice(_parts(header, audio), metadata=metadata)

        return (await self._call(encode)).voice

    async def _call(self, work: Callable[[encode_pb2_grpc.EncodeAsyncStub], Awaitable[T]]) -> T:
        """Runs a call, which may be repeated, at an encode worker."""
        return await at_one_or_another(
            self._encode, lambda channel: work(encode_pb2_grpc.EncodeStub(channel)), may_repeat=lambda: True
        )


async def _parts(header: encode_pb2.EncodeVoiceHeader, audio: bytes) -> AsyncIterator[encode_pb2.EncodeVoiceRequest]:
    yield encode_pb2.EncodeVoiceRequest(header=header)
    for start in range(0, len(audio), UPLOAD_PART_BYTES):
        yield encode_pb2.EncodeVoiceRequest(audio=audio[start : start + UPLOAD_PART_BYTES])


_REGISTERED = "registered"


def _registered_key(owner: str, id_: str) -> str:
    return f"{_REGISTERED} {owner} {id_}"


class _ContentCache:
    """The most recently used voices, within a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._contents: OrderedDict[str, voice_pb2.VoiceContent] = OrderedDict()  # least recently used first
        self._bytes = 0

    def get(self, key: str) -> voice_pb2.VoiceContent | None:
        content = self._contents.get(key)
        if content is not None:
            self._contents.move_to_end(key)
        return content

    def put(self, key: str, content: voice_pb2.VoiceContent) -> None:
        if key not in self._contents:
            self._contents[key] = content
            self._bytes += content.ByteSize()
        while self._bytes > self._max_bytes:
            _, dropped = self._contents.popitem(last=False)
            self._bytes -= dropped.ByteSize()

    def held(self) -> tuple[str, ...]:
        return tuple(self._contents)

    def drop(self, key: str) -> None:
        content = self._contents.pop(key, None)
        if content is not None:
            self._bytes -= content.ByteSize()

    def clear(self) -> None:
        self._contents.clear()
        self._bytes = 0
