"""The voice cache: recently used voices stay, limits hold, and a voice in use is never dropped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.common.voices.cache import VoiceCache
from services.common.voices.voice import Voice


def voice(name: str, frames: int = 1) -> Voice:
    return Voice(
        hash=name,
        transcript="",
        prompt_text_ids=np.zeros(0, dtype=np.int32),
        speech_tokens=np.zeros(0, dtype=np.int32),
        mel=np.zeros((frames, 80), dtype=np.float32),
        embedding=np.zeros(192, dtype=np.float32),
        seconds=1.0,
    )


SIZE = voice("a").nbytes


def test_the_least_recently_used_goes_first() -> None:
    cache = VoiceCache(max_voices=2, max_bytes=10 * SIZE)
    cache.put(voice("a"))
    cache.put(voice("b"))
    assert cache.get("a") is not None
    cache.put(voice("c"))
    assert [name in cache for name in "abc"] == [True, False, True]
    assert cache.nbytes == 2 * SIZE


def test_bytes_are_limited_too() -> None:
    cache = VoiceCache(max_voices=10, max_bytes=2 * SIZE)
    for name in "abc":
        cache.put(voice(name))
    assert [name in cache for name in "abc"] == [False, True, True]


def test_a_voice_in_use_stays_until_it_is_released() -> None:
    cache = VoiceCache(max_voices=1, max_bytes=10 * SIZE)
    cache.put(voice("a"))
    with cache.lease("a") as leased:
        assert leased is not None
        cache.put(voice("b"))
        assert "a" in cache
    cache.put(voice("c"))
    assert [name in cache for name in "abc"] == [False, False, True]


def test_an_evicted_voice_goes_at_once_or_with_its_last_lease() -> None:
    cache = VoiceCache(max_voices=3, max_bytes=10 * SIZE)
    for name in "ab":
        cache.put(voice(name))
    cache.evict("a")
    cache.evict("never here")
    with cache.lease("b") as first, cache.lease("b"):
        cache.evict("b")
        assert first is not None
        assert "b" in cache
    assert (len(cache), cache.nbytes) == (0, 0)
    cache.put(voice("b"))
    with cache.lease("b"):
        pass
    assert "b" in cache, "a voice that was added again stays"


def test_held_voices_stay_and_take_no_room() -> None:
    cache = VoiceCache(max_voices=1, max_bytes=SIZE)
    cache.put(voice("a"))
    with cache.lease("a"):
        cache.hold([voice("a"), voice("b")])
    cache.put(voice("a"))
    cache.put(voice("c"))
    cache.evict("a")
    assert [name in cache for name in "abc"] == [True, True, True]
    assert (len(cache), cache.nbytes) == (1, SIZE)
    with cache.lease("b") as leased:
        assert leased is not None
    assert cache.get("b") is not None


def test_a_lease_ends_with_an_error() -> None:
    cache = VoiceCache(max_voices=1, max_bytes=10 * SIZE)
    cache.put(voice("a"))
    with pytest.raises(RuntimeError, match="stream broke"), cache.lease("a"):
        raise RuntimeError("stream broke")
    cache.put(voice("b"))
    assert "a" not in cache


def test_an_absent_voice_is_none() -> None:
    cache = VoiceCache(max_voices=1, max_bytes=SIZE)
    assert cache.get("a") is None
    with cache.lease("a") as leased:
        assert leased is None


@pytest.mark.parametrize(("voices", "size"), [(0, 1), (1, 0)])
def test_a_cache_without_room_is_refused(voices: int, size: int) -> None:
    with pytest.raises(ValueError, match="needs room for a voice"):
        VoiceCache(max_voices=voices, max_bytes=size)


def test_threads_share_it() -> None:
    cache = VoiceCache(max_voices=3, max_bytes=100 * SIZE)

    def use(turn: int) -> None:
        name = "abcdef"[turn % 6]
        cache.put(voice(name))
        with cache.lease(name) as leased:
            assert leased is None or name in cache

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(600)))
    assert len(cache) <= 3
    assert cache.nbytes == len(cache) * SIZE


class CacheMachine(RuleBasedStateMachine):
    """Any order of puts, gets, leases and releases."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = VoiceCache(max_voices=3, max_bytes=5 * SIZE)
        self.leases: list[tuple[str, ExitStack]] = []

    @rule(name=st.sampled_from("abcdef"), frames=st.sampled_from([1, 5, 20]))
    def put(self, name: str, frames: int) -> None:
        self.cache.put(voice(name, frames))

    @rule(name=st.sampled_from("abcdef"))
    def get(self, name: str) -> None:
        found = self.cache.get(name)
        assert (found is not None) == (name in self.cache)

    @rule(name=st.sampled_from("abcdef"))
    def lease(self, name: str) -> None:
        stack = ExitStack()
        if stack.enter_context(self.cache.lease(name)) is not None:
            self.leases.append((name, stack))

    @rule(name=st.sampled_from("abcdef"))
    def evict(self, name: str) -> None:
        self.cache.evict(name)
        assert name not in self.cache or name in {leased for leased, _ in self.leases}

    @precondition(lambda self: bool(self.leases))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        _, stack = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        stack.close()

    @invariant()
    def limits_hold_but_for_leased_voices(self) -> None:
        leased = {name for name, _ in self.leases}
        assert all(name in self.cache for name in leased)
        if not leased:
            assert len(self.cache) <= 3
            assert self.cache.nbytes <= 5 * SIZE


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=30)
