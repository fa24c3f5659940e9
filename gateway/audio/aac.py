"""AAC in ADTS frames; needs PyAV (extra `aac`)."""

from __future__ import annotations

import io

import av
import numpy as np
from av.audio.fifo import AudioFifo
from numpy.typing import NDArray

from gateway.audio.samples import to_s16le

BITS_PER_SECOND = 64_000


class AacEncoder:
    """Implements gateway.audio.encoders.Encoder."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._out = io.BytesIO()
        self._container = av.open(self._out, "w", format="adts")
        self._stream = self._container.add_stream("aac", rate=rate, layout="mono", bit_rate=BITS_PER_SECOND)
        self._fifo = AudioFifo()
        self._samples = 0

    def encode(self, samples: NDArray[np.float32]) -> bytes:
        if not len(samples):
            return b""
        clean = np.frombuffer(to_s16le(samples.tobytes()), "<i2") / np.float32(32768.0)
        frame = av.AudioFrame.from_ndarray(clean[np.newaxis, :].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._samples
        self._samples += len(samples)
        self._fifo.write(frame)
        # The encoder takes frames of one length only, so pieces of any length give the same bytes.
        for full in self._fifo.read_many(self._stream.codec_context.frame_size or 1024):
            self._container.mux(self._stream.encode(full))
        return self._take()

    def finish(self) -> bytes:
        rest = self._fifo.read(partial=True)
        if rest is not None:
            self._container.mux(self._stream.encode(rest))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._take()

    def _take(self) -> bytes:
        fresh = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return fresh
