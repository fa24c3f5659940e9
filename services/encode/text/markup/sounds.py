"""The closed list of sounds and tokens that a text may contain, as far as the checkpoint knows them."""

from __future__ import annotations

from collections.abc import Iterable

import regex

from services.encode.text import special_tokens
from services.encode.text.markup.items import Warnings
from services.encode.text.protected import PROTECTED
from services.encode.text.tokenizer import TextTokenizer

_SOUNDS = frozenset(token for token in special_tokens.MARKS if not token.startswith("<|"))
# Names in texts for other products, and the sound of ours that they mean; an empty one: none.
_OTHER_NAMES = {
    "[laughter]": "laugh laughs laughing laughter chuckle chuckles chuckling giggle giggles giggling lol haha",
    "[breath]": "breath breathe breathes breathing inhale inhales inhaling exhale exhales exhaling gasp gasps",
    "[quick_breath]": "quick_breath quick-breath",
    "[sigh]": "sigh sighs sighing",
    "[cough]": "cough coughs coughing clears-throat clear-throat clears_throat clear_throat",
    "[noise]": "noise",
    "[hissing]": "hissing",
    "[lipsmack]": "lipsmack lip-smack lip_smack",
    "[clucking]": "clucking",
    "[vocalized-noise]": "vocalized-noise vocalized_noise",
    "": (
        "uv_break lbreak v_break oral laugh_0 laugh_1 laugh_2 break sniff sniffs sniffing groan groans yawn yawns cry"
        " cries crying sob sobs sobbing scream screams whisper whispers whispering shout shouts hum hums humming"
        " applause music sings singing snore snort snorts throat gulp gulps mumble sneeze sneezes silence"
        " happy sad angry excited surprised curious sarcastic nervous calm neutral emphasis"
    ),
}
_MEANT = {name: sound for sound, names in _OTHER_NAMES.items() for name in names.split()}
_BRACKETED = regex.compile(r"\[([A-Za-z][A-Za-z _-]{0,22}?)(?:[_ ]?\d)?\]")
_LANGUAGE_TAG = regex.compile(r"<\|[a-z]{2,3}\|>")
PHONES = frozenset(special_tokens.PHONES)


class Sounds:
    """Decides which bracketed names, tags and tokens of a text reach the model. Thread-safe."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._known = frozenset(token for token in _SOUNDS if tokenizer.has_embedding(token))
        self._phones = frozenset(token for token in PHONES if tokenizer.has_embedding(token))
        self._tokenizer = tokenizer

    def speaks(self, phones: Iterable[str]) -> bool:
        """Return whether the checkpoint has tokens for all of these phones."""
        return self._phones.issuperset(phones)

    def bracket(self, written: str, warnings: Warnings) -> str | None:
        """Return what a bracket such as `[laugh]` becomes: a token, nothing, or None if it is text."""
        if written in _SOUNDS:
            return self._sound(written, written, warnings)
        match = _BRACKETED.fullmatch(written)
        if match is None:
            return None
        sound = _MEANT.get(match.group(1).strip().lower().replace(" ", "_"))
        if sound is None:
            sound = _MEANT.get(match.group(1).strip().lower().replace(" ", "-"))
        return None if sound is None else self._sound(written, sound, warnings)

    def tag(self, written: str, warnings: Warnings) -> str | None:
        """Return what a tag such as `<strong>` becomes if it is a sound: a token or nothing. None: it is no sound."""
        return self._sound(written, written, warnings) if written in _SOUNDS else None

    def control(self, written: str, warnings: Warnings) -> str:
        """Return a control token if it is a language tag of the checkpoint, otherwise nothing."""
        if self._allowed(written):
            return written
        warnings.add("control_token_dropped", f"{written} is a control token of models and was left out")
        return ""

    def language_tag(self, language: str) -> str:
        """Return the checkpoint's tag for a language (`en`), or an empty string."""
        tag = f"<|{language}|>"
        return tag if self._tokenizer.has_embedding(tag) else ""

    def guarded(self, text: str) -> str:
        """Return `text` with everything broken up that the tokenizer would take for a token that is not allowed."""
        if "<" not in text and "[" not in text:
            return text
        return PROTECTED.sub(self._broken, text)

    def _broken(self, match: regex.Match[str]) -> str:
        token = match.group()
        if token in PHONES:
            return token if token in self._phones and _in_sequence(match) else token[1:-1]
        return token if self._allowed(token) else " "

    def _allowed(self, token: str) -> bool:
        if token in self._known or token in self._phones:
            return True
        return _LANGUAGE_TAG.fullmatch(token) is not None and self._tokenizer.has_embedding(token)

    def _sound(self, written: str, sound: str, warnings: Warnings) -> str:
        if sound in self._known:
            return sound
        warnings.add("sound_dropped", f"this model has no sound {written}; it was left out")
        return ""


def _in_sequence(match: regex.Match[str]) -> bool:
    """Return whether a phone has a neighbour, or cannot be plain text: `[b]` alone is a letter in brackets."""
    text, (start, end) = match.string, match.span()
    token = match.group()
    return text[start - 1 : start] == "]" or text[end : end + 1] == "[" or not token.isascii() or token[-2].isdigit()
