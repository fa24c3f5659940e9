"""What workers tell Prometheus of a short utterance that lost its decode worker: every family, true values."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cli.local.ports import HOST
from cli.local.process import Worker
from cli.local.stack import Stack
from tests.support.spoken import say, served_by

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = "I have not seen the other one for years, and I do not know where he went."
DECODE = {
    "queue by class": "streams_queued",
    "queue by age": "queue_oldest_seconds",
    "batch size": "batch_hops",
    "batch time": "batch_seconds",
    "chunk time by phase": "phase_seconds",
    "state kept": "state_bytes",
    "states given up": "evictions",
    "state given up": "evicted_bytes",
    "recomputed": "recomputed_frames",
    "lead": "playback_lead_seconds",
    "underruns": "underruns",
    "underrun time": "underrun_seconds",
    "first audio": "first_audio_seconds",
}
LLM = {
    "waiting": "sequences_waiting",
    "running": "sequences_running",
    "paused": "sequences_paused",
    "batch size": "batch_size",
    "time per step": "step_duration_seconds",
    "tokens": "tokens_generated",
    "K/V use": "kv_blocks_used",
    "K/V size": "kv_blocks",
    "preemptions": "preemptions",
    "time to first token": "first_token_seconds",
    "lead": "lead_seconds",
    "cancellations by phase": "cancellations",
    "moves by reason and outcome": "decode_moves",
    "gap at a move": "decode_seam_seconds",
}


class Page:
    """One scrape of a worker."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.names = {family.name for family in families}
        self.samples: list[Sample] = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())


async def scrape(worker: Worker) -> Page:
    async with httpx.AsyncClient(timeout=400, trust_env=False) as client:
        return Page((await client.get(f"http://{HOST}:{worker.spec.metrics_port}/metrics")).text)


async def idle(worker: Worker) -> Page:
    """Scrape a worker once its engine has counted all that it did: an engine's figures are those of its last turn."""
    async with asyncio.timeout(400):
        while True:
            page = await scrape(worker)
            if not page.value("lighttts_decode_streams") + page.value("lighttts_llm_sequences_running"):
                return page


async def test_workers_count_an_utterance_that_moved(stack: Stack) -> None:
    (last,) = await served_by(stack, 1)
    lost = next(worker for worker in stack.decode if worker.name != last)  # two workers, alternately
    went_on = next(worker for worker in stack.decode if worker.name == last)
    llm_before, decode_before = await idle(stack.llm), await idle(went_on)
    try:
        spoken = await say(stack, LONG, seed=3, on_first_chunk=lost.kill)
        llm, decode = await idle(stack.llm), await idle(went_on)
    finally:  # other tests use the stack
        await lost.restart()
    assert any("moved to another worker" in warning for warning in spoken.speech.warnings)

    assert {f"lighttts_decode_{name}" for name in DECODE.values()} <= decode.names
    assert {f"lighttts_llm_{name}" for name in LLM.values()} <= llm.names

    def of_llm(name: str, **labels: str) -> float:
        return llm.value(f"lighttts_llm_{name}", **labels) - llm_before.value(f"lighttts_llm_{name}", **labels)

    def of_decode(name: str, **labels: str) -> float:
        name = f"lighttts_decode_{name}"
        return decode.value(name, **labels) - decode_before.value(name, **labels)

    assert of_llm("decode_moves_total") == of_llm("decode_moves_total", reason="died", outcome="moved") == 1
    assert of_llm("decode_seam_seconds_count") == of_llm("first_token_seconds_count") == 1
    assert 0 < of_llm("decode_seam_seconds_sum") < 60
    speech_tokens = len(spoken.samples) / 960
    assert of_llm("tokens_generated_total") == pytest.approx(speech_tokens, abs=2)  # raw ids: the stop id is none
    assert of_llm("lead_seconds_count") >= 2
    assert of_llm("batch_size_count") == of_llm("step_duration_seconds_count") >= speech_tokens
    for gauge in ("sequences_waiting", "sequences_running", "sequences_paused", "kv_blocks_used"):
        assert llm.value(f"lighttts_llm_{gauge}") == 0
    assert llm.value("lighttts_llm_kv_blocks") > 0

    assert of_decode("streams_ended_total", outcome="finished") == 1
    assert of_decode("recomputed_frames_total") > 0  # what the lost worker had decoded
    assert 0 < of_decode("samples_total") < len(spoken.samples)
    assert of_decode("batch_hops_count") == of_decode("batch_seconds_count") > 0
    assert of_decode("playback_lead_seconds_count") + of_decode("first_audio_seconds_count") == of_decode("hops_total")
    for phase in ("flow", "vocoder"):
        assert 0 < of_decode("phase_seconds_total", phase=phase) < of_decode("batch_seconds_sum")
    for kind in ("listening", "offline"):
        assert decode.value("lighttts_decode_streams_queued", **{"class": kind}) == 0
        assert decode.value("lighttts_decode_queue_oldest_seconds", **{"class": kind}) == 0
    assert decode.value("lighttts_decode_streams") == 0
    assert decode.value("lighttts_decode_state_bytes", kind="budget") > 0
