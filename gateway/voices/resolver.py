"""Finds the voice of a request: bundled with the checkpoint, registered by the caller, or given as a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

from gateway.aliases import Aliases
from gateway.auth.caller import current_caller
from gateway.downstream import answer, call_with_retry
from gateway.voices.content_cache import VoiceContentCache
from gateway.voices.deletion import VoiceDeletion
from gateway.voices.record import VoiceRecord
from gateway.voices.reference import NamedVoice, PromptVoice
from gateway.voices.store import VoiceStore, find
from gateway.voices.store import content as stored_content
from lighttts.v1 import encode_pb2, encode_pb2_grpc, voice_pb2
from services.common import tracing
from services.common.errors import LightTtsError, NotFound, Unavailable, listed, quoted
from services.common.pool import Pool
from services.common.single_flight import SingleFlight
from services.common.telemetry import current_request_id
from services.common.voices.voice import voice_hash

log = structlog.get_logger(__name__)

UPLOAD_PART_BYTES = 64 * 1024

T = TypeVar("T")


class VoiceResolver:
    """Turns a request's voice into its content, once per voice, and caches the description of the served model."""

    def __init__(
        self,
        encode: Pool,
        store: VoiceStore,
        memory: VoiceContentCache,
        voice_deletion: VoiceDeletion,
        *,
        default_voice: str,
        aliases: Aliases,
    ) -> None:
        """`default_voice`: name of the voice for requests without one; empty means the checkpoint's first voice.
        `aliases`: for names that no voice has."""
        self._encode = encode
        self._store = store
        self._default_voice = default_voice
        self._aliases = aliases
        self._memory = memory
        self._voice_deletion = voice_deletion
        self._cached_hashes: dict[tuple[str, str], str] = {}
        """Hashes of registered voices by owner and id, while this process may cache their content or results."""
        self._deletion_checks: set[asyncio.Task[None]] = set()
        self._lookups: SingleFlight[str, voice_pb2.VoiceContent] = SingleFlight()
        self._model: encode_pb2.DescribeModelResponse | None = None
        self._bundled: dict[str, voice_pb2.VoiceContent] = {}
        """The model's own voices by name. They are few, and stay here whatever the cache evicts."""

    @property
    def model(self) -> encode_pb2.DescribeModelResponse:
        """The model that the encode service serves. Raises Unavailable before the first successful `refresh`."""
        if self._model is None:
            raise Unavailable("the encode service has not been reached yet; try again shortly", retry_after=1.0)
        return self._model

    @property
    def default_voice(self) -> str:
        """Name of the voice for requests without one; empty if the checkpoint has no voices."""
        return self._default_voice or next(iter(self.model.voices), "")

    async def refresh(self) -> None:
        """Look up the served model and fetch its voices. Raises Unavailable or the encode service's error."""

        async def describe(stub: encode_pb2_grpc.EncodeAsyncStub) -> encode_pb2.DescribeModelResponse:
            return await stub.DescribeModel(encode_pb2.DescribeModelRequest())

        model = await self._call(describe)
        if self._model is None or self._model.model != model.model:
            log.info("model served", model=model.name, identity=model.model, voices=list(model.voices))
            self._memory.clear()
            self._bundled.clear()
        self._model = model
        if self._bundled.keys() != set(model.voices):
            await self._fetch_bundled(model)

    async def _fetch_bundled(self, model: encode_pb2.DescribeModelResponse) -> None:
        """Fetch the voices of `model`. Raises Unavailable if the encode workers serve different models now."""

        async def voices(stub: encode_pb2_grpc.EncodeAsyncStub) -> dict[str, voice_pb2.VoiceContent]:
            return {each.name: each.voice async for each in stub.BundledVoices(encode_pb2.BundledVoicesRequest())}

        try:
            bundled = await self._call(voices)
        except Unavailable:
            raise
        except LightTtsError as error:  # a worker of an earlier version: each voice is fetched at its first use
            log.debug("the encode worker sends no voices ahead", reason=error.message)
            return
        if any(content.model != model.model for content in bundled.values()):
            raise Unavailable("the encode workers serve different models; try again shortly", retry_after=1.0)
        self._bundled = bundled

    @asynccontextmanager
    async def use(self, voice: NamedVoice | PromptVoice) -> AsyncIterator[voice_pb2.VoiceContent]:
        """Yield the voice's content while it is used. If the voice is deleted meanwhile, it is evicted from the workers
        again afterwards, because its use has brought it back into their caches.

        Raises NotFound, which names the known voices, or InvalidInput for a bad prompt.
        """
        record = None
        if isinstance(voice, NamedVoice):
            voice, record = await self._resolve(voice)
        content = await self._content(voice, record)
        try:
            yield content
        finally:
            if record is not None:
                self._cached_hashes[record.owner, record.id] = content.voice_hash  # results may have been stored
                self._spawn(self._evict_if_deleted(record, content.voice_hash))

    def bundled(self, voice: NamedVoice) -> bool:
        """Return whether the name, or the default for an empty one, is that of a voice of the model."""
        return (voice.name or self.default_voice) in self.model.voices

    async def _content(self, voice: NamedVoice | PromptVoice, record: VoiceRecord | None) -> voice_pb2.VoiceContent:
        if record is not None:
            registered = await self._registered(record)
            self._cached_hashes[record.owner, record.id] = registered.voice_hash
            return registered
        if isinstance(voice, NamedVoice):
            if voice.name in self._bundled:
                return self._bundled[voice.name]
            key = f"name {voice.name}"
            header = encode_pb2.EncodeVoiceHeader(request_id=current_request_id(), bundled_voice=voice.name)
            audio = b""
        else:
            audio = voice.audio
            # In a thread: hashing megabytes would delay the audio of all streams.
            key = await asyncio.to_thread(voice_hash, audio, voice.transcript, self.model.model)
            header = _prompt_header(voice.transcript)
        content = self._memory.get(key)
        if content is None:
            content = await self._lookups.run(key, lambda: self._encode_and_cache(key, header, audio))
        return content

    async def extract(self, audio: bytes, transcript: str) -> voice_pb2.VoiceContent:
        """Return the content of a prompt, without caching it; without a transcript, for its timbre alone.

        Raises InvalidInput for an unusable prompt.
        """
        return await self._encode_voice(_prompt_header(transcript), audio)

    async def sweep(self) -> None:
        """Evict registered voices that were deleted through another gateway, and retry evictions that did not reach
        every worker."""
        await self._voice_deletion.retry()
        for (owner, id_), hash_ in tuple(self._cached_hashes.items()):
            if await self._store.get(owner, id_) is None:
                await self._voice_deletion.evict(hash_)
                self._cached_hashes.pop((owner, id_), None)
            elif not self._voice_deletion.holds(hash_):
                self._cached_hashes.pop((owner, id_), None)

    async def close(self) -> None:
        """Cancel the background tasks."""
        for task in self._deletion_checks:
            task.cancel()
        if self._deletion_checks:
            await asyncio.wait(self._deletion_checks)

    async def _resolve(self, voice: NamedVoice) -> tuple[NamedVoice, VoiceRecord | None]:
        """Return the voice that a request names, under its own name, and the record of a registered one.

        A name that no voice has may be an alias. Raises NotFound.
        """
        name = voice.name or self.default_voice
        found, record = await self._find(name)
        if found:
            return NamedVoice(name), record
        target = self._aliases.resolve(name)
        if target is not None:
            target = target or self.default_voice
            found, record = await self._find(target)
            if found:
                return NamedVoice(target), record
        means = f", which {quoted(name)} means here" if target else ""
        owned = await self._store.owned(current_caller().owner)
        known = listed(sorted([*self.model.voices, *(other.name for other in owned)])) or "none: send a prompt instead"
        raise NotFound(
            f"there is no voice {quoted(target or name)}{means}; known voices: {known}", field="config.voice_name"
        )

    async def _find(self, name: str) -> tuple[bool, VoiceRecord | None]:
        """Return whether the caller can use a voice of exactly this name or id, and the record of a registered one."""
        if name in self.model.voices:
            return True, None
        # The store is read every time, so that a voice deleted through any gateway is unusable at once.
        record = await find(self._store, current_caller().owner, name)
        return record is not None, record

    async def _evict_if_deleted(self, record: VoiceRecord, voice_hash: str) -> None:
        """Evict a registered voice after its use, if it was deleted meanwhile."""
        try:
            if await self._store.get(record.owner, record.id) is None:
                await self._voice_deletion.evict(voice_hash)
        except Unavailable as error:
            log.warning("cannot check whether a voice was deleted during its use", reason=error.message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._deletion_checks.add(task)
        task.add_done_callback(self._deletion_checks.discard)

    async def _registered(self, record: VoiceRecord) -> voice_pb2.VoiceContent:
        key = f"registered {record.owner} {record.id}"
        content = self._memory.get(key)
        if content is None:
            content = await self._lookups.run(key, lambda: self._load(key, record))
        return content

    async def _load(self, key: str, record: VoiceRecord) -> voice_pb2.VoiceContent:
        model = self.model.model
        content = await stored_content(self._store, record, model)
        if content is None:  # registered with another model
            audio = await self._store.audio(record.owner, record.id)
            if audio is None:
                raise NotFound(f"the voice {record.name!r} has just been deleted", field="config.voice_name")
            content = await self.extract(audio, record.transcript)
            await self._store.keep_content(record.owner, record.id, model, content.SerializeToString())
        self._memory.put(key, content)
        return content

    async def _encode_and_cache(
        self, key: str, header: encode_pb2.EncodeVoiceHeader, audio: bytes
    ) -> voice_pb2.VoiceContent:
        content = await self._encode_voice(header, audio)
        self._memory.put(key, content)
        return content

    async def _encode_voice(self, header: encode_pb2.EncodeVoiceHeader, audio: bytes) -> voice_pb2.VoiceContent:
        metadata = tracing.outgoing(header.request_id)

        async def encode(stub: encode_pb2_grpc.EncodeAsyncStub) -> encode_pb2.EncodeVoiceResponse:
            return await answer(stub.EncodeVoice(_parts(header, audio), metadata=metadata))

        return (await self._call(encode)).voice

    async def _call(self, work: Callable[[encode_pb2_grpc.EncodeAsyncStub], Awaitable[T]]) -> T:
        """Run a repeatable call on an encode worker."""
        return await call_with_retry(
            self._encode, lambda channel: work(encode_pb2_grpc.EncodeStub(channel)), may_repeat=lambda: True
        )


def _prompt_header(transcript: str) -> encode_pb2.EncodeVoiceHeader:
    header = encode_pb2.EncodeVoiceHeader(request_id=current_request_id())
    if transcript:
        header.transcript = transcript
    else:
        header.timbre_only = True
    return header


async def _parts(header: encode_pb2.EncodeVoiceHeader, audio: bytes) -> AsyncIterator[encode_pb2.EncodeVoiceRequest]:
    yield encode_pb2.EncodeVoiceRequest(header=header)
    for start in range(0, len(audio), UPLOAD_PART_BYTES):
        yield encode_pb2.EncodeVoiceRequest(audio=audio[start : start + UPLOAD_PART_BYTES])
