"""Notes about a request, for APIs that have no event for them: as HTTP headers, or as trailing metadata over gRPC."""

from __future__ import annotations

from collections.abc import Iterable

from lighttts.v1 import tts_pb2

HEADER = "x-light-tts-warning"
MAX_LINES, MAX_LINE_BYTES = 8, 300
"""gRPC's clients refuse metadata of more than 8 kB, HTTP's headers of 8 to 16 kB."""


def lines(notes: Iterable[tts_pb2.Warning]) -> list[str]:
    """Return each note once, on one line of printable ASCII: `code: message`. The message may quote any text."""
    texts = dict.fromkeys(" ".join(f"{note.code}: {note.message}".removeprefix(": ").split()) for note in notes)
    return [_printable(text)[:MAX_LINE_BYTES].rstrip() for text in texts][:MAX_LINES]


def _printable(text: str) -> str:
    """Return `text` with an escape for each character that a header or metadata cannot have."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in text)
