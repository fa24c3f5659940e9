"""The features of an utterance, by the encode service's own functions, and its pitch."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import MelConfig
from services.encode.voice.features import TOKEN_RATE, kaldi_fbank, prompt_mel, resample, whisper_log_mel
from training.teacher.kokoro import RATE
from training.teacher.labels import Labelled

_LOWEST, _HIGHEST = 60.0, 500.0
"""Pitch, in Hz."""


def features(labelled: Labelled) -> dict[str, NDArray[Any]]:
    """Return the arrays of a shard for one utterance (see `store.RATES`).

    wav int16; mel, whisper and kaldi float16; pitch float32 in Hz, 0 where unvoiced.
    """
    samples, frames = labelled.samples, len(labelled.phones)
    low = resample(samples, RATE, TOKEN_RATE)
    kaldi = kaldi_fbank(low)
    return {
        "wav": (samples * 32767).round().astype(np.int16),
        "mel": prompt_mel(samples, MelConfig()).astype(np.float16),
        "whisper": whisper_log_mel(low)[0].T.astype(np.float16),
        "kaldi": np.pad(kaldi, ((0, 2 * frames - len(kaldi)), (0, 0)), mode="edge").astype(np.float16),
        "pitch": pitch(low, frames),
        "phones": labelled.phones,
        "words": labelled.words,
    }


def pitch(low: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Return WORLD's pitch of 16 kHz audio at the centre of each frame of 20 ms: [frames]."""
    world: Any = importlib.import_module("pyworld")
    audio = low.astype(np.float64)
    coarse, times = world.dio(audio, TOKEN_RATE, f0_floor=_LOWEST, f0_ceil=_HIGHEST, frame_period=10.0)
    fine = world.stonemask(audio, coarse, times, TOKEN_RATE)[1::2][:frames]
    return np.pad(fine, (0, frames - len(fine))).astype(np.float32)
