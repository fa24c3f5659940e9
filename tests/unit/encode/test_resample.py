"""The resampler at rates without golden vectors."""

from __future__ import annotations

import numpy as np
import pytest

from services.encode.voice import features
from services.encode.voice.features import resample


@pytest.mark.parametrize("rate", [16000, 22050, 32000, 44100, 44101, 48000])
def test_resampler_keeps_a_tone_at_any_rate(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    expected = np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)
    ours = resample(tone, rate, 24000)
    assert len(ours) == 24000
    assert np.abs(ours - expected)[100:-100].max() < 1e-3


def test_weights_of_odd_rates_are_not_kept() -> None:
    """They take 45 MB each."""
    kept = features._resampling_taps.cache_info
    resample(np.zeros(16000, np.float32), 48000, 24000)
    before = kept().currsize
    assert before
    resample(np.zeros(100, np.float32), 191999, 24000)
    assert kept().currsize == before
