"""What a decode worker tells Prometheus: the engine's own counts at scrape time, and histograms as things happen."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.metrics import LATENCY_BUCKETS
from services.decode.engine.engine import DecodeEngine
from services.decode.engine.events import EngineStats, Observer

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_LEADS = (0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32)

STREAMS_LIMIT = Gauge("lighttts_decode_streams_limit", "Utterances that may be open at once.")
BATCH_SIZE = Histogram("lighttts_decode_batch_hops", "Hops per batch.", buckets=_SIZES)
BATCH_SECONDS = Histogram("lighttts_decode_batch_seconds", "Length of batches.", buckets=LATENCY_BUCKETS)
FIRST_AUDIO = Histogram(
    "lighttts_decode_first_audio_seconds", "From an utterance's opening to its first audio.", buckets=LATENCY_BUCKETS
)
LEAD = Histogram(
    "lighttts_decode_playback_lead_seconds", "Audio a listener had left when more was made.", buckets=_LEADS
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
    """Reads the engine's counts when Prometheus asks."""

    def __init__(self, engine: DecodeEngine) -> None:
        self._engine = engine
        REGISTRY.register(self)

    def close(self) -> None:
        REGISTRY.unregister(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance, so that registering asks the engine nothing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield from _gauges(stats)
        yield from _counters(stats, self._engine.steps)


def _gauges(stats: EngineStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("lighttts_decode_streams", "Utterances open.", stats.streams)
    yield GaugeMetricFamily("lighttts_decode_streams_offline", "Of those, nobody listens to.", stats.offline)
    queued = GaugeMetricFamily(
        "lighttts_decode_streams_queued",
        "Utterances that wait for their first audio, tokens given.",
        labels=["class"],
    )
    queued.add_metric(["listening"], stats.queued - stats.queued_offline)
    queued.add_metric(["offline"], stats.queued_offline)
    yield queued
    oldest = GaugeMetricFamily(
        "lighttts_decode_queue_oldest_seconds", "How long the first of them has waited.", labels=["class"]
    )
    oldest.add_metric(["listening"], stats.oldest_s)
    oldest.add_metric(["offline"], stats.oldest_offline_s)
    yield oldest
    yield GaugeMetricFamily("lighttts_decode_hops_ready", "Hops that could have run at the latest turn.", stats.ready)
    memory = GaugeMetricFamily("lighttts_decode_state_bytes", "Memory of streams' states.", labels=["kind"])
    memory.add_metric(["kept"], stats.backend.kept_bytes)
    memory.add_metric(["budget"], stats.backend.budget_bytes)
    yield memory


def _counters(stats: EngineStats, steps: int) -> Iterator[Metric]:
    phases = CounterMetricFamily("lighttts_decode_phase_seconds", "Time spent per phase.", labels=["phase"])
    phases.add_metric(["flow"], stats.backend.flow_s)
    phases.add_metric(["vocoder"], stats.backend.vocoder_s)
    yield phases
    ended = CounterMetricFamily("lighttts_decode_streams_ended", "Utterances that ended.", labels=["outcome"])
    for outcome in ("finished", "cancelled", "failed"):
        ended.add_metric([outcome], getattr(stats, outcome))
    yield ended
    prompts = CounterMetricFamily(
        "lighttts_decode_prompts", "First hops by what became of the voice's prompt.", labels=["how"]
    )
    prompts.add_metric(["computed"], stats.backend.prompts_computed)
    prompts.add_metric(["shared"], stats.backend.prompts_shared)
    yield prompts
    for name, text, value in (
        ("engine_steps", "Steps of the engine; a live engine's number grows.", steps),
        ("busy_seconds", "Time spent in batches.", stats.busy_s),
        ("hops", "Hops decoded.", stats.hops),
        ("tokens", "Speech tokens decoded.", stats.tokens_decoded),
        ("samples", "Audio samples made.", stats.samples),
        ("evictions", "States given up for more urgent streams.", stats.evictions),
        ("evicted_bytes", "Memory so given up.", stats.evicted_bytes),
        ("recomputed_frames", "Mel frames computed again for lack of state.", stats.backend.recomputed_frames),
        ("non_finite", "Hops computed again in float32.", stats.backend.non_finite),
        (
            "unprepared_batches",
            "Batches of a shape without a prepared CUDA graph; their kernels were launched one by one.",
            stats.backend.unprepared_batches,
        ),
        ("underruns", "Times a listener ran out of audio.", stats.underruns),
        ("underrun_seconds", "How long listeners had none.", stats.underrun_s),
    ):
        yield CounterMetricFamily(f"lighttts_decode_{name}", text, value)
