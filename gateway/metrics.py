"""Metrics of the gateway, as a listener experiences them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import Counter, Gauge, Histogram

from lighttts.v1 import tts_pb2
from services.common.errors import LightTtsError, Overloaded, QuotaExceeded
from services.common.metrics import LATENCY_BUCKETS
from services.common.workers.failover import moves_counter

TIME_TO_FIRST_AUDIO = Histogram(
    "lighttts_gateway_time_to_first_audio_seconds",
    "From a stream's first text to its first audio.",
    buckets=LATENCY_BUCKETS,
)
FIRST_AUDIO_STAGE = Histogram(
    "lighttts_gateway_first_audio_stage_seconds",
    "Time to first audio by stage: encode, first_token, first_hop, decode, delivery. The stages add up to the total.",
    ["stage"],
    buckets=LATENCY_BUCKETS,
)
REAL_TIME_FACTOR = Histogram(
    "lighttts_gateway_real_time_factor",
    "Seconds spent per second of audio, by stream.",
    buckets=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1, 1.2, 1.5, 2, 3, 5),
)
SESSIONS_ACTIVE = Gauge("lighttts_gateway_sessions_active", "Streams served now.")
AUDIO_SECONDS = Counter("lighttts_gateway_audio_delivered_seconds_total", "Audio delivered, in seconds.")
AUDIO_RECEIVED_SECONDS = Counter(
    "lighttts_gateway_audio_generated_seconds_total",
    "Audio received from workers, in seconds; audio that is not delivered is wasted.",
)
UNDERRUN_SECONDS = Counter(
    "lighttts_gateway_underrun_seconds_total", "Silence, in seconds, for listeners who play every chunk on arrival."
)
CANCELLATIONS = Counter("lighttts_gateway_cancellations_total", "Speech that was cut off, by cause.", ["by"])
"""`by`: `barge_in` (a cancel message), `client` (it disconnected)."""
LLM_MOVES = moves_counter("lighttts_gateway_llm_moves_total", "llm")
VOICES_NOT_EVICTED = Counter(
    "lighttts_gateway_voices_not_forgotten_total",
    "Failed requests to workers to evict a deleted voice; they are retried.",
)
RESULTS = Counter(
    "lighttts_gateway_results_total", "Requests for whole texts while the result cache is on, by outcome.", ["how"]
)
"""`how`: `remembered` (from the cache), `shared` (with a running request), `spoken`."""
ERRORS = Counter("lighttts_gateway_errors_total", "Failed requests, by API and reason.", ["front", "reason"])
REFUSALS = Counter("lighttts_gateway_refusals_total", "Requests refused because a service was full.", ["stage"])
"""`stage`: the service that was full."""
REFUSING_STAGES = ("gateway", "encode", "llm", "decode")
for _stage in REFUSING_STAGES:  # an alert cannot see an increase in a series that appears with its first event
    REFUSALS.labels(_stage)

STAGES = ("encode", "first_token", "first_hop", "decode", "delivery")
_STAGE_SECONDS = {stage: FIRST_AUDIO_STAGE.labels(stage) for stage in STAGES}


def observe_first_audio(first: tts_pb2.FirstAudio) -> None:
    """Record the time to a stream's first audio, in total and by stage."""
    TIME_TO_FIRST_AUDIO.observe(first.seconds)
    for stage, seconds in _STAGE_SECONDS.items():
        seconds.observe(getattr(first, stage))


@contextlib.contextmanager
def count_errors(api: str) -> Iterator[None]:
    """Count an error that leaves the block, under the name of the API; count a refusal by the stage that is full."""
    try:
        yield
    except Exception as error:
        ERRORS.labels(api, error.reason if isinstance(error, LightTtsError) else LightTtsError.reason).inc()
        if isinstance(error, Overloaded) and not isinstance(error, QuotaExceeded):
            REFUSALS.labels(error.stage if error.stage in REFUSING_STAGES else "gateway").inc()
        raise
