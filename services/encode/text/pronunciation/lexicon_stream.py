"""Applies a lexicon to text that is spoken while it arrives."""

from __future__ import annotations

from services.encode.text.markup.items import Text, Warnings
from services.encode.text.pronunciation.lexicon import Lexicon
from services.encode.text.pronunciation.phones import Pronouncer
from services.encode.text.protected import PROTECTED


class LexiconStream:
    """Replaces phrases in a stream of texts. It holds back only what may become a phrase.

    The joined result does not depend on how the text was divided.
    """

    def __init__(self, lexicon: Lexicon, pronouncer: Pronouncer, warnings: Warnings) -> None:
        self._lexicon = lexicon
        self._pronouncer = pronouncer
        self._warnings = warnings
        self._text = ""
        self._places: list[tuple[int, int]] = []  # of each character of self._text in the client's text

    def push(self, text: Text) -> list[Text]:
        """Return the text that is certain. `text` continues the texts before it."""
        if not len(self._lexicon):
            return [text]
        if PROTECTED.fullmatch(text.text) is not None:
            return [*self.flush(), text]
        one_to_one = len(text.text) == text.end - text.start
        self._text += text.text
        self._places += (
            ((place, place + 1) for place in range(text.start, text.end))
            if one_to_one
            else [(text.start, text.end)] * len(text.text)
        )
        return self._take(final=False)

    def flush(self) -> list[Text]:
        """Return the rest, because no text continues it."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> list[Text]:
        taken: list[Text] = []
        done = 0
        phrases, settled = self._lexicon.found(self._text, final=final)
        for start, end, entry in phrases:
            written = self._pronouncer.written(entry.pronunciation, entry.alphabet, self._warnings)
            if written is not None:
                taken += self._unchanged(done, start)
                taken.append(Text(written, self._places[start][0], self._places[end - 1][1]))
                done = end
        taken += self._unchanged(done, settled)
        self._text, self._places = self._text[settled:], self._places[settled:]
        return taken

    def _unchanged(self, start: int, end: int) -> list[Text]:
        """Return the characters [start, end) as they are, in parts that lie together in the client's text."""
        parts: list[Text] = []
        for place in range(start, end):
            begin, stop = self._places[place]
            last = parts[-1] if parts else None
            if last is not None and last.end == begin and stop == begin + 1 and len(last.text) == last.end - last.start:
                parts[-1] = Text(last.text + self._text[place], last.start, stop)
            else:
                parts.append(Text(self._text[place], begin, stop))
        return parts
