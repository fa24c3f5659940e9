"""A prompt recording and its transcript to a voice (spec section 3)."""

from __future__ import annotations

from services.common.errors import InvalidInput
from services.common.modeldir import BundledVoice, ModelDir
from services.common.voice import Voice, voice_hash, voice_identity
from services.encode.alignment import align
from services.encode.audio import DEFAULT_LIMITS, AudioLimits, read_prompt
from services.encode.features import TOKEN_RATE, prompt_mel, resample
from services.encode.frontend import TextFrontend
from services.encode.graphs import DEFAULT_OPTIONS, GraphOptions, SpeakerEncoder, SpeechTokenizer
from services.encode.plausibility import check_transcript


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
        self._frames_per_token = model.flow.mel_frames_per_token
        self._speaker = SpeakerEncoder(model.speaker_encoder, graphs)
        self._tokens = SpeechTokenizer(model.speech_tokenizer, model.llm.speech_tokens, graphs)

    def hash(self, audio: bytes, transcript: str) -> str:
        """The address of the voice this prompt makes, without making it."""
        return voice_hash(audio, transcript, self.identity)

    def extract(self, audio: bytes, transcript: str) -> Voice:
        """The voice of a prompt in any format libsndfile reads.

        Raises InvalidInput when the audio or the transcript cannot serve (see `read_prompt`, `prompt_ids`,
        `check_transcript`); the cheap checks come first.
        """
        text_ids = self._frontend.prompt_ids(transcript)
        prompt = read_prompt(audio, self._limits)
        warnings = [*prompt.warnings, *check_transcript(transcript, prompt.seconds)]
        speech = resample(prompt.samples, prompt.rate, TOKEN_RATE)
        mel = prompt_mel(resample(prompt.samples, prompt.rate, self._mel.sample_rate), self._mel)
        tokens, mel = align(self._tokens(speech), mel, self._frames_per_token)
        if not len(tokens):
            raise InvalidInput("prompt audio holds no speech the model can use; send another recording", field="audio")
        return Voice(
            hash=self.hash(audio, transcript),
            transcript=transcript.strip(),
            prompt_text_ids=text_ids,
            speech_tokens=tokens.copy(),
            mel=mel.copy(),
            embedding=self._speaker(speech),
            seconds=prompt.seconds,
            warnings=tuple(warnings),
        )

    def bundled(self, voice: BundledVoice) -> Voice:
        """A voice that ships inside the model directory."""
        return self.extract(voice.audio.read_bytes(), voice.transcript)
