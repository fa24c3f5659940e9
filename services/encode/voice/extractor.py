"""A prompt recording and its transcript to a voice (spec section 3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import BundledVoice, ModelDir
from services.common.errors import InvalidInput
from services.common.voices.voice import Voice, voice_hash, voice_identity
from services.encode.text.frontend import TextFrontend
from services.encode.voice.alignment import align, cut_for_first_chunk
from services.encode.voice.audio import DEFAULT_LIMITS, AudioLimits, read_prompt
from services.encode.voice.features import TOKEN_RATE, prompt_mel, resample
from services.encode.voice.graphs import DEFAULT_OPTIONS, GraphOptions, SpeakerEncoder, SpeechTokenizer
from services.encode.voice.plausibility import check_transcript

STEPS = ("decode", "features", "speech_tokens", "embedding")
OnStep = Callable[[str, float], None]
"""Told of each of STEPS and the seconds it took."""


def _unmeasured(step: str, seconds: float) -> None:
    """For callers that do not ask."""


@dataclass(frozen=True)
class Speech:
    """What a recording says, as speech tokens [n] at 25 Hz."""

    tokens: NDArray[np.int32]
    warnings: tuple[str, ...]


class VoiceExtractor:
    """Turns prompts into voices for one model directory. Threads may call one extractor at the same time."""

    def __init__(
        self,
        model: ModelDir,
        frontend: TextFrontend,
        limits: AudioLimits = DEFAULT_LIMITS,
        graphs: GraphOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Raises ModelDirError when a graph is missing or damaged."""
        self.identity = voice_identity(model)
        self._frontend = frontend
        self._limits = limits
        self._mel = model.mel
        self._flow = model.flow
        self._token_rate = model.token_rate
        self._speaker = SpeakerEncoder(model.speaker_encoder, graphs)
        self._tokens = SpeechTokenizer(model.speech_tokenizer, model.llm.speech_tokens, graphs)

    def hash(self, audio: bytes, transcript: str | None) -> str:
        """The address of the voice this prompt makes, without making it."""
        return voice_hash(audio, transcript or "", self.identity)

    def extract(self, audio: bytes, transcript: str | None, on_step: OnStep = _unmeasured) -> Voice:
        """The voice of a prompt in any format libsndfile reads; without a transcript one for its timbre alone.

        Raises InvalidInput when the audio or the transcript cannot serve (see `read_prompt`, `prompt_ids`,
        `check_transcript`); the cheap checks come first.
        """
        text_ids = np.zeros(0, np.int32) if transcript is None else self._frontend.prompt_ids(transcript)
        with _timed("decode", on_step):
            prompt = read_prompt(audio, self._limits)
        warnings = [*prompt.warnings]
        if transcript is not None:
            warnings += check_transcript(transcript, prompt.seconds)
        with _timed("features", on_step):
            speech = resample(prompt.samples, prompt.rate, TOKEN_RATE)
            mel = prompt_mel(resample(prompt.samples, prompt.rate, self._mel.sample_rate), self._mel)
        with _timed("speech_tokens", on_step):
            tokens = self._tokens(speech)
        with _timed("embedding", on_step):
            embedding = self._speaker(speech)
        tokens, mel = self._fit(tokens, mel, prompt.silence, warnings)
        return Voice(
            hash=self.hash(audio, transcript),
            transcript=(transcript or "").strip(),
            prompt_text_ids=text_ids,
            speech_tokens=tokens.copy(),
            mel=mel.copy(),
            embedding=embedding,
            seconds=len(tokens) / self._token_rate,
            warnings=tuple(warnings),
        )

    def speech(self, audio: bytes) -> Speech:
        """What a recording says, to be spoken with another voice. Raises InvalidInput as `extract` does."""
        recording = read_prompt(audio, self._limits)
        tokens = self._tokens(resample(recording.samples, recording.rate, TOKEN_RATE))
        if not len(tokens):
            raise InvalidInput("the audio holds no speech the model can use; send another recording", field="audio")
        return Speech(tokens, tuple(warning.replace("prompt", "recording") for warning in recording.warnings))

    def bundled(self, voice: BundledVoice) -> Voice:
        """A voice that ships inside the model directory."""
        return self.extract(voice.audio.read_bytes(), voice.transcript)

    def _fit(
        self, tokens: NDArray[np.int32], mel: NDArray[np.float32], silence: tuple[float, float], warnings: list[str]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Tokens and mel of one duration, without the silence that would delay every first audio."""
        ratio = self._flow.mel_frames_per_token
        tokens, mel = align(tokens, mel, ratio)
        if not len(tokens):
            raise InvalidInput("prompt audio holds no speech the model can use; send another recording", field="audio")
        cut = cut_for_first_chunk(len(tokens), self._flow.chunk_tokens, silence, self._token_rate)
        for count, place in ((cut.start, "start"), (cut.end, "end")):
            if count:
                seconds = count / self._token_rate
                warnings.append(
                    f"{seconds:.2f} s of silence at the {place} of the prompt are left out: speech begins sooner"
                )
        last = len(tokens) - cut.end
        return tokens[cut.start : last], mel[ratio * cut.start : ratio * last]


@contextmanager
def _timed(step: str, on_step: OnStep) -> Iterator[None]:
    started = time.perf_counter()
    yield
    on_step(step, time.perf_counter() - started)
