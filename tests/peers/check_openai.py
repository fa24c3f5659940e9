"""OpenAI's own client against a running gateway: python check_openai.py HTTP_URL PROMPT_WAV."""

from __future__ import annotations

import base64
import io
import json
import sys
import wave
from pathlib import Path

import openai
import pytest
import soundfile

TEXT = "Good morning, Alice."


def check_formats(client: openai.OpenAI) -> None:
    for format_ in ("mp3", "opus", "aac", "flac", "wav", "pcm"):
        audio = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format=format_).content
        begins = {"opus": b"OggS", "aac": b"\xff", "flac": b"fLaC", "wav": b"RIFF", "mp3": b"", "pcm": b""}[format_]
        assert audio.startswith(begins), format_
        if format_ in ("mp3", "opus", "wav"):
            assert soundfile.info(io.BytesIO(audio)).samplerate in (24000, 48000), format_
        assert len(audio) > 2000, format_


def check_streams(client: openai.OpenAI) -> None:
    create = client.audio.speech.with_streaming_response.create
    with create(model="tts-1", voice="alloy", input=TEXT, response_format="pcm") as response:
        assert response.headers["content-type"].startswith("audio/pcm")
        assert sum(map(len, response.iter_bytes())) > 24000
    with create(
        model="tts-1", voice="alloy", input=TEXT, response_format="pcm", extra_body={"stream_format": "sse"}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert sum(len(base64.b64decode(event["audio"])) for event in events[:-1]) > 24000
    assert events[-1]["usage"]["output_tokens"] > 10


def check_speed(client: openai.OpenAI) -> None:
    lengths = [
        len(
            client.audio.speech.create(
                model="tts-1",
                voice="alloy",
                input=TEXT,
                speed=speed,
                response_format="pcm",
                extra_body={"seed": 1},
            ).content
        )
        for speed in (0.5, 1.0, 2.0)
    ]
    assert lengths[0] > 1.8 * lengths[1] > 3.2 * lengths[2], lengths


def check_extensions(client: openai.OpenAI) -> None:
    """What this gateway adds, by the client's way for fields that it does not know."""

    def speak(**fields: object) -> tuple[bytes, str]:
        with client.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts-2025-12-15", voice="marin", input=TEXT, response_format="wav", extra_body=fields
        ) as response:
            return response.read(), response.headers["x-sample-rate"]

    whole, rate = speak(stream=False, sample_rate=16000, seed=1)
    with wave.open(io.BytesIO(whole)) as file:
        assert (file.getframerate(), rate, file.getnframes() > 8000) == (16000, "16000", True)
    ulaw, rate = speak(response_format="g711_ulaw", seed=1)
    assert (rate, len(ulaw) > 4000) == ("8000", True)
    nulls, _ = speak(voice=None, speed=None, instructions=None, stream_format=None, seed=1)
    assert len(nulls) > 24000
    trimmed, _ = speak(stream=False, seed=1)
    assert len(trimmed) <= len(speak(stream=False, seed=1, trim_leading_silence=False)[0])


def check_instructions(client: openai.OpenAI) -> None:
    """The embedded model follows none: it speaks, and says so."""
    answer = client.audio.speech.with_raw_response.create(
        model="gpt-4o-mini-tts", voice="coral", input=TEXT, instructions="Speak in a cheerful tone."
    )
    assert answer.headers["x-light-tts-warning"].startswith("instructions_ignored")


def check_consents_and_timbre(client: openai.OpenAI, prompt: Path) -> None:
    """The client's own calls, which send no transcript."""
    recording = (prompt.name, prompt.read_bytes(), "audio/wav")
    consent = client.audio.voice_consents.create(name="Peer", language="en-US", recording=recording)
    assert (consent.object, consent.language, consent.name) == ("audio.voice_consent", "en-US", "Peer")
    assert client.audio.voice_consents.retrieve(consent.id) == consent
    assert consent.id in [listed.id for listed in client.audio.voice_consents.list(limit=1)]
    renamed = client.audio.voice_consents.update(consent.id, name="Another label")
    assert (renamed.id, renamed.name) == (consent.id, "Another label")
    assert client.audio.voice_consents.retrieve(consent.id) == renamed
    voice = client.audio.voices.create(name="timbre", audio_sample=recording, consent=consent.id)
    assert (voice.object, voice.type, voice.name, voice.created_at > 0) == (
        "audio.voice",
        "audio_sample",
        "timbre",
        True,
    )
    audio = client.audio.speech.create(model="tts-1", voice={"id": voice.id}, input=TEXT, response_format="pcm").content
    assert len(audio) > 24000
    assert client.audio.voice_consents.delete(consent.id).deleted
    deleted = client.audio.voices.delete(voice.id)
    assert (deleted.deleted, deleted.object) == (True, "audio.voice.deleted")
    with pytest.raises(openai.NotFoundError):
        client.audio.voice_consents.retrieve(consent.id)


def check_models_and_errors(client: openai.OpenAI) -> None:
    for model in client.models.list().data:
        assert client.models.retrieve(model.id).id == model.id
    assert client.models.retrieve("gpt-4o-mini-tts-2025-12-15").id
    for wrong, kind in (
        ({"voice": "nobody"}, openai.NotFoundError),
        ({"model": "gpt-9"}, openai.NotFoundError),
        ({"input": "a" * 5000}, openai.BadRequestError),
        ({"response_format": "midi"}, openai.BadRequestError),
    ):
        with pytest.raises(kind) as refused:
            client.audio.speech.create(**({"model": "tts-1", "voice": "alloy", "input": TEXT} | wrong))
        assert refused.value.param == next(iter(wrong)), refused.value


def check_own_voice(client: openai.OpenAI, prompt: Path) -> None:
    words = prompt.with_suffix(".txt").read_text(encoding="utf-8").strip()
    created = client.post(
        "/audio/voices",
        cast_to=object,
        body={"name": "peer", "ref_text": words, "consent": "true"},
        files={"audio_sample": ("prompt.wav", prompt.read_bytes(), "audio/wav")},
        options={"headers": {"content-type": "multipart/form-data"}},
    )
    assert isinstance(created, dict)
    audio = client.audio.speech.create(model="tts-1", voice="peer", input=TEXT, response_format="pcm").content
    assert len(audio) > 24000
    client.delete(f"/audio/voices/{created['id']}", cast_to=object)


def main() -> None:
    url, prompt = sys.argv[1], Path(sys.argv[2])
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    check_formats(client)
    check_streams(client)
    check_speed(client)
    check_models_and_errors(client)
    check_extensions(client)
    check_instructions(client)
    check_own_voice(client, prompt)
    check_consents_and_timbre(client, prompt)


main()
