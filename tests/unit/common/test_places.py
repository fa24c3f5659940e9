"""Places of sessions: what an engine's limits count."""

from __future__ import annotations

from services.common.engine.places import NEW_SESSION, Place, needs_place, places_taken


def test_utterances_of_one_session_share_a_place() -> None:
    assert places_taken([Place("a"), Place("a", admitted=True), Place("b")]) == 2


def test_an_utterance_without_a_session_is_a_session_by_itself() -> None:
    assert places_taken([NEW_SESSION, NEW_SESSION, Place("a")]) == 3


def test_only_a_new_session_needs_a_place() -> None:
    taken = [Place("a"), NEW_SESSION]
    assert needs_place(Place("b"), taken)
    assert needs_place(NEW_SESSION, taken)
    assert not needs_place(Place("a"), taken)
    assert not needs_place(Place("b", admitted=True), taken)
