"""Checked options of a request. Every API builds a `SynthesisConfig`, which is checked here."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.audio.formats import AudioFormat
from gateway.auth.caller import current_caller
from gateway.voices.reference import NamedVoice, PromptVoice
from lighttts.v1 import audio_pb2, lexicon_pb2, llm_pb2, tts_pb2
from services.common.errors import InvalidInput, quoted

MIN_SPEED, MAX_SPEED = 0.25, 4.0
MIN_TEXT_WAIT, MAX_TEXT_WAIT = 0.05, 60.0
MAX_INSTRUCTION_CHARS = 1000
MAX_LEXICON_ENTRIES = 100
"""Most pronunciations of one request."""
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8}){0,6}")
MAX_NAME_CHARS = 256
"""Longest name of a voice or a style in a request."""


@dataclass(frozen=True)
class SpeechOptions:
    """How to speak. Only `from_config` creates it."""

    voice: NamedVoice | PromptVoice
    instruction: str | None
    """None: continue in the way of the prompt (zero-shot). Otherwise the prompt gives only its timbre, and this is the
    instruction; empty for cross-lingual speech."""
    style: str
    audio: AudioFormat
    speed: float
    seed: int
    seed_given: bool
    """Whether the request set the seed; otherwise it was chosen here."""
    sampling: llm_pb2.SamplingOptions
    priority: audio_pb2.Urgency.Priority.ValueType
    language: str = ""
    """Of the text (BCP-47); empty: not named."""
    lexicon: tuple[lexicon_pb2.LexiconEntry, ...] = ()
    """Pronunciations of the caller and of the request; of equal phrases the last one counts."""
    text_wait_seconds: float = 0.0
    """Without more text, a finished sentence is spoken after this many seconds; 0: encode's setting."""
    word_times: bool = False
    """Send the times of words."""
    warnings: tuple[tts_pb2.Warning, ...] = ()
    """Notes for the sender of the request; no part of what is spoken."""

    @classmethod
    def from_config(cls, config: tts_pb2.SynthesisConfig, max_prompt_bytes: int) -> SpeechOptions:
        """Check a request's configuration. Raises InvalidInput, which names the field and what to change."""
        _check_sampling(config.sampling)
        priority = config.priority or audio_pb2.Urgency.PRIORITY_INTERACTIVE
        if priority not in (audio_pb2.Urgency.PRIORITY_INTERACTIVE, audio_pb2.Urgency.PRIORITY_OFFLINE):
            raise InvalidInput("unknown priority; use INTERACTIVE or OFFLINE", field="config.priority")
        priority = current_caller().priority(priority)
        return cls(
            voice=_voice(config, max_prompt_bytes, needs_transcript=_instruction(config) is None),
            instruction=_instruction(config),
            style=_name(config.style, "style"),
            audio=AudioFormat.from_config(config, interactive=priority == audio_pb2.Urgency.PRIORITY_INTERACTIVE),
            speed=_speed(config.speed),
            # 32 bits: enough for variety, and short enough for a person to type again.
            seed=config.seed if config.HasField("seed") else secrets.randbits(32),
            seed_given=config.HasField("seed"),
            sampling=config.sampling,
            priority=priority,
            language=checked_language(config.language),
            lexicon=checked_lexicon(config.lexicon),
            text_wait_seconds=_text_wait(config.max_text_wait_seconds),
            word_times=config.word_times,
        )


def check_text(text: str, max_chars: int) -> None:
    """Raises InvalidInput if `text` is empty, too long, or has nothing to speak."""
    check_length(text, max_chars)
    if not speakable(text):
        raise InvalidInput("text has only punctuation; send at least one word", field="text")


def check_length(text: str, max_chars: int) -> None:
    """Raises InvalidInput if `text` is empty or too long."""
    if not text.strip():
        raise InvalidInput("text is empty; send at least one word", field="text")
    if len(text) > max_chars:
        raise InvalidInput(
            f"text has {len(text)} characters; at most {max_chars} are allowed: send several requests", field="text"
        )


def checked_language(language: str) -> str:
    """Return the language of a text. Raises InvalidInput if it is no tag of BCP-47."""
    if language and _LANGUAGE.fullmatch(language) is None:
        raise InvalidInput(
            f"language is {quoted(language)}; send a tag of BCP-47 such as en, en-US or zh-CN", field="config.language"
        )
    return language


