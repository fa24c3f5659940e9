"""Notes about a request, for APIs that have no event for them: as HTTP headers, or as trailing metadata over gRPC."""

from __future__ import annotations

from collections.abc import Iterable

from lighttts.v1 import tts_pb2

HEADER = "x-light-tts-warning"
MAX_LINES, MAX_LINE_BYTES = 8, 300
"""gRPC's clients refuse metadata of more than 8 kB, HTTP's headers of 8 to 16 kB."""


def lines(notes: Iterable[tts_pb2.Warning]) -> list[str]:
    """Return each note once, on one line of ASCII: `code: message`."""
    texts = dict.fromkeys(" ".join(f"{note.code}: {note.message}".removeprefix(": ").split()) for note in notes)
    return [text.encode("ascii", "backslashreplace").decode()[:MAX_LINE_BYTES] for text in texts][:MAX_LINES]
