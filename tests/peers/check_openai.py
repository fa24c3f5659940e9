"""OpenAI's own client against a running gateway: python check_openai.py HTTP_URL PROMPT_WAV."""

from __future__ import annotations

import base64
import io
import json
import sys
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


def check_models_and_errors(client: openai.OpenAI) -> None:
    (model, *_) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
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
    check_own_voice(client, prompt)


main()
