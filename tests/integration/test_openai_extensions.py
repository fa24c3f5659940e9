"""Extensions of OpenAI's API: rates, telephone encodings, lengths, nulls; and requests that look before they speak."""

from __future__ import annotations

import io
import json
import wave
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from gateway.session.turn import utterance_seed
from lighttts.v1 import audio_pb2, tts_pb2
from tests.support.fake_stages import Rig, ids_of, rig

TEXT = "One. Two."
SAMPLES = len(TEXT) * 240


async def speak(r: Rig, path: str = "/v1/audio/speech", **fields: Any) -> httpx.Response:
    return await r.http.post(path, json={"input": TEXT, "seed": 1, "trim_leading_silence": False} | fields)


async def test_null_means_absent_in_every_field() -> None:
    names = (
        "model voice instructions response_format speed stream_format ref_audio ref_text seed sample_rate stream"
        " trim_leading_silence"
    )
    async with rig() as r:
        absent = await r.http.post("/v1/audio/speech", json={"input": TEXT, "seed": 1})
        nulls = await r.http.post("/v1/audio/speech", json={"input": TEXT} | dict.fromkeys(names.split()) | {"seed": 1})
        assert (nulls.status_code, nulls.content) == (200, absent.content)
        refused = await r.http.post("/v1/audio/speech", json={"input": None})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
        batch = {"texts": ["One."], "voice": None, "prompt_wav": None, "prompt_text": None, "speed": None}
        answer = await r.http.post("/synthesize_batch", json=batch)
        assert answer.json()["results"][0]["error"] is None


@pytest.mark.parametrize("name", ["ulaw", "mulaw", "g711_ulaw", "alaw", "g711_alaw"])
async def test_telephone_encodings(name: str) -> None:
    async with rig() as r:
        answer = await speak(r, response_format=name)
        assert answer.headers["x-sample-rate"] == "8000"
        assert len(answer.content) == SAMPLES // 3
        law = "ULAW" if "u" in name else "ALAW"
        pcm = await speak(r, response_format="pcm", sample_rate=8000)
        decoded, _ = soundfile.read(
            io.BytesIO(answer.content), channels=1, samplerate=8000, format="RAW", subtype=law, dtype="int16"
        )
        assert np.abs(decoded - np.frombuffer(pcm.content, "<i2")).max() < 1100, "the steps of G.711 at full scale"


@pytest.mark.parametrize(("format_", "rate"), [("pcm", 16000), ("wav", 44100), ("flac", 8000), ("opus", 16000)])
async def test_a_rate_of_the_caller_s_choice(format_: str, rate: int) -> None:
    async with rig() as r:
        answer = await speak(r, response_format=format_, sample_rate=rate)
        assert (answer.status_code, answer.headers["x-sample-rate"]) == (200, str(rate))
        if format_ == "pcm":
            assert len(answer.content) == SAMPLES * rate // 24000 * 2
        if format_ == "wav":
            assert soundfile.info(io.BytesIO(answer.content)).samplerate == rate


@pytest.mark.parametrize("format_", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
async def test_an_answer_that_is_not_streamed_states_its_length(format_: str) -> None:
    async with rig() as r:
        answer = await speak(r, response_format=format_, stream=False)
        assert int(answer.headers["content-length"]) == len(answer.content)
        if format_ == "wav":
            with wave.open(io.BytesIO(answer.content)) as file:
                assert file.getnframes() == SAMPLES
        if format_ == "flac":
            assert soundfile.info(io.BytesIO(answer.content)).frames == SAMPLES
        assert "content-length" not in (await speak(r, response_format=format_, stream=True)).headers


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sample_rate": 7999}, "sample_rate"),
        ({"sample_rate": 48001}, "sample_rate"),
        ({"sample_rate": "fast"}, "sample_rate"),
        ({"response_format": "opus", "sample_rate": 22050}, "sample_rate"),
        ({"response_format": "g722"}, "response_format"),
        ({"trim_leading_silence": "much"}, "trim_leading_silence"),
        ({"stream": "never"}, "stream"),
        ({"stream": False, "stream_format": "sse"}, "stream"),
    ],
)
async def test_bad_extensions_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async with rig() as r:
        answer = await speak(r, **fields)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
        assert param in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/v1/audio/speech", {"input": "One."}, "instructions"),
        ("/v1/audio/speech", {"input": "One.", "ref_audio": "UklGRg=="}, "ref_text"),
        ("/v1/text-to-speech/anna", {}, "text"),
        ("/v1/text-to-speech/anna/stream/with-timestamps", {}, "text"),
        ("/synthesize_batch", {}, "texts"),
        ("/synthesize_batch", {"texts": ["One."], "prompt_wav": "UklGRg=="}, "prompt_text"),
    ],
)
async def test_text_that_utf_8_cannot_encode_is_refused_by_name(path: str, fields: dict[str, Any], name: str) -> None:
    async with rig() as r:
        for text, sound in (("Both halves: \U0001f600.", True), ("One half: \ud83d.", False)):
            value = ["One.", text] if name == "texts" else text
            body = json.dumps(fields | {name: value})  # the client's own way refuses such text
            answer = await r.http.post(path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == (200 if sound else 422 if path == "/synthesize_batch" else 400), answer.text
            assert sound or (name in answer.text and "surrogate" in answer.text)


async def test_clients_that_look_before_they_speak() -> None:
    async with rig(cosyvoice_port=0) as r:
        for path in ("/", "/v1/models", "/v1/models/tts-1", "/v1/audio/voices", "/health", "/query_tts_model"):
            looked, got = await r.http.head(path), await r.http.get(path)
            assert (looked.status_code, looked.content, got.status_code) == (200, b"", 200), path
            assert looked.headers["content-length"] == got.headers["content-length"], path
        assert (await r.http.head("/v1/none")).status_code == 404
        for path in ("/v1/models/", "/v1/audio/voices/", "/health/"):
            assert (await r.http.get(path)).status_code == 200, path
        assert (await speak(r, "/v1/audio/speech/")).status_code == 200
        assert (await speak(r, "/v1/audio/none/")).status_code == 404


SILENT = chr(101 * 7 - utterance_seed(0, 0, 0) % 97) * 12
"""Letters that the fake models speak as 120 ms of silence with the seed 0."""


async def test_interactive_speech_begins_with_its_first_sound() -> None:
    async with rig() as r:
        text = f"{SILENT}One."
        whole = len(ids_of(text)) * 240
        lengths = {
            trim: len((await speak(r, input=text, seed=0, response_format="pcm", trim_leading_silence=trim)).content)
            // 2
            for trim in (None, True, False)
        }
        assert lengths[False] == whole
        assert lengths[None] == lengths[True] <= whole - 24000 * 0.07
        config = tts_pb2.SynthesisConfig(seed=0, priority=audio_pb2.Urgency.PRIORITY_OFFLINE)
        request = tts_pb2.SynthesizeRequest(text=text, config=config)
        offline = [event async for event in r.tts.Synthesize(request)]
        assert sum(len(event.audio.pcm) for event in offline) == 2 * whole
