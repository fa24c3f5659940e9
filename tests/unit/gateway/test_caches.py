"""The gateway's in-memory caches: limits in bytes, eviction of the least recently used, eviction by voice."""

from __future__ import annotations

import pytest

from gateway.cache.key import ResultKey
from gateway.cache.store import MemoryResults, RedisResults
from gateway.redis_client import connect
from gateway.voices.content_cache import VoiceContentCache
from gateway.voices.deletion import VoiceDeletion
from lighttts.v1 import voice_pb2
from services.common.errors import Unavailable


def content(voice_hash: str) -> voice_pb2.VoiceContent:
    return voice_pb2.VoiceContent(voice_hash=voice_hash, mel=bytes(100))


SIZE = content("a").ByteSize()


async def test_results_keep_to_their_bytes_and_evict_the_least_recently_used() -> None:
    store = MemoryResults(10)
    keys = [ResultKey("voice", name) for name in "abc"]
    await store.put(keys[0], b"12345")
    await store.put(keys[1], b"12345")
    await store.get(keys[0])
    await store.put(keys[2], b"12345")
    assert [await store.get(key) for key in keys] == [b"12345", None, b"12345"]
    await store.put(keys[1], b"x" * 11)
    assert [await store.get(key) for key in keys] == [b"12345", None, b"12345"], "larger than the cache"


async def test_results_of_a_voice_are_evicted_together() -> None:
    store = MemoryResults(10)
    mine, other = ResultKey("mine", "a"), ResultKey("other", "a")
    for key in (mine, mine._replace(digest="b"), other):
        await store.put(key, b"1")
    await store.evict("mine")
    assert (store.holds("mine"), store.holds("other")) == (False, True)
    assert (await store.get(mine), await store.get(other)) == (None, b"1")


def test_voices_keep_to_their_bytes_and_evict_the_least_recently_used() -> None:
    cache = VoiceContentCache(2 * SIZE)
    cache.put("name a", content("a"))
    cache.put("name b", content("b"))
    assert cache.get("name a") == content("a")
    assert cache.holds("b")  # a look at all voices is not a use
    cache.put("name c", content("c"))
    assert [cache.holds(name) for name in "abc"] == [True, False, True]
    cache.put("name d", voice_pb2.VoiceContent(voice_hash="d", mel=bytes(3 * SIZE)))
    assert [cache.holds(name) for name in "acd"] == [True, True, False], "larger than the cache"
    cache.clear()
    assert not cache.holds("a")


def test_a_voice_is_evicted_under_every_key() -> None:
    cache = VoiceContentCache(3 * SIZE)
    for key in ("name a", "registered a"):
        cache.put(key, content("a"))
    cache.put("name b", content("b"))
    cache.evict("a")
    assert [cache.get(key) for key in ("name a", "registered a", "name b")] == [None, None, content("b")]


def test_a_voice_cache_without_room_stays_empty() -> None:
    cache = VoiceContentCache(0)
    cache.put("name a", content("a"))
    assert not cache.holds("a")


async def test_an_eviction_from_an_unreachable_redis_is_no_success() -> None:
    client = connect("redis://127.0.0.1:1")
    with pytest.raises(Unavailable, match="cached speech of the voice cannot be removed"):
        await RedisResults(client, "", 60).evict("mine")
    await client.aclose()


async def test_results_that_could_not_be_evicted_are_evicted_later() -> None:
    """The store fails after the voice was deleted; results may have been stored meanwhile."""

    class Failing(MemoryResults):
        reachable = False

        async def evict(self, voice_hash: str) -> None:
            if not self.reachable:
                raise Unavailable("not now")
            await super().evict(voice_hash)

    results = Failing(1000)
    await results.put(ResultKey("mine", "a"), b"speech")
    deletion = VoiceDeletion(VoiceContentCache(1000), results, ())
    await deletion.evict("mine")
    assert deletion.holds("mine")
    results.reachable = True
    await deletion.retry()
    assert not deletion.holds("mine")
