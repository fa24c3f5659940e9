"""The voices a gateway can speak with: the checkpoint's own, the caller's registered ones, any other by a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

from gateway.auth.caller import current_caller
from gateway.downstream import answer, call_with_retry
from gateway.voices.content_cache import VoiceContentCache
from gateway.voices.deletion import VoiceDeletion
from gateway.voices.record import VoiceRecord
from gateway.voices.reference import NamedVoice, PromptVoice
from gateway.voices.store import VoiceStore, find
from lighttts.v1 import encode_pb2, encode_pb2_grpc, voice_pb2
from services.common import tracing
from services.common.errors import NotFound, Unavailable
from services.common.pool import Pool
from services.common.single_flight import SingleFlight
from services.common.telemetry import current_request_id
from services.common.voices.voice import voice_hash

log = structlog.get_logger(__name__)

UPLOAD_PART_BYTES = 64 * 1024

T = TypeVar("T")


class VoiceResolver:
    """Knows what the encode service serves and turns a request's voice into its content, once per voice."""

    def __init__(
        self,
        encode: Pool,
        store: VoiceStore,
        memory: VoiceContentCache,
        voice_deletion: VoiceDeletion,
        *,
        default_voice: str,
    ) -> None:
        """`default_voice`: name of the voice of requests that name none; empty means the checkpoint's first."""
        self._encode = encode
        self._store = store
        self._default_voice = default_voice
        self._memory = memory
        self._voice_deletion = voice_deletion
        self._known: dict[tuple[str, str], str] = {}
        """Hashes of registered voices by owner and id, while anything of them may be in this process's memory."""
        self._left: set[asyncio.Task[None]] = set()
        self._lookups: SingleFlight[str, voice_pb2.VoiceContent] = SingleFlight()
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
            self._memory.clear()
        self._model = model

    @asynccontextmanager
    async def use(self, voice: NamedVoice | PromptVoice) -> AsyncIterator[voice_pb2.VoiceContent]:
        """The voice's content, for as long as something is spoken with it. Should it be deleted meanwhile, the workers
        have to be told once more: what was spoken since has brought it back to them.

        Raises NotFound, naming the known voices, or InvalidInput for a bad prompt.
        """
        record = await self._record(voice) if isinstance(voice, NamedVoice) else None
        content = await self._content(voice, record)
        try:
            yield content
        finally:
            if record is not None:
                self._known[record.owner, record.id] = content.voice_hash  # what was spoken may have been kept
                self._spawn(self._leave(record, content.voice_hash))

    async def exists(self, name: str) -> bool:
        """Whether the caller can speak with a voice of this name."""
        return name in self.model.voices or await find(self._store, current_caller().owner, name) is not None

    async def _content(self, voice: NamedVoice | PromptVoice, record: VoiceRecord | None) -> voice_pb2.VoiceContent:
        if record is not None:
            registered = await self._registered(record)
            self._known[record.owner, record.id] = registered.voice_hash
            return registered
        if isinstance(voice, NamedVoice):
            name = voice.name or self.default_voice
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
        content = self._memory.get(key)
        if content is None:
            content = await self._lookups.run(key, lambda: self._extract(key, header, audio))
        return content

    async def examine(self, audio: bytes, transcript: str) -> voice_pb2.VoiceContent:
        """What the models make of a prompt; nothing is kept. Raises InvalidInput when they cannot speak with it."""
        header = encode_pb2.EncodeVoiceHeader(request_id=current_request_id(), transcript=transcript)
        return await self._encode_voice(header, audio)

    async def sweep(self) -> None:
        """Forgets registered voices that were deleted by way of another gateway, and goes on where a worker could not
        be told before."""
        await self._voice_deletion.retry()
        for (owner, id_), hash_ in tuple(self._known.items()):
            if await self._store.get(owner, id_) is None:
                await self._voice_deletion.evict(hash_)
                self._known.pop((owner, id_), None)
            elif not self._voice_deletion.holds(hash_):
                self._known.pop((owner, id_), None)

    async def close(self) -> None:
        """Ends what goes on in the background."""
        for task in self._left:
            task.cancel()
        if self._left:
            await asyncio.wait(self._left)

    async def _record(self, voice: NamedVoice) -> VoiceRecord | None:
        """The record of a registered voice; None for one that comes with the model. Raises NotFound."""
        name, owner = voice.name or self.default_voice, current_caller().owner
        if name in self.model.voices:
            return None
        # The store is asked every time, so that a deleted voice speaks no more, whichever gateway deleted it.
        record = await find(self._store, owner, name)
        if record is None:
            names = [*self.model.voices, *(record.name for record in await self._store.owned(owner))]
            known = ", ".join(sorted(names)) or "none: send a prompt instead"
            raise NotFound(f"there is no voice {name!r}; known voices: {known}", field="config.voice_name")
        return record

    async def _leave(self, record: VoiceRecord, voice_hash: str) -> None:
        """Something that spoke with a registered voice has ended."""
        try:
            if await self._store.get(record.owner, record.id) is None:
                await self._voice_deletion.evict(voice_hash)
        except Unavailable as error:
            log.warning("cannot see whether a voice was deleted while it spoke", reason=error.message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    async def _registered(self, record: VoiceRecord) -> voice_pb2.VoiceContent:
        key = f"registered {record.owner} {record.id}"
        content = self._memory.get(key)
        if content is None:
            content = await self._lookups.run(key, lambda: self._load(key, record))
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
        self._memory.put(key, content)
        return content

    async def _extract(self, key: str, header: encode_pb2.EncodeVoiceHeader, audio: bytes) -> voice_pb2.VoiceContent:
        content = await self._encode_voice(header, audio)
        self._memory.put(key, content)
        return content

    async def _encode_voice(self, header: encode_pb2.EncodeVoiceHeader, audio: bytes) -> voice_pb2.VoiceContent:
        metadata = tracing.outgoing(header.request_id)

        async def encode(stub: encode_pb2_grpc.EncodeAsyncStub) -> encode_pb2.EncodeVoiceResponse:
            return await answer(stub.EncodeVoice(_parts(header, audio), metadata=metadata))

        return (await self._call(encode)).voice

    async def _call(self, work: Callable[[encode_pb2_grpc.EncodeAsyncStub], Awaitable[T]]) -> T:
        """Runs a call, which may be repeated, at an encode worker."""
        return await call_with_retry(
            self._encode, lambda channel: work(encode_pb2_grpc.EncodeStub(channel)), may_repeat=lambda: True
        )


async def _parts(header: encode_pb2.EncodeVoiceHeader, audio: bytes) -> AsyncIterator[encode_pb2.EncodeVoiceRequest]:
    yield encode_pb2.EncodeVoiceRequest(header=header)
    for start in range(0, len(audio), UPLOAD_PART_BYTES):
        yield encode_pb2.EncodeVoiceRequest(audio=audio[start : start + UPLOAD_PART_BYTES])
