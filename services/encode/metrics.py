"""Metrics of the encode service, in addition to those of every service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.common.metrics import LATENCY_BUCKETS
from services.common.voices.cache import VoiceCache

VOICES = Counter(
    "lighttts_encode_voices_total",
    "Requests for a voice or a recording, by outcome: cached, registered, extracted, invalid, refused, failed.",
    ["outcome"],
)
SECONDS = Histogram(
    "lighttts_encode_voice_seconds",
    "Time to extract one voice, including the wait in the queue.",
    buckets=LATENCY_BUCKETS,
)
STEP_SECONDS = Histogram(
    "lighttts_encode_step_seconds",
    "Time of one step of an extraction: decode, features, speech_tokens, embedding.",
    ["step"],
    buckets=LATENCY_BUCKETS,
)
IN_WORK = Gauge("lighttts_encode_voices_in_work", "Voices being extracted or queued for extraction.")
PROMPT_BYTES = Counter("lighttts_encode_prompt_bytes_total", "Bytes of prompt audio received.")
CACHE_VOICES = Gauge("lighttts_encode_cache_voices", "Voices in the cache.")
CACHE_BYTES = Gauge("lighttts_encode_cache_bytes", "Bytes of voices in the cache.")
TEXT_CHARACTERS = Counter("lighttts_encode_text_characters_total", "Characters of text received.")


def watch_cache(cache: VoiceCache) -> None:
    """Export the cache's own counts at scrape time."""
    CACHE_VOICES.set_function(lambda: len(cache))
    CACHE_BYTES.set_function(lambda: cache.nbytes)
