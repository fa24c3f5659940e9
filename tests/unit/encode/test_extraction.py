"""Voices under load: equal prompts are extracted once, the queue is bounded, every request is counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.common.checkpoint.model_dir import open_model_dir
from services.common.errors import InvalidInput, Overloaded
from services.common.voices.cache import VoiceCache
from services.common.voices.voice import Voice
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.voice.extraction import VoiceExtractorCache
from services.encode.voice.extractor import STEPS, OnStep, VoiceExtractor

ROOT = Path(__file__).parents[3]
MODEL = open_model_dir(ROOT / "tests" / "data" / "cosyvoice2-mini")
AUDIO = (ROOT / "models" / "tiny" / "prompt_anna.wav").read_bytes()


class Extractor(VoiceExtractor):
    """Counts its extractions and blocks them until `opened` is set."""

    def __init__(self) -> None:
        super().__init__(MODEL, TextFrontend(MODEL, Normaliser("builtin")))
        self.opened = threading.Event()
        self.begun = 0

    def extract(self, audio: bytes, transcript: str | None, on_step: OnStep = lambda step, seconds: None) -> Voice:
        self.begun += 1
        self.opened.wait(120)
        return super().extract(audio, transcript, on_step)


@pytest.fixture
def extractor() -> Extractor:
    return Extractor()


@pytest.fixture
async def voices(extractor: Extractor) -> AsyncIterator[VoiceExtractorCache]:
    source = VoiceExtractorCache(extractor, MODEL, VoiceCache(8, 2**20), parallel=1, max_queue=1)
    yield source
    extractor.opened.set()
    source.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a thread changes the condition
        await asyncio.sleep(0.01)


def count(outcome: str) -> float:
    return REGISTRY.get_sample_value("lighttts_encode_voices_total", {"outcome": outcome}) or 0.0


async def test_ten_thousand_equal_prompts_are_one_extraction(voices: VoiceExtractorCache, extractor: Extractor) -> None:
    waiting = [asyncio.create_task(voices.prompt(AUDIO[:60_000], None)) for _ in range(10_000)]
    await until(lambda: extractor.begun > 0)
    for task in waiting[::2]:  # half of the callers leave
        task.cancel()
    extractor.opened.set()
    found = await asyncio.gather(*waiting[1::2])
    assert extractor.begun == 1
    assert len({id(each.voice) for each in found}) == 1
    assert set(found[0].seconds) == set(STEPS)
    assert (await voices.prompt(AUDIO[:60_000], None)).cached


async def test_too_many_different_prompts_are_refused_at_once(
    voices: VoiceExtractorCache, extractor: Extractor
) -> None:
    refused = count("refused")
    running = [asyncio.create_task(voices.prompt(AUDIO, words)) for words in ("one of them", "the other of them")]
    await until(lambda: voices.busy == 2)
    with pytest.raises(Overloaded, match="try again shortly"):
        await voices.prompt(AUDIO, "and a third one")
    with pytest.raises(Overloaded):
        await voices.speech(AUDIO)
    assert count("refused") == refused + 2
    assert (await voices.named("mini_a")).cached  # needs no work
    extractor.opened.set()
    assert len(await asyncio.gather(*running)) == 2
    assert (await voices.speech(AUDIO)).tokens.size


async def test_bad_prompts_are_counted_and_not_cached(voices: VoiceExtractorCache, extractor: Extractor) -> None:
    extractor.opened.set()
    invalid = count("invalid")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="cannot be decoded"):
            await voices.prompt(b"no audio at all", "words")
    assert count("invalid") == invalid + 2
    assert extractor.begun == 2
    assert voices.busy == 0
