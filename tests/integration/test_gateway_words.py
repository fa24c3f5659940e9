"""Times of words: sent with their audio, counted as delivered, equal after a move, exact in a cut, never made up."""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import pytest

from lighttts.compat import riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.errors import Unavailable
from tests.support.fake_stages import SAMPLES_PER_ID, Conversation, Rig, Script, chunks, rig

TEXT = "Hello there, big world. And more words."
WORDS = ["Hello", "there", "big", "world", "And", "more", "words"]
WORD, UTTERANCE = audio_pb2.ALIGNMENT_WORD, audio_pb2.ALIGNMENT_UTTERANCE


def config(**fields: Any) -> tts_pb2.SynthesisConfig:
    audio = audio_pb2.AudioOutput(encoding=audio_pb2.AUDIO_ENCODING_PCM_F32LE, keep_leading_silence=True)
    defaults: dict[str, Any] = {"seed": 7, "word_times": True, "audio": audio}
    return tts_pb2.SynthesisConfig(**(defaults | fields))


async def speak(r: Rig, text: str = TEXT, start_sample: int = 0, **fields: Any) -> list[Any]:
    for llm in r.llms:
        llm.aligns = fields.pop("aligns", True)
    request = tts_pb2.SynthesizeRequest(config=config(**fields), text=text, start_sample=start_sample)
    return [getattr(response, response.WhichOneof("event") or "") async for response in r.tts.Synthesize(request)]


def finished(events: list[Any]) -> list[audio_pb2.Word]:
    return [word for chunk in chunks(events) for word in chunk.words if not word.open]


def check_order(events: list[Any], text: str = TEXT) -> None:
    """No word comes after its first sample, and one that goes on comes again no later than just after its last."""
    for chunk in chunks(events):
        end = chunk.first_sample + len(chunk.pcm) // 4
        for word in chunk.words:
            if word.open:
                assert chunk.first_sample <= word.first_sample < end
                assert not word.samples
            else:
                assert word.first_sample < end
                opened = [one.text_offset for each in chunks(events) for one in each.words if one.open]
                assert word.text_offset in opened or word.first_sample >= chunk.first_sample
                assert word.first_sample + word.samples >= chunk.first_sample


def text_of(words: list[audio_pb2.Word], text: str = TEXT) -> list[str]:
    return [text[word.text_offset : word.text_offset + word.length] for word in words]


async def test_words_come_with_their_audio_and_count_its_samples() -> None:
    async with rig() as r:
        events = await speak(r)
        words = finished(events)
        assert text_of(words) == WORDS
        # The fake voice speaks one character in SAMPLES_PER_ID samples, so characters and samples correspond.
        assert [word.first_sample for word in words] == [SAMPLES_PER_ID * word.text_offset for word in words]
        assert [word.samples for word in words] == [SAMPLES_PER_ID * word.length for word in words]
        assert {round(word.confidence, 3) for word in words} == {0.8}
        assert {chunk.alignment for chunk in chunks(events)} == {WORD}
        check_order(events)
        plain = await speak(r, word_times=False)
        assert not any(chunk.words or chunk.alignment for chunk in chunks(plain))


@pytest.mark.parametrize("rate", [8000, 48000])
async def test_positions_count_the_samples_of_the_answer(rate: int) -> None:
    async with rig() as r:
        audio = audio_pb2.AudioOutput(
            encoding=audio_pb2.AUDIO_ENCODING_PCM_F32LE, sample_rate=rate, keep_leading_silence=True
        )
        words = finished(await speak(r, audio=audio))
        assert text_of(words) == WORDS
        per_character = SAMPLES_PER_ID * rate / 24000
        assert [word.first_sample for word in words] == [round(per_character * word.text_offset) for word in words]


async def test_an_encoded_stream_has_the_same_times() -> None:
    async with rig() as r:
        reference = finished(await speak(r))
        opus = audio_pb2.AudioOutput(encoding=audio_pb2.AUDIO_ENCODING_OGG_OPUS, keep_leading_silence=True)
        words = finished(await speak(r, audio=opus))
        assert [(word.text_offset, word.first_sample, word.samples) for word in words] == [
            (word.text_offset, word.first_sample, word.samples) for word in reference
        ]


async def test_an_answer_from_a_later_sample_has_the_later_words() -> None:
    async with rig() as r:
        whole = finished(await speak(r))
        start = whole[3].first_sample + 10
        rest = finished(await speak(r, start_sample=start))
        assert rest == [word for word in whole if word.first_sample + word.samples > start]


async def test_a_move_leaves_the_times_as_they_are() -> None:
    async with rig(llms=2) as r:
        undisturbed = await speak(r)
        for llm in r.llms:
            llm.scripts[len(llm.calls)] = Script(fail_at_hop=2, error=Unavailable("gone"))
        moved = await speak(r)
        assert any(isinstance(event, tts_pb2.Resumed) for event in moved)
        assert finished(moved) == finished(undisturbed)
        check_order(moved)


