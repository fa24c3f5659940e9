"""Stores of lexicons: a directory and Redis pass the same tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.lexicon.record import LexiconRecord
from gateway.lexicon.store import RACY_SECONDS, DirectoryLexicons, LexiconStore, RedisLexicons
from gateway.redis_client import connect
from services.common.errors import Unavailable
from tests.support.logs import capture_logs
from tests.support.redis_server import redis_server

FIRST = LexiconRecord("Nguyen", "win", created=1.5)
SECOND = LexiconRecord("a ../phrase", "t eh s t", "arpabet", 2.5)


@pytest.fixture(params=["directory", pytest.param("redis", marks=pytest.mark.system)])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[LexiconStore, LexiconStore]]:
    """Two gateways' views of one store."""
    if request.param == "directory":
        yield DirectoryLexicons(tmp_path), DirectoryLexicons(tmp_path)
        return
    async with redis_server() as url, contextlib.AsyncExitStack() as clients:
        client = connect(url)
        clients.push_async_callback(client.aclose)
        yield RedisLexicons(client, "test:"), RedisLexicons(client, "test:")


async def test_gateways_share_a_store(stores: tuple[LexiconStore, LexiconStore]) -> None:
    one, other = stores
    assert await other.owned("team-a") == []
    assert not await one.put("team-a", FIRST)
    assert not await one.put("team-a", SECOND)
    assert await other.owned("team-a") == [FIRST, SECOND]
    changed = LexiconRecord("Nguyen", "noo-yen")
    assert await other.put("team-a", changed), "it replaces that of the same phrase"
    assert await one.owned("team-a") == [changed, SECOND]
    assert await one.owned("team-b") == []
    assert await other.delete("team-a", "Nguyen")
    assert not await one.delete("team-a", "Nguyen")
    assert await one.owned("team-a") == [SECOND]


async def test_a_folder_is_read_again_after_every_change(tmp_path: Path) -> None:
    later = DirectoryLexicons(tmp_path, now=lambda: 1e10 + 2 * RACY_SECONDS)  # no change counts as recent
    await later.put("team-a", FIRST)
    assert await later.owned("team-a") == [FIRST]
    await DirectoryLexicons(tmp_path).put("team-a", SECOND)
    assert await later.owned("team-a") == [FIRST, SECOND]


class PausingName(str):
    """A name of an owner whose second hash waits, for a while, until `go` is set: within a look-up of the memory."""

    hashes = 0
    begun, go = threading.Event(), threading.Event()

    def __hash__(self) -> int:
        self.hashes += 1
        if self.hashes == 2:
            self.begun.set()
            self.go.wait(0.5)
        return super().__hash__()


async def test_an_owner_who_is_evicted_during_a_look_up_gets_the_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.lexicon.store.OWNERS_IN_MEMORY", 1)  # each owner evicts the other one
    store = DirectoryLexicons(tmp_path, now=lambda: 1e10 + 2 * RACY_SECONDS)
    await store.put("team-a", FIRST)
    await store.put("team-b", SECOND)
    assert await store.owned("team-a") == [FIRST]
    looking_up = asyncio.create_task(store.owned(PausingName("team-a")))
    await asyncio.to_thread(PausingName.begun.wait)
    assert await store.owned("team-b") == [SECOND]
    PausingName.go.set()
    assert await looking_up == [FIRST]


@pytest.mark.system
async def test_entries_in_redis_that_this_version_cannot_read_are_left_out() -> None:
    async with redis_server() as url:
        client = connect(url)
        store = RedisLexicons(client, "test:")
        await store.put("team-a", FIRST)
        later = json.loads(SECOND.to_json()) | {"a_field_of_a_later_version": 1}
        for phrase, stored in (("damaged", "{"), ("a list", "[]"), (SECOND.phrase, json.dumps(later))):
            await client.hset("test:lexicon:{team-a}", phrase, stored)
        with capture_logs() as lines:
            assert await store.owned("team-a") == [FIRST]
        assert [line["key"] for line in lines if "later version" in line["event"]] == ["test:lexicon:{team-a}"] * 3
        assert await store.delete("team-a", "damaged")
        await client.aclose()


async def test_damaged_entries_are_left_out_and_a_lost_folder_is_unavailable(tmp_path: Path) -> None:
    store = DirectoryLexicons(tmp_path)
    await store.put("team-a", FIRST)
    (tmp_path / "team-a" / "x.json").write_text("damaged")
    assert await store.owned("team-a") == [FIRST]
    (tmp_path / "team-b").write_text("not a folder")
    with pytest.raises(Unavailable, match="lexicon cannot be stored or read"):
        await store.put("team-b", FIRST)
    with pytest.raises(ValueError, match="no lexicon"):
        await store.owned("../team-a")
