"""A stream's figures, on a clock that the test sets."""

from __future__ import annotations

import pytest

from gateway.stream_stats import PlaybackStats


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_stream_that_keeps_up(clock: Clock) -> None:
    stats = PlaybackStats(clock)
    stats.on_text()
    for at in (100.5, 101.0, 101.5):
        clock.now = at
        stats.on_audio(1.0)
    stats.end_utterance("decode-1")
    finished = stats.finished()
    assert finished.time_to_first_audio == 0.5
    assert finished.underrun_seconds == 0
    assert (finished.audio_seconds, finished.chunks) == (3.0, 3)
    assert finished.real_time_factor == pytest.approx(0.5)
    assert list(finished.decode_workers) == ["decode-1"]


def test_late_chunks_are_silence_and_delay_the_next_ones(clock: Clock) -> None:
    stats = PlaybackStats(clock)
    stats.on_text()
    stats.on_audio(1.0)  # played until 101
    clock.now = 101.25
    stats.on_audio(1.0)  # 0.25 late, played until 102.25
    clock.now = 102.5
    stats.on_audio(1.0)  # 0.25 late again
    assert stats.finished().underrun_seconds == pytest.approx(0.5)


def test_a_pause_is_neither_work_nor_underrun(clock: Clock) -> None:
    stats = PlaybackStats(clock)
    stats.on_text()
    clock.now = 101
    stats.on_audio(2.0)
    stats.pause()
    clock.now = 1000
    stats.on_text()
    clock.now = 1001
    stats.on_audio(2.0)
    finished = stats.finished()
    assert finished.underrun_seconds == 0
    assert finished.real_time_factor == pytest.approx(0.5)
    assert finished.time_to_first_audio == 1


def test_text_without_audio(clock: Clock) -> None:
    stats = PlaybackStats(clock)
    stats.on_text()
    clock.now = 200
    finished = stats.finished()
    assert (finished.audio_seconds, finished.real_time_factor, finished.time_to_first_audio) == (0, 0, 0)
