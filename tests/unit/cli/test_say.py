"""`light-tts say --check` accepts speech and rejects silence, wrong lengths and lost samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cli.client import ClientError, Speech
from cli.say import check_speech

TEXT = "Hello, this is a sentence."
RATE = 24000


def written(path: Path, seconds: float, peak: float) -> Speech:
    samples = peak * np.sin(np.arange(int(seconds * RATE)) / 20)
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    return Speech(sample_rate=RATE, samples=len(samples))


def test_sound_of_a_plausible_length_passes(tmp_path: Path) -> None:
    check_speech(TEXT, written(tmp_path / "a.wav", 1.5, 0.5), tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("seconds", "peak", "reason"),
    [(1.5, 0.001, "silent"), (0.2, 0.5, "not plausible for 26"), (30, 0.5, "not plausible for 26")],
)
def test_implausible_speech_is_reported(tmp_path: Path, seconds: float, peak: float, reason: str) -> None:
    speech = written(tmp_path / "a.wav", seconds, peak)
    with pytest.raises(ClientError, match=reason):
        check_speech(TEXT, speech, tmp_path / "a.wav")


def test_lost_samples_are_reported(tmp_path: Path) -> None:
    speech = written(tmp_path / "a.wav", 1.5, 0.5)
    speech.samples += 1
    with pytest.raises(ClientError, match="were received"):
        check_speech(TEXT, speech, tmp_path / "a.wav")
