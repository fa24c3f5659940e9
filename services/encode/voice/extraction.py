"""Extracts voices on demand: once per prompt, cached, at most some at a time, in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from services.common.checkpoint.model_dir import ModelDir
from services.common.errors import InvalidInput, NotFound, Overloaded
from services.common.single_flight import SingleFlight
from services.common.voices.cache import VoiceCache
from services.common.voices.voice import Voice
from services.encode import metrics
from services.encode.voice.extractor import Speech, VoiceExtractor
from services.encode.voice.speakers import FILE, read_speakers

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """A voice, whether it was cached, and the seconds of each step of its extraction."""

    voice: Voice
    cached: bool
    seconds: Mapping[str, float] = field(default_factory=dict)


class VoiceExtractorCache:
    """Provides voices: bundled, registered, cached, or extracted from a prompt."""

    def __init__(
        self, extractor: VoiceExtractor, model: ModelDir, cache: VoiceCache, parallel: int, max_queue: int
    ) -> None:
        """Raises ModelDirError if the directory's registered speakers are unusable."""
        self._extractor = extractor
        self._bundled = {voice.name: voice for voice in model.card.voices}
        self._speakers = read_speakers(model.path / FILE, model)
        self._cache = cache
        self._limit = parallel + max_queue
        self._work = 0
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="voice")
        self._extractions: SingleFlight[str, Found] = SingleFlight()
        metrics.watch_cache(cache)

    @property
    def names(self) -> tuple[str, ...]:
        """Bundled voices, then registered speakers."""
        return (*self._bundled, *(name for name in self._speakers if name not in self._bundled))

    @property
    def busy(self) -> int:
        """Number of voices and recordings being processed or queued."""
        return self._work

    async def named(self, name: str) -> Found:
        """Return a voice of the model directory. Raises NotFound, which lists the existing names."""
        bundled = self._bundled.get(name)
        if bundled is not None:
            found = await self.prompt(await asyncio.to_thread(bundled.audio.read_bytes), bundled.transcript)
            # A caller who uses a voice by name did not make its recording and cannot improve it.
            return replace(found, voice=replace(found.voice, warnings=()))
        if name in self._speakers:
            metrics.VOICES.labels("registered").inc()
            return Found(self._speakers[name], cached=True)
        known = ", ".join(self.names) or "none"
        raise NotFound(f"there is no voice {name!r}; this model has: {known}", field="voice_name")

    def cached(self, voice_hash: str) -> Found:
        """Return a voice extracted before. Raises NotFound if it is no longer cached."""
        voice = self._cache.get(voice_hash)
        if voice is None:
            raise NotFound("this voice is no longer cached; send its prompt again", field="voice_hash")
        metrics.VOICES.labels("cached").inc()
        return Found(voice, cached=True)

    def evict(self, voice_hash: str) -> None:
        """Evict an extracted voice; a voice of the model is extracted again at its next use."""
        self._cache.evict(voice_hash)

    async def prompt(self, audio: bytes, transcript: str | None) -> Found:
        """Return the voice of a prompt; without a transcript, a voice for its timbre only.

        Raises InvalidInput, and Overloaded if the queue is full.
        """
        metrics.PROMPT_BYTES.inc(len(audio))
        key = await asyncio.to_thread(self._extractor.hash, audio, transcript)  # tens of milliseconds for a large file
        voice = self._cache.get(key)
        if voice is not None:
            metrics.VOICES.labels("cached").inc()
            return Found(voice, cached=True)
        return await self._extractions.run(key, lambda: self._extract(audio, transcript))

    async def speech(self, audio: bytes) -> Speech:
        """Return the speech tokens of a recording. Raises InvalidInput, and Overloaded if the queue is full."""
        metrics.PROMPT_BYTES.inc(len(audio))
        return await self._run(lambda: self._extractor.speech(audio))

    async def _extract(self, audio: bytes, transcript: str | None) -> Found:
        seconds: dict[str, float] = {}

        def record(step: str, duration: float) -> None:
            seconds[step] = duration
            metrics.STEP_SECONDS.labels(step).observe(duration)

        voice = await self._run(lambda: self._extractor.extract(audio, transcript, record))
        self._cache.put(voice)
        return Found(voice, cached=False, seconds=seconds)

    async def _run(self, work: Callable[[], T]) -> T:
        """Run audio work in a thread; raise Overloaded if the queue is full."""
        if self._work >= self._limit:
            metrics.VOICES.labels("refused").inc()
            raise Overloaded("too many voices are being extracted; try again shortly", stage="encode")
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome = "failed"
        self._work += 1
        try:
            with metrics.IN_WORK.track_inprogress():
                result = await loop.run_in_executor(self._threads, work)
            outcome = "extracted"
            return result
        except InvalidInput:
            outcome = "invalid"
            raise
        finally:
            self._work -= 1
            metrics.VOICES.labels(outcome).inc()
            metrics.SECONDS.observe(loop.time() - started)

    def close(self) -> None:
        """Stop the threads; queued extractions are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
