"""Recordings of phones and browsers as prompts: M4A, AAC, WebM, Matroska."""

from __future__ import annotations

import io
import sys
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.common.settings import EMBEDDED_MODEL
from services.encode.voice.audio import read_prompt

SPEECH, RATE = soundfile.read(EMBEDDED_MODEL / "prompt_anna.wav", dtype="float32")
KINDS = [("ipod", "aac", 44100), ("mp4", "aac", 48000), ("adts", "aac", 24000), ("webm", "libopus", 48000)]


def recorded(form: str, codec: str, rate: int, samples: NDArray[np.float32] = SPEECH, layout: str = "mono") -> bytes:
    """Return the speech as a phone or a browser records it."""
    out = io.BytesIO()
    channels = {"mono": 1, "stereo": 2, "7.1": 8}[layout]
    planes = np.repeat(soxr.resample(samples, RATE, rate)[np.newaxis, :], channels, axis=0).astype(np.float32)
    with av.open(out, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=stream.codec_context.format.name, layout=layout, rate=rate)
        for part in [*resampler.resample(frame), None]:
            container.mux(stream.encode(part))
    return out.getvalue()


@pytest.mark.parametrize(("form", "codec", "rate"), KINDS)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_recordings_of_phones_and_browsers_are_read(form: str, codec: str, rate: int, layout: str) -> None:
    prompt = read_prompt(recorded(form, codec, rate, layout=layout))
    assert prompt.rate == rate
    heard = soxr.resample(prompt.samples, rate, RATE)
    delay = len(heard) - len(SPEECH)  # bare AAC has no place to say how long the encoder's run-up is
    assert 0 <= delay < 3000
    middle = SPEECH[2000:22000]
    lag = int(np.argmax(np.correlate(heard[2000:25000], middle, "valid")))
    assert np.corrcoef(middle, heard[2000 + lag : 22000 + lag])[0, 1] > 0.95


@pytest.mark.parametrize(("form", "codec", "rate"), KINDS)
def test_damaged_recordings_are_refused_with_advice(form: str, codec: str, rate: int) -> None:
    whole = recorded(form, codec, rate)
    for size in (12, 40, 200):
        with pytest.raises(InvalidInput, match="prompt audio") as refused:
            read_prompt(whole[:size])
        assert refused.value.field == "audio"
    noise = bytes(byte ^ 0x5A if number > 64 else byte for number, byte in enumerate(whole))
    with pytest.raises(InvalidInput, match="prompt audio"):
        read_prompt(noise)


def test_a_long_recording_is_not_decoded_whole() -> None:
    silence = np.zeros(65 * RATE, np.float32)
    with pytest.raises(InvalidInput, match="longer than 60 s"):
        read_prompt(recorded("ipod", "aac", 24000, silence))


def test_limits_hold_for_these_formats_too() -> None:
    with pytest.raises(InvalidInput, match="8000 Hz; send a recording of 16000 Hz"):
        read_prompt(recorded("ipod", "aac", 8000))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n"
    for mark in (b"", b"\0\0\0\x20ftyp", b"\x1a\x45\xdf\xa3"):
        with pytest.raises(InvalidInput, match="cannot be decoded"):
            read_prompt(mark + playlist)


def test_without_the_library_the_answer_says_what_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InvalidInput, match="WAV, FLAC, MP3 or Ogg") as refused:
        read_prompt(b"\0\0\0\x20ftypM4A ")
    assert "extra" in refused.value.message
