"""The metrics of the llm service, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from services.common.metrics import LATENCY_BUCKETS
from services.llm.engine.engine import LlmEngine, StepReport

WAITING = Gauge("lighttts_llm_sequences_waiting", "Utterances queued for K/V blocks.")
RUNNING = Gauge("lighttts_llm_sequences_running", "Utterances that hold K/V blocks.")
HELD = Gauge("lighttts_llm_sequences_held", "Running utterances that have reached their maximum lead or wait for text.")
PAUSED = Gauge("lighttts_llm_sequences_paused", "Utterances that pause for others because their lead is long.")
KV_USED = Gauge("lighttts_llm_kv_blocks_used", "K/V blocks in use.")
KV_TOTAL = Gauge("lighttts_llm_kv_blocks", "K/V blocks in total.")
TURNS = Gauge("lighttts_llm_engine_turns", "Turns of the engine's loop; the number of a live engine grows.")
BATCH = Histogram(
    "lighttts_llm_batch_size", "Utterances in one engine step.", buckets=(1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256)
)
STEP_SECONDS = Histogram(
    "lighttts_llm_step_duration_seconds",
    "Duration of engine steps, scheduling and sampling included.",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1),
)
TOKENS = Counter("lighttts_llm_tokens_generated_total", "Speech tokens generated.")
PREFILLED = Counter("lighttts_llm_prefill_tokens_total", "Prompt and text tokens fed, recomputed ones included.")
PREEMPTIONS = Counter("lighttts_llm_preemptions_total", "Times an utterance lost its K/V blocks to another one.")
FIRST_TOKEN = Histogram(
    "lighttts_llm_first_token_seconds",
    "Time from an utterance's submission to the engine until its first token.",
    buckets=LATENCY_BUCKETS,
)
LEAD = Histogram(
    "lighttts_llm_lead_seconds",
    "Seconds of speech generated beyond the playback position, at each audio message.",
    buckets=(0, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30),
)
CANARY_FAILURES = Counter(
    "lighttts_llm_canary_failures_total",
    "Engine errors after which a fixed short step failed too; the worker restarts.",
)
CANCELLED = Counter(
    "lighttts_llm_cancellations_total",
    "Utterances that their client cancelled, by phase: voice, text, queued, generating, speaking.",
    ["phase"],
)


def count_step(step: StepReport) -> None:
    """Count a step; the engine calls it after each one."""
    for _ in range(step.model_steps):
        BATCH.observe(step.batch_size)
        STEP_SECONDS.observe(step.seconds / step.model_steps)
    TOKENS.inc(step.tokens)
    PREFILLED.inc(step.prefill_tokens)
    PREEMPTIONS.inc(step.preemptions)


def export(engine: LlmEngine) -> None:
    """Export the engine's state, read at each scrape."""

    def read(field: str) -> Callable[[], float]:
        return lambda: float(getattr(engine.stats(), field))

    for gauge, field in (
        (WAITING, "waiting"),
        (RUNNING, "running"),
        (HELD, "held"),
        (PAUSED, "paused"),
        (KV_USED, "kv_blocks_used"),
        (KV_TOTAL, "kv_blocks_total"),
    ):
        gauge.set_function(read(field))
    engine.on_canary_failure = CANARY_FAILURES.inc
    TURNS.set_function(lambda: float(engine.steps))
