"""Computes the inputs of the front-end graphs and of the flow from prompt audio (spec sections 3.1 to 3.4).

All functions use numpy, so that the encode service needs no torch: float64 inside, float32 for arguments and results.
Audio is mono, one-dimensional, in [-1, 1].
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, gcd

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import MelConfig

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

TOKEN_RATE = 16000
"""Sample rate, in Hz, of the input of the speech tokenizer and the speaker encoder."""

_SINC_ZEROS = 6  # zero crossings of the windowed sinc on each side
_ROLLOFF = 0.99  # cut-off as a fraction of the lower Nyquist frequency
_FLOAT32_EPSILON = 1.1920929e-07


def resample(audio: F32, source_rate: int, target_rate: int) -> F32:
    """Band-limited resampling: Hann-windowed sinc, [N] -> [ceil(N * target / source)] (spec section 3.1).

    Output sample q*n + p is a weighted sum of the inputs around q*o + p*o/n, o:n being the reduced rates. The weights
    depend on the phase p alone; the sum runs over the few taps inside the window, whatever the ratio.
    """
    divisor = gcd(source_rate, target_rate)
    o, n = source_rate // divisor, target_rate // divisor
    if o == n:
        return audio
    taps = _resampling_taps if n <= _MOST_KEPT_PHASES else _resampling_taps.__wrapped__
    weights, first, width = taps(o, n)
    length = ceil(n * len(audio) / o)
    blocks = ceil(length / n)
    padded = np.zeros(blocks * o + 2 * width + 2, dtype=np.float64)
    padded[width : width + len(audio)] = audio
    start = first[None, :] + o * np.arange(blocks)[:, None]
    result = np.zeros((blocks, n))
    for tap in range(weights.shape[1]):
        result += weights[:, tap] * padded[start + tap]
    return result.reshape(-1)[:length].astype(np.float32)


_MOST_KEPT_PHASES = 1000
"""Most phases of a rate whose weights are kept: 480 for the rates that devices use, megabytes for odd ones."""


@lru_cache(maxsize=32)
def _resampling_taps(o: int, n: int) -> tuple[F64, NDArray[np.int64], int]:
    """Return weights [n, taps], the first input index of each phase (after left padding) and that padding."""
    bandwidth = _ROLLOFF * min(o, n)
    width = ceil(_SINC_ZEROS * o / bandwidth)
    phase = np.arange(n)
    first = (phase * o) // n
    taps = first[:, None] + np.arange(-width, width + 2)
    tau = np.clip(bandwidth * (taps / o - phase[:, None] / n), -_SINC_ZEROS, _SINC_ZEROS)
    window = np.cos(np.pi * tau / (2 * _SINC_ZEROS)) ** 2
    return bandwidth / o * np.sinc(tau) * window, first, width


def speaker_features(audio: F32) -> F32:
    """Kaldi filter bank of 16 kHz audio, its mean over time removed: [N] -> [1, frames, 80] (spec section 3.2)."""
    bank = kaldi_fbank(audio)
    return np.asarray(bank - bank.mean(axis=0, keepdims=True), dtype=np.float32)[None]


def kaldi_fbank(audio: F32) -> F32:
    """Log mel filter bank of 16 kHz audio as Kaldi computes it without dither: [N] -> [1 + (N - 400) // 160, 80]."""
    frames = _frames(audio.astype(np.float64), 400, 160)
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * window, n=512)) ** 2
    return np.log(np.maximum(power[:, :256] @ _kaldi_filters().T, _FLOAT32_EPSILON)).astype(np.float32)


def whisper_log_mel(audio: F32) -> F32:
    """Whisper's 128-bin log mel of 16 kHz audio: [N] -> [1, 128, N // 160] (spec section 3.3)."""
    frames = _frames(np.pad(audio.astype(np.float64), 200, mode="reflect"), 400, 160)[:-1]
    power = np.abs(np.fft.rfft(frames * _hann(400))) ** 2
    log = np.log10(np.maximum(_slaney_filters(TOKEN_RATE, 400, 128, 0.0, 8000.0) @ power.T, 1e-10))
    scaled: F64 = (np.maximum(log, log.max() - 8.0) + 4.0) / 4.0
    return scaled.astype(np.float32)[None]


def prompt_mel(audio: F32, config: MelConfig) -> F32:
    """The flow's mel spectrogram of audio at `config.sample_rate`: [N] -> [N // hop, bins] (spec section 3.4)."""
    padded = np.pad(audio.astype(np.float64), (config.n_fft - config.hop) // 2, mode="reflect")
    frames = _frames(padded, config.n_fft, config.hop)
    left = (config.n_fft - config.window) // 2
    window = np.pad(_hann(config.window), (left, config.n_fft - config.window - left))
    magnitude = np.sqrt(np.abs(np.fft.rfft(frames * window)) ** 2 + 1e-9)
    return np.log(np.maximum(magnitude @ mel_filters(config).T, 1e-5)).astype(np.float32)


def mel_filters(config: MelConfig) -> F64:
    """The prompt mel's filter bank: [bins, n_fft // 2 + 1] (spec section 3.4)."""
    top = config.sample_rate / 2 if config.fmax is None else config.fmax
    return _slaney_filters(config.sample_rate, config.n_fft, config.bins, config.fmin, top)


def _frames(audio: F64, size: int, hop: int) -> F64:
    return np.lib.stride_tricks.sliding_window_view(audio, size)[::hop]


def _hann(size: int) -> F64:
    """The periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


@lru_cache(maxsize=1)
def _kaldi_filters() -> F64:
    """80 triangles [80, 256], linear on Kaldi's mel scale between 20 Hz and 8 kHz; the last bin is unused."""

    def mel(hertz: F64) -> F64:
        return 1127.0 * np.log1p(hertz / 700.0)

    low, high = mel(np.array([20.0, 8000.0]))
    bins = np.arange(256, dtype=np.float64) * (TOKEN_RATE / 512)
    return _triangles(mel(bins), np.linspace(low, high, 82, dtype=np.float64))


@lru_cache(maxsize=8)
def _slaney_filters(sample_rate: int, n_fft: int, bins: int, low: float, high: float) -> F64:
    """Triangles [bins, n_fft // 2 + 1] of unit area, their centres equally spaced on Slaney's mel scale.

    Slaney's scale is linear (200/3 Hz per mel) up to 1 kHz and logarithmic (27 mels per factor of 6.4) above.
    """
    step, knee = np.log(6.4) / 27.0, 15.0

    def to_mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else knee + float(np.log(hertz / 1000)) / float(step)

    mels = np.linspace(to_mel(low), to_mel(high), bins + 2)
    edges = np.where(mels < knee, mels * 200 / 3, 1000 * np.exp(step * (mels - knee)))
    triangles = _triangles(np.linspace(0, sample_rate / 2, n_fft // 2 + 1), edges)
    return triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]


def _triangles(points: F64, edges: F64) -> F64:
    """Triangle i rises from edges[i] to 1 at edges[i+1] and falls to 0 at edges[i+2]: [len(edges) - 2, points]."""
    left, centre, right = (edges[i : len(edges) - 2 + i, None] for i in range(3))
    rising = (points - left) / (centre - left)
    falling = (right - points) / (right - centre)
    triangles: F64 = np.maximum(0.0, np.minimum(rising, falling))
    return triangles
