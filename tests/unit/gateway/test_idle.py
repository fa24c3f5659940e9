"""A stream without activity ends in time, and not before."""

from __future__ import annotations

import itertools

import pytest

from gateway.session.idle import wait_until_idle

SECONDS = 300.0


class Stream:
    """Its last activity is at `last`; time passes only while the watch sleeps."""

    def __init__(self, last: float) -> None:
        self.last = last
        self.now = 0.0

    def activity(self) -> int:
        return int(self.now >= self.last)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("last", [0.0, 0.1, 29.9, 30.0, 30.1, 299.9, 300.0])
async def test_an_idle_stream_ends_within_a_tenth_more_than_its_time(last: float) -> None:
    stream = Stream(last)
    await wait_until_idle(stream.activity, SECONDS, stream.sleep)
    assert SECONDS - 1e-6 <= stream.now - last <= 1.1 * SECONDS + 1e-6


async def test_a_stream_with_activity_goes_on() -> None:
    stream = Stream(0)
    ticks = itertools.count()

    def activity() -> int:
        return next(ticks) if stream.now < 5000 else -1

    await wait_until_idle(activity, SECONDS, stream.sleep)
    assert stream.now >= 5000 + SECONDS
