"""Voice stores: a directory and Redis pass the same tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.redis_client import connect
from gateway.voices.consent import Statement
from gateway.voices.directory_store import METADATA, STAGING, DirectoryStore
from gateway.voices.record import NewVoice, VoiceRecord, voice_id
from gateway.voices.redis_store import RedisStore
from gateway.voices.store import VoiceStore, find
from services.common.errors import InvalidInput, Unavailable
from tests.support.logs import capture_logs
from tests.support.redis_server import redis_server

AUDIO = bytes(range(256)) * 40


def record(name: str = "mine", owner: str = "team-a", audio: bytes = AUDIO, created: float = 1.5) -> VoiceRecord:
    return VoiceRecord(
        id=voice_id(audio, "héllo 你好"),
        owner=owner,
        name=name,
        description="",
        languages=("en",),
        transcript="héllo 你好",
        seconds=3.25,
        warnings=("a bit quiet",),
        created=created,
    )


@pytest.fixture(params=["directory", pytest.param("redis", marks=pytest.mark.system)])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[VoiceStore, VoiceStore]]:
    """Two gateways' views of one store."""
    if request.param == "directory":
        yield DirectoryStore(tmp_path / "voices"), DirectoryStore(tmp_path / "voices")
        return
    async with redis_server() as url, contextlib.AsyncExitStack() as clients:
        client = connect(url)
        clients.push_async_callback(client.aclose)
        yield RedisStore(client, "test:"), RedisStore(client, "test:")


async def test_gateways_share_a_store(stores: tuple[VoiceStore, VoiceStore]) -> None:
    one, other = stores
    mine = record()
    assert await one.add(mine, AUDIO)
    assert await other.get("team-a", mine.id) == mine
    assert await other.audio("team-a", mine.id) == AUDIO
    assert await other.owned("team-a") == [mine]
    assert await find(other, "team-a", "mine") == await find(other, "team-a", mine.id) == mine
    assert not await other.add(replace(mine, name="again"), b"other"), "the first one stays"
    assert await one.get("team-a", mine.id) == mine


async def test_voices_belong_to_their_owner(stores: tuple[VoiceStore, VoiceStore]) -> None:
    store, _ = stores
    mine, theirs = record(), record(owner="team-b")
    assert await store.add(mine, AUDIO)
    assert await store.add(theirs, AUDIO)
    assert await store.delete("team-a", mine.id)
    assert not await store.delete("team-a", mine.id)
    assert await store.get("team-b", mine.id) == theirs
    assert await store.owned("team-c") == []


async def test_a_deletion_removes_everything_and_drops_later_content(stores: tuple[VoiceStore, VoiceStore]) -> None:
    one, other = stores
    mine = record()
    await one.add(mine, AUDIO)
    await one.keep_content("team-a", mine.id, "model/../1", b"content")
    assert await other.content("team-a", mine.id, "model/../1") == b"content"
    assert await other.content("team-a", mine.id, "model 2") is None
    await other.delete("team-a", mine.id)
    await one.keep_content("team-a", mine.id, "model/../1", b"too late")
    for content in (one.audio("team-a", mine.id), one.content("team-a", mine.id, "model/../1")):
        assert await content is None
    await one.add(mine, AUDIO)
    assert await one.content("team-a", mine.id, "model/../1") is None


async def test_a_voice_is_added_with_its_contents(stores: tuple[VoiceStore, VoiceStore]) -> None:
    one, other = stores
    mine = record()
    assert await one.add(mine, AUDIO, {"model 1": b"content", "consent": b"agreed"})
    assert not await one.add(mine, AUDIO, {"model 1": b"later"})
    assert [await other.content("team-a", mine.id, name) for name in ("model 1", "consent")] == [b"content", b"agreed"]
    assert await other.audio("team-a", mine.id) == AUDIO


async def test_a_record_is_replaced_only_while_it_is_stored(stores: tuple[VoiceStore, VoiceStore]) -> None:
    one, other = stores
    mine = record()
    renamed = replace(mine, name="renamed")
    assert not await one.replace(renamed), "nothing to replace"
    await one.add(mine, AUDIO)
    assert await one.replace(renamed)
    assert await other.owned("team-a") == [renamed]
    assert await other.audio("team-a", mine.id) == AUDIO
    await other.delete("team-a", mine.id)
    assert not await one.replace(renamed)
    assert await one.owned("team-a") == []


async def test_one_of_many_concurrent_adds_succeeds_and_is_complete(stores: tuple[VoiceStore, VoiceStore]) -> None:
    mine = record()
    added = await asyncio.gather(*(store.add(mine, AUDIO) for store in stores * 5))
    assert sum(added) == 1
    assert await stores[0].audio("team-a", mine.id) == AUDIO


async def test_one_of_many_voices_that_are_added_with_one_name_at_once_is_stored(
    stores: tuple[VoiceStore, VoiceStore],
) -> None:
    voices = [record("é 你", audio=bytes([number])) for number in range(10)]
    adding = (stores[n % 2].add(voice, AUDIO, unique_name=True) for n, voice in enumerate(voices))
    assert sum(await asyncio.gather(*adding)) == 1
    (stored,) = await stores[0].owned("team-a")
    assert await stores[0].add(record("other"), AUDIO, unique_name=True)
    assert await stores[0].add(record("é 你", owner="team-b"), AUDIO, unique_name=True)
    await stores[1].delete("team-a", stored.id)
    assert await stores[0].add(voices[0], AUDIO, unique_name=True)


