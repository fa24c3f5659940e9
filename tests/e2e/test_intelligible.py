"""The embedded voice is judged by a speech recogniser, stage by stage (docs/benchmarks.md has the figures).

Each stage speaks the held-out sentences of `models/tiny/heldout25.txt`, in `make test` every third and in
`make test-system` all 25, and must be understood as often as stated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.settings import EMBEDDED_MODEL
from services.decode.engine.backends import Hop
from services.decode.engine.state import StreamSpec
from services.decode.engine.torch_backend import TorchBackend
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.voice.extractor import VoiceExtractor
from services.encode.voice.features import prompt_mel, resample
from services.encode.voice.graphs import SpeechTokenizer
from tests.support.figures import Figure
from tests.support.recogniser import RECORDING_RATE, Recogniser, recording

F32 = NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> ModelDir:
    return open_model_dir(EMBEDDED_MODEL)


@pytest.fixture(scope="module")
def backend(model: ModelDir) -> TorchBackend:
    backend = TorchBackend(model)
    backend.warm_up()
    return backend


def understood(numbers: range, speak: Callable[[int], F32], rate: int) -> int:
    """Return how many of these sentences are understood as what they are."""
    recogniser = Recogniser()
    return sum(recogniser.hear(speak(number), rate) == number for number in numbers)


def test_the_recordings_themselves_are_understood(numbers: range, figure: Figure) -> None:
    heard = understood(numbers, recording, RECORDING_RATE)
    figure("understood: the recordings", f"{heard} of {len(numbers)}")
    assert heard == len(numbers)


def test_copy_synthesis_is_understood(model: ModelDir, backend: TorchBackend, numbers: range, figure: Figure) -> None:
    """Recording to mel to vocoder: what the vocoder alone costs."""

    def speak(number: int) -> F32:
        mel = prompt_mel(resample(recording(number), RECORDING_RATE, model.mel.sample_rate), model.mel)
        samples = backend.vocoder.append(backend.vocoder.open(seed=number), torch.from_numpy(mel), last=True)
        return samples.numpy()

    heard = understood(numbers, speak, model.sample_rate)
    figure("understood: recording → mel → vocoder", f"{heard} of {len(numbers)}")
    assert heard >= len(numbers) * 24 // 25


def test_resynthesis_from_tokens_is_understood(
    model: ModelDir, backend: TorchBackend, numbers: range, figure: Figure
) -> None:
    """Recording to speech tokens to flow to vocoder, in the voice of the bundled prompt: no language model."""
    voice = VoiceExtractor(model, TextFrontend(model, Normaliser("builtin"))).bundled(model.card.voices[0])
    tokenizer = SpeechTokenizer(model.speech_tokenizer, model.llm.speech_tokens)

    def speak(number: int) -> F32:
        tokens = tokenizer(resample(recording(number), RECORDING_RATE, 16000)).tolist()
        state = backend.open(StreamSpec(voice.speech_tokens, voice.mel, voice.embedding, seed=number))
        end = len(voice.speech_tokens) + len(tokens)
        (audio,) = backend.run([Hop(state, tokens, end, final=True)], beat=lambda: None)
        assert not isinstance(audio, Exception)
        return audio.samples

    heard = understood(numbers, speak, model.sample_rate)
    figure("understood: recording → tokens → flow → vocoder", f"{heard} of {len(numbers)}")
    assert heard >= len(numbers) * 24 // 25
