"""Voices from prompts: accepted ones, warnings, and refusals."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import ModelDir, ModelDirError, open_model_dir
from services.common.errors import InvalidInput
from services.common.voices.voice import Voice
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.voice.audio import AudioLimits, read_prompt
from services.encode.voice.extractor import VoiceExtractor
from services.encode.voice.graphs import GraphOptions
from services.encode.voice.plausibility import check_transcript

TINY = Path(__file__).parents[3] / "models" / "tiny"
TRANSCRIPT = "Your ticket number is two six one five."


@cache
def model() -> ModelDir:
    return open_model_dir(TINY)


@cache
def extractor() -> VoiceExtractor:
    return VoiceExtractor(model(), TextFrontend(model(), Normaliser("builtin")))


@cache
def prompt() -> NDArray[np.float32]:
    """The bundled prompt: at most 3.4 s at 24 kHz."""
    samples, _ = soundfile.read(TINY / "prompt_hugo.wav", dtype="float32")
    return np.asarray(samples, dtype=np.float32)


def tone(seconds: float, rate: int = 24000, level: float = 0.3) -> NDArray[np.float32]:
    time = np.arange(int(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


def encoded(samples: NDArray[np.float32], rate: int = 24000, form: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def lying_wav(claimed_bytes: int) -> bytes:
    """Return the prompt as WAV with a wrong data length in its header."""
    data = bytearray(encoded(prompt()))
    struct.pack_into("<I", data, data.index(b"data") + 4, claimed_bytes)
    return bytes(data)


def flac_bomb() -> bytes:
    """Return ten minutes of silence in a few kilobytes; the header gives one second."""
    return flac_of_length(np.zeros(600 * 24000, dtype=np.float32), 24000)


def flac_of_length(samples: NDArray[np.float32], claimed: int) -> bytes:
    """Return samples as FLAC whose header gives `claimed` samples; 0: an unknown number."""
    data = bytearray(encoded(samples, form="FLAC"))
    data[21] &= 0xF0
    data[22:26] = claimed.to_bytes(4, "big")  # STREAMINFO's total samples
    return bytes(data)


@pytest.mark.parametrize("name", ["anna", "hugo"])
def test_bundled_voices_are_used_whole(name: str) -> None:
    (bundled,) = (voice for voice in model().card.voices if voice.name == name)
    voice = extractor().bundled(bundled)
    info = soundfile.info(bundled.audio)
    assert voice.seconds == info.frames / info.samplerate
    assert len(voice.speech_tokens) == info.frames * 25 // info.samplerate
    assert voice.mel.shape == (2 * len(voice.speech_tokens), 80)
    assert voice.embedding.shape == (192,)
    assert voice.prompt_text_ids.dtype == voice.speech_tokens.dtype == np.int32
    assert len(voice.warnings) == (voice.seconds < AudioLimits().good_seconds)
    assert all("short" in warning for warning in voice.warnings)


def test_a_voice_hash_depends_on_audio_transcript_and_model() -> None:
    audio = encoded(prompt())
    voice = extractor().extract(audio, TRANSCRIPT)
    assert voice.hash == extractor().hash(audio, TRANSCRIPT)
    assert len(voice.hash) == len(hashlib.sha256().hexdigest())
    others = [extractor().hash(audio + b"\0", TRANSCRIPT), extractor().hash(audio, TRANSCRIPT + "!")]
    assert len({voice.hash, *others}) == 3


def test_the_model_is_part_of_the_hash(tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(TINY, copy, ignore=shutil.ignore_patterns("sample_*"))
    same = VoiceExtractor(open_model_dir(copy), TextFrontend(model(), Normaliser("builtin")))
    assert same.identity == extractor().identity
    (copy / "cosyvoice2.yaml").write_text((copy / "cosyvoice2.yaml").read_text() + "# another\n")
    other = VoiceExtractor(open_model_dir(copy), TextFrontend(model(), Normaliser("builtin")))
    assert other.identity != extractor().identity


def test_a_voice_is_read_only() -> None:
    voice = extractor().extract(encoded(prompt()), TRANSCRIPT)
    with pytest.raises(ValueError, match="read-only"):
        voice.mel[0, 0] = 0.0


@pytest.mark.parametrize(
    ("form", "subtype", "rate"),
    [
        ("WAV", "PCM_24", 24000),
        ("WAV", "FLOAT", 24000),
        ("WAV", "DOUBLE", 16000),
        ("WAV", "PCM_U8", 44100),
        ("FLAC", "PCM_16", 48000),
        ("OGG", "VORBIS", 44100),
        ("OGG", "OPUS", 48000),
        ("MP3", None, 24000),
        ("AIFF", "PCM_16", 22050),
    ],
)
def test_formats_and_rates(form: str, subtype: str | None, rate: int) -> None:
    checked = read_prompt(encoded(tone(4, rate), rate, form, subtype))
    assert checked.rate == rate
    assert checked.seconds == pytest.approx(4, abs=0.1)
    assert checked.warnings == ()


def test_flac_without_a_length_is_read() -> None:
    samples = read_prompt(flac_of_length(tone(4), 0)).samples
    np.testing.assert_allclose(samples, tone(4), atol=1e-4)


def test_channels_are_mixed_to_mono() -> None:
    left = tone(4)
    folded = read_prompt(encoded(np.stack([left, np.zeros_like(left)], axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(folded.samples, left / 2, atol=1e-6)


@pytest.mark.parametrize("second", [-1.0, -0.98])
def test_channels_that_cancel_each_other_are_not_mixed(second: float) -> None:
    left = tone(4)
    single = read_prompt(encoded(np.stack([second * left / 2, left], axis=1), subtype="FLOAT"))
    cancelling = read_prompt(encoded(np.stack([left, second * left], axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(cancelling.samples, left, atol=1e-6)
    assert cancelling.warnings == ("the channels of the prompt cancel each other; only channel 1 was used",)
    np.testing.assert_allclose(single.samples, left, atol=1e-6)
    assert "only channel 2 was used" in single.warnings[0]


def test_a_prompt_in_another_format_makes_nearly_the_same_voice() -> None:
    wav, flac = (
        extractor().extract(encoded(prompt()), TRANSCRIPT),
        extractor().extract(encoded(prompt(), form="FLAC"), TRANSCRIPT),
    )
    assert wav.hash != flac.hash
    np.testing.assert_array_equal(wav.speech_tokens, flac.speech_tokens)
    np.testing.assert_allclose(wav.mel, flac.mel, atol=1e-3)


def test_long_silence_around_the_speech_is_cut_with_a_warning() -> None:
    silence = np.zeros(24000 * 2, dtype=np.float32)
    checked = read_prompt(encoded(np.concatenate([silence, tone(4), silence])))
    assert checked.seconds == pytest.approx(4 + 2 * AudioLimits().keep_silence_seconds, abs=0.05)
    assert checked.warnings == (
        "1.7 s of silence at the start of the prompt were cut",
        "1.7 s of silence at the end of the prompt were cut",
    )


def test_short_pauses_and_noise_are_not_cut() -> None:
    pause = np.zeros(12000, dtype=np.float32)
    assert read_prompt(encoded(np.concatenate([pause, tone(4), pause]))).seconds == 5.0
    noise = np.random.default_rng(0).normal(0, 0.003, 24000 * 8).astype(np.float32)
    noise[48000:144000] += tone(4)
    assert read_prompt(encoded(noise)).seconds == 8.0


@pytest.mark.parametrize(
    ("samples", "hint"),
    [
        (tone(4, level=0.01), "very quiet"),
        (np.clip(tone(4) * 20, -1, 1), "clipped"),
        (tone(4) * 10, "exceeds full scale"),
        (tone(4) + np.float32(0.2), "constant offset"),
        (tone(2), "short"),
    ],
)
def test_poor_prompts_are_used_and_reported(samples: NDArray[np.float32], hint: str) -> None:
    checked = read_prompt(encoded(samples, subtype="FLOAT"))
    assert np.abs(checked.samples).max() <= 1.0
    assert len(checked.warnings) == 1
    assert hint in checked.warnings[0]


def test_a_header_with_too_great_a_length_gives_the_data_that_exists() -> None:
    assert read_prompt(lying_wav(2**31)).seconds == len(prompt()) / 24000


@pytest.mark.parametrize("whole", [0, 36, 2**32 - 1])
def test_a_header_whose_lengths_were_never_filled_in_gives_the_data_that_exists(whole: int) -> None:
    wav = bytearray(lying_wav(0))
    wav[36:36] = b"LIST" + struct.pack("<I", 5) + b"INFOx" + b"\0"
    struct.pack_into("<I", wav, 4, whole)
    assert read_prompt(bytes(wav)).seconds == len(prompt()) / 24000


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: b"", "is empty"),
        (lambda: b"this is no audio at all" * 100, "cannot be decoded; send a WAV"),
        (lambda: b"RIFF\x24\0\0\0WAVEfmt ", "cannot be decoded"),
        (lambda: encoded(prompt())[:44], "no samples"),
        (lambda: lying_wav(0), "no samples"),
        (lambda: encoded(tone(0.1)), "0.1 s of sound; send at least 1 s"),
        (lambda: encoded(tone(0.9999)), "0.99 s of sound; send at least 1 s"),
        (lambda: encoded(tone(31)), "31.0 s long; cut it to 30 s"),
        (lambda: encoded(tone(70)), "longer than 60 s; cut it to 30 s"),
        (lambda: encoded(tone(4, 8000), 8000), "8000 Hz; send a recording of 16000 Hz or more"),
        (lambda: encoded(tone(1, 384000), 384000), "384000 Hz; send 192000 Hz or less"),
        (lambda: encoded(np.zeros((24000, 9), dtype=np.float32)), "9 channels; send mono or stereo"),
        (lambda: encoded(np.zeros(96000, dtype=np.float32)), "is silent"),
        (lambda: encoded(np.full(96000, 0.5, dtype=np.float32)), "is silent"),
        (lambda: encoded(np.full(96000, np.nan, dtype=np.float32), subtype="FLOAT"), "not numbers"),
        (lambda: encoded(np.full(96000, np.inf, dtype=np.float32), subtype="FLOAT"), "not numbers"),
        (flac_bomb, "is silent"),
        (lambda: bytes(33 * 2**20), "34603008 bytes; send at most 33554432"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_prompts_are_refused_with_advice(make: Callable[[], bytes], hint: str) -> None:
    with pytest.raises(InvalidInput, match=hint) as refusal:
        extractor().extract(make(), TRANSCRIPT)
    assert refusal.value.field == "audio"
    assert extractor().extract(encoded(prompt()), TRANSCRIPT).seconds == len(prompt()) / 24000


def test_a_flac_bomb_is_not_unpacked() -> None:
    with pytest.raises(InvalidInput, match="longer than 60 s"):
        read_prompt(encoded(np.zeros(600 * 24000, dtype=np.float32), form="FLAC"))


@pytest.mark.parametrize(
    ("transcript", "hint"),
    [
        ("", "transcript is missing"),
        ("word " * 60, f"takes about 16 s to speak, but the prompt audio is {len(prompt()) / 24000:.1f} s long"),
        ("I", "send all the words of the recording"),
        ("你好，今天天气真好", "speaks en"),
    ],
)
def test_a_transcript_must_fit_the_recording(transcript: str, hint: str) -> None:
    with pytest.raises(InvalidInput, match=hint) as refusal:
        extractor().extract(encoded(prompt()), transcript)
    assert refusal.value.field == "transcript"


def test_a_doubtful_transcript_is_reported() -> None:
    assert check_transcript("今天天气真好，我们一起去公园吧", 3.0) == []
    assert "long for" in check_transcript("今天天气真好，我们一起去公园吧" * 2, 3.0)[0]
    assert "short for" in check_transcript("Good morning to you", 12.0)[0]


def test_a_recording_to_convert_is_not_called_a_prompt() -> None:
    assert extractor().speech(encoded(prompt()[:36000])).warnings == (), "its length is that of the result"
    for samples, hint in ((tone(31), "the recording is 31.0 s long; cut it"), (tone(0.5), "the recording has 0.5 s")):
        with pytest.raises(InvalidInput, match=hint) as refusal:
            extractor().speech(encoded(samples))
        assert (refusal.value.field, "prompt" in refusal.value.message) == ("audio", False)


def test_threads_extract_the_same_voice_at_the_same_time() -> None:
    audio = encoded(prompt())

    def extract(_: int) -> Voice:
        return extractor().extract(audio, TRANSCRIPT)

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(extract, range(8))
    for voice in others:
        for ours, theirs in zip(first.arrays(), voice.arrays(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("campplus.onnx", b"damaged", "campplus.onnx cannot be loaded"),
        ("campplus.onnx", None, "takes 2 inputs, expected 1"),
        ("CosyVoice-BlankEN/tokenizer.json", b"{", "tokenizer in .* cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes | None, hint: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(TINY, copy, ignore=shutil.ignore_patterns("sample_*"))
    (copy / name).write_bytes((TINY / "speech_tokenizer_v2.onnx").read_bytes() if content is None else content)
    damaged = open_model_dir(copy)
    with pytest.raises(ModelDirError, match=hint):
        VoiceExtractor(damaged, TextFrontend(damaged, Normaliser("builtin")))


def test_a_missing_provider_is_named() -> None:
    options = GraphOptions(providers=("NoSuchProvider",))
    with pytest.raises(ModelDirError, match=r"no NoSuchProvider; available: .*CPUExecutionProvider"):
        VoiceExtractor(model(), TextFrontend(model(), Normaliser("builtin")), graphs=options)
