"""Words, their samples in a stream, and the times of characters, as data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.common.word_times import TimedWord, character_times, timed_words
from gateway.audio.postprocess import SilenceTrimmer
from gateway.session.spoken_words import SpokenWords
from gateway.session.text_alignment import TextAlignment
from gateway.utterance.words import UtteranceWords
from lighttts.v1 import audio_pb2, encode_pb2, llm_pb2

PER_TOKEN = 100.0


def words(count: int = 3) -> UtteranceWords:
    """Words of two ids each, with a blank between them in the text: characters 3 n to 3 n + 2."""
    found = UtteranceWords()
    named = (encode_pb2.EncodedWord(first_id=2 * n, ids=2, start=3 * n, end=3 * n + 2) for n in range(count))
    found.add_words(named, 10)
    found.start(PER_TOKEN)
    return found


def generated(*text_ids: int, total: int, last: bool = False) -> llm_pb2.GeneratedAudio:
    audio = audio_pb2.AudioChunk(last=last)
    return llm_pb2.GeneratedAudio(
        audio=audio, text_ids=text_ids, confidences=[50] * len(text_ids), tokens_generated=total, text_position=7
    )


def test_a_word_has_an_end_once_its_next_id_is_spoken() -> None:
    found = words()
    found.add_tokens(generated(0, 0, 1, total=3))
    first = found.spoken(found.words[0])
    assert first is not None
    assert (first.first, first.end, first.confidence) == (0, None, 0.5)
    assert found.spoken(found.words[1]) is None
    found.add_tokens(generated(2, 5, total=5))
    again, second, third = (found.spoken(word) for word in found.words)
    assert again is not None
    assert again.end == 300
    assert second is not None
    assert (second.first, second.end) == (300, 400)
    assert third is not None
    assert (third.first, third.end) == (400, None)
    found.add_tokens(generated(total=5, last=True))
    ended = found.spoken(found.words[2])
    assert ended is not None
    assert ended.end == 500


def test_words_that_are_never_spoken_have_no_times() -> None:
    found = words()
    found.add_tokens(generated(0, 2, total=2, last=True))
    assert found.spoken(found.words[2]) is None
    assert [word.text_offset for word in SpokenWords(found, 0, 1.0).due(10**6)] == [10, 13]


def test_tokens_without_text_ids_end_the_times() -> None:
    found = words()
    found.add_tokens(generated(0, 2, total=2))
    found.add_tokens(generated(total=4))
    assert not found.aligned
    assert found.spoken(found.words[0]) is None
    assert SpokenWords(found, 0, 1.0).heard(150) is None
    found.restart()
    found.start(PER_TOKEN)
    found.add_tokens(generated(0, total=1))
    assert found.aligned


def test_words_of_a_repeated_run_are_known() -> None:
    found = words(2)
    found.add_words([encode_pb2.EncodedWord(first_id=2 * n, ids=2, start=n, end=n + 1) for n in range(4)], 0)
    assert [word.first_id for word in found.words] == [0, 2, 4, 6]


def test_words_are_placed_in_the_stream_and_returned_once() -> None:
    found = words()
    spoken = SpokenWords(found, 1000, 0.5)
    found.add_tokens(generated(0, 1, 2, total=3))
    spoken.removed = 40
    [first] = spoken.due(1080)
    assert (first.text_offset, first.length, first.first_sample, first.samples) == (10, 2, 1000, 80)
    [second] = spoken.due(1200)
    assert (second.first_sample, second.samples, second.open) == (1080, 0, True)
    assert spoken.due(1200) == []
    found.add_tokens(generated(4, 5, total=5, last=True))
    again, third = spoken.due(1400)
    assert (again.text_offset, again.samples, again.open) == (13, 50, False)
    assert (third.first_sample, third.samples) == (1130, 100)
    assert spoken.due(10**6) == []


def test_a_cut_is_exact_where_words_have_times() -> None:
    found = words()
    found.add_tokens(generated(0, 1, 2, 3, 4, total=5))
    alignment = TextAlignment()
    alignment.begin(9, 1000, SpokenWords(found, 1000, 1.0))
    alignment.extend(20)
    assert [alignment.offset_at(1000 + at) for at in (1, 199, 200, 399, 400)] == [
        (10, False),
        (10, False),
        (12, False),
        (12, False),
        (15, False),
    ]


@pytest.mark.parametrize("pieces", [1, 7])
def test_the_trimmer_counts_what_it_removed_from_each_utterance(pieces: int) -> None:
    trimmer = SilenceTrimmer(1000)
    sound = np.concatenate((np.zeros(200, np.float32), np.full(100, 0.5, np.float32)))
    for removed in (160, 0):
        parts = np.array_split(sound, pieces)
        kept = sum(len(trimmer.push(part, last=number == pieces - 1)) for number, part in enumerate(parts))
        assert (trimmer.removed, kept) == (removed, 300 - removed)
    trimmer.restart()
    trimmer.arm()
    trimmer.push(sound, last=True)
    assert trimmer.removed == 160


def test_chunks_give_seconds() -> None:
    chunk = audio_pb2.AudioChunk(sample_rate=100)
    chunk.words.add(text_offset=3, length=2, first_sample=50, samples=25)
    chunk.words.add(text_offset=6, length=2, first_sample=80, open=True)
    whole, going_on = timed_words(chunk, after=1.0)
    assert (whole.start, whole.end, whole.text("ab cd ef")) == (1.5, 1.75, "cd")
    assert going_on.end is None
    assert timed_words(chunk, finished=True) == [TimedWord(3, 2, 0.5, 0.75, 0.0)]


def test_characters_share_the_time_of_their_word() -> None:
    spoken = [TimedWord(0, 2, 0.2, 0.4, 1.0), TimedWord(3, 4, 0.6, 1.0, 1.0)]
    times = character_times(8, spoken, 1.5)
    assert times[0] == pytest.approx((0.2, 0.3))
    assert times[2] == pytest.approx((0.4, 0.6))
    assert times[6] == pytest.approx((0.9, 1.0))
    assert times[7] == pytest.approx((1.0, 1.5))


@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), st.floats(0, 9), st.floats(0, 2)), max_size=8),
)
def test_any_words_give_every_character_a_time(length: int, parts: list[tuple[int, int, float, float]]) -> None:
    spoken = [TimedWord(offset, size, start, start + long, 1.0) for offset, size, start, long in sorted(parts)]
    times = character_times(length, spoken, 10.0)
    assert len(times) == length
    assert all(0 <= start <= end for start, end in times)
