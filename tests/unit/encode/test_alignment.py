"""Prompts are cut to a length that makes the first audio early, but only by silence."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st

from services.common.checkpoint.model_dir import open_model_dir
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.voice.alignment import FIRST_HOP_TOKENS, KEPT_SILENCE, Cut, cut_for_first_chunk
from services.encode.voice.extractor import VoiceExtractor

MODEL = open_model_dir(Path(__file__).parents[2] / "data" / "cosyvoice2-mini")


def wait(prompt: int) -> int:
    """Return the tokens of speech before the end of decode's first hop (25 tokens a chunk)."""
    return 25 * math.ceil((prompt + FIRST_HOP_TOKENS) / 25) - prompt


@example(45, 0.3, 0.5)
@given(st.integers(25, 750), st.floats(0, 0.6), st.floats(0, 0.6))
def test_a_cut_is_silence_and_brings_the_first_boundary_nearest(count: int, before: float, after: float) -> None:
    cut = cut_for_first_chunk(count, 25, (before, after), 25)
    # In tokens, as the cut counts: 5 tokens are 0.2 s, but 0.3 s less 0.1 s are 0.19999999999999998 s.
    assert cut.start <= max(0.0, (before - KEPT_SILENCE) * 25)
    assert cut.end <= max(0.0, (after - KEPT_SILENCE) * 25)
    if cut != Cut():
        assert wait(count - cut.start - cut.end) == FIRST_HOP_TOKENS
        assert wait(count) > 25
    elif wait(count) > 25:  # the cut would have removed a word
        silent = sum(max(0, int((seconds - KEPT_SILENCE) * 25)) for seconds in (before, after))
        assert silent < count % 25 - 10


def test_a_prompt_with_silence_is_cut_with_a_warning() -> None:
    extractor = VoiceExtractor(MODEL, TextFrontend(MODEL, Normaliser("builtin")))
    rng = np.random.default_rng(0)
    sound = 0.2 * rng.standard_normal(int(3.7 * 24000))
    quiet = np.zeros(int(0.5 * 24000))
    file = io.BytesIO()
    soundfile.write(file, np.concatenate((quiet, sound, quiet)), 24000, format="WAV")
    voice = extractor.extract(file.getvalue(), "this is what it says, more or less")
    assert len(voice.speech_tokens) % 25 == 10
    assert len(voice.mel) == 2 * len(voice.speech_tokens)
    assert any("were removed so that speech begins sooner" in warning for warning in voice.warnings)


def test_a_voice_for_its_timbre_only_has_no_text() -> None:
    extractor = VoiceExtractor(MODEL, TextFrontend(MODEL, Normaliser("builtin")))
    file = io.BytesIO()
    soundfile.write(file, 0.2 * np.random.default_rng(0).standard_normal(72000), 24000, format="WAV")
    steps: dict[str, float] = {}
    voice = extractor.extract(file.getvalue(), None, steps.__setitem__)
    assert voice.prompt_text_ids.size == 0
    assert voice.transcript == ""
    assert voice.hash != extractor.extract(file.getvalue(), "and one with words").hash
    assert list(steps) == ["decode", "features", "speech_tokens", "embedding"]
    assert len(extractor.speech(file.getvalue()).tokens) == 75
