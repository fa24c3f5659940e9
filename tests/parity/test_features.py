"""Prompt features and front-end graphs against the goldens, at the goldens' own tolerances (spec section 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.common.modeldir import MelConfig, open_model_dir
from services.encode.features import kaldi_fbank, prompt_mel, resample, speaker_features, whisper_log_mel
from services.encode.graphs import SpeakerEncoder, SpeechTokenizer

MINI = Path(__file__).parents[1] / "data" / "cosyvoice2-mini"
FEATURES = dict(np.load(MINI / "features.npz"))
GRAPHS = dict(np.load(MINI / "frontend_onnx.npz"))
AUDIO_16K, AUDIO_24K = FEATURES["wav16k"][0], FEATURES["wav24k"][0]


def largest_error(ours: NDArray[np.float32], golden: NDArray[np.float32]) -> float:
    assert ours.shape == golden.shape
    assert ours.dtype == np.float32
    return float(np.abs(ours - golden).max())


def test_resampler() -> None:
    assert largest_error(resample(AUDIO_24K, 24000, 16000), AUDIO_16K) < 1e-5


@pytest.mark.parametrize("rate", [16000, 22050, 32000, 44100, 44101, 48000])
def test_resampler_keeps_a_tone_at_any_rate(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    expected = np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)
    ours = resample(tone, rate, 24000)
    assert len(ours) == 24000
    assert np.abs(ours - expected)[100:-100].max() < 1e-3


def test_fbank() -> None:
    assert largest_error(kaldi_fbank(AUDIO_16K), FEATURES["fbank80"]) < 2e-3
    assert largest_error(speaker_features(AUDIO_16K)[0], FEATURES["fbank80_mean_subtracted"]) < 2e-3


def test_whisper_log_mel() -> None:
    assert largest_error(whisper_log_mel(AUDIO_16K), FEATURES["whisper_logmel128"]) < 1e-4


@pytest.mark.parametrize(("fmax", "name"), [(8000.0, "mel80_fmax8000"), (None, "mel80_fmaxnull")])
def test_prompt_mel(fmax: float | None, name: str) -> None:
    assert largest_error(prompt_mel(AUDIO_24K, MelConfig(fmax=fmax)).T, FEATURES[name][0]) < 1e-4


def test_graphs() -> None:
    model = open_model_dir(MINI)
    assert largest_error(SpeakerEncoder(model.speaker_encoder)(AUDIO_16K), GRAPHS["embedding"][0]) < 1e-4
    tokens = SpeechTokenizer(model.speech_tokenizer, model.llm.speech_tokens)(AUDIO_16K)
    np.testing.assert_array_equal(tokens, GRAPHS["speech_token_raw"][0])
