"""Times of words of the embedded voice count the samples that are delivered: after trimming, speed and pauses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cli.client import speak
from cli.local.stack import Stack
from lighttts.v1 import audio_pb2, tts_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXT = "Five men ran 5 km today."
"""The sound of its first letter rises slowly: there is silence to trim."""
WORDS = ["Five", "men", "ran", "5", "km", "today"]
RATE = 24000


async def spoken(stack: Stack, text: str = TEXT, **fields: Any) -> tuple[list[audio_pb2.Word], int]:
    """Speak a text; return its words and the number of samples, after a check that no word comes after its audio."""
    found: list[audio_pb2.Word] = []
    samples = 0

    def take(chunk: audio_pb2.AudioChunk) -> None:
        nonlocal samples
        known = {word.text_offset for word in found}
        for word in chunk.words:
            if word.text_offset not in known:
                assert word.first_sample >= samples
            found[:] = [other for other in found if other.text_offset != word.text_offset] + [word]
        samples += len(chunk.pcm) // 2

    config = tts_pb2.SynthesisConfig(voice_name="anna", seed=3, word_times=True)
    config.MergeFrom(tts_pb2.SynthesisConfig(**fields))
    await speak(stack.gateway.address, config, text, take)
    assert not any(word.open for word in found)
    return found, samples


def firsts(words: list[audio_pb2.Word]) -> np.ndarray[Any, Any]:
    return np.array([word.first_sample for word in words])


async def test_positions_of_words_follow_what_happens_to_the_audio(stack: Stack) -> None:
    kept = audio_pb2.AudioOutput(keep_leading_silence=True)
    plain, length = await spoken(stack, audio=kept)
    covered = "".join(TEXT[word.text_offset : word.text_offset + word.length] for word in plain)
    assert covered.replace(" ", "") == "".join(WORDS)
    assert all(word.samples > 0 for word in plain)
    assert plain[-1].first_sample + plain[-1].samples <= length

    trimmed, shorter = await spoken(stack)
    removed = length - shorter
    assert removed > 0
    assert (firsts(trimmed) == np.maximum(0, firsts(plain) - removed)).all()

    # The same tokens at one and a half times the speed: every position is divided by it.
    fast, _ = await spoken(stack, speed=1.5, audio=kept)
    assert np.abs(firsts(fast) - firsts(plain) / 1.5).max() <= 1

    # The seeds of utterances depend on their number, so only the second one's beginning can be compared.
    both, total = await spoken(stack, f"{TEXT} [pause:500ms] Bye.", audio=kept)
    first = [word for word in both if word.text_offset < len(TEXT)]
    assert (firsts(first) == firsts(plain)).all()
    [bye] = [word for word in both if word.text_offset > len(TEXT)]
    assert bye.first_sample >= length + RATE // 2
    assert bye.first_sample + bye.samples <= total
