"""Voices on demand: cached, extracted once per prompt, a bounded number at a time, off the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import Counter, Gauge, Histogram

from services.common.errors import NotFound, Overloaded
from services.common.metrics import LATENCY_BUCKETS
from services.common.modeldir import ModelDir
from services.common.single_flight import SingleFlight
from services.common.voice import Voice
from services.common.voice_cache import VoiceCache
from services.encode.voice import VoiceExtractor

REQUESTS = Counter("lighttts_encode_voices_total", "Voices asked for, by outcome.", ["outcome"])
SECONDS = Histogram("lighttts_encode_voice_seconds", "Time to extract one voice.", buckets=LATENCY_BUCKETS)
QUEUE = Gauge("lighttts_encode_voices_in_work", "Voices being extracted or waiting for it.")


class VoiceSource:
    """Every voice this service can give: bundled, cached, or extracted from a prompt."""

    def __init__(
        self, extractor: VoiceExtractor, model: ModelDir, cache: VoiceCache, parallel: int, max_queue: int
    ) -> None:
        self._extractor = extractor
        self._bundled = {voice.name: voice for voice in model.card.voices}
        self._cache = cache
        self._limit = parallel + max_queue
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="voice")
        self._flights: SingleFlight[str, Voice] = SingleFlight()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._bundled)

    async def bundled(self, name: str) -> tuple[Voice, bool]:
        """A voice of the model directory, and whether it was cached. Raises NotFound naming those there are."""
        if name not in self._bundled:
            known = ", ".join(self._bundled) or "none"
            raise NotFound(f"there is no voice {name!r}; this model comes with: {known}", field="voice_name")
        voice = self._bundled[name]
        return await self.prompt(await asyncio.to_thread(voice.audio.read_bytes), voice.transcript)

    def known(self, voice_hash: str) -> Voice:
        """A voice extracted before. Raises NotFound when it is no longer cached."""
        voice = self._cache.get(voice_hash)
        if voice is None:
            raise NotFound("this voice is not cached any more; send its prompt again", field="voice_hash")
        REQUESTS.labels("cached").inc()
        return voice

    async def prompt(self, audio: bytes, transcript: str) -> tuple[Voice, bool]:
        """The voice of a prompt, and whether it was cached. Raises InvalidInput; Overloaded when the queue is full."""
        key = await asyncio.to_thread(self._extractor.hash, audio, transcript)  # tens of milliseconds for a large file
        voice = self._cache.get(key)
        if voice is not None:
            REQUESTS.labels("cached").inc()
            return voice, True
        voice = await self._flights.run(key, lambda: self._extract(audio, transcript))
        return voice, False

    async def _extract(self, audio: bytes, transcript: str) -> Voice:
        if len(self._flights) > self._limit:
            REQUESTS.labels("refused").inc()
            raise Overloaded("too many voices are being extracted; try again shortly")
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome = "failed"
        with QUEUE.track_inprogress():
            try:
                voice = await loop.run_in_executor(self._threads, self._extractor.extract, audio, transcript)
                outcome = "extracted"
            finally:
                REQUESTS.labels(outcome).inc()
                SECONDS.observe(loop.time() - started)
        self._cache.put(voice)
        return voice

    def close(self) -> None:
        """Ends the threads; extractions not yet begun are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