async def test_a_worker_that_does_not_align_ends_the_times_but_not_the_speech() -> None:
    async with rig() as r:
        events = await speak(r, aligns=False)
        assert not finished(events)
        assert {chunk.alignment for chunk in chunks(events)} == {UTTERANCE}
        notes = [event.code for event in events if isinstance(event, tts_pb2.Warning) and event.code]
        assert notes == ["word_times_unavailable"]
        assert [event.text_offset for event in events if isinstance(event, tts_pb2.Spoken)] or chunks(events)


async def test_a_cut_names_the_words_that_were_heard() -> None:
    async with rig() as r:
        r.llm.aligns = True
        client = await Conversation(r, config(word_times=False)).begin()
        await client.position(0)
        await client.text(TEXT)
        await client.flush()
        await client.next_of(tts_pb2.Mark)
        # "Hello there, b|ig world." and the stream goes on in a second sentence.
        await client.position((TEXT.index("ig") * SAMPLES_PER_ID) / 24000)
        await client.cancel()
        spoken = await client.next_of(tts_pb2.Spoken)
        while not spoken.cut:
            spoken = await client.next_of(tts_pb2.Spoken)
        assert (TEXT[: spoken.text_offset], spoken.estimated) == ("Hello there", False)
        client.call.cancel()


async def test_words_of_a_conversation_count_on_over_its_utterances_and_pauses() -> None:
    async with rig() as r:
        r.llm.aligns = True
        client = await Conversation(r, config()).begin()
        for text in ("One two. ", "Three."):
            await client.text(text)
            await client.flush()
        await client.end()
        words = finished(await client.rest())
        assert text_of(words, "One two. Three.") == ["One", "two", "Three"]
        assert all(word.first_sample >= SAMPLES_PER_ID * word.text_offset - SAMPLES_PER_ID for word in words)
        check_order(client.events, "One two. Three.")


async def test_riva_gets_its_words() -> None:
    async with rig() as r:
        r.llm.aligns = True
        stub = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel)
        requests = [
            riva_tts_pb2.SynthesizeSpeechRequest(text=text, enable_word_time_offsets=True)
            for text in (TEXT, "Bye now.")
        ]
        answer = await stub.Synthesize(requests[0])
        assert [word.word for word in answer.meta.words] == WORDS
        assert all(word.start_time < word.end_time for word in answer.meta.words)
        assert answer.meta.words[1].start_time - answer.meta.words[0].start_time == 60
        streamed = [response async for response in stub.SynthesizeOnline(iter(requests))]
        assert [word.word for response in streamed for word in response.meta.words] == [*WORDS, "Bye", "now"]
        times = [word.start_time for response in streamed for word in response.meta.words]
        assert times == sorted(times)
        requests[0].enable_word_time_offsets = False
        assert not (await stub.Synthesize(requests[0])).meta.words


def server_events(body: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line.startswith("data: ")]


async def test_server_sent_events_carry_words_before_their_audio() -> None:
    async with rig() as r:
        r.llm.aligns = True
        fields = {"input": TEXT, "stream_format": "sse", "timestamps": True, "response_format": "pcm", "seed": 1}
        answer = await r.http.post("/v1/audio/speech", json=fields | {"trim_leading_silence": False})
        seconds, begun = 0.0, dict[int, dict[str, Any]]()
        for event in server_events(answer.text):
            if event["type"] == "speech.audio.words":
                for word in event["words"]:
                    assert word["offset"] in begun or word["start"] >= seconds - 1e-3
                    begun[word["offset"]] = word
            elif event["type"] == "speech.audio.delta":
                seconds += len(base64.b64decode(event["audio"])) / 2 / 24000
        assert [word["word"] for word in begun.values()] == WORDS
        assert all(word["end"] > word["start"] for word in begun.values())
        utterances = [event for event in server_events(answer.text) if event["type"] == "speech.audio.utterance"]
        assert "".join(event["text"] for event in utterances) == TEXT
        assert utterances[-1]["end"] == pytest.approx(seconds, abs=1e-3)
        plain = await r.http.post("/v1/audio/speech", json=fields | {"timestamps": False})
        assert {event["type"] for event in server_events(plain.text)} == {"speech.audio.delta", "speech.audio.done"}
        refused = await r.http.post("/v1/audio/speech", json=fields | {"stream_format": "audio"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "timestamps")


async def test_riva_is_told_that_words_have_no_times() -> None:
    async with rig() as r:
        stub = riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel)
        call = stub.Synthesize(riva_tts_pb2.SynthesizeSpeechRequest(text=TEXT, enable_word_time_offsets=True))
        assert not (await call).meta.words
        trailers = await call.trailing_metadata() or ()
        assert any("words have no times" in str(value) for _, value in trailers)
        assert await call.code() == grpc.StatusCode.OK
