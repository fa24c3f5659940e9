"""Reads a stream of text as items: plain text with its marks, and documents of SSML."""

from __future__ import annotations

from collections.abc import Iterator

from services.encode.text.markup import ssml
from services.encode.text.markup.inline import InlineReader
from services.encode.text.markup.items import Item, Warnings, shifted
from services.encode.text.markup.sounds import Sounds
from services.encode.text.pronunciation.phones import Pronouncer


class MarkupReader:
    """Takes fragments of any size. A text that begins with `<speak` is SSML; it is held until it is closed.

    After the end of a document another one may follow, as agents send one for each sentence.
    """

    def __init__(self, sounds: Sounds, pronouncer: Pronouncer, language: str = "") -> None:
        """`language`: primary subtag of the request's language; empty if it has none."""
        self.warnings = Warnings()
        self.language = language
        """Of the request, otherwise of the last document that names one."""
        self._pronouncer = pronouncer
        self._inline = InlineReader(sounds, self.warnings)
        self._requested = language
        self._text = ""
        self._offset = 0
        self._beginning = True
        """Only white space preceded self._text since the beginning or the last document."""
        self._closes = 0
        """The text before this place has been searched for the end of a document."""

    def push(self, fragment: str) -> Iterator[Item]:
        """Yield the items that `fragment` completes. Raises InvalidInput for malformed SSML."""
        self._text += fragment
        return self._read(final=False)

    def finish(self) -> Iterator[Item]:
        """Yield what was held back, at the end of the text. Raises InvalidInput for SSML that is not closed."""
        return self._read(final=True)

    def _read(self, *, final: bool) -> Iterator[Item]:
        while self._text:
            if self._beginning:
                match = ssml.START.match(self._text, partial=not final)
                if match is not None and match.partial:
                    return
                if match is not None:
                    document = self._document(final=final)
                    if document is None:
                        return
                    yield from document.items
                    continue
                self._beginning = False
            # A document may begin only at the beginning, so the rest is plain text.
            items, covered = self._inline.read(self._text, self._offset, final=final)
            self._drop(covered)
            yield from items
            return

    def _document(self, *, final: bool) -> ssml.Document | None:
        """Read the document at the beginning of the text; None if it is not closed yet."""
        if not final:
            closing = self._text.find(ssml.CLOSE, max(0, self._closes - len(ssml.CLOSE)))
            self._closes = len(self._text)
            open_at_end = closing >= 0 and ">" not in self._text[closing:]
            if open_at_end:
                self._closes = closing  # look again when its `>` has arrived
            if (closing < 0 or open_at_end) and not self._empty_root():
                return None
        document = ssml.read(self._text, self._pronouncer, self._requested, self.warnings, final=final)
        if document is not None:
            items = [shifted(item, self._offset) for item in document.items]
            document = ssml.Document(items, document.length, document.language)
            self.language = self._requested or document.language.partition("-")[0].lower()
            self._drop(document.length)
            self._closes = 0
        return document

    def _empty_root(self) -> bool:
        return "/>" in self._text and ssml.EMPTY.match(self._text) is not None

    def _drop(self, characters: int) -> None:
        self._text = self._text[characters:]
        self._offset += characters
