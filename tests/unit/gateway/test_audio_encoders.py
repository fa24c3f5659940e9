"""Audio output in every format: an independent decoder restores it, and it does not depend on the pieces."""

from __future__ import annotations

import io
import sys
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audio.container_headers import with_length
from gateway.audio.formats import ENCODINGS, AudioFormat, Encoding
from gateway.audio.notice import NOTICE
from gateway.audio.pipeline import AudioPipeline, Encoded
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import InvalidInput
from tests.support.decoders import decode, snr

RATE = 24000
ALL = pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=lambda encoding: encoding.name)
OPUS, MP3 = ENCODINGS[audio_pb2.AUDIO_ENCODING_OGG_OPUS], ENCODINGS[audio_pb2.AUDIO_ENCODING_MP3]
PCM = ENCODINGS[audio_pb2.AUDIO_ENCODING_PCM_F32LE]
WAV = ENCODINGS[audio_pb2.AUDIO_ENCODING_WAV]
FLAC = ENCODINGS[audio_pb2.AUDIO_ENCODING_FLAC]

LEAST_SNR = {"pcm": 70, "pcm_f32": 140, "wav": 70, "flac": 70, "mulaw": 34, "alaw": 34}
LOSSY_SNR = 10
"""dB that a decoder must reach: quantisation to 16 bits and to G.711; lossy codecs keep the waveform less well."""

Samples = np.ndarray[Any, np.dtype[np.float32]]


def voice(seconds: float, rate: int = RATE) -> Samples:
    """A vowel with a varying level: harmonics of 150 Hz below 3 kHz."""
    t = np.arange(int(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 150 * n * t + n) / n for n in range(1, 20))
    return (0.2 * tone * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)


def run(format_: AudioFormat, pieces: list[Samples]) -> tuple[bytes, int, list[Encoded]]:
    pipeline = AudioPipeline(format_, RATE)
    encoded = [
        pipeline.push(piece.astype("<f4").tobytes(), last=number == len(pieces) - 1)
        for number, piece in enumerate(pieces)
    ]
    data = b"".join(part.data for part in encoded) + pipeline.finish()
    return data, sum(part.samples for part in encoded), encoded


@ALL
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
def test_an_independent_decoder_restores_the_signal(encoding: Encoding, rate: int) -> None:
    if encoding.rates and rate not in encoding.rates:
        return
    data, count, _ = run(AudioFormat(encoding, rate), [voice(1.5)])
    assert count == 1.5 * rate
    decoded, decoded_rate = decode(data, encoding, rate)
    assert decoded_rate == (48000 if encoding is OPUS else rate)
    delay = 0 if encoding.name not in ("mp3", "aac", "opus") else 3000
    # Without the ends, which lossy codecs and resamplers smear.
    middle = slice(decoded_rate // 8, decoded_rate)
    reference = voice(1.5, decoded_rate)
    least = min(LEAST_SNR.get(encoding.name, LOSSY_SNR), 60 if rate != RATE else 200)
    assert snr(reference[middle], decoded[middle.start :], delay) > least
    if not delay:
        assert len(decoded) == count


@ALL
@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 12000), max_size=8), rate=st.sampled_from([8000, 24000, 48000]))
def test_the_output_does_not_depend_on_the_pieces(encoding: Encoding, cuts: list[int], rate: int) -> None:
    whole = voice(0.5)
    format_ = AudioFormat(encoding, rate, trim_leading_silence=True, level_loudness=True)
    one, one_count, _ = run(format_, [whole])
    many, many_count, _ = run(format_, list(np.split(whole, sorted(cuts))))
    assert one_count == many_count
    if encoding is OPUS:  # each Ogg stream has a random serial number, which its checksums cover
        assert np.array_equal(decode(one, encoding, rate)[0], decode(many, encoding, rate)[0])
    else:
        assert one == many


@ALL
def test_no_encoder_holds_back_more_than_a_piece(encoding: Encoding) -> None:
    _, _, encoded = run(AudioFormat(encoding), list(np.split(voice(4), 16)))
    assert all(encoded[number].data or encoded[number + 1].data for number in range(14))


@pytest.mark.parametrize("encoding", [WAV, FLAC, OPUS, MP3], ids=lambda encoding: encoding.name)
def test_a_stream_cut_off_is_readable_so_far(encoding: Encoding) -> None:
    pipeline = AudioPipeline(AudioFormat(encoding), RATE)
    data = b"".join(pipeline.push(piece.tobytes(), last=False).data for piece in np.split(voice(2), 8))
    assert len(decode(data, encoding, RATE)[0]) > 1.5 * RATE


@pytest.mark.parametrize("encoding", [WAV, OPUS, MP3], ids=lambda encoding: encoding.name)
def test_libsndfile_reads_them_too(encoding: Encoding) -> None:
    data, count, _ = run(AudioFormat(encoding), [voice(1)])
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert (file.samplerate, file.channels) == (RATE, 1)
        assert len(file.read(count)) == count, "libsndfile cannot read FLAC of unknown length"


@ALL
def test_a_stream_without_audio_is_an_empty_file(encoding: Encoding) -> None:
    data, count, _ = run(AudioFormat(encoding), [np.zeros(0, np.float32)])
    assert count == 0
    if encoding is WAV:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            assert file.samplerate == RATE


