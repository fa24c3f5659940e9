"""Audio decoders that share no code with the gateway's encoders: FFmpeg, through PyAV."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np

from gateway.audio.formats import Encoding
from lighttts.v1 import audio_pb2

Samples = np.ndarray[Any, np.dtype[np.float32]]

_BARE = {
    audio_pb2.AUDIO_ENCODING_PCM_S16LE: "s16le",
    audio_pb2.AUDIO_ENCODING_PCM_F32LE: "f32le",
    audio_pb2.AUDIO_ENCODING_MULAW: "mulaw",
    audio_pb2.AUDIO_ENCODING_ALAW: "alaw",
}


def decode(data: bytes, encoding: Encoding, rate: int) -> tuple[Samples, int]:
    """Return the samples in `data` and their rate in Hz; Opus is always decoded at 48 kHz."""
    bare = _BARE.get(encoding.number)
    options = {} if bare is None else {"sample_rate": str(rate), "ch_layout": "mono"}
    resampler = av.AudioResampler("flt", "mono", None)
    parts: list[Samples] = []
    with av.open(io.BytesIO(data), mode="r", format=bare, options=options) as container:
        for frame in [*container.decode(audio=0), None]:
            parts += [out.to_ndarray().ravel().astype(np.float32) for out in resampler.resample(frame)]
        return np.concatenate(parts), container.streams.audio[0].rate


def snr(reference: Samples, decoded: Samples, longest_delay: int = 0) -> float:
    """Return the signal-to-noise ratio in dB, at the delay and gain where `decoded` fits `reference` best."""
    wanted = np.asarray(reference[: len(decoded) - longest_delay], np.float64)
    size = 2 ** int(np.ceil(np.log2(len(wanted) + longest_delay + 1)))
    received = np.asarray(decoded[: len(wanted) + longest_delay], np.float64)
    likeness = np.fft.irfft(np.fft.rfft(received, size) * np.conj(np.fft.rfft(wanted, size)), size)
    delay = int(np.argmax(likeness[: longest_delay + 1]))
    got = received[delay : delay + len(wanted)]
    noise = np.square(wanted - float(got @ wanted / (got @ got)) * got).sum()
    return float(10 * np.log10(np.square(wanted).sum() / max(float(noise), 1e-20)))
