"""All of one stream's way out: trim, level, resample, encode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.audio.encoders import make_encoder
from gateway.audio.formats import AudioFormat
from gateway.audio.postprocess import LoudnessNormalizer, SilenceTrimmer
from gateway.audio.resample import Resampler


@dataclass(frozen=True)
class Encoded:
    """What goes out for a piece of audio."""

    data: bytes
    samples: int
    """Samples that went into the encoder, at the output's rate."""


class AudioPipeline:
    """One listener's audio. Float samples at the model's rate go in, bytes in the listener's format come out.

    An utterance is resampled and treated as a run of its own: at its end everything of it has been given out, but for
    an encoder's unfinished frame, so its length does not depend on what follows. The encoder lasts as long as the
    stream.
    """

    def __init__(self, format_: AudioFormat, model_rate: int) -> None:
        """Raises InvalidInput when this server has no encoder for the format."""
        self.rate = format_.encoding.rate(format_.sample_rate, model_rate)
        """Samples per second of the output."""
        self._encoder = make_encoder(format_.encoding, self.rate)
        self._trimmer = SilenceTrimmer(model_rate) if format_.trim_leading_silence else None
        self._loudness = LoudnessNormalizer(model_rate) if format_.level_loudness else None
        self._resampler = Resampler(model_rate, self.rate)

    def push(self, pcm: bytes, *, last: bool) -> Encoded:
        """`pcm`: float32 little endian at the model's rate; `last` ends an utterance."""
        samples = np.nan_to_num(np.frombuffer(pcm, "<f4"), nan=0.0, posinf=1.0, neginf=-1.0)
        if self._trimmer is not None:
            samples = self._trimmer.push(samples, last=last)
        if self._loudness is not None:
            samples = self._loudness.push(samples, last=last)
        samples = self._resampler.push(samples, last=last)
        return Encoded(self._encoder.encode(samples) if len(samples) else b"", len(samples))

    def cut(self) -> None:
        """The utterance under way was cancelled: what was held back of it is dropped."""
        for stage in (self._trimmer, self._loudness, self._resampler):
            if stage is not None:
                stage.restart()
        self.new_turn()

    def new_turn(self) -> None:
        """What comes next answers something new; silence before it may be trimmed."""
        if self._trimmer is not None:
            self._trimmer.arm()

    def finish(self) -> bytes:
        """The end of the file, or its beginning where nothing was said."""
        return self._encoder.finish()
