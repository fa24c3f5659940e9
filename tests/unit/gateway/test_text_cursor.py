"""The text of a session as data, and the states that follow from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.session.text_cursor import SessionProgress, SessionState, TextCursor


def test_text_after_the_last_word_is_not_waited_for() -> None:
    text = TextCursor()
    text.receive("Two words. ")
    assert (text.received, text.to_speak, text.waiting, text.idle) == (11, 9, 11, False)
    text.spoken = 10
    assert text.idle
    assert text.waiting == 1
    text.receive("...")
    assert text.idle
    text.receive("More")
    assert not text.idle


def test_a_cut_drops_all_text_received() -> None:
    text = TextCursor()
    text.receive("Words that nobody will hear.")
    text.cut()
    assert text == TextCursor(received=28, to_speak=28, encoded=28, spoken=28)
    assert text.idle


def test_text_without_speech_is_skipped_at_the_end_of_a_flush() -> None:
    text = TextCursor()
    text.receive("a")
    text.skip()
    assert text.idle
    text.receive("b")
    assert not text.idle


def test_text_without_words_does_not_wait_after_its_mark() -> None:
    text = TextCursor()
    text.receive("One. ")
    text.spoken = 4
    assert text.waiting == 1
    text.marked = 5
    assert text.waiting == 0
    text.receive("Two.")
    assert text.waiting == 4
    text.spoken = 9
    assert text.waiting == 0


def started() -> SessionProgress:
    progress = SessionProgress()
    progress.start()
    return progress


def state(progress: SessionProgress) -> SessionState:
    return progress.state


def receive(progress: SessionProgress, text: str) -> None:
    progress.text.receive(text)
    progress.update()


def test_the_states_follow_the_text() -> None:
    progress = SessionProgress()
    receive(progress, "Early. ")
    assert state(progress) is SessionState.STARTING
    progress.start()
    assert state(progress) is SessionState.SPEAKING
    progress.text.spoken = 6
    progress.update()
    assert state(progress) is SessionState.QUIET
    receive(progress, "More.")
    assert state(progress) is SessionState.SPEAKING


def test_a_retired_session_leaves_when_it_is_quiet() -> None:
    progress = started()
    receive(progress, "One.")
    progress.retire()
    assert not progress.leaving.is_set()
    progress.text.cut()
    progress.update()
    assert state(progress) is SessionState.LEAVING
    assert progress.leaving.is_set()
    receive(progress, "Two.")
    assert state(progress) is SessionState.LEAVING, "the client is asked once"


def test_a_session_that_is_retired_before_it_started_leaves_after_its_start() -> None:
    progress = SessionProgress()
    progress.retire()
    assert state(progress) is SessionState.STARTING
    progress.start()
    assert state(progress) is SessionState.LEAVING


@given(st.lists(st.one_of(st.text(max_size=5), st.just(None))))
def test_the_offsets_are_in_order(events: list[str | None]) -> None:
    """`None` is a barge-in."""
    text = TextCursor()
    for event in events:
        before = text.received
        if event is None:
            text.cut()
        else:
            text.receive(event)
        assert text.spoken <= text.encoded <= text.received
        assert text.to_speak <= text.received
        assert text.received >= before
