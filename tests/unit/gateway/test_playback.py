"""The listener's position, by the clock and by reports; how far ahead audio is sent; the text that was played."""

from __future__ import annotations

import asyncio

import pytest

from gateway.session.playback import PlaybackClock
from gateway.session.text_alignment import TextAlignment


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_by_the_clock_each_chunk_is_played_as_soon_as_it_can() -> None:
    clock = Clock()
    playback = PlaybackClock(None, clock)
    playback.sent(2.0)
    clock.now += 0.5
    assert playback.position == pytest.approx(0.5)
    clock.now += 5
    assert playback.position == pytest.approx(2.0)
    playback.sent(1.0)  # after a silence
    clock.now += 0.25
    assert playback.position == pytest.approx(2.25)


def test_reports_replace_the_clock_and_never_go_back() -> None:
    clock = Clock()
    playback = PlaybackClock(None, clock)
    playback.sent(3.0)
    playback.report(1.0)
    clock.now += 2
    assert playback.position == 1.0
    playback.report(0.5)
    assert playback.position == 1.0
    playback.report(9.0)
    assert playback.position == 3.0, "audio that was not sent cannot be played"


def test_a_cut_counts_as_played() -> None:
    clock = Clock()
    playback = PlaybackClock(None, clock)
    playback.sent(3.0)
    playback.cut()
    assert playback.position == 3.0
    playback.report(3.2)
    playback.sent(1.0)
    playback.cut()
    assert playback.position == 4.0


async def test_audio_within_the_lead_does_not_wait() -> None:
    playback = PlaybackClock(1.0, Clock())
    await playback.wait_for_room(5.0)  # longer than the lead, but all earlier audio is played
    playback.sent(0.5)
    await playback.wait_for_room(0.5)
    waiting = asyncio.create_task(playback.wait_for_room(0.6))
    playback.report(0.05)
    await asyncio.sleep(0)
    assert not waiting.done()
    playback.report(0.2)
    await waiting


async def test_the_clock_continues_from_the_last_report() -> None:
    clock = Clock()
    playback = PlaybackClock(1.0, clock)
    playback.sent(1.0)
    playback.report(0.25)
    waiting = asyncio.create_task(playback.wait_for_room(0.5))
    await asyncio.sleep(0)
    playback.stop_reports()
    clock.now += 0.5
    assert playback.position == pytest.approx(0.75)
    await waiting


async def test_without_reports_the_limit_is_lifted_in_the_end() -> None:
    playback = PlaybackClock(1.0, Clock())
    playback.sent(1.0)
    waiting = asyncio.create_task(playback.wait_for_room(100.0))
    await asyncio.sleep(0)
    playback.stop_reports()
    await waiting


def test_text_played_is_exact_between_utterances_and_paced_within() -> None:
    alignment = TextAlignment()
    assert alignment.offset_at(0) == (0, False)
    alignment.begin(0, 0)
    alignment.extend(10)
    assert alignment.offset_at(500) == (0, True), "no pace is known yet"
    alignment.end(1000)
    assert alignment.offset_at(500) == (5, True)
    alignment.begin(10, 1000)
    alignment.extend(30)
    assert alignment.offset_at(1000) == (10, False)
    assert alignment.offset_at(1400) == (14, True), "by the pace of the first"
    assert alignment.offset_at(9000) == (30, True), "never more than was asked for"
    alignment.end(5000)
    assert alignment.offset_at(3000) == (20, True)
    assert alignment.offset_at(5000) == (30, False)