def checked_start(start_sample: int, options: SpeechOptions) -> int:
    """Return `start_sample`. Raises InvalidInput if an answer cannot start at this sample."""
    if start_sample < 0:
        raise InvalidInput(f"start_sample is {start_sample}; it must be 0 or more", field="start_sample")
    if start_sample and not options.seed_given:
        raise InvalidInput(
            "start_sample needs the seed of the first answer; send the one in its Started event", field="config.seed"
        )
    if start_sample and not options.audio.encoding.sample_format:
        name = options.audio.encoding.name
        raise InvalidInput(f"{name} cannot start in the middle; use PCM_S16LE or PCM_F32LE", field="config.audio")
    return start_sample


def speakable(text: str) -> bool:
    """Return whether `text` has a letter or digit of any script."""
    return any(character.isalnum() for character in text)


def _instruction(config: tts_pb2.SynthesisConfig) -> str | None:
    instruction: str = config.instruct_text.strip()
    instructed = config.mode == tts_pb2.SPEECH_MODE_INSTRUCT
    if instructed and not instruction:
        raise InvalidInput("the instruction is empty; describe how to speak", field="config.instruct_text")
    if instruction and not instructed:
        raise InvalidInput("an instruction needs the mode INSTRUCT", field="config.mode")
    if len(instruction) > MAX_INSTRUCTION_CHARS:
        raise InvalidInput(
            f"the instruction has {len(instruction)} characters; {MAX_INSTRUCTION_CHARS} are allowed: shorten it",
            field="config.instruct_text",
        )
    if config.mode not in tts_pb2.SpeechMode.values():
        raise InvalidInput("unknown mode; use ZERO_SHOT, CROSS_LINGUAL or INSTRUCT", field="config.mode")
    return instruction if instructed or config.mode == tts_pb2.SPEECH_MODE_CROSS_LINGUAL else None


def _voice(
    config: tts_pb2.SynthesisConfig, max_prompt_bytes: int, *, needs_transcript: bool
) -> NamedVoice | PromptVoice:
    if config.WhichOneof("voice") != "prompt":
        return NamedVoice(_name(config.voice_name, "voice_name"))
    prompt = config.prompt
    if not prompt.audio:
        raise InvalidInput("the prompt has no audio; send a recording of 1 to 30 seconds", field="config.prompt.audio")
    if len(prompt.audio) > max_prompt_bytes:
        raise InvalidInput(
            f"the prompt audio has {len(prompt.audio)} bytes; {max_prompt_bytes} are allowed: send a shorter recording",
            field="config.prompt.audio",
        )
    if needs_transcript and not prompt.transcript.strip():
        raise InvalidInput(
            "the prompt has no transcript; send the words spoken in the recording", field="config.prompt.transcript"
        )
    return PromptVoice(prompt.audio, prompt.transcript if needs_transcript else "")


def checked_lexicon(entries: Sequence[lexicon_pb2.LexiconEntry]) -> tuple[lexicon_pb2.LexiconEntry, ...]:
    """Return the pronunciations of a request. The encode service checks their content."""
    if len(entries) > MAX_LEXICON_ENTRIES:
        raise InvalidInput(
            f"lexicon has {len(entries)} entries; at most {MAX_LEXICON_ENTRIES} are allowed: register the others once",
            field="config.lexicon",
        )
    return tuple(entries)


def _name(name: str, field: str) -> str:
    if len(name) > MAX_NAME_CHARS:
        raise InvalidInput(
            f"{field} has {len(name)} characters; at most {MAX_NAME_CHARS} are allowed", field=f"config.{field}"
        )
    return name


def _speed(speed: float) -> float:
    if speed == 0:
        return 1.0
    if not MIN_SPEED <= speed <= MAX_SPEED:  # NaN too fails every comparison
        raise InvalidInput(f"speed is {speed}; it must be {MIN_SPEED} to {MAX_SPEED}", field="config.speed")
    return speed


def _text_wait(seconds: float) -> float:
    if seconds and not MIN_TEXT_WAIT <= seconds <= MAX_TEXT_WAIT:
        raise InvalidInput(
            f"max_text_wait_seconds is {seconds}; it must be {MIN_TEXT_WAIT} to {MAX_TEXT_WAIT:g}",
            field="config.max_text_wait_seconds",
        )
    return seconds


_SAMPLING_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 < value <= 10, "above 0 and at most 10"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "top_k": (lambda value: value >= 1, "1 or more"),
    "max_seconds": (lambda value: math.isfinite(value) and value > 0, "above 0"),
}


def _check_sampling(sampling: llm_pb2.SamplingOptions) -> None:
    for descriptor, value in sampling.ListFields():
        allowed, rule = _SAMPLING_RULES.get(descriptor.name, (None, ""))
        if allowed is not None and not allowed(value):
            raise InvalidInput(
                f"{descriptor.name} is {value}; it must be {rule}", field=f"config.sampling.{descriptor.name}"
            )
