"""The audio encodings and the sample rates that each allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import InvalidInput

MIN_RATE, MAX_RATE = 8000, 48000
"""Samples per second that a request may set."""
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

Provenance = Literal["off", "on", "all"]
"""How an answer says that its speech is synthetic; see the gateway's setting of this name."""

_PCM_S16LE = audio_pb2.AUDIO_ENCODING_PCM_S16LE
_PCM_F32LE = audio_pb2.AUDIO_ENCODING_PCM_F32LE


@dataclass(frozen=True)
class Encoding:
    """An audio encoding."""

    number: audio_pb2.AudioEncoding.ValueType
    name: str
    """Common name: opus, mp3 ..."""
    media_type: str
    rates: tuple[int, ...] = ()
    """The allowed rates; empty: every rate from 8 to 48 kHz."""
    default_rate: int = 0
    """0: the model's rate, or the next higher one of `rates`."""

    @property
    def sample_format(self) -> audio_pb2.SampleFormat.ValueType:
        """Layout of raw samples; UNSPECIFIED for other encodings."""
        formats = {_PCM_S16LE: audio_pb2.SAMPLE_FORMAT_S16LE, _PCM_F32LE: audio_pb2.SAMPLE_FORMAT_F32LE}
        return formats.get(self.number, audio_pb2.SAMPLE_FORMAT_UNSPECIFIED)

    def rate(self, wanted: int, model_rate: int) -> int:
        """Return the output rate. `wanted` must be an allowed rate, or 0 for the default."""
        rate = wanted or self.default_rate or model_rate
        if not self.rates or rate in self.rates:
            return rate
        return min((higher for higher in self.rates if higher >= rate), default=self.rates[-1])


ENCODINGS = {
    encoding.number: encoding
    for encoding in (
        Encoding(_PCM_S16LE, "pcm", "audio/pcm"),
        Encoding(_PCM_F32LE, "pcm_f32", "audio/pcm"),
        Encoding(audio_pb2.AUDIO_ENCODING_WAV, "wav", "audio/wav"),
        Encoding(audio_pb2.AUDIO_ENCODING_FLAC, "flac", "audio/flac"),
        Encoding(audio_pb2.AUDIO_ENCODING_OGG_OPUS, "opus", "audio/ogg", OPUS_RATES),
        Encoding(audio_pb2.AUDIO_ENCODING_MP3, "mp3", "audio/mpeg", MP3_RATES),
        Encoding(audio_pb2.AUDIO_ENCODING_MULAW, "mulaw", "audio/basic", default_rate=8000),
        Encoding(audio_pb2.AUDIO_ENCODING_ALAW, "alaw", "audio/x-alaw-basic", default_rate=8000),
        Encoding(audio_pb2.AUDIO_ENCODING_AAC, "aac", "audio/aac", MP3_RATES),
    )
}


@dataclass(frozen=True)
class AudioFormat:
    """The checked output format of a request; `from_config` creates it."""

    encoding: Encoding
    sample_rate: int = 0
    """0: the encoding's default for the model."""
    trim_leading_silence: bool = False
    level_loudness: bool = False
    provenance: Provenance = "off"
    """on: a file of MP3, FLAC or Ogg says that its speech is synthetic; all: one of WAV too."""

    @classmethod
    def from_config(cls, config: tts_pb2.SynthesisConfig, *, interactive: bool = False) -> AudioFormat:
        """Read the format; interactive work begins with its first sound unless the config keeps the silence.

        Raises InvalidInput for an unknown encoding or a rate that the encoding does not allow.
        """
        output = config.audio
        encoding = ENCODINGS.get(output.encoding or _encoding_of(config.format))
        if encoding is None:
            names = ", ".join(audio_pb2.AudioEncoding.Name(number) for number in ENCODINGS)
            raise InvalidInput(f"unknown audio encoding; use one of {names}", field="config.audio.encoding")
        rate = output.sample_rate
        if rate and not MIN_RATE <= rate <= MAX_RATE:
            raise InvalidInput(
                f"sample_rate is {rate}; it must be {MIN_RATE} to {MAX_RATE}", field="config.audio.sample_rate"
            )
        if rate and encoding.rates and rate not in encoding.rates:
            allowed = ", ".join(map(str, encoding.rates))
            raise InvalidInput(
                f"{encoding.name} does not allow {rate} Hz; use one of {allowed}", field="config.audio.sample_rate"
            )
        if output.trim_leading_silence and output.keep_leading_silence:
            raise InvalidInput(
                "trim_leading_silence and keep_leading_silence exclude each other; set one",
                field="config.audio.keep_leading_silence",
            )
        trim = output.trim_leading_silence or (interactive and not output.keep_leading_silence)
        return cls(encoding, rate, trim, output.level_loudness)


def _encoding_of(sample_format: audio_pb2.SampleFormat.ValueType) -> audio_pb2.AudioEncoding.ValueType:
    """Return the encoding for `SynthesisConfig.format`."""
    match sample_format or audio_pb2.SAMPLE_FORMAT_S16LE:
        case audio_pb2.SAMPLE_FORMAT_S16LE:
            return _PCM_S16LE
        case audio_pb2.SAMPLE_FORMAT_F32LE:
            return _PCM_F32LE
        case _:
            raise InvalidInput("unknown sample format; use S16LE or F32LE", field="config.format")
