"""Trimming of silence and normalization of loudness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway.audio.formats import ENCODINGS, AudioFormat
from gateway.audio.pipeline import AudioPipeline
from lighttts.v1 import audio_pb2

RATE = 24000
FLOATS = ENCODINGS[audio_pb2.AUDIO_ENCODING_PCM_F32LE]

Samples = np.ndarray[Any, np.dtype[np.float32]]


def tone(seconds: float, amplitude: float) -> Samples:
    t = np.arange(int(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * 200 * t)).astype(np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


class Pipeline:
    def __init__(self, *, trim: bool = False, level: bool = False) -> None:
        self.output = AudioPipeline(AudioFormat(FLOATS, RATE, trim, level), RATE)

    def push(self, *samples: Samples, last: bool = True) -> Samples:
        pcm = np.concatenate(samples).astype("<f4").tobytes()
        return np.frombuffer(self.output.push(pcm, last=last).data, "<f4")


def test_silence_before_the_first_sound_is_cut_to_a_short_run_up() -> None:
    sound = tone(0.5, 0.3)
    result = Pipeline(trim=True).push(silence(0.7), sound)
    run_up = int(0.04 * RATE)
    assert np.array_equal(result, np.concatenate([np.zeros(run_up, np.float32), sound]))


def test_only_the_start_of_a_turn_is_trimmed() -> None:
    pipeline = Pipeline(trim=True)
    pipeline.push(tone(0.2, 0.3))
    assert len(pipeline.push(silence(0.5), tone(0.2, 0.3))) == int(0.7 * RATE), "a pause between two sentences stays"
    pipeline.output.new_turn()
    assert len(pipeline.push(silence(0.5), tone(0.2, 0.3))) == int(0.24 * RATE)


def test_at_most_two_seconds_are_dropped() -> None:
    assert len(Pipeline(trim=True).push(silence(3), tone(0.2, 0.3))) == pytest.approx(1.24 * RATE, abs=1)


def test_an_utterance_without_sound_is_dropped_and_the_next_one_is_whole() -> None:
    pipeline = Pipeline(trim=True)
    assert len(pipeline.push(silence(0.5))) == 0
    assert len(pipeline.push(tone(0.2, 0.3))) == int(0.2 * RATE)


def test_a_cancelled_utterance_leaves_nothing_behind() -> None:
    pipeline = Pipeline(trim=True, level=True)
    pipeline.push(tone(0.1003, 0.9), last=False)
    pipeline.output.cut()
    assert not np.any(pipeline.push(silence(0.3)))


@pytest.mark.parametrize("amplitude", [0.05, 0.1, 0.5, 0.9])
def test_speech_is_brought_to_one_loudness(amplitude: float) -> None:
    result = Pipeline(level=True).push(tone(4, amplitude))
    assert len(result) == 4 * RATE
    loudness = 10 * np.log10(np.mean(np.square(result[3 * RATE :], dtype=np.float64)))
    assert loudness == pytest.approx(-20, abs=0.5)


def test_no_peak_exceeds_the_ceiling_and_none_is_clipped() -> None:
    result = Pipeline(level=True).push(tone(3, 0.03), tone(1, 0.99), tone(1, 0.03))
    assert np.abs(result).max() <= 10 ** (-1 / 20) + 1e-6
    jump = np.abs(np.diff(result)).max()
    assert jump < 2 * np.pi * 200 / RATE * 1.1, "the gain glides: no step steeper than the loudest tone's own"


def test_silence_is_not_made_louder() -> None:
    noise = np.random.default_rng(1).normal(0, 1e-4, RATE).astype(np.float32)
    assert np.abs(Pipeline(level=True).push(noise)).max() < 1e-3
