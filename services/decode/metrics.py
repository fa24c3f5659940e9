"""Prometheus metrics of a decode worker: the engine's counters at scrape time, and histograms."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.metrics import LATENCY_BUCKETS
from services.decode.engine.engine import DecodeEngine
from services.decode.engine.events import EngineStats, Observer

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_LEADS = (0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32)

STREAMS_LIMIT = Gauge("lighttts_decode_streams_limit", "Largest number of open utterances.")
BATCH_SIZE = Histogram("lighttts_decode_batch_hops", "Hops per batch.", buckets=_SIZES)
BATCH_SECONDS = Histogram("lighttts_decode_batch_seconds", "Duration of batches in seconds.", buckets=LATENCY_BUCKETS)
FIRST_AUDIO = Histogram(
    "lighttts_decode_first_audio_seconds", "Time from an utterance's start to its first audio.", buckets=LATENCY_BUCKETS
)
LEAD = Histogram(
    "lighttts_decode_playback_lead_seconds", "Seconds of audio a listener had left when more was ready.", buckets=_LEADS
)

CANARY_FAILURES = Counter(
    "lighttts_decode_canary_failures_total",
    "Engine errors after which a fixed short hop failed too; the worker restarts.",
)


class PrometheusObserver(Observer):
    """Fills the histograms."""

    def batch(self, size: int, seconds: float) -> None:
        BATCH_SIZE.observe(size)
        BATCH_SECONDS.observe(seconds)

    def first_audio(self, seconds: float) -> None:
        FIRST_AUDIO.observe(seconds)

    def lead(self, seconds: float) -> None:
        LEAD.observe(seconds)


class EngineCollector(Collector):
    """Reads the engine's counters at every scrape."""

    def __init__(self, engine: DecodeEngine) -> None:
        self._engine = engine
        engine.on_canary_failure = CANARY_FAILURES.inc
        REGISTRY.register(self)

    def close(self) -> None:
        REGISTRY.unregister(self)

    def describe(self) -> Iterator[Metric]:
        """Describe nothing in advance, so that registering does not read the engine."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield from _gauges(stats)
        yield from _counters(stats, self._engine.steps)


def _gauges(stats: EngineStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("lighttts_decode_streams", "Open utterances.", stats.streams)
    yield GaugeMetricFamily("lighttts_decode_streams_offline", "Open utterances of offline requests.", stats.offline)
    queued = GaugeMetricFamily(
        "lighttts_decode_streams_queued",
        "Utterances that have tokens and wait for their first audio.",
        labels=["class"],
    )
    queued.add_metric(["listening"], stats.queued - stats.queued_offline)
    queued.add_metric(["offline"], stats.queued_offline)
    yield queued
    oldest = GaugeMetricFamily(
        "lighttts_decode_queue_oldest_seconds", "Longest wait of a queued utterance in seconds.", labels=["class"]
    )
    oldest.add_metric(["listening"], stats.oldest_s)
    oldest.add_metric(["offline"], stats.oldest_offline_s)
    yield oldest
    yield GaugeMetricFamily("lighttts_decode_hops_ready", "Hops that were ready at the latest turn.", stats.ready)
    memory = GaugeMetricFamily("lighttts_decode_state_bytes", "Bytes of streams' states.", labels=["kind"])
    memory.add_metric(["kept"], stats.backend.kept_bytes)
    memory.add_metric(["budget"], stats.backend.budget_bytes)
    yield memory


def _counters(stats: EngineStats, steps: int) -> Iterator[Metric]:
    phases = CounterMetricFamily("lighttts_decode_phase_seconds", "Seconds spent per phase.", labels=["phase"])
    phases.add_metric(["flow"], stats.backend.flow_s)
    phases.add_metric(["vocoder"], stats.backend.vocoder_s)
    yield phases
    ended = CounterMetricFamily("lighttts_decode_streams_ended", "Ended utterances by outcome.", labels=["outcome"])
    for outcome in ("finished", "cancelled", "failed"):
        ended.add_metric([outcome], getattr(stats, outcome))
    yield ended
    prompts = CounterMetricFamily(
        "lighttts_decode_prompts", "First hops by how their voice's prompt was obtained.", labels=["how"]
    )
    prompts.add_metric(["computed"], stats.backend.prompts_computed)
    prompts.add_metric(["shared"], stats.backend.prompts_shared)
    yield prompts
    for name, text, value in (
        ("engine_steps", "Steps of the engine; the counter of a live engine grows.", steps),
        ("busy_seconds", "Seconds spent in batches.", stats.busy_s),
        ("hops", "Decoded hops.", stats.hops),
        ("tokens", "Decoded speech tokens.", stats.tokens_decoded),
        ("samples", "Generated audio samples.", stats.samples),
        ("evictions", "States evicted for more urgent streams.", stats.evictions),
        ("evicted_bytes", "Bytes of evicted states.", stats.evicted_bytes),
        (
            "recomputed_frames",
            "Mel frames computed again for lack of a state.",
            stats.backend.recomputed_frames,
        ),
        ("non_finite", "Hops computed again in float32.", stats.backend.non_finite),
        (
            "unprepared_batches",
            "Batches of a shape without a prepared CUDA graph; their kernels were launched one by one.",
            stats.backend.unprepared_batches,
        ),
        ("underruns", "Times a listener ran out of audio.", stats.underruns),
        ("underrun_seconds", "Seconds for which listeners had no audio.", stats.underrun_s),
    ):
        yield CounterMetricFamily(f"lighttts_decode_{name}", text, value)
