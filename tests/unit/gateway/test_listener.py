"""Where the listener is: by the clock, by their own word, and how far ahead audio may run."""

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
    listener = PlaybackClock(None, clock)
    listener.sent(2.0)
    clock.now += 0.5
    assert listener.position == pytest.approx(0.5)
    clock.now += 5
    assert listener.position == pytest.approx(2.0)
    listener.sent(1.0)  # after a silence
    clock.now += 0.25
    assert listener.position == pytest.approx(2.25)


def test_their_own_word_goes_before_the_clock_and_never_back() -> None:
    clock = Clock()
    listener = PlaybackClock(None, clock)
    listener.sent(3.0)
    listener.report(1.0)
    clock.now += 2
    assert listener.position == 1.0
    listener.report(0.5)
    assert listener.position == 1.0
    listener.report(9.0)
    assert listener.position == 3.0, "nobody plays what was not sent"


def test_a_cut_counts_as_played() -> None:
    clock = Clock()
    listener = PlaybackClock(None, clock)
    listener.sent(3.0)
    listener.cut()
    assert listener.position == 3.0
    listener.report(3.2)
    listener.sent(1.0)
    listener.cut()
    assert listener.position == 4.0


async def test_room_is_there_within_the_lead() -> None:
    listener = PlaybackClock(1.0, Clock())
    await listener.room(5.0)  # longer than the lead, but nothing waits
    listener.sent(0.5)
    await listener.room(0.5)
    waiting = asyncio.create_task(listener.room(0.6))
    listener.report(0.05)
    await asyncio.sleep(0)
    assert not waiting.done()
    listener.report(0.2)
    await waiting


async def test_who_can_report_no_more_is_followed_by_the_clock() -> None:
    clock = Clock()
    listener = PlaybackClock(1.0, clock)
    listener.sent(1.0)
    listener.report(0.25)
    waiting = asyncio.create_task(listener.room(0.5))
    await asyncio.sleep(0)
    listener.mute()
    clock.now += 0.5
    assert listener.position == pytest.approx(0.75)
    await waiting


async def test_who_never_reported_is_not_held_back_in_the_end() -> None:
    listener = PlaybackClock(1.0, Clock())
    listener.sent(1.0)
    waiting = asyncio.create_task(listener.room(100.0))
    await asyncio.sleep(0)
    listener.mute()
    await waiting


def test_text_heard_is_exact_between_utterances_and_paced_within() -> None:
    spoken = TextAlignment()
    assert spoken.heard(0) == (0, False)
    spoken.begin(0, 0)
    spoken.reaches(10)
    assert spoken.heard(500) == (0, True), "no pace is known yet"
    spoken.end(1000)
    assert spoken.heard(500) == (5, True)
    spoken.begin(10, 1000)
    spoken.reaches(30)
    assert spoken.heard(1000) == (10, False)
    assert spoken.heard(1400) == (14, True), "by the pace of the first"
    assert spoken.heard(9000) == (30, True), "never more than was asked for"
    spoken.end(5000)
    assert spoken.heard(3000) == (20, True)
    assert spoken.heard(5000) == (30, False)
