"""Recordings of phones and browsers as prompts: M4A, AAC, WebM, Matroska."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path
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


def recorded(
    form: str,
    codec: str,
    rate: int,
    samples: NDArray[np.float32] = SPEECH,
    layout: str = "mono",
    options: dict[str, str] | None = None,
) -> bytes:
    """Return the speech as a phone or a browser records it."""
    out = io.BytesIO()
    channels = {"mono": 1, "stereo": 2, "7.1": 8}[layout]
    planes = np.repeat(soxr.resample(samples, RATE, rate)[np.newaxis, :], channels, axis=0).astype(np.float32)
    with av.open(out, "w", format=form, options=options or {}) as container:
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


def test_a_track_of_an_unknown_codec_is_passed_over_or_named() -> None:
    known = recorded("ipod", "aac", 48000)
    unknown = known.replace(b"mp4a", b"apac").replace(b"esds", b"dapa")  # as phones name their codec of surround sound
    with pytest.raises(InvalidInput, match="codec that this server cannot decode; send a WAV") as refused:
        read_prompt(unknown)
    assert refused.value.field == "audio"
    np.testing.assert_array_equal(read_prompt(with_track_before(known, unknown)).samples, read_prompt(known).samples)


def with_track_before(known: bytes, unknown: bytes) -> bytes:
    """Return the file `known` with the track of `unknown` as its first one; their sound is at the same place."""
    first, track = known.index(b"trak") - 4, unknown.index(b"trak") - 4
    size = int.from_bytes(unknown[track : track + 4], "big")
    file = bytearray(known[:first] + unknown[track : track + size] + known[first:])
    moov = file.index(b"moov") - 4
    struct.pack_into(">I", file, moov, int.from_bytes(file[moov : moov + 4], "big") + size)
    struct.pack_into(">I", file, file.index(b"tkhd") + 16, 7)  # an id of its own
    return bytes(file)


def stating_packets(count: int) -> bytes:
    """Return an M4A file whose header states `count` packets of a byte each."""
    file = bytearray(recorded("ipod", "aac", 48000))
    for box, place, number in ((b"stsz", 8, 1), (b"stsz", 12, count), (b"stsc", 16, count)):
        struct.pack_into(">I", file, file.index(box) + place, number)
    return bytes(file)


def stating_packets_of_a_fragment(count: int) -> bytes:
    """Return a fragmented MP4 file whose first fragment states `count` packets without fields of their own."""
    file = bytearray(recorded("mp4", "aac", 48000, options={"movflags": "empty_moov+default_base_moof"}))
    struct.pack_into(">II", file, file.index(b"trun") + 4, 1, count)
    return bytes(file)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the memory from /proc")
@pytest.mark.parametrize("file", [stating_packets, stating_packets_of_a_fragment])
def test_a_header_that_states_millions_of_packets_takes_no_memory(file: Callable[[int], bytes]) -> None:
    hostile = file(8_000_000)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here on
    before = peak_bytes()
    with pytest.raises(InvalidInput, match="prompt audio"):
        read_prompt(hostile)
    assert peak_bytes() - before < 64 * 2**20


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.parametrize(("form", "options"), [("adts", {}), ("mp4", {"movflags": "frag_keyframe+empty_moov"})])
def test_a_recording_that_is_cut_off_is_named_so(form: str, options: dict[str, str]) -> None:
    whole = recorded(form, "aac", 48000, options=options)
    with pytest.raises(InvalidInput, match=r"cut off after 1\.\d s; .*whole file"):
        read_prompt(whole[: len(whole) // 2])


def test_the_padding_of_an_encoder_does_not_make_a_recording_too_long() -> None:
    longest = np.tile(SPEECH, 10)[: 30 * RATE]
    padded = recorded("ipod", "aac", 24000, longest)
    with av.open(io.BytesIO(padded), "r") as container:
        lengths: list[int] = [frame.samples for frame in container.decode(container.streams.audio[0])]
    assert sum(lengths) > 30 * 24000
    assert read_prompt(padded).seconds == 30
