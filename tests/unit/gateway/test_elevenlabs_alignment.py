"""Times of characters in the form of ElevenLabs' API: every character once, in order, and none that was not heard."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from gateway.api.elevenlabs.alignment import Characters, TextAlignment, aligned_audio
from gateway.session.output import Event
from lighttts.v1 import audio_pb2, tts_pb2

WORDS, UTTERANCES = audio_pb2.ALIGNMENT_WORD, audio_pb2.ALIGNMENT_UTTERANCE
RATE = 1000
SILENCE = b"\1\1"
"""Audio that differs from that of `chunk`."""


def chunk(*words: tuple[int, int, int, int], last: bool = False, alignment: Any = WORDS) -> audio_pb2.AudioChunk:
    """A chunk with words: their first character, characters, first sample, samples (0: it goes on)."""
    made = audio_pb2.AudioChunk(pcm=b"\0\0", sample_rate=RATE, last=last, alignment=alignment)
    for offset, length, first, samples in words:
        made.words.add(text_offset=offset, length=length, first_sample=first, samples=samples, open=not samples)
    return made


async def session(*events: Event) -> AsyncGenerator[Event]:
    yield tts_pb2.Started(sample_rate=RATE)
    for event in events:
        yield event


async def pieces(alignment: TextAlignment, *events: Event) -> list[Characters]:
    return [found async for _, found in aligned_audio(session(*events), alignment) if found is not None]


async def test_a_word_that_goes_on_waits_for_its_end() -> None:
    alignment = TextAlignment(relative=False)
    alignment.add("ab cd.")
    first, second = await pieces(
        alignment,
        chunk((0, 2, 100, 200), (3, 2, 400, 0)),
        chunk((3, 2, 400, 200), last=True),
        tts_pb2.Spoken(text_offset=6, sample=700),
    )
    assert (first.text, first.times) == ("ab", [(100, 200), (200, 300)])
    assert (second.text, second.times) == (" cd.", [(300, 400), (400, 500), (500, 600), (600, 700)])


async def test_relative_times_add_up() -> None:
    alignment = TextAlignment(relative=True)
    alignment.add("ab cd.")
    first, second = await pieces(
        alignment,
        chunk((0, 2, 100, 200)),
        chunk((3, 2, 400, 200), last=True),
        tts_pb2.Spoken(text_offset=6, sample=700),
    )
    assert first.for_socket() == {"chars": ["a", "b"], "charStartTimesMs": [100, 200], "charDurationsMs": [100, 100]}
    assert second.times == [(0, 100), (100, 200), (200, 300), (300, 400)]


async def test_what_is_never_spoken_gets_no_time_of_its_own() -> None:
    alignment = TextAlignment(relative=True)
    alignment.add("ab ")
    alignment.mark()
    alignment.add("-")
    utterance = chunk((0, 2, 0, 100), last=True), tts_pb2.Spoken(text_offset=2, sample=100)
    spoken, blank, dash = await pieces(alignment, *utterance, tts_pb2.Mark(), tts_pb2.Finished())
    assert [spoken.text, blank.text, dash.text] == ["ab", " ", "-"]
    assert (blank.times, dash.times) == ([(0, 0)], [(0, 0)])


async def test_utterances_without_times_of_words_have_no_characters() -> None:
    alignment = TextAlignment(relative=False)
    alignment.add("ab cd")
    untimed = chunk(last=True, alignment=UTTERANCES), tts_pb2.Spoken(text_offset=3, sample=500)
    timed = chunk((3, 2, 600, 200), last=True), tts_pb2.Spoken(text_offset=5, sample=800)
    assert await pieces(alignment, *untimed, tts_pb2.Finished()) == []
    alignment = TextAlignment(relative=False)
    alignment.add("ab cd")
    (found,) = await pieces(alignment, *untimed, *timed, tts_pb2.Finished())
    assert (found.text, found.times) == ("cd", [(600, 700), (700, 800)])


async def test_a_cut_leaves_out_the_rest() -> None:
    alignment = TextAlignment(relative=False)
    alignment.add("ab cd")
    cut = tts_pb2.Spoken(text_offset=2, sample=100, cut=True)
    (found,) = await pieces(alignment, chunk((0, 2, 0, 100)), chunk(last=True), cut, tts_pb2.Finished())
    assert found.text == "ab"


async def test_the_end_of_an_utterance_is_sent_although_no_event_says_how_far_its_text_goes() -> None:
    alignment = TextAlignment(relative=False)
    alignment.add("ab cd")
    silence, end = audio_pb2.AudioChunk(pcm=SILENCE, sample_rate=RATE), tts_pb2.Finished()
    first, second = chunk((0, 2, 0, 100), last=True), chunk((3, 2, 200, 100), last=True)
    sent = [each async for each in aligned_audio(session(first, silence, second, end), alignment)]
    assert b"".join(audio for audio, _ in sent) == first.pcm + SILENCE + second.pcm
    assert "".join(found.text for _, found in sent if found is not None) == "ab cd"
