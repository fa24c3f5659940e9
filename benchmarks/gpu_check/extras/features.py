"""Encode's features of a prompt, computed with numpy, compared with torchaudio's, with which models are trained."""

from __future__ import annotations

import importlib
import wave
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu_check.check import TINY, Check, allow_tf32
from services.common.checkpoint.model_dir import MelConfig, open_model_dir
from services.encode.voice import features as own

TOLERANCES = {
    "resampled to 16 kHz": 1e-5,
    "resampled to 44.1 kHz": 1e-5,
    "Kaldi filter bank": 2e-2,
    "mel of the flow": 2e-3,
    "Whisper's log mel": 2e-3,
}
"""Largest difference of a value: of a sample, of a natural logarithm, for Whisper of a quarter of a decimal one.

torchaudio computes in float32. In a frame that is nearly silent, the rounding of its transform changes the logarithm.
"""


def features(check: Check) -> None:
    """Compare each feature of a recorded prompt with torchaudio's on this device, where torchaudio is installed."""
    try:
        torchaudio = importlib.import_module("torchaudio")
        importlib.import_module("torchaudio.compliance.kaldi")
    except Exception as error:  # noqa: BLE001 - a build for another torch raises errors of its own types
        check.report("features against torchaudio", f"not compared: torchaudio does not import ({error})")
        return
    allow_tf32(False)  # torchaudio resamples with a convolution
    check.report("version of torchaudio", str(torchaudio.__version__))
    mel = open_model_dir(TINY).mel  # every family's is alike
    for name, ours, theirs in _pairs(torchaudio, check.device, mel):
        met, found = ours.shape == theirs.shape, f"{list(ours.shape)} against {list(theirs.shape)}"
        if met:
            difference, allowed = float(np.abs(ours - theirs).max()), TOLERANCES[name]
            met, found = difference <= allowed, f"largest difference {difference:.1e}, {allowed} is allowed"
        check.expect(f"{name}: equals torchaudio's", met, found)


def _pairs(torchaudio: ModuleType, device: str, mel: MelConfig) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Yield name, own and torchaudio's values of each feature."""
    audio, rate = read_wave(TINY / "prompt_anna.wav")
    speech, given = own.resample(audio, rate, own.TOKEN_RATE), torch.from_numpy(audio).to(device)

    def resampled(target: int) -> NDArray[Any]:
        return _array(torchaudio.functional.resample(given, rate, target))

    yield "resampled to 16 kHz", speech, resampled(own.TOKEN_RATE)
    yield "resampled to 44.1 kHz", own.resample(audio, rate, 44100), resampled(44100)
    signal = torch.from_numpy(speech).to(device)
    bank = torchaudio.compliance.kaldi.fbank(signal[None], num_mel_bins=80, sample_frequency=own.TOKEN_RATE)
    yield "Kaldi filter bank", own.kaldi_fbank(speech), _array(bank)
    yield (
        "mel of the flow",
        own.prompt_mel(own.resample(audio, rate, mel.sample_rate), mel),
        _array(_flow_mel(torchaudio, given, rate, mel)),
    )
    yield "Whisper's log mel", own.whisper_log_mel(speech)[0], _array(_whisper_mel(torchaudio, signal))


def _flow_mel(torchaudio: ModuleType, audio: Tensor, rate: int, mel: MelConfig) -> Tensor:
    """The mel [frames, bins] of docs/spec/model.md, section 3.4."""
    signal = torchaudio.functional.resample(audio, rate, mel.sample_rate)
    margin = (mel.n_fft - mel.hop) // 2
    signal = torch.nn.functional.pad(signal[None], (margin, margin), mode="reflect")[0]
    power = _power(torchaudio, signal, mel.n_fft, mel.window, mel.hop)
    top = mel.sample_rate / 2 if mel.fmax is None else mel.fmax
    filters = _slaney(torchaudio, mel.n_fft, mel.fmin, top, mel.bins, mel.sample_rate).to(audio.device)
    return ((power + 1e-9).sqrt().T @ filters).clamp_min(1e-5).log()


def _whisper_mel(torchaudio: ModuleType, speech: Tensor) -> Tensor:
    """Whisper's mel [128, frames] of docs/spec/model.md, section 3.3."""
    padded = torch.nn.functional.pad(speech[None], (200, 200), mode="reflect")[0]
    power = _power(torchaudio, padded, 400, 400, 160)[:, :-1]
    filters = _slaney(torchaudio, 400, 0.0, 8000.0, 128, own.TOKEN_RATE).to(speech.device)
    log = (filters.T @ power).clamp_min(1e-10).log10()
    scaled: Tensor = (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0
    return scaled


def _power(torchaudio: ModuleType, signal: Tensor, n_fft: int, window: int, hop: int) -> Tensor:
    shape = torch.hann_window(window, device=signal.device)
    power: Tensor = torchaudio.functional.spectrogram(
        signal, 0, shape, n_fft, hop, window, power=2.0, normalized=False, center=False
    )
    return power


def _slaney(torchaudio: ModuleType, n_fft: int, low: float, high: float, bins: int, rate: int) -> Tensor:
    filters: Tensor = torchaudio.functional.melscale_fbanks(
        n_fft // 2 + 1, low, high, bins, rate, norm="slaney", mel_scale="slaney"
    )
    return filters


def _array(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.cpu().numpy()
    return array


def read_wave(path: Path) -> tuple[NDArray[np.float32], int]:
    """Return the samples [n] of a file of 16-bit PCM with one channel, and its rate in Hz."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return (samples / 32768).astype(np.float32), file.getframerate()
