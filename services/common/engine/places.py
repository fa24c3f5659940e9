"""Places of sessions at a worker: what an engine's limits on new work count.

A session is admitted once. Its utterances share one place, so a session whose next sentence is generated while the
current one plays takes no more room than before. Imports the standard library alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Which place an item of an engine takes."""

    session: str = ""
    """Name of the session; empty if the item is a session by itself."""
    admitted: bool = False
    """The session was admitted before: the engine queues the item instead of refusing it."""


NEW_SESSION = Place()
"""The place of an item that is a session by itself and was not admitted before."""


def places_taken(places: Iterable[Place]) -> int:
    """Return the number of sessions that `places` belong to."""
    sessions: set[str] = set()
    unnamed = 0
    for place in places:
        if place.session:
            sessions.add(place.session)
        else:
            unnamed += 1
    return len(sessions) + unnamed


def needs_place(place: Place, taken: Iterable[Place]) -> bool:
    """Return whether an item takes a further place: its session was not admitted and holds none of `taken`."""
    return not place.admitted and not (place.session and any(place.session == one.session for one in taken))
