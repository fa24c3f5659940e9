"""Converts requests of Riva's API to our synthesis config."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.api.common.audio_upload import A_LAW, MU_LAW, PCM, as_wav, is_file
from gateway.audio.formats import ENCODINGS, MIN_RATE
from lighttts.compat import riva_common_pb2, riva_tts_pb2
from lighttts.v1 import audio_pb2, lexicon_pb2, tts_pb2
from services.common.errors import InvalidInput, listed, quoted

VOICE_FAMILY = "lighttts"
"""Riva's `voice_name`; the voices are its `subvoices`."""
FIELDS = {
    "text": "text",
    "audio": "zero_shot_data.audio_prompt",
    "transcript": "zero_shot_data.transcript",
    "voice_name": "voice_name",
    "encoding": "encoding",
    "sample_rate": "sample_rate_hz",
    "language_code": "language_code",
    "language": "language_code",
    "custom_dictionary": "custom_dictionary",
    "lexicon": "custom_dictionary",
    "phrase": "custom_dictionary",
    "pronunciation": "custom_dictionary",
    "custom_configuration": "custom_configuration",
    "enable_word_time_offsets": "enable_word_time_offsets",
    "rate": "zero_shot_data.sample_rate_hz",
    "speed": "custom_configuration",
    "style": "custom_configuration",
}
_ENCODINGS = {
    riva_common_pb2.ENCODING_UNSPECIFIED: audio_pb2.AUDIO_ENCODING_PCM_S16LE,
    riva_common_pb2.LINEAR_PCM: audio_pb2.AUDIO_ENCODING_PCM_S16LE,
    riva_common_pb2.FLAC: audio_pb2.AUDIO_ENCODING_FLAC,
    riva_common_pb2.MULAW: audio_pb2.AUDIO_ENCODING_MULAW,
    riva_common_pb2.OGGOPUS: audio_pb2.AUDIO_ENCODING_OGG_OPUS,
    riva_common_pb2.ALAW: audio_pb2.AUDIO_ENCODING_ALAW,
}
_BARE_PROMPTS = {
    riva_common_pb2.ENCODING_UNSPECIFIED: PCM,
    riva_common_pb2.LINEAR_PCM: PCM,
    riva_common_pb2.MULAW: MU_LAW,
    riva_common_pb2.ALAW: A_LAW,
}
_ARPABET = re.compile(r"\{@([A-Za-z]{1,2}[0-2]?)\}")
_CONFIGURATION = ("seed", "speed", "style")


_REGIONS = {
    "de": "de-DE",
    "en": "en-US",
    "es": "es-ES",
    "fr": "fr-FR",
    "it": "it-IT",
    "ja": "ja-JP",
    "ko": "ko-KR",
    "ru": "ru-RU",
    "yue": "yue-HK",
    "zh": "zh-CN",
}
RATE_CHANGED = "sample_rate_changed"


def language_code(language: str) -> str:
    """Return a language of the model with a region, as Riva's clients expect it: en-US for en."""
    return _REGIONS.get(language, language)


def to_synthesis_config(
    request: riva_tts_pb2.SynthesizeSpeechRequest, languages: Iterable[str]
) -> tuple[tts_pb2.SynthesisConfig, list[tts_pb2.Warning]]:
    """Return the request as our config, and notes about it. `languages`: those of the model. Raises InvalidInput.

    `zero_shot_data.quality` has no equivalent and is ignored.
    """
    _check_language(request.language_code, tuple(languages))
    if request.encoding not in _ENCODINGS:
        known = ", ".join(riva_common_pb2.AudioEncoding.Name(number) for number in _ENCODINGS)
        raise InvalidInput(f"unknown encoding; use one of {known}", field="encoding")
    config = _configured(dict(request.custom_configuration))
    config.language = request.language_code
    config.word_times = request.enable_word_time_offsets
    config.lexicon.extend(_dictionary(request.custom_dictionary))
    config.audio.encoding = _ENCODINGS[request.encoding]
    config.audio.sample_rate, notes = _rate(config.audio.encoding, request.sample_rate_hz)
    if request.HasField("zero_shot_data"):
        _add_prompt(config, request.zero_shot_data)
    else:
        name = request.voice_name
        config.voice_name = "" if name == VOICE_FAMILY else name.removeprefix(f"{VOICE_FAMILY}.")
    return config, notes


