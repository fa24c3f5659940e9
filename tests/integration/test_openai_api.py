"""OpenAI's API over fake stages; tests/peers runs its real client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from gateway.api.common.audio_upload import as_wav
from lighttts.v1 import llm_pb2
from services.common.errors import Internal, Unavailable
from tests.support.fake_stages import Rig, Script, rig, until

SAMPLES = len("One. Two.") * 240
WAV = base64.b64encode(b"RIFF a recording").decode()


async def speak(r: Rig, **fields: Any) -> httpx.Response:
    body = {"model": "tts-1", "voice": "alloy", "input": "One. Two."} | fields
    return await r.http.post(
        "/v1/audio/speech", json={name: value for name, value in body.items() if value is not None}
    )


@pytest.mark.parametrize(
    ("format_", "media_type"),
    [
        (None, "audio/mpeg"),
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg"),
        ("flac", "audio/flac"),
        ("wav", "audio/wav"),
        ("pcm", "audio/pcm"),
    ],
)
async def test_every_format(format_: str | None, media_type: str) -> None:
    async with rig() as r:
        response = await speak(r, response_format=format_)
        assert (response.status_code, response.headers["content-type"]) == (200, media_type)
        if format_ == "pcm":
            assert len(response.content) == SAMPLES * 2
            return
        if format_ == "flac":  # libsndfile does not read a FLAC stream, which cannot state its length
            assert response.content.startswith(b"fLaC")
            return
        with soundfile.SoundFile(io.BytesIO(response.content)) as file:
            assert file.samplerate == 24000
            # Read by number: the header of a stream cannot state its length.
            assert len(file.read(SAMPLES)) == SAMPLES


async def test_server_sent_events_carry_the_audio_and_the_usage() -> None:
    async with rig() as r:
        response = await speak(r, response_format="pcm", stream_format="sse")
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
        *deltas, done = events
        assert len(b"".join(base64.b64decode(event["audio"]) for event in deltas)) == SAMPLES * 2
        assert {event["type"] for event in deltas} == {"speech.audio.delta"}
        assert done["type"] == "speech.audio.done"
        assert done["usage"] == {"input_tokens": 9, "output_tokens": 9, "total_tokens": 18}


async def test_options_reach_the_models() -> None:
    async with rig() as r:
        await speak(r, voice={"id": "anna"}, speed=1.5, seed=7, model="calm")
        start = r.llm.calls[0].start
        assert (start.speed, start.style, r.encode.uploads[0][0].bundled_voice) == (1.5, "calm", "anna")
        await speak(r, instructions="sadly", model="fake")
        assert r.llm.calls[-1].start.prompt_use == llm_pb2.PROMPT_USE_TIMBRE


@pytest.mark.parametrize("audio", [WAV, f"data:audio/wav;base64,{WAV}"])
async def test_a_voice_from_a_recording(audio: str) -> None:
    async with rig() as r:
        await speak(r, ref_audio=audio, ref_text="hello")
        ((header, parts),) = r.encode.uploads
        assert (header.transcript, b"".join(parts)) == ("hello", b"RIFF a recording")
        await speak(r, ref_audio=audio)
        assert r.encode.uploads[-1][0].timbre_only


async def test_models() -> None:
    async with rig() as r:
        listed = (await r.http.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]][:2] == ["fake", "calm"]
        assert (await r.http.get("/v1/models/calm")).json()["object"] == "model"
        assert (await r.http.get("/v1/models/none")).json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"input": None}, 400, "input", "required"),
        ({"input": ""}, 400, "input", "at least 1"),
        ({"input": "?!"}, 400, "input", "only punctuation"),
        ({"input": "a" * 4097}, 400, "input", "4096"),
        ({"input": 7}, 400, "input", "string"),
        ({"voice": "bob"}, 404, "voice", "known voices"),
        ({"voice": ["anna"]}, 400, "voice", "string"),
        ({"model": "gpt-9"}, 404, "model", "/v1/models"),
        ({"response_format": "midi"}, 400, "response_format", "mp3"),
        ({"speed": 0.1}, 400, "speed", "0.25"),
        ({"speed": 9}, 400, "speed", "4"),
        ({"stream_format": "telegram"}, 400, "stream_format", "sse"),
        ({"seed": -1}, 400, "seed", "0"),
        ({"ref_audio": "https://example.org/a.wav"}, 400, "ref_audio", "not fetched"),
        ({"ref_audio": "~~~"}, 400, "ref_audio", "base64"),
        ({"ref_audio": base64.b64encode(b"BAD").decode(), "ref_text": "x"}, 400, "ref_audio", "not audio"),
        ({"instructions": "a" * 2000}, 400, "instructions", "1000"),
    ],
)
async def test_invalid_requests_get_openai_s_error_format(
    fields: dict[str, Any], status: int, param: str, words: str
) -> None:
    async with rig() as r:
        response = await speak(r, **fields)
        assert response.status_code == status
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert words in error["message"]
        assert (await speak(r)).status_code == 200


async def test_a_text_over_the_gateway_s_limit_is_refused_before_it_is_spoken() -> None:
    async with rig(max_text_chars=20) as r:
        response = await speak(r, input="One. " * 5)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "input")
        assert "at most 20" in error["message"]
        assert not r.llm.calls


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b'{"input": "\\ud800"}', "application/json"),
        (b'{"input": "One.", "speed": NaN}', "application/json"),
        (b'{"input": "One.", "seed": 1e400}', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[]", "application/json"),
        (b'{"input": "One."}', "text/plain"),
        (b'{"input": "One."}', "multipart/form-data; boundary=x"),
    ],
)
async def test_bodies_that_are_not_a_request(content: bytes, content_type: str) -> None:
    async with rig() as r:
        response = await r.http.post("/v1/audio/speech", content=content, headers={"content-type": content_type})
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_all_errors_have_openai_s_format() -> None:
    async with rig(max_sessions=1) as r:
        assert (await r.http.get("/v1/nothing")).json()["error"]["code"] == "not_found"
        assert (await r.http.put("/v1/audio/speech")).json()["error"]["message"]
        r.llm.scripts[0] = Script(fail_at_hop=0, error=Internal("broken", repeated=True))
        failed = await speak(r, input="One.")
        assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
        r.llm.scripts[1] = Script(hold={0: asyncio.Event()})
        running = asyncio.create_task(speak(r, input="One."))
        await until(lambda: len(r.llm.calls) == 2)
        refused = await speak(r)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert refused.headers["retry-after"] == "1"
        running.cancel()
        await asyncio.wait({running})
    assert Unavailable.http_status == 503


async def test_openapi_lists_every_response_and_cors_is_off_by_default() -> None:
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    async with rig(cosyvoice_port=0) as r:
        document = (await r.http.get("/openapi.json")).json()
        speech = document["paths"]["/v1/audio/speech"]["post"]["responses"]
        assert {"200", "400", "404", "413", "429", "500", "503"} <= set(speech)
        assert speech["400"]["content"]["application/json"]["schema"]["$ref"].endswith("OpenAIError")
        zero_shot = document["paths"]["/inference_zero_shot"]["post"]["responses"]
        assert zero_shot["400"]["content"]["application/json"]["schema"]["$ref"].endswith("MessageError")
        assert "417" in zero_shot
        url = f"http://127.0.0.1:{r.gateway.cosyvoice_port}/openapi.json"
        assert "/inference_instruct2" in (await r.http.get(url)).json()["paths"]
        refused = await r.http.options("/v1/audio/speech", headers=preflight)
        assert "access-control-allow-origin" not in refused.headers
    async with rig(cors_origins=("https://app.example",)) as r:
        allowed = await r.http.options("/v1/audio/speech", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"


async def register(r: Rig, **fields: Any) -> httpx.Response:
    form = {"name": "mine", "ref_text": "hello", "consent": "true"} | fields
    audio = {"audio_sample": ("voice.wav", form.pop("audio", b"RIFF a recording"), "audio/wav")}
    return await r.http.post("/v1/audio/voices", data={k: v for k, v in form.items() if v is not None}, files=audio)


async def test_voices_are_listed_created_spoken_with_and_deleted() -> None:
    async with rig() as r:
        created = (await register(r)).json()
        assert (created["name"], created["object"], created["registered"]) == ("mine", "audio.voice", True)
        assert (await register(r)).json() == created, "a second registration changes nothing"
        listed = (await r.http.get("/v1/audio/voices")).json()
        assert [voice["name"] for voice in listed["voices"]] == ["hugo", "anna", "mine"]
        assert listed["voices"][2] == {"id": created["id"], "name": "mine"}, "as Open WebUI reads them"
        for voice in ("mine", {"id": created["id"]}):
            assert (await speak(r, voice=voice)).status_code == 200
        assert (await r.http.delete(f"/v1/audio/voices/{created['id']}")).json()["deleted"]
        assert (await speak(r, voice="mine")).status_code == 404


async def test_a_registered_voice_takes_precedence_over_openai_s_name() -> None:
    async with rig() as r:
        await register(r, name="alloy", ref_text="I am alloy")
        await speak(r, voice="alloy")
        assert r.llm.calls[-1].start.voice_hash == "hash of I am alloy"


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"name": None}, 400, "name"),
        ({"name": "/"}, 400, "name"),
        ({"name": "hugo"}, 409, "name"),
        ({"ref_text": "x" * 2001}, 400, "ref_text"),
        ({"type": "prompt"}, 400, "type"),
        ({"consent": "cons_0"}, 404, "consent"),
        ({"consent": f"cons_{'0' * 32}"}, 404, "consent"),
        ({"consent": "false"}, 400, "consent"),
        ({"consent": "not yet"}, 400, "consent"),
        ({"consent": None}, 400, "consent"),
        ({"audio": b"BAD"}, 400, "audio_sample"),
        ({"audio": b""}, 400, "audio_sample"),
    ],
)
async def test_bad_registrations_name_the_field(fields: dict[str, Any], status: int, param: str) -> None:
    async with rig() as r:
        response = await register(r, **fields)
        assert (response.status_code, response.json()["error"]["param"]) == (status, param)
        unknown = await r.http.delete("/v1/audio/voices/unknown")
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "voice")
        assert (await r.http.delete("/v1/audio/voices/hugo")).status_code == 400


async def test_a_voice_without_transcript_speaks_with_its_timbre() -> None:
    async with rig() as r:
        created = (await register(r, ref_text=None)).json()
        assert (created["type"], created["object"]) == ("audio_sample", "audio.voice")
        assert any("timbre" in warning for warning in created["warnings"])
        assert r.encode.uploads[-1][0].timbre_only
        assert (await speak(r, voice="mine")).status_code == 200
        assert r.llm.calls[-1].start.prompt_use == llm_pb2.PROMPT_USE_TIMBRE
        assert (await register(r, name="full", audio=b"RIFF another")).status_code == 200
        await speak(r, voice="full")
        assert r.llm.calls[-1].start.prompt_use == llm_pb2.PROMPT_USE_ZERO_SHOT


AGREED = as_wav(b"I agree." * 100, 16_000)


async def consent(r: Rig, audio: bytes = AGREED, **fields: str) -> httpx.Response:
    form = {"name": "Ada", "language": "en-US"} | fields
    return await r.http.post("/v1/audio/voice_consents", data=form, files={"recording": ("a.wav", audio, "audio/wav")})


async def test_a_recorded_consent_is_kept_with_the_voice(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        made = (await consent(r)).json()
        assert set(made) == {"id", "object", "created_at", "language", "name"}
        assert (made["object"], made["language"], made["name"]) == ("audio.voice_consent", "en-US", "Ada")
        other = (await consent(r, as_wav(b"another." * 100, 16_000), name="Bob")).json()
        page = (await r.http.get("/v1/audio/voice_consents", params={"limit": 1})).json()
        assert (page["data"], page["has_more"]) == ([made], True)
        rest = (await r.http.get("/v1/audio/voice_consents", params={"after": page["last_id"]})).json()
        assert (rest["data"], rest["has_more"]) == ([other], False)
        assert (await r.http.get(f"/v1/audio/voice_consents/{made['id']}")).json() == made
        voice = (await register(r, consent=made["id"])).json()
        deleted = await r.http.delete(f"/v1/audio/voice_consents/{made['id']}")
        assert deleted.json() == {"id": made["id"], "object": "audio.voice_consent", "deleted": True}
        assert (await r.http.get(f"/v1/audio/voice_consents/{made['id']}")).status_code == 404
        folder = tmp_path / "anonymous" / voice["id"]
        assert AGREED in [path.read_bytes() for path in folder.iterdir()], "it stays with the voice"
        await r.http.delete(f"/v1/audio/voices/{voice['id']}")
        assert not folder.exists()


async def test_the_page_after_a_deleted_consent_is_no_page() -> None:
    async with rig() as r:
        made = [(await consent(r, as_wav(b"%d" % number * 1000, 16_000))).json()["id"] for number in range(2)]
        await r.http.delete(f"/v1/audio/voice_consents/{made[0]}")
        for after in (made[0], "cons_unknown"):
            answer = await r.http.get("/v1/audio/voice_consents", params={"after": after})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (404, "after", "not_found")
            assert after in error["message"]
        rest = (await r.http.get("/v1/audio/voice_consents", params={"after": ""})).json()
        assert [each["id"] for each in rest["data"]] == made[1:]


async def test_a_wrong_query_and_a_text_in_place_of_a_file_are_named() -> None:
    async with rig() as r:
        answer = await r.http.get("/v1/audio/voice_consents", params={"limit": 0})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
        form = {"name": "mine", "consent": "true", "audio_sample": "RIFF"}
        answer = await r.http.post("/v1/audio/voices", data=form)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "audio_sample")
        assert error["message"] == "audio_sample: send a file, not a text"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("speech", {"content": b'{"input": "Hi.",}', "headers": {"content-type": "application/json"}}, "not JSON: "),
        ("speech", {"content": b'{"input": "Hi."}'}, "with the header Content-Type: application/json"),
        ("speech", {"data": {"input": "Hi."}}, "with the header Content-Type: application/json"),
        ("speech", {"json": ["Hi."]}, "not a JSON object"),
        ("voices", {"json": {"name": "mine", "consent": True}}, "send its fields as multipart/form-data"),
    ],
    ids=["damaged", "no type", "form", "list", "JSON"],
)
async def test_a_body_of_the_wrong_kind_is_named_as_a_whole(path: str, body: dict[str, Any], words: str) -> None:
    async with rig() as r:
        answer = await r.http.post(f"/v1/audio/{path}", **body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, None)
        assert words in error["message"]


async def test_a_consent_gets_another_label(tmp_path: Path) -> None:
    async with rig(voices_dir=tmp_path) as r:
        made = (await consent(r)).json()
        url = f"/v1/audio/voice_consents/{made['id']}"
        renamed = await r.http.post(url, json={"name": "Ada Lovelace"})
        assert renamed.json() == made | {"name": "Ada Lovelace"}
        assert (await r.http.get(url)).json() == renamed.json()
        assert (await register(r, consent=made["id"])).status_code == 200, "the recording is still there"
        for body in ({}, {"name": None}, {"name": "/"}, {"name": 1}):
            refused = await r.http.post(url, json=body)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "name"), body
        unknown = await r.http.post(f"/v1/audio/voice_consents/cons_{'0' * 32}", json={"name": "Ada"})
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "consent")
        assert (await r.http.get(url)).json() == renamed.json()


NO_RECORDINGS = (b"I agree to this use of my voice.", AGREED[:44], b"fLaC" + AGREED, b"\0\0\0\x20ftypM4A " + AGREED)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "/"}, "name"),
        ({"language": "in English"}, "language"),
        ({"audio": b""}, "recording"),
        *(({"audio": audio}, "recording") for audio in NO_RECORDINGS),
    ],
)
async def test_bad_consents_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async with rig() as r:
        answer = await consent(r, **fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
