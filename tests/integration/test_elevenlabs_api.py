"""ElevenLabs' HTTP routes over fake stages; tests/peers runs its real client."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.aliases import FOREIGN_VOICES, Aliases
from gateway.auth.keys import key_hash
from gateway.session.turn import utterance_seed
from tests.support.fake_stages import Rig, rig

TEXT = "Hello there, big world. And more. "


async def speak(r: Rig, path: str = "/stream", voice: str = "anna", query: str = "", **fields: Any) -> httpx.Response:
    body = {"text": TEXT, "seed": 1} | fields
    return await r.http.post(f"/v1/text-to-speech/{voice}{path}?{query or 'output_format=pcm_24000'}", json=body)


async def test_the_routes_send_the_same_speech() -> None:
    async with rig() as r:
        streamed, whole, lines = [await speak(r, path) for path in ("/stream", "", "/stream/with-timestamps")]
        assert streamed.status_code == whole.status_code == lines.status_code == 200
        assert streamed.headers["content-type"] == "audio/pcm"
        assert len(streamed.content) > 1000
        assert whole.content == streamed.content
        assert int(whole.headers["content-length"]) == len(whole.content)
        parts = [json.loads(line) for line in lines.text.splitlines()]
        assert b"".join(base64.b64decode(part["audio_base64"]) for part in parts) == streamed.content
        assert all(part["alignment"] is part["normalized_alignment"] is None for part in parts), "no head follows"


async def test_times_of_characters_count_from_the_begin_of_the_audio() -> None:
    async with rig() as r:
        r.llm.aligns = True
        answer = await speak(r, "/stream/with-timestamps")
        parts = [json.loads(line) for line in answer.text.splitlines()]
        found = [part["alignment"] for part in parts if part["alignment"]]
        assert "".join("".join(each["characters"]) for each in found) == TEXT
        starts = [start for each in found for start in each["character_start_times_seconds"]]
        ends = [end for each in found for end in each["character_end_times_seconds"]]
        assert starts[1:] == ends[:-1]
        audio = b"".join(base64.b64decode(part["audio_base64"]) for part in parts)
        assert ends[-1] == pytest.approx(len(audio) / 2 / 24000, abs=0.01)


async def test_lines_are_short_enough_for_clients_that_read_lines() -> None:
    async with rig() as r:
        text = "word " * 400
        answer = await speak(r, "/stream/with-timestamps", query="output_format=pcm_48000", text=text)
        assert max(map(len, answer.text.splitlines())) < 2**16


@pytest.mark.parametrize(
    ("output_format", "media_type", "begin"),
    [
        ("mp3_22050_32", "audio/mpeg", b"ID3"),
        ("mp3_44100_128", "audio/mpeg", b"ID3"),
        ("opus_48000_64", "audio/ogg", b"OggS"),
        ("ulaw_8000", "audio/basic", b""),
        ("alaw_8000", "audio/x-alaw-basic", b""),
        ("pcm_8000", "audio/pcm", b""),
        ("pcm_44100", "audio/pcm", b""),
        ("wav_16000", "audio/wav", b"RIFF"),
    ],
)
async def test_output_formats(output_format: str, media_type: str, begin: bytes) -> None:
    async with rig() as r:
        answer = await speak(r, query=f"output_format={output_format}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
        assert answer.headers["x-sample-rate"] == output_format.split("_")[1]
        assert answer.content.startswith(begin)


async def test_fields_reach_the_speech_and_null_means_absent() -> None:
    async with rig() as r:
        settings = {"speed": 1.2, "stability": 0.3, "use_speaker_boost": True}
        await speak(r, voice_settings=settings, language_code="de", model_id="calm", text="One.", seed=7)
        (call,) = r.llm.calls
        assert (round(call.start.speed, 1), call.start.style) == (1.2, "calm")
        assert call.start.seed == utterance_seed(7, 0, 0)
        assert r.encode.starts[0].language == "de"
        names = ("voice_settings", "language_code", "model_id", "seed", "previous_text")
        absent: dict[str, Any] = dict.fromkeys(names)
        answer = await speak(r, **absent)
        assert answer.status_code == 200
        assert round(r.llm.calls[-1].start.speed, 1) == 1.0


async def test_foreign_voices_and_models_mean_the_default() -> None:
    rules = Aliases("", FOREIGN_VOICES)
    assert "hpp4J3VqNfWAUOO0d1Us" in rules.names, "the default of LiveKit's plugin"
    async with rig() as r:
        for voice in ("hpp4J3VqNfWAUOO0d1Us", "JBFqnCBsd6RMkjVDRZzb", "None"):
            assert (await speak(r, voice=voice, model_id="eleven_turbo_v2_5")).status_code == 200
        assert {call.start.voice_hash for call in r.llm.calls} == {"hash of hugo"}


BAD: list[tuple[str, str, dict[str, Any], int, str, str]] = [
    ("nobody", "", {}, 404, "voice_not_found", "voice_id"),
    ("anna", "", {"model_id": "nothing"}, 404, "model_not_found", "model_id"),
    ("anna", "output_format=tape", {}, 400, "invalid_input", "output_format"),
    ("anna", "output_format=pcm_4", {}, 400, "invalid_input", "output_format"),
    ("anna", "", {"text": None}, 400, "invalid_input", "text"),
    ("anna", "", {"text": "..."}, 400, "invalid_input", "text"),
    ("anna", "", {"text": "x" * 2001}, 400, "invalid_input", "text"),
    ("anna", "", {"language_code": "?"}, 400, "invalid_input", "language_code"),
    ("anna", "", {"voice_settings": {"speed": 0}}, 400, "invalid_input", "voice_settings"),
    ("anna", "", {"text": "x" * 2**21}, 413, "request_entity_too_large", "bytes"),
]


async def test_errors_have_elevenlabs_s_form() -> None:
    async with rig(max_text_chars=2000) as r:
        for voice, query, fields, status, word, part in BAD:
            answer = await speak(r, "/stream/with-timestamps", voice, query, **fields)
            detail = answer.json()["detail"]
            assert (answer.status_code, detail["status"]) == (status, word), detail
            assert part in detail["message"]
        missing = await r.http.post("/v1/text-to-speech/anna/nothing", json={})
        assert (missing.status_code, missing.json()["detail"]["status"]) == (404, "not_found")


async def test_the_key_is_in_elevenlabs_s_header(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(f"keys: [{{name: app, sha256: {key_hash('ltts_a-key')}}}]")
    async with rig(api_keys_file=tmp_path / "keys.yaml") as r:
        for key, status in (("ltts_a-key", 200), ("wrong", 401), ("", 401)):
            headers = {"xi-api-key": key} if key else {}
            listed = await r.http.get("/v1/voices", headers=headers)
            assert listed.status_code == status
            if status == 401:
                assert listed.json()["detail"]["status"] == "invalid_api_key"


async def test_the_list_of_voices_has_what_the_plugins_read() -> None:
    async with rig() as r:
        form = {"name": "mine", "consent": "true", "ref_text": "hello"}
        made = await r.http.post("/v1/audio/voices", data=form, files={"audio_sample": b"RIFF a recording"})
        listed = (await r.http.get("/v1/voices")).json()["voices"]
        assert [(each["name"], each["category"]) for each in listed] == [
            ("hugo", "premade"),
            ("anna", "premade"),
            ("mine", "cloned"),
        ]
        assert listed[2]["voice_id"] == made.json()["id"]
        assert (await speak(r, voice=listed[2]["voice_id"])).status_code == 200


async def test_no_two_operations_answer_the_same_request() -> None:
    async with rig() as r:
        paths = (await r.http.get("/openapi.json")).json()["paths"]
    shapes = [re.sub(r"\{[^}]*\}", "{}", path) for path in paths]
    assert len(shapes) == len(set(shapes)), "two paths differ in the names of their parameters alone"
    fixed = [path for path in paths if "{" not in path]
    for pattern in (path for path in paths if "{" in path):
        like = re.compile(re.sub(r"\{[^}]*\}", "[^/]+", pattern))
        assert not [path for path in fixed if like.fullmatch(path)], pattern
