"""The output steps of one stream: trim, normalize loudness, resample, encode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.audio.encoders import make_encoder
from gateway.audio.formats import AudioFormat
from gateway.audio.postprocess import LoudnessNormalizer, SilenceTrimmer
from gateway.audio.resample import Resampler


@dataclass(frozen=True)
class Encoded:
    """The output for a piece of audio."""

    data: bytes
    samples: int
    """Samples given to the encoder, at the output rate."""


class AudioPipeline:
    """Converts float samples at the model's rate to bytes in the requested format, for one stream.

    Each utterance is post-processed and resampled separately: at its end all of its samples have been returned, except
    for the encoder's unfinished frame, so its length does not depend on later utterances. The stream has one encoder.
    """

    def __init__(self, format_: AudioFormat, model_rate: int) -> None:
        """Raises InvalidInput if this server has no encoder for the format."""
        self.rate = format_.encoding.rate(format_.sample_rate, model_rate)
        """Samples per second of the output."""
        self._encoder = make_encoder(format_.encoding, self.rate, format_.provenance)
        self._trimmer = SilenceTrimmer(model_rate) if format_.trim_leading_silence else None
        self._loudness = LoudnessNormalizer(model_rate) if format_.level_loudness else None
        self._resampler = Resampler(model_rate, self.rate)

    def push(self, pcm: bytes, *, last: bool) -> Encoded:
        """Convert `pcm`, float32 little endian at the model's rate; `last` ends an utterance."""
        samples = np.frombuffer(pcm, "<f4")
        if not np.isfinite(samples).all():
            samples = np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
        if self._trimmer is not None:
            samples = self._trimmer.push(samples, last=last)
        if self._loudness is not None:
            samples = self._loudness.push(samples, last=last)
        samples = self._resampler.push(samples, last=last)
        return Encoded(self._encoder.encode(samples) if len(samples) else b"", len(samples))

    @property
    def removed(self) -> int:
        """Samples of silence, at the model's rate, that were trimmed from the utterance whose audio was pushed last."""
        return 0 if self._trimmer is None else self._trimmer.removed

    def silence(self, samples: int) -> Encoded:
        """Return `samples` samples of silence, at the output rate, between two utterances. It is not trimmed."""
        return Encoded(self._encoder.encode(np.zeros(samples, np.float32)) if samples else b"", samples)

    def cut(self) -> None:
        """Drop the samples held back of a cancelled utterance."""
        for step in (self._trimmer, self._loudness, self._resampler):
            if step is not None:
                step.restart()
        self.new_turn()

    def new_turn(self) -> None:
        """Begin a new turn: silence at its start may be trimmed again."""
        if self._trimmer is not None:
            self._trimmer.arm()

    def finish(self) -> bytes:
        """Return the end of the file; for a stream without audio, the whole empty file."""
        return self._encoder.finish()
