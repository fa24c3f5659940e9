"""The preamble that clients of CosyVoice3 put before a text: `You are a helpful assistant.<|endofprompt|>`."""

from __future__ import annotations

from services.encode.text.special_tokens import END_OF_PROMPT

BEGINNING = "You are a helpful assistant"
LONGEST = 1000
"""Characters. A text without the end of the preamble within them has none."""


class Preamble:
    """Separates the preamble from the beginning of a text in fragments of any size."""

    def __init__(self) -> None:
        self.found = ""
        """The preamble, including `<|endofprompt|>`."""
        self._held = ""
        self._decided = False

    def push(self, fragment: str, *, final: bool = False) -> str:
        """Return the text that follows the preamble, as far as it is certain."""
        if self._decided:
            return fragment
        self._held += fragment
        text = self._held.lstrip()
        begun = text.startswith(BEGINNING) if len(text) >= len(BEGINNING) else BEGINNING.startswith(text)
        end = self._held.find(END_OF_PROMPT, 0, LONGEST) if begun else -1
        if begun and end < 0 and len(self._held) < LONGEST and not final:
            return ""
        self._decided = True
        held, self._held = self._held, ""
        if end < 0 or not text.startswith(BEGINNING):
            return held
        self.found = held[: end + len(END_OF_PROMPT)]
        return held[len(self.found) :]
