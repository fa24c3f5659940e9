"""Registration under each policy of consent, over every API that registers voices, and its audit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import structlog

from gateway.api.common.audio_upload import as_wav
from gateway.voices.audit import AUDIT_FOLDER, DirectoryTrail
from lighttts.v1 import tts_pb2
from tests.support.fake_stages import Rig, rig

AUDIO = b"RIFF a recording"
AGREED = as_wav(b"I agree." * 100, 16_000)
STATEMENT = {"consent_given_by": "Ada Lovelace", "consent_given_on": "2026-01-02"}


async def over_http(r: Rig, **fields: str) -> httpx.Response:
    form = {"name": "Web", "ref_text": "hello", "consent": "true"} | fields
    return await r.http.post("/v1/audio/voices", data=form, files={"audio_sample": ("a.wav", AUDIO, "audio/wav")})


async def over_grpc(r: Rig, **fields: Any) -> tts_pb2.Voice:
    known: dict[str, Any] = {"name": "Rpc", "transcript": "hello there", "consent": True}
    header = tts_pb2.CreateVoiceHeader(**(known | fields))
    parts = [tts_pb2.CreateVoiceRequest(header=header), tts_pb2.CreateVoiceRequest(audio=AUDIO)]
    return (await r.voices.CreateVoice(iter(parts))).voice


async def refused_over_grpc(r: Rig, **fields: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await over_grpc(r, **fields)
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    return str(caught.value.details())


async def recorded(r: Rig) -> str:
    """Return the id of a recorded consent."""
    form = {"name": "Ada", "language": "en-US"}
    files = {"recording": ("a.wav", AGREED, "audio/wav")}
    return str((await r.http.post("/v1/audio/voice_consents", data=form, files=files)).json()["id"])


async def test_an_attestation_is_needed_and_kept(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path, consent_policy="attestation") as r:
        for fields, param in (
            ({}, "consent_given_by"),
            (STATEMENT | {"consent_given_on": ""}, "consent_given_on"),
            (STATEMENT | {"consent_given_on": "2.1.2026"}, "consent_given_on"),
            (STATEMENT | {"consent": "false"}, "consent"),
        ):
            answer = await over_http(r, **fields)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, param)
            assert param in error["message"]
            given = {name: value for name, value in fields.items() if name != "consent"}
            message = await refused_over_grpc(r, **given, **({"consent": False} if "consent" in fields else {}))
            assert param in message
        assert not r.encode.uploads, "refused before anything is computed"
        assert not await DirectoryTrail(tmp_path / AUDIT_FOLDER).entries()
        assert (await over_http(r, **STATEMENT)).status_code == 200
        assert (await over_grpc(r, **STATEMENT)).name == "Rpc"
    entries = await DirectoryTrail(tmp_path / AUDIT_FOLDER).entries()
    assert [entry["name"] for entry in entries] == ["Web", "Rpc"]
    for entry in entries:
        assert STATEMENT.items() <= entry.items()
        assert (entry["policy"], entry["consent"], entry["source"]) == ("attestation", True, "127.0.0.1")


async def test_a_recorded_consent_is_needed_and_its_hash_is_kept(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path, consent_policy="recording") as r:
        answer = await over_http(r, **STATEMENT)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "consent")
        assert "voice_consents" in answer.json()["error"]["message"]
        assert "consent_id is missing" in await refused_over_grpc(r, **STATEMENT)
        unknown = f"cons_{'0' * 32}"
        answer = await over_http(r, **STATEMENT, consent=unknown)
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "consent")
        assert "no consent" in await refused_over_grpc(r, **STATEMENT, consent_id=unknown)
        consent = await recorded(r)
        assert (await over_http(r, **STATEMENT, consent=consent)).status_code == 200
        voice = await over_grpc(r, **STATEMENT, consent_id=consent)
        kept = [path.read_bytes() for path in (tmp_path / "anonymous" / voice.id).iterdir()]
        assert AGREED in kept, "the recording stays with the voice"
    first, *entries = await DirectoryTrail(tmp_path / AUDIT_FOLDER).entries()
    digest = hashlib.sha256(AGREED).hexdigest()
    assert (first["operation"], first["consent"], first["consent_sha256"]) == ("consent created", consent, digest)
    assert [(entry["operation"], entry["consent"]) for entry in entries] == [("voice created", consent)] * 2
    assert {entry["consent_sha256"] for entry in entries} == {digest}


async def test_without_a_policy_the_statement_is_optional_and_kept(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        assert (await over_http(r)).status_code == 200
        await over_grpc(r, **STATEMENT)
        await r.voices.DeleteVoice(
            tts_pb2.DeleteVoiceRequest(voice="Web"), metadata=(("x-forwarded-for", "203.0.113.9"),)
        )
        assert (await r.http.delete("/v1/audio/voices/Rpc")).status_code == 200
        with structlog.testing.capture_logs() as lines:
            assert (await r.http.delete("/v1/audio/voices/Rpc")).status_code == 404
            assert (await over_http(r, consent="no")).status_code == 400
        refusals = [line for line in lines if line["event"].startswith("voice ")]
        assert [(line["event"], line["name"], line["field"]) for line in refusals] == [
            ("voice deletion refused", "Rpc", "voice"),
            ("voice creation refused", "Web", "header.consent"),
        ]
        assert {(line["key"], line["source"]) for line in refusals} == {("anonymous", "127.0.0.1")}
    entries = await DirectoryTrail(tmp_path / AUDIT_FOLDER).entries()
    assert [(entry["operation"], entry["name"], entry["source"]) for entry in entries] == [
        ("voice created", "Web", "127.0.0.1"),
        ("voice created", "Rpc", "127.0.0.1"),
        ("voice deleted", "Web", "127.0.0.1 for 203.0.113.9"),
        ("voice deleted", "Rpc", "127.0.0.1"),
    ]
    assert "consent_given_by" not in entries[0]
    assert STATEMENT.items() <= entries[1].items()
    assert all(entry["key"] == entry["owner"] == "anonymous" and entry["request_id"] for entry in entries)


async def test_a_voice_whose_audit_cannot_be_written_is_not_registered(tmp_path: Path) -> None:
    (tmp_path / AUDIT_FOLDER).write_text("not a folder")
    async with rig(voices_dir=tmp_path) as r:
        answer = await over_http(r)
        assert answer.status_code == 503
        assert "audit" in answer.json()["error"]["message"]
        assert [voice["registered"] for voice in (await r.http.get("/v1/audio/voices")).json()["data"]] == [False] * 2
