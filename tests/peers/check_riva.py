"""NVIDIA Riva's own client against a running gateway: python check_riva.py GRPC_ADDRESS PROMPT_WAV."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import pytest
import riva.client
from riva.client.proto.riva_tts_pb2 import RivaSynthesisConfigRequest

TEXT = "Good morning, Alice."
Encoding = riva.client.AudioEncoding


def check_configuration(service: riva.client.SpeechSynthesisService) -> str:
    """A voice's full name."""
    (entry,) = service.stub.GetRivaSynthesisConfig(RivaSynthesisConfigRequest()).model_config
    subvoices = [subvoice.split(":")[0] for subvoice in entry.parameters["subvoices"].split(",")]
    assert entry.parameters["language_code"] == "en-US"
    return f"{entry.parameters['voice_name']}.{subvoices[0]}"


def check_synthesize(service: riva.client.SpeechSynthesisService, voice: str) -> None:
    for encoding, rate, begins in (
        (Encoding.LINEAR_PCM, 22050, b""),
        (Encoding.LINEAR_PCM, 44100, b""),
        (Encoding.FLAC, 22050, b"fLaC"),
        (Encoding.OGGOPUS, 48000, b"OggS"),
        (Encoding.OGGOPUS, 22050, b"OggS"),
        (Encoding.MULAW, 8000, b""),
        (Encoding.ALAW, 8000, b""),
    ):
        response = service.synthesize(TEXT, voice, encoding=encoding, sample_rate_hz=rate)
        assert response.audio.startswith(begins)
        assert len(response.audio) > 4000, (encoding, rate)


def check_online(service: riva.client.SpeechSynthesisService, voice: str) -> None:
    one = [response.audio for response in service.synthesize_online(TEXT, voice, sample_rate_hz=16000)]
    several = [response.audio for response in service.synthesize_online([TEXT] * 3, voice, sample_rate_hz=16000)]
    assert len(several) > 3
    assert sum(map(len, several)) > 2 * sum(map(len, one))
    with_blanks = [response.audio for response in service.synthesize_online(["", TEXT, "—", " "], voice)]
    assert sum(map(len, with_blanks)) > 20000
    assert service.synthesize(" ", voice).audio == b""
    timed = service.synthesize(TEXT, voice, enable_word_time_offsets=True)
    words = timed.meta.words
    assert [word.word.strip(",.").lower() for word in words] == [word.strip(",.").lower() for word in TEXT.split()]
    assert [word.start_time for word in words] == sorted(word.start_time for word in words)


def check_defaults(service: riva.client.SpeechSynthesisService) -> None:
    """What NVIDIA's talk.py sends: its own voice and rate, written into a WAV file or streamed."""
    for name in (None, "Magpie-Multilingual.EN-US.Aria", "English-US.Female-1"):
        for custom in ({}, {"zero_shot_quality": 20}):
            options = {"language_code": "en-US", "sample_rate_hz": 44100, "encoding": Encoding.LINEAR_PCM} | custom
            assert len(service.synthesize(TEXT, name, **options).audio) > 44100
            assert len(b"".join(part.audio for part in service.synthesize_online(TEXT, name, **options))) > 44100


def check_zero_shot(service: riva.client.SpeechSynthesisService, prompt: Path) -> None:
    words = prompt.with_suffix(".txt").read_text(encoding="utf-8").strip()
    response = service.synthesize(
        TEXT,
        zero_shot_audio_prompt_file=prompt,
        audio_prompt_encoding=Encoding.LINEAR_PCM,
        zero_shot_transcript=words,
    )
    assert len(response.audio) > 22050


def check_refusal(service: riva.client.SpeechSynthesisService) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        service.synthesize(TEXT, "lighttts.nobody")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def main() -> None:
    service = riva.client.SpeechSynthesisService(riva.client.Auth(uri=sys.argv[1]))
    voice = check_configuration(service)
    check_synthesize(service, voice)
    check_online(service, voice)
    check_defaults(service)
    check_zero_shot(service, Path(sys.argv[2]))
    check_refusal(service)


main()