async def test_the_newer_of_two_voices_with_one_name_wins(stores: tuple[VoiceStore, VoiceStore]) -> None:
    store, _ = stores
    newer = record(audio=b"newer", created=2.5)
    await store.add(newer, b"newer")
    await store.add(record(), AUDIO)
    assert await find(store, "team-a", "mine") == newer


@pytest.mark.system
async def test_an_unreachable_redis_is_unavailable() -> None:
    async with redis_server() as url:
        pass
    client = connect(url)
    with pytest.raises(Unavailable, match="voices cannot be stored"):
        await RedisStore(client, "").get("team-a", record().id)
    await client.aclose()


async def test_names_that_are_no_safe_paths_are_refused(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    for owner, id_ in [("..", record().id), ("a/b", record().id), ("team-a", "../x"), ("", "v" + "0" * 32)]:
        with pytest.raises(ValueError, match="no voice can be stored"):
            await store.get(owner, id_)


async def test_a_record_is_parsed_again_only_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str | bytes] = []
    parse = VoiceRecord.from_json

    def counted(text: str | bytes) -> VoiceRecord:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(VoiceRecord, "from_json", counted)
    store, other = DirectoryStore(tmp_path), DirectoryStore(tmp_path)
    first, second = record(), record("second", audio=b"2", created=2.5)
    await store.add(first, AUDIO)
    await store.add(second, b"2")
    for _ in range(3):
        assert await find(store, "team-a", "second") == second
    assert len(parsed) == 2
    await other.replace(replace(first, name="renamed"))
    assert [voice.name for voice in await store.owned("team-a")] == ["renamed", "second"]
    assert len(parsed) == 3
    await other.delete("team-a", first.id)
    await other.add(first, AUDIO)
    await store.delete("team-a", second.id)
    assert await store.owned("team-a") == [first]


async def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    store, mine = DirectoryStore(tmp_path), record()
    await store.add(mine, AUDIO)
    half = tmp_path / STAGING / "half"
    half.mkdir()
    (half / "audio").write_bytes(b"x")
    long_ago = time.time() - 7200
    os.utime(half, (long_ago, long_ago))
    assert await store.owned("team-a") == [mine]
    await store.sweep()
    assert list((tmp_path / STAGING).iterdir()) == []
    assert await store.owned("team-a") == [mine]


async def test_a_damaged_voice_does_not_hide_the_others(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    mine, damaged = record(), record("broken", audio=b"b")
    await store.add(mine, AUDIO)
    await store.add(damaged, b"b")
    (tmp_path / "team-a" / damaged.id / METADATA).write_bytes(b"{")
    assert await store.owned("team-a") == [mine]
    assert await store.delete("team-a", damaged.id)


@pytest.mark.system
async def test_a_voice_in_redis_that_this_version_cannot_read_does_not_hide_the_others() -> None:
    async with redis_server() as url:
        client = connect(url)
        store, mine = RedisStore(client, "test:"), record()
        await store.add(mine, AUDIO)
        later = json.loads(mine.to_json()) | {"a_field_of_a_later_version": 1}
        for number, stored in enumerate(("{", "[]", json.dumps(later))):
            id_ = f"v{number:032}"
            await client.hset("test:voices:{team-a}", id_, stored)
            assert await store.get("team-a", id_) is None
        with capture_logs() as lines:
            assert await store.owned("team-a") == [mine]
        places = {(line["key"], line["field"]) for line in lines if "later version" in line["event"]}
        assert places == {("test:voices:{team-a}", f"v{number:032}") for number in range(3)}
        assert await store.delete("team-a", f"v{0:032}")
        await client.aclose()


async def test_a_directory_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="operator"):
        await DirectoryStore(tmp_path / "file").add(record(), AUDIO)


async def test_only_the_owner_of_the_process_can_read_the_files(tmp_path: Path) -> None:
    await DirectoryStore(tmp_path / "voices").add(record(), AUDIO)
    assert not [path for path in (tmp_path / "voices" / "team-a").rglob("*") if path.stat().st_mode & 0o077]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"consent": Statement(given=False)}, "header.consent"),
        ({"name": ""}, "header.name"),
        ({"name": "../x"}, "header.name"),
        ({"name": "a" * 65}, "header.name"),
        ({"name": "v" + "0" * 32}, "header.name"),
        ({"name": "a\n"}, "header.name"),
        ({"transcript": "x" * 2001}, "header.transcript"),
        ({"description": "x" * 501}, "header.description"),
        ({"languages": ("e n",)}, "header.languages"),
    ],
)
def test_the_fields_of_a_new_voice_are_checked(fields: dict[str, object], field: str) -> None:
    sound = NewVoice(name="Grüße 1", transcript="hello", consent=Statement(given=True))
    sound.check("none", 0.0)
    with pytest.raises(InvalidInput) as refusal:
        replace(sound, **fields).check("none", 0.0)  # type: ignore[arg-type]  # each of its own type
    assert refusal.value.field == field
