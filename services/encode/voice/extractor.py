"""Extracts a voice from a prompt recording and its transcript (spec section 3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

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
"""Called with the name of each of STEPS and its duration in seconds."""


def _ignore(step: str, seconds: float) -> None:
    """For callers that do not need the durations."""


@dataclass(frozen=True)
class Speech:
    """The speech tokens [n] of a recording, at 25 Hz."""

    tokens: NDArray[np.int32]
    warnings: tuple[str, ...]


class VoiceExtractor:
    """Extracts voices for one model directory. Thread-safe."""

    def __init__(
        self,
        model: ModelDir,
        frontend: TextFrontend,
        limits: AudioLimits = DEFAULT_LIMITS,
        graphs: GraphOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Raises ModelDirError if a graph is missing or damaged."""
        self.identity = voice_identity(model)
        self._frontend = frontend
        self._limits = limits
        self._mel = model.mel
        self._flow = model.flow
        self._token_rate = model.token_rate
        self._speaker = SpeakerEncoder(model.speaker_encoder, model.flow.speaker_dim, graphs)
        self._tokens = SpeechTokenizer(model.speech_tokenizer, model.llm.speech_tokens, graphs)

    def hash(self, audio: bytes, transcript: str | None) -> str:
        """Return the voice hash of a prompt, without extracting the voice."""
        return voice_hash(audio, transcript or "", self.identity)

    def extract(self, audio: bytes, transcript: str | None, on_step: OnStep = _ignore) -> Voice:
        """Return the voice of a prompt in any format libsndfile reads; without a transcript, for its timbre only.

        Raises InvalidInput if the audio or the transcript is unusable (see `read_prompt`, `prompt_ids`,
        `check_transcript`); cheap checks run first.
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
        """Return the speech tokens of a recording, for voice conversion. Raises InvalidInput as `extract` does."""
        try:
            # All of it is spoken again, so that no length of it is better than another.
            recording = read_prompt(audio, replace(self._limits, good_seconds=self._limits.min_seconds))
        except InvalidInput as error:
            # The request may have a prompt, too, for its voice.
            raise InvalidInput(error.message.replace("prompt audio", "the recording"), field=error.field) from error
        tokens = self._tokens(resample(recording.samples, recording.rate, TOKEN_RATE))
        if not len(tokens):
            raise InvalidInput("the audio has no speech that the model can use; send another recording", field="audio")
        return Speech(tokens, tuple(warning.replace("prompt", "recording") for warning in recording.warnings))

    def bundled(self, voice: BundledVoice) -> Voice:
        """Extract a voice that is part of the model directory."""
        return self.extract(voice.audio.read_bytes(), voice.transcript)

    def _fit(
        self, tokens: NDArray[np.int32], mel: NDArray[np.float32], silence: tuple[float, float], warnings: list[str]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return tokens and mel of one duration, without silence that would delay the first audio."""
        ratio = self._flow.mel_frames_per_token
        tokens, mel = align(tokens, mel, ratio)
        if not len(tokens):
            raise InvalidInput(
                "prompt audio has no speech that the model can use; send another recording", field="audio"
            )
        cut = cut_for_first_chunk(len(tokens), self._flow.chunk_tokens, silence, self._token_rate)
        for count, place in ((cut.start, "start"), (cut.end, "end")):
            if count:
                seconds = count / self._token_rate
                warnings.append(
                    f"{seconds:.2f} s of silence at the {place} of the prompt were removed so that speech begins sooner"
                )
        last = len(tokens) - cut.end
        return tokens[cut.start : last], mel[ratio * cut.start : ratio * last]


@contextmanager
def _timed(step: str, on_step: OnStep) -> Iterator[None]:
    started = time.perf_counter()
    yield
    on_step(step, time.perf_counter() - started)
