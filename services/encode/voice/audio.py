"""Decodes a prompt to samples for voice extraction, or refuses it with an error that says what to change.

The file is not trusted: its header may have a wrong length, and a few kilobytes of FLAC can contain hours of silence.
So the size is checked before decoding, and decoding proceeds block by block and stops at the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.common.voices import sound_file

_WINDOW = 0.02  # seconds per step of the silence detector
_PADDING = 0.1
"""Seconds that AAC encoders may add to a recording; a longest prompt is cut by them instead of refused."""


@dataclass(frozen=True)
class AudioLimits:
    """Limits of a prompt. The defaults follow the models; an operator may lower them."""

    min_seconds: float = 1.0
    """After trimming. A stable voice needs 3 s, and less causes a warning; but the demonstration voice's prompts have
    2.2 s. Below 1 s the speaker embedding is unreliable."""
    good_seconds: float = 3.0
    """Shorter prompts cause a warning."""
    max_seconds: float = 30.0
    """After trimming: the speech tokenizer's limit (spec section 3.3)."""
    max_silence_seconds: float = 30.0
    """Most silence around the speech that is decoded and then trimmed."""
    min_rate: int = 16000
    max_rate: int = 192000
    max_channels: int = 8
    max_bytes: int = 32 * 2**20
    """30 s of 96 kHz, 24 bit, stereo have 17 MiB."""
    silence_peak: float = 1e-3
    """A prompt with a smaller peak (full scale 1) is silent: -60 dB."""
    keep_silence_seconds: float = 0.3
    """Silence to keep on each side. Silence of up to twice this is not trimmed, so natural pauses stay."""


DEFAULT_LIMITS = AudioLimits()


