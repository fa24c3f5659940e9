"""A prompt's bytes to samples fit for voice extraction, or a refusal that says what to change.

Nothing here trusts the file: its header may lie about the length, and a few kilobytes of FLAC can hold hours of
silence. So the size is checked before decoding, and decoding goes block by block and stops at the first block too many.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import soundfile
from numpy.typing import NDArray

from services.common.errors import InvalidInput

_BLOCK = 65536  # frames decoded at a time
_WINDOW = 0.02  # seconds per step of the silence detector


@dataclass(frozen=True)
class AudioLimits:
    """What a prompt may be. The defaults follow the models; an operator may narrow them."""

    min_seconds: float = 1.0
    """After trimming. 3 s make a stable voice and less earns a warning; but a demonstration voice's bundled prompts
    are 2.2 s long, and below 1 s the speaker embedding says little."""
    good_seconds: float = 3.0
    """Below this a warning."""
    max_seconds: float = 30.0
    """After trimming: the speech tokenizer's limit (spec section 3.3)."""
    max_silence_seconds: float = 30.0
    """Silence around the speech that is decoded in order to be trimmed."""
    min_rate: int = 16000
    max_rate: int = 192000
    max_channels: int = 8
    max_bytes: int = 32 * 2**20
    """30 s of 96 kHz, 24 bit, stereo are 17 MiB."""
    silence_peak: float = 1e-3
    """Peak (full scale 1) below which a prompt counts as silent: -60 dB."""
    keep_silence_seconds: float = 0.3
    """Silence left on each side when more than twice this is trimmed; natural pauses stay untouched."""


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
    """Decodes, folds to mono, trims long silence and checks a prompt in any format libsndfile reads.

    Raises InvalidInput for what is not audio, too short, too long, too large, silent or sampled below 16 kHz.
    """
    samples, rate = _decode(data, limits)
    if not np.isfinite(samples).all():
        raise _refusal("prompt audio holds values that are not numbers (NaN or infinity); export the file again")
    warnings: list[str] = []
    samples = _check_level(samples, limits, warnings)
    samples, silence = _trim(samples, rate, limits, warnings)
    seconds = len(samples) / rate
    if seconds < limits.min_seconds:
        raise _refusal(
            f"prompt audio holds {seconds:.2g} s of sound; send at least {limits.min_seconds:g} s,"
            f" {limits.good_seconds:g} to {limits.max_seconds:g} s is best"
        )
    if seconds > limits.max_seconds:
        raise _refusal(f"prompt audio is {seconds:.1f} s long; cut it to {limits.max_seconds:g} s or less")
    if seconds < limits.good_seconds:
        warnings.append(f"the prompt is short ({seconds:.1f} s); {limits.good_seconds:g} s or more copy a voice better")
    return PromptAudio(samples, rate, tuple(warnings), silence)


def _decode(data: bytes, limits: AudioLimits) -> tuple[NDArray[np.float32], int]:
    """Mono samples and their rate; reads no more than the longest prompt plus the silence around it."""
    if not data:
        raise _refusal("prompt audio is empty; send a WAV, FLAC, MP3 or Ogg file")
    if len(data) > limits.max_bytes:
        raise _refusal(f"prompt audio has {len(data)} bytes; send at most {limits.max_bytes}")
    longest = limits.max_seconds + limits.max_silence_seconds
    blocks: list[NDArray[np.float32]] = []
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = int(file.samplerate)
            _check_format(rate, file.channels, limits)
            left = int(longest * rate) + 1
            while left > 0:
                block = file.read(min(_BLOCK, left), dtype="float32", always_2d=True)
                if not len(block):
                    break
                left -= len(block)
                blocks.append(block.mean(axis=1, dtype=np.float32))
    except soundfile.SoundFileError as error:
        raise _refusal("prompt audio cannot be decoded; send a WAV, FLAC, MP3 or Ogg file") from error
    if left <= 0:
        raise _refusal(f"prompt audio is longer than {longest:g} s; cut it to {limits.max_seconds:g} s or less")
    if not blocks:
        raise _refusal("prompt audio holds no samples; the file may be cut off, send it again")
    return np.concatenate(blocks), rate


def _check_format(rate: int, channels: int, limits: AudioLimits) -> None:
    if rate < limits.min_rate:
        raise _refusal(f"prompt audio is sampled at {rate} Hz; send a recording of {limits.min_rate} Hz or more")
    if rate > limits.max_rate:
        raise _refusal(f"prompt audio is sampled at {rate} Hz; send {limits.max_rate} Hz or less")
    if channels > limits.max_channels:
        raise _refusal(f"prompt audio has {channels} channels; send mono or stereo")


def _check_level(samples: NDArray[np.float32], limits: AudioLimits, warnings: list[str]) -> NDArray[np.float32]:
    """Refuses silence, warns about a poor level, and scales down what exceeds full scale (float files can)."""
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
    """Cuts long silence at both ends, leaving `keep_silence_seconds` before the first and after the last sound.

    Returns the samples and the seconds of silence left at either end.

    Silence is 50 dB below the loudest 20 ms, so the soft start of a word is never taken for it; less than twice the
    kept margin is left alone, because pauses of that length are part of how a person speaks.
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
