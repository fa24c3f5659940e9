"""Registrations that meet: uploads at the same time, and what a crash, a full disk or a restored backup left behind."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api.common.audio_upload import as_wav
from gateway.cache.store import MemoryResults
from gateway.voices.directory_store import METADATA, DirectoryStore
from gateway.voices.record import VoiceRecord, voice_id
from services.common.errors import Unavailable
from tests.support.fake_stages import Rig, rig, until

RECORDING = as_wav(b"recorded" * 100, 16_000)


async def create(r: Rig, name: str, recording: bytes = RECORDING, **fields: str) -> httpx.Response:
    form = {"name": name, "ref_text": "hello", "consent": "true"} | fields
    return await r.http.post("/v1/audio/voices", data=form, files={"audio_sample": ("a.wav", recording, "audio/wav")})


async def at_once(r: Rig, *uploads: tuple[str, bytes]) -> list[tuple[int, str]]:
    """Register these voices while none of them is extracted yet; return the statuses with the names or errors."""
    r.encode.voice_gate.clear()
    before = len(r.encode.uploads)
    answers = asyncio.gather(*(create(r, name, recording) for name, recording in uploads))
    await until(lambda: len(r.encode.uploads) == before + len(uploads))
    r.encode.voice_gate.set()
    return sorted((answer.status_code, told(answer.json())) for answer in await answers)


def told(answer: dict[str, Any]) -> str:
    return str(answer["name"] if "name" in answer else answer["error"]["message"])


async def names(r: Rig) -> list[str]:
    voices = (await r.http.get("/v1/audio/voices")).json()["data"]
    return [voice["name"] for voice in voices if voice["registered"]]


def stored(folder: Path, pattern: str) -> list[Path]:
    """Return the files of the owner's voices that fit."""
    return list((folder / "anonymous").glob(pattern))


async def say(r: Rig, voice: str) -> httpx.Response:
    return await r.http.post("/v1/audio/speech", json={"model": "tts-1", "input": "Hi.", "voice": voice})