@dataclass(frozen=True)
class PromptAudio:
    """A checked prompt: mono float32 in [-1, 1] at its own rate."""

    samples: NDArray[np.float32]
    rate: int
    warnings: tuple[str, ...] = field(default=())
    silence: tuple[float, float] = (0.0, 0.0)
    """Seconds before the first and after the last sound."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def read_prompt(data: bytes, limits: AudioLimits = DEFAULT_LIMITS) -> PromptAudio:
    """Decode a prompt in any format of libsndfile, or M4A, AAC or WebM; mix it to mono, trim long silence and check it.

    Raises InvalidInput if it is not audio, too short, too long, too large, silent or sampled below 16 kHz.
    """
    warnings: list[str] = []
    samples, rate = _decode(data, limits, warnings)
    if not np.isfinite(samples).all():
        raise _refusal("prompt audio has values that are not numbers (NaN or infinity); export the file again")
    samples = _check_level(samples, limits, warnings)
    samples, (before, after) = _trim(samples, rate, limits, warnings)
    seconds = len(samples) / rate
    if seconds < limits.min_seconds:
        raise _refusal(
            f"prompt audio has {math.floor(seconds * 100) / 100:g} s of sound; send at least {limits.min_seconds:g} s,"
            f" {limits.good_seconds:g} to {limits.max_seconds:g} s is best"
        )
    excess = seconds - limits.max_seconds
    if excess > _PADDING:
        raise _refusal(f"prompt audio is {seconds:.1f} s long; cut it to {limits.max_seconds:g} s or less")
    if excess > 0:
        samples, after = samples[: int(limits.max_seconds * rate)], max(0.0, after - excess)
    if seconds < limits.good_seconds:
        warnings.append(f"the prompt is short ({seconds:.1f} s); {limits.good_seconds:g} s or more give a better voice")
    return PromptAudio(samples, rate, tuple(warnings), (before, after))


def _decode(data: bytes, limits: AudioLimits, warnings: list[str]) -> tuple[NDArray[np.float32], int]:
    """Return mono samples and their rate; read no more than the longest prompt and the silence around it."""
    if not data:
        raise _refusal("prompt audio is empty; send a WAV, FLAC, MP3 or Ogg file")
    if len(data) > limits.max_bytes:
        raise _refusal(f"prompt audio has {len(data)} bytes; send at most {limits.max_bytes}")
    longest = limits.max_seconds + limits.max_silence_seconds
    rate, blocks = sound_file.blocks(data, partial(_check_format, limits), longest)
    mono, power, mixed, channels = [np.zeros(0, np.float32)], np.zeros(limits.max_channels), 0.0, 1
    for block in blocks:
        mono.append(block.mean(axis=1, dtype=np.float32))
        channels = block.shape[1]
        power[:channels] += np.einsum("nc,nc->c", block, block, dtype=np.float64)
        mixed += float(np.einsum("n,n->", mono[-1], mono[-1], dtype=np.float64))
    # Channels without any relation, or one channel that sounds alone, leave twice this power.
    if mixed < 0.5 * power.sum() / channels**2:
        loudest = int(power.argmax())
        warnings.append(f"the channels of the prompt cancel each other; only channel {loudest + 1} was used")
        _, blocks = sound_file.blocks(data, partial(_check_format, limits), longest)
        mono = [block[:, min(loudest, block.shape[1] - 1)].copy() for block in blocks]
    samples = np.concatenate(mono)
    if len(samples) > longest * rate:
        raise _refusal(f"prompt audio is longer than {longest:g} s; cut it to {limits.max_seconds:g} s or less")
    if not len(samples):
        raise _refusal("prompt audio has no samples; the file may be truncated, send it again")
    return samples, rate


def _check_format(limits: AudioLimits, rate: int, channels: int) -> None:
    if rate < limits.min_rate:
        raise _refusal(f"prompt audio is sampled at {rate} Hz; send a recording of {limits.min_rate} Hz or more")
    if rate > limits.max_rate:
        raise _refusal(f"prompt audio is sampled at {rate} Hz; send {limits.max_rate} Hz or less")
    if channels > limits.max_channels:
        raise _refusal(f"prompt audio has {channels} channels; send mono or stereo")


def _check_level(samples: NDArray[np.float32], limits: AudioLimits, warnings: list[str]) -> NDArray[np.float32]:
    """Refuse silence, warn about a poor level, and scale down audio above full scale (possible in float files)."""
    offset = float(samples.mean(dtype=np.float64))
    peak = float(np.abs(samples - np.float32(offset)).max())
    if peak < limits.silence_peak:
        raise _refusal("prompt audio is silent; send a recording of speech")
    if abs(offset) > 0.05:
        warnings.append(f"the prompt has a constant offset of {offset:.2f}; a high-pass filter would remove it")
    if peak < 0.05:
        warnings.append(f"the prompt is very quiet (peak {20 * np.log10(peak):.0f} dB); record it louder")
    top = float(np.abs(samples).max())
    if top > 1.0:
        warnings.append(f"the prompt exceeds full scale ({top:.3g} times); it was scaled down")
        return samples / np.float32(top)
    clipped = float(np.mean(np.abs(samples) >= 0.999))
    if clipped > 1e-3:
        warnings.append(f"{clipped:.1%} of the prompt's samples are clipped; record it at a lower level")
    return samples


def _trim(
    samples: NDArray[np.float32], rate: int, limits: AudioLimits, warnings: list[str]
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Cut long silence at both ends to `keep_silence_seconds` before the first and after the last sound.

    Returns the samples and the seconds of silence at each end.

    Silence is 50 dB below the loudest 20 ms, so that the soft start of a word does not count as silence. Silence of up
    to twice the kept length stays, because pauses of that length are part of natural speech.
    """
    step = max(1, int(_WINDOW * rate))
    steps = -(-len(samples) // step)
    padded = np.zeros(steps * step)
    padded[: len(samples)] = samples - samples.mean(dtype=np.float64)
    energy = np.square(padded.reshape(steps, step)).mean(axis=1)
    sounding = np.flatnonzero(energy >= energy.max() * 1e-5)
    keep = int(limits.keep_silence_seconds * rate)
    start, end = int(sounding[0]) * step, min(len(samples), (int(sounding[-1]) + 1) * step)
    first = start - keep if start > 2 * keep else 0
    last = end + keep if len(samples) - end > 2 * keep else len(samples)
    for seconds, place in ((first / rate, "start"), ((len(samples) - last) / rate, "end")):
        if seconds:
            warnings.append(f"{seconds:.1f} s of silence at the {place} of the prompt were cut")
    return samples[first:last], ((start - first) / rate, (last - end) / rate)


def _refusal(message: str) -> InvalidInput:
    return InvalidInput(message, field="audio")