def _rate(encoding: audio_pb2.AudioEncoding.ValueType, rate: int) -> tuple[int, list[tts_pb2.Warning]]:
    """Return the rate to send: for an encoding that lacks the requested one, the next higher one it has, and a note."""
    higher = [known for known in ENCODINGS[encoding].rates if known >= rate]
    if rate < MIN_RATE or not higher or rate in higher:
        return rate, []
    message = f"OGGOPUS has no rate of {rate} Hz; the audio has {higher[0]} Hz"
    return higher[0], [tts_pb2.Warning(code=RATE_CHANGED, message=message)]


def _check_language(code: str, languages: tuple[str, ...]) -> None:
    """Raise InvalidInput for a language of another model. en also serves en-US; a model without a list serves all."""
    if code and languages and code.partition("-")[0].lower() not in {name.partition("-")[0] for name in languages}:
        raise InvalidInput(f"the model does not speak {quoted(code)} but {listed(languages)}", field="language_code")


def _dictionary(text: str) -> list[lexicon_pb2.LexiconEntry]:
    """Return Riva's dictionary, `word  phones,word  phones`, with two blanks between word and phones.

    Phones are IPA; ARPAbet is in braces, `{@T}{@AH0}`.
    """
    entries = []
    for pair in filter(str.strip, text.split(",")):
        phrase, blanks, phones = pair.strip().partition("  ")
        if not blanks or not phones.strip():
            raise InvalidInput(
                f"the entry {quoted(pair.strip())} lacks phones; send word, two blanks, phones, with commas between"
                " the entries",
                field="custom_dictionary",
            )
        arpabet = _ARPABET.findall(phones)
        entries.append(
            lexicon_pb2.LexiconEntry(
                phrase=phrase.strip(),
                pronunciation=" ".join(arpabet) or phones.strip(),
                alphabet=lexicon_pb2.PHONETIC_ALPHABET_ARPABET if arpabet else lexicon_pb2.PHONETIC_ALPHABET_IPA,
            )
        )
    return entries


def _configured(entries: dict[str, str]) -> tts_pb2.SynthesisConfig:
    config = tts_pb2.SynthesisConfig()
    for key, value in entries.items():
        if key not in _CONFIGURATION:
            raise InvalidInput(
                f"unknown key {quoted(key)}; known keys: {', '.join(_CONFIGURATION)}", field="custom_configuration"
            )
        try:
            setattr(config, key, {"seed": int, "speed": float, "style": str}[key](value))
        except ValueError as error:
            raise InvalidInput(f"{key} cannot be {quoted(value)}: {error}", field="custom_configuration") from error
    return config


def _add_prompt(config: tts_pb2.SynthesisConfig, prompt: riva_tts_pb2.ZeroShotData) -> None:
    audio = prompt.audio_prompt
    if audio and not is_file(audio):
        layout = _BARE_PROMPTS.get(prompt.encoding)
        if layout is None:
            raise InvalidInput(
                "the prompt is neither a file nor bare samples; send a whole WAV, FLAC or Ogg file", field="audio"
            )
        if prompt.sample_rate_hz <= 0:
            raise InvalidInput("bare samples need their sample rate, in Hz; or send a WAV file", field="rate")
        audio = as_wav(audio, prompt.sample_rate_hz, layout)
    config.prompt.audio = audio
    config.prompt.transcript = prompt.transcript
    if not prompt.transcript.strip():
        config.mode = tts_pb2.SPEECH_MODE_CROSS_LINGUAL  # without a transcript only the timbre can be used