@ALL
def test_samples_beyond_full_scale_clip_and_do_not_wrap(encoding: Encoding) -> None:
    if encoding is PCM:
        return
    loud = np.concatenate([voice(0.5) * 20, np.full(RATE // 2, np.nan, np.float32)])
    decoded, rate = decode(run(AudioFormat(encoding, RATE), [loud])[0], encoding, RATE)
    clipped = np.clip(voice(0.5, rate) * 20, -1, 1)
    middle = slice(rate // 10, 4 * rate // 10)
    assert snr(clipped[middle], decoded[middle.start :], 3000) > 5
    assert np.abs(decoded[7 * rate // 10 :]).max() < 0.01


def test_utterances_of_a_stream_are_one_file() -> None:
    pipeline = AudioPipeline(AudioFormat(FLAC, 16000), RATE)
    parts = [pipeline.push(voice(0.5).tobytes(), last=True) for _ in range(3)]
    data = b"".join(part.data for part in parts) + pipeline.finish()
    assert [part.samples for part in parts] == [8000] * 3, "each is complete before the next begins"
    assert len(decode(data, FLAC, 16000)[0]) == 24000


def config(**output: Any) -> tts_pb2.SynthesisConfig:
    return tts_pb2.SynthesisConfig(audio=audio_pb2.AudioOutput(**output))


@pytest.mark.parametrize(
    ("output", "field", "words"),
    [
        ({"encoding": 99}, "config.audio.encoding", "AUDIO_ENCODING_MP3"),
        ({"sample_rate": 7999}, "config.audio.sample_rate", "8000 to 48000"),
        ({"sample_rate": -1}, "config.audio.sample_rate", "8000 to 48000"),
        ({"sample_rate": 2**31 - 1}, "config.audio.sample_rate", "8000 to 48000"),
        ({"sample_rate": 44100, "encoding": OPUS.number}, "config.audio.sample_rate", "24000, 48000"),
        ({"sample_rate": 8001, "encoding": MP3.number}, "config.audio.sample_rate", "mp3 does not allow 8001 Hz"),
    ],
)
def test_an_invalid_format_names_the_valid_values(output: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as refusal:
        AudioFormat.from_config(config(**output))
    assert refusal.value.field == field


def test_default_rates() -> None:
    assert [encoding.rate(0, 22050) for encoding in (WAV, OPUS, MP3)] == [22050, 24000, 22050]
    assert ENCODINGS[audio_pb2.AUDIO_ENCODING_MULAW].rate(0, 24000) == 8000


def test_the_old_format_field_selects_raw_samples() -> None:
    raw = tts_pb2.SynthesisConfig(format=audio_pb2.SAMPLE_FORMAT_F32LE)
    assert AudioFormat.from_config(raw).encoding is PCM
    assert AudioFormat.from_config(tts_pb2.SynthesisConfig()).encoding.name == "pcm"


def test_without_its_library_aac_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gateway.audio.aac", None)
    with pytest.raises(InvalidInput, match="'aac' extra"):
        AudioPipeline(AudioFormat(ENCODINGS[audio_pb2.AUDIO_ENCODING_AAC]), RATE)


@pytest.mark.parametrize("rate", [8000, 44100])
@ALL
def test_a_whole_file_states_its_length(encoding: Encoding, rate: int) -> None:
    if encoding.rates and rate not in encoding.rates:
        return
    data, count, _ = run(AudioFormat(encoding, rate), [voice(0.7), voice(0.3)])
    whole = with_length(data, encoding, count)
    assert len(whole) == len(data)
    if encoding in (WAV, FLAC):
        info = soundfile.info(io.BytesIO(whole))
        assert (info.frames, info.samplerate) == (count, rate)
        samples, _ = soundfile.read(io.BytesIO(whole))
        assert len(samples) == count
    else:
        assert whole == data


def metadata_of(data: bytes) -> dict[str, str]:
    """Return the metadata of a file, as FFmpeg reads it."""
    with av.open(io.BytesIO(data)) as file:
        found = {**file.metadata, **file.streams[0].metadata}
    return {name.lower(): value for name, value in found.items()}


@pytest.mark.parametrize("encoding", [WAV, FLAC, OPUS, MP3], ids=lambda encoding: encoding.name)
@pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
def test_a_file_says_that_its_speech_is_synthetic(encoding: Encoding, whole: bool) -> None:
    pieces = [voice(0.7), voice(0.3)]
    plain, count, _ = run(AudioFormat(encoding), pieces)
    marked, _, encoded = run(AudioFormat(encoding, provenance="all"), pieces)
    if whole:
        plain, marked = with_length(plain, encoding, count), with_length(marked, encoding, count)
    assert b"synthetic speech" in encoded[0].data, "before the speech has ended"
    found = metadata_of(marked)
    assert found["comment"] == NOTICE
    assert "trainedAlgorithmicMedia" in found["comment"]
    assert "comment" not in metadata_of(plain)
    assert np.array_equal(decode(marked, encoding, RATE)[0], decode(plain, encoding, RATE)[0]), "the same samples"
    if whole and encoding in (WAV, FLAC):
        assert soundfile.info(io.BytesIO(marked)).frames == count
    if encoding is not OPUS:  # each Ogg stream has a random serial number
        assert (
            run(AudioFormat(encoding, provenance="all"), pieces)[0]
            == run(AudioFormat(encoding, provenance="all"), [voice(0.7)[:100], voice(0.7)[100:], voice(0.3)])[0]
        )


@ALL
def test_the_44_bytes_before_wav_and_formats_without_a_place_do_not_change(encoding: Encoding) -> None:
    plain, _, _ = run(AudioFormat(encoding), [voice(0.3)])
    marked, _, _ = run(AudioFormat(encoding, provenance="on"), [voice(0.3)])
    assert (marked == plain) is (encoding not in (FLAC, OPUS, MP3))
    if encoding is WAV:
        assert (marked.find(b"data"), marked[24:28]) == (36, RATE.to_bytes(4, "little"))
