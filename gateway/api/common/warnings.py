"""Notes about a request, for APIs that have no event for them: as HTTP headers, or as trailing metadata over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc.aio

from gateway.session.output import Event, Events
from lighttts.v1 import tts_pb2

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

HEADER = "x-light-tts-warning"
MAX_LINES, MAX_LINE_BYTES = 8, 300
"""gRPC's clients refuse metadata of more than 8 kB, HTTP's headers of 8 to 16 kB."""


def lines(notes: Iterable[tts_pb2.Warning]) -> list[str]:
    """Return each note once, on one line of ASCII: `code: message`."""
    texts = dict.fromkeys(" ".join(f"{note.code}: {note.message}".removeprefix(": ").split()) for note in notes)
    return [text.encode("ascii", "backslashreplace").decode()[:MAX_LINE_BYTES] for text in texts][:MAX_LINES]


class WarningTrailers:
    """Sends the notes of a call's sessions as its trailing metadata."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._notes: list[tts_pb2.Warning] = []

    def take(self, event: Event) -> None:
        """Add the event to the metadata if it is a note."""
        if isinstance(event, tts_pb2.Warning) and len(self._notes) < MAX_LINES:
            self._notes.append(event)
            self._context.set_trailing_metadata(tuple((HEADER, line) for line in lines(self._notes)))

    async def taken_from(self, events: Events) -> AsyncGenerator[Event]:
        """Yield all events; add the notes among them to the metadata."""
        async for event in events:
            self.take(event)
            yield event