async def test_of_two_recordings_with_one_name_the_later_one_is_refused(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        first, second = await at_once(r, ("Mine", RECORDING), ("Mine", b"RIFF another"))
        assert first == (200, "Mine")
        assert second[0] == 409
        assert "another voice named 'Mine'" in second[1]
        assert await names(r) == ["Mine"]


async def test_a_recording_under_two_names_keeps_the_first_one(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        first, second = await at_once(r, ("Mine", RECORDING), ("Other", RECORDING))
        assert first[0] == 200
        assert second[0] == 409
        assert f"registered as {first[1]!r}" in second[1]
        assert await names(r) == [first[1]]


async def test_uploads_at_once_do_not_exceed_the_limit_of_voices(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path, max_voices=1) as r:
        statuses = [status for status, _ in await at_once(r, ("A", b"RIFF a"), ("B", b"RIFF b"), ("C", b"RIFF c"))]
        assert statuses == [200, 429, 429]
        assert len(await names(r)) == 1


async def test_consents_at_once_do_not_exceed_their_limit(tmp_path: Path) -> None:
    async def consent(r: Rig, name: str) -> int:
        form, files = {"name": name, "language": "en"}, {"recording": ("a.wav", RECORDING, "audio/wav")}
        return (await r.http.post("/v1/audio/voice_consents", data=form, files=files)).status_code

    async with rig(voices_dir=tmp_path, max_voices=1) as r:
        assert sorted(await asyncio.gather(*(consent(r, name) for name in "abcd"))) == [200, 429, 429, 429]
        assert len((await r.http.get("/v1/audio/voice_consents")).json()["data"]) == 1


async def test_the_language_of_a_consent_that_is_no_tag_is_named(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        form, files = {"name": "Ada", "language": "British English"}, {"recording": ("a.wav", RECORDING, "audio/wav")}
        error = (await r.http.post("/v1/audio/voice_consents", data=form, files=files)).json()["error"]
        assert error["param"] == "language"
        assert error["message"] == "'British English' is no language tag; send a tag like en or zh-CN"


async def test_a_voice_never_exists_without_its_recorded_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(DirectoryStore, "keep_content", fails)
    async with rig(voices_dir=tmp_path) as r:
        form, files = {"name": "Ada", "language": "en"}, {"recording": ("a.wav", RECORDING, "audio/wav")}
        consent = (await r.http.post("/v1/audio/voice_consents", data=form, files=files)).json()["id"]
        answer = await create(r, "Mine", b"RIFF another", consent=consent)
        assert answer.status_code == 200, answer.text
        voice = answer.json()["id"]
        assert RECORDING in [path.read_bytes() for path in stored(tmp_path, f"{voice}/*")]


@pytest.mark.parametrize("damaged", [b"", b"\x0a\xff\xff", b"\x0a\x03abc"])
async def test_a_voice_whose_extracted_content_is_damaged_speaks_and_can_be_deleted(
    tmp_path: Path, damaged: bytes
) -> None:
    async with rig(voices_dir=tmp_path) as r:
        voice = (await create(r, "Mine")).json()["id"]
    content = stored(tmp_path, f"{voice}/content-*")[0]
    content.write_bytes(damaged)
    async with rig(voices_dir=tmp_path) as r:
        spoken = await say(r, "Mine")
        assert spoken.status_code == 200, spoken.text
        assert content.read_bytes() != damaged, "extracted again"
        content.write_bytes(damaged)
        assert (await r.http.delete("/v1/audio/voices/Mine")).status_code == 200


async def test_a_voice_with_a_damaged_record_is_not_reported_as_registered(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        voice = (await create(r, "Mine")).json()["id"]
        record = stored(tmp_path, f"{voice}/{METADATA}")[0]
        whole = record.read_bytes()
        record.write_bytes(b"")
        answer = await create(r, "Mine")
        assert answer.status_code == 503
        assert "operator" in told(answer.json())
        record.write_bytes(whole)
        assert (await create(r, "Mine")).json()["id"] == voice


@pytest.mark.parametrize(
    ("written", "asked"),
    [("प्रिया", "प्रिया"), ("مُحَمَّد", "مُحَمَّد"), ("Rene\u0301", "Ren\u00e9"), ("Ren\u00e9", "Rene\u0301")],
)
async def test_names_with_marks_are_names_in_each_spelling(tmp_path: Path, written: str, asked: str) -> None:
    async with rig(voices_dir=tmp_path) as r:
        assert (await create(r, written)).status_code == 200
        assert (await create(r, asked, b"RIFF another")).status_code == 409
        assert (await say(r, asked)).status_code == 200
        assert (await r.http.delete(f"/v1/audio/voices/{asked}")).status_code == 200
        for refused in ("\u0301a", "a\u200b", "a\u2028"):
            answer = await create(r, refused)
            assert answer.status_code == 400
            assert re.search("letters, digits", told(answer.json()))


async def test_of_two_gateways_that_register_a_name_at_once_the_later_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other gateway stores its voice after this one has looked for the name."""
    add = DirectoryStore.add

    async def second(self: DirectoryStore, record: VoiceRecord, *rest: Any, **named: Any) -> bool:
        assert await add(DirectoryStore(tmp_path), replace(record, id=voice_id(b"other", "")), b"other")
        return await add(self, record, *rest, **named)

    monkeypatch.setattr(DirectoryStore, "add", second)
    async with rig(voices_dir=tmp_path) as r:
        answer = await create(r, "Mine")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (409, "already_exists", "name")
        assert "another voice named 'Mine'" in error["message"]
        assert await names(r) == ["Mine"]


async def test_a_voice_whose_cached_speech_cannot_be_removed_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: Any) -> None:
        raise Unavailable("cached speech of the voice cannot be removed now; try again shortly", retry_after=1.0)

    async with rig(voices_dir=tmp_path, result_cache="memory") as r:
        await create(r, "Mine")
        with monkeypatch.context() as broken:
            broken.setattr(MemoryResults, "evict", unreachable)
            answer = await r.http.delete("/v1/audio/voices/Mine")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "cached speech of the voice cannot be removed" in answer.json()["error"]["message"]
        assert await names(r) == ["Mine"]
        assert (await r.http.delete("/v1/audio/voices/Mine")).status_code == 200
        assert await names(r) == []
