"""The text front end of a model directory: normaliser, tokenizer, languages and splitter limits."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import regex
from numpy.typing import NDArray

from services.common.checkpoint.model_dir import ModelDir
from services.common.errors import InvalidInput
from services.encode.text import special_tokens
from services.encode.text.borders.units import CONTROL
from services.encode.text.cleaning import clean, drop_unspeakable
from services.encode.text.markup.items import Text, Warnings
from services.encode.text.markup.sounds import Sounds
from services.encode.text.normalise import Normaliser, language_of, only_punctuation
from services.encode.text.pronunciation.lexicon import Lexicon
from services.encode.text.pronunciation.phones import Pronouncer
from services.encode.text.tokenizer import TextTokenizer

MAX_ACCOMPANYING = 4000
"""Longest transcript or instruction in characters, several times what a prompt of 30 seconds holds. This bounds the
time that either takes."""

_LEADING_MARK = regex.compile(r"^[,;，；、]\s*")  # after a pause
_LEADING_MARKS = frozenset(",;，；、")
_SPACED_MARK = re.compile(r" [.,!?;:]")
_LOOSE_MARK = regex.compile(r"(?<=\p{L}) (?=[.,!?;:](?:\s|$))")
_CONTROL = regex.compile(CONTROL)
_LINE_ENDS = regex.compile(r"[ \t]*[\r\n]\s*")
_BLANKS = regex.compile(r" {2,}")
# Scripts that identify languages. Latin letters do not: any text may contain them.
_SCRIPTS: tuple[tuple[str, regex.Pattern[str], frozenset[str]], ...] = (
    ("Chinese characters", regex.compile(r"\p{Han}"), frozenset({"zh", "yue", "ja", "ko"})),
    ("Japanese kana", regex.compile(r"[\p{Hiragana}\p{Katakana}]"), frozenset({"ja"})),
    ("Korean letters", regex.compile(r"\p{Hangul}"), frozenset({"ko"})),
    ("Cyrillic letters", regex.compile(r"\p{Cyrillic}"), frozenset({"ru"})),
    ("Arabic letters", regex.compile(r"\p{Arabic}"), frozenset({"ar"})),
)


class TextFrontend:
    """The text front end of a model directory. Thread-safe."""

    def __init__(self, model: ModelDir, normaliser: Normaliser, *, cleaning: bool = True) -> None:
        """`cleaning`: leave out what cannot be spoken. Raises ModelDirError if the tokenizer's files are missing or
        damaged."""
        self.tokenizer = TextTokenizer(model)
        self.sounds = Sounds(self.tokenizer)
        self.pronouncer = Pronouncer(self.sounds)
        self._cleaning = cleaning and normaliser.name != "upstream"
        self.normaliser = normaliser
        self.split = model.card.split
        self._rules = model.family.text
        self._languages = frozenset(model.card.languages)

    def check(self, text: str, *, field: str = "text") -> None:
        """Raise InvalidInput if `text` is not valid Unicode or has a script of none of the model's languages."""
        if text.isascii():
            return
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{field} is not valid Unicode (a lone surrogate); send UTF-8 text", field=field
            ) from error
        for name, pattern, languages in _SCRIPTS:
            found = None if languages & self._languages else pattern.search(text)
            if found is not None:
                raise InvalidInput(
                    f"{field} has {name} ({found.group()!r}), but this model speaks {self.languages}", field=field
                )

    def read(self, sentence: str, language: str, lexicon: Lexicon, warnings: Warnings) -> str:
        """Return a sentence as the model receives it: cleaned, with the lexicon's pronunciations, in words."""
        text = clean(sentence) if self._cleaning else sentence
        text = self.pronouncer.with_phones(lexicon.applied(text, self.pronouncer, warnings), warnings)
        # What was left out leaves the blanks around it.
        text = self.sounds.guarded(text)
        if "\n" in text or "\r" in text:  # a wrapped line
            text = _LINE_ENDS.sub("" if language == "zh" else " ", text)
        if "  " in text:
            text = _BLANKS.sub(" ", text)
        if _SPACED_MARK.search(text) is not None:
            text = _LOOSE_MARK.sub("", text)
        text = text.strip()
        if text[:1] in _LEADING_MARKS:
            text = _LEADING_MARK.sub("", text)
        return self.normaliser(text, language)

    def plain_characters(self, item: Text) -> list[Text]:
        """Return text that is not normalised without what cannot be spoken."""
        text = drop_unspeakable(item.text) if self._cleaning else item.text
        if text == item.text:
            return [item]
        if len(item.text) != item.end - item.start:
            return [replace(item, text=text)]
        return [
            replace(item, text=drop_unspeakable(char), start=item.start + place, end=item.start + place + 1)
            for place, char in enumerate(item.text)
        ]

    def language_tag_ids(self, language: str) -> tuple[int, ...]:
        """Return the ids of the checkpoint's tag for a language; none if it has no tag."""
        tag = self.sounds.language_tag(language) if language else ""
        return tuple(self.tokenizer.encode(tag)) if tag else ()

    @property
    def languages(self) -> str:
        """The model's languages, for messages."""
        return ", ".join(sorted(self._languages))

    def speaks(self, language: str) -> bool:
        """Return whether the model speaks a language (primary subtag). A model without a list speaks all."""
        return not self._languages or language in self._languages

    @property
    def follows_instructions(self) -> bool:
        """Whether the checkpoint has the token that ends an instruction; without it none can be given."""
        return self.tokenizer.has_embedding(special_tokens.END_OF_PROMPT)

    def instruct_ids(self, instruction: str) -> tuple[int, ...]:
        """Return the ids that precede a text when the prompt's own text is not used (spec sections 3.6 and 9).

        `instruction` describes how to speak and is not normalised. An empty one selects cross-lingual speech, for which
        CosyVoice2 has no ids. Raises InvalidInput if the model was not trained on instructions.
        """
        text = _without_control_tokens(instruction).strip()
        _check_length(text, field="instruct_text")
        self.check(text, field="instruct_text")
        if text and not self.follows_instructions:
            raise InvalidInput(
                "this model does not support instructions; omit the instruction and speak zero-shot or cross-lingual",
                field="instruct_text",
            )
        text = self._rules.instruction(text)
        return tuple(self.tokenizer.encode(text, field="instruct_text")) if text else ()

    def preamble_ids(self, preamble: str) -> tuple[int, ...]:
        """Return the ids of a preamble that ends with `<|endofprompt|>`; none if the checkpoint lacks that token."""
        return tuple(self.tokenizer.encode(_without_control_tokens(preamble))) if self.follows_instructions else ()

    def prompt_ids(self, transcript: str) -> NDArray[np.int32]:
        """Return the ids [n] of a prompt's transcript, normalised but never split (spec sections 2.1 and 9).

        Raises InvalidInput if it is missing, has no words, or is not in one of the model's languages.
        """
        text = _without_control_tokens(transcript).strip()
        if not text:
            raise InvalidInput("transcript is missing; send the words of the prompt audio", field="transcript")
        _check_length(text, field="transcript")
        if only_punctuation(regex.sub(r"\s", "", text)):
            raise InvalidInput("transcript has no words; send the words of the prompt audio", field="transcript")
        self.check(text, field="transcript")
        if not self._rules.prompts_end:
            text = self.normaliser(text, language_of(text))
        text = self._rules.transcript(text)
        return np.array(self.tokenizer.encode(text, field="transcript"), dtype=np.int32)


def _without_control_tokens(text: str) -> str:
    """Return a user's text with blanks in place of control tokens; only `<|endofprompt|>` may be among its words."""
    return _CONTROL.sub(lambda token: token.group() if token.group() == special_tokens.END_OF_PROMPT else " ", text)


def _check_length(text: str, *, field: str) -> None:
    if len(text) > MAX_ACCOMPANYING:
        raise InvalidInput(f"{field} has {len(text)} characters; send at most {MAX_ACCOMPANYING}", field=field)
