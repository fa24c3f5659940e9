"""A conversation that changes: another voice, speed or manner between turns, and the figures of each turn."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2
from services.common.errors import from_rpc_error
from tests.support.fake_stages import Conversation, Script, chunks, ids_of, rig, samples, until

SAMPLES = 240


def named(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


async def test_text_is_spoken_as_configured_before_it() -> None:
    async with rig() as r:
        conversation = await Conversation(r).begin()
        await conversation.text("One.")
        await conversation.flush()
        await conversation.configure(voice_name="anna", speed=1.5)
        await conversation.text("Two.")
        await conversation.flush()
        await conversation.configure(mode=tts_pb2.SPEECH_MODE_INSTRUCT, instruct_text="sadly", language="de-DE")
        await conversation.text("Three.")
        await conversation.end()
        events = await conversation.rest()
        starts = [call.start for call in r.llm.calls]
        assert [call.ids for call in r.llm.calls] == [ids_of(text) for text in ("One.", "Two.", "Three.")]
        assert [start.voice_hash for start in starts] == ["hash of hugo", "hash of anna", "hash of anna"]
        assert [start.speed for start in starts] == [1.0, 1.5, 1.5]
        assert [start.prompt_use for start in starts] == [
            llm_pb2.PROMPT_USE_ZERO_SHOT,
            llm_pb2.PROMPT_USE_ZERO_SHOT,
            llm_pb2.PROMPT_USE_TIMBRE,
        ]
        assert [(start.instruct_text, start.language) for start in r.encode.starts][-1] == ("sadly", "de-DE")
        done = [(event.number, event.voice_hash) for event in events if isinstance(event, tts_pb2.Configured)]
        assert done == [(0, "hash of anna"), (1, "hash of anna")]
        assert len(samples(events)) == len("One.Two.Three.") * SAMPLES, "numbered without a gap"
        spoken = [event.text_offset for event in events if isinstance(event, tts_pb2.Spoken)]
        assert spoken == [4, 8, 14]


async def test_a_change_ends_a_sentence_that_has_no_end() -> None:
    async with rig() as r:
        conversation = await Conversation(r).begin()
        await conversation.text("Good day and")
        await conversation.configure(speed=2.0)
        await conversation.text("goodbye.")
        await conversation.end()
        await conversation.rest()
        assert [(call.ids, call.start.speed) for call in r.llm.calls] == [
            (ids_of("Good day and"), 1.0),
            (ids_of("goodbye."), 2.0),
        ]


async def test_a_change_holds_after_a_cancel_and_the_speech_is_the_same_as_from_a_new_stream() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        conversation = await Conversation(r).begin()
        await conversation.text("A long sentence.")
        await conversation.flush()
        await conversation.next_of(audio_pb2.AudioChunk)
        await conversation.configure(voice_name="anna")
        await conversation.cancel()
        cut = await conversation.next_of(tts_pb2.Spoken)
        assert cut.cut
        await conversation.text("Two.")
        await conversation.end()
        events = await conversation.rest()
        assert r.llm.calls[-1].start.voice_hash == "hash of anna"
        assert len(chunks(events)) > 1
        marks = [event for event in events if isinstance(event, tts_pb2.Mark)]
        assert not any(mark.HasField("turn") for mark in marks), "cancelled turns have no figures"


async def test_each_turn_has_its_figures() -> None:
    async with rig() as r:
        conversation = await Conversation(r).begin()
        for text in ("One. Two.", "", "Three."):
            if text:
                await conversation.text(text)
            await conversation.flush()
        await conversation.end()
        events = await conversation.rest()
        marks = [event for event in events if isinstance(event, tts_pb2.Mark)]
        turns = [mark.turn for mark in marks]
        assert [
            (mark.flush, mark.turn.characters, mark.turn.speech_tokens, mark.turn.text_tokens) for mark in marks
        ] == [
            (0, 9, 9, 9),
            (1, 0, 0, 0),
            (2, 6, 6, 6),
        ]
        assert [turn.audio_seconds for turn in turns] == pytest.approx([9 * 0.01, 0, 6 * 0.01])
        assert [turn.time_to_first_audio > 0 for turn in turns] == [True, False, True]


async def test_the_wait_for_more_text_is_the_stream_s_own() -> None:
    async with rig() as r:
        config = tts_pb2.SynthesisConfig(max_text_wait_seconds=0.25)
        conversation = await Conversation(r, config).begin()
        await conversation.text("One.")
        await conversation.configure(max_text_wait_seconds=2.0)
        await conversation.text("Two.")
        await conversation.end()
        await conversation.rest()
        assert [start.idle_seconds for start in r.encode.starts] == [0.25, 2.0]


@pytest.mark.parametrize(
    ("fields", "words", "code"),
    [
        ({"seed": 3}, "seed holds for the whole stream", grpc.StatusCode.INVALID_ARGUMENT),
        ({"audio": audio_pb2.AudioOutput(sample_rate=8000)}, "audio holds", grpc.StatusCode.INVALID_ARGUMENT),
        ({"speed": 9.0}, "0.25 to 4", grpc.StatusCode.INVALID_ARGUMENT),
        ({"max_text_wait_seconds": 0.01}, "0.05 to 60", grpc.StatusCode.INVALID_ARGUMENT),
        ({"instruct_text": "sadly"}, "needs the mode", grpc.StatusCode.INVALID_ARGUMENT),
        ({"voice_name": "nobody"}, "known voices", grpc.StatusCode.NOT_FOUND),
        ({"prompt": tts_pb2.Prompt(audio=b"BAD", transcript="x")}, "not audio", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_bad_change_ends_the_stream_with_its_reason(
    fields: dict[str, Any], words: str, code: grpc.StatusCode
) -> None:
    async with rig() as r:
        conversation = await Conversation(r).begin()
        await conversation.configure(**fields)
        await conversation.text("One.")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await conversation.rest()
        assert caught.value.code() is code
        assert words in from_rpc_error(caught.value).message


async def test_changes_are_announced_in_their_order_even_if_the_first_one_s_voice_takes_longer() -> None:
    async with rig() as r:
        conversation = await Conversation(r).begin()
        await conversation.next_of(tts_pb2.Started)
        r.encode.voice_gate.clear()
        uploads = len(r.encode.uploads)
        await conversation.configure(prompt=tts_pb2.Prompt(audio=b"RIFF", transcript="hello"))
        await conversation.text("One.")
        await conversation.configure(voice_name="hugo")  # the voice of the start, which is known
        await conversation.text("Two.")
        await conversation.end()
        rest = asyncio.create_task(conversation.rest())
        await until(lambda: len(r.encode.uploads) == uploads + 1)
        for _ in range(5):  # time in which the second change could be announced
            await r.voices.ListVoices(tts_pb2.ListVoicesRequest())
        r.encode.voice_gate.set()
        assert [event.number for event in await rest if isinstance(event, tts_pb2.Configured)] == [0, 1]


async def test_changes_that_wait_are_bounded() -> None:
    async with rig() as r:
        r.encode.voice_gate.clear()
        conversation = await Conversation(r).begin()
        for number in range(9):
            await conversation.text(f"{number}.")
            await conversation.configure(speed=1.5)
        with pytest.raises(grpc.aio.AioRpcError, match="changes wait"):
            await conversation.rest()
        r.encode.voice_gate.set()


async def test_changes_whose_voices_wait_are_bounded_across_cancels() -> None:
    async with rig() as r:
        conversation = await Conversation(r).begin()
        await conversation.next_of(tts_pb2.Started)
        uploads = len(r.encode.uploads)
        r.encode.voice_gate.clear()
        for number in range(12):
            await conversation.configure(prompt=tts_pb2.Prompt(audio=b"RIFF %d" % number, transcript="hello"))
            await conversation.cancel()
        with pytest.raises(grpc.aio.AioRpcError, match="4 changes wait for their voices") as refusal:
            await asyncio.wait_for(conversation.rest(), 20)
        assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(r.encode.uploads) - uploads <= 4
        r.encode.voice_gate.set()


async def test_changes_that_are_ready_are_not_bounded_across_cancels() -> None:
    async with rig() as r:
        conversation = await Conversation(r).begin()
        for number in range(9):
            await conversation.configure(voice_name="anna")
            await conversation.cancel()
            assert (await conversation.next_of(tts_pb2.Configured)).number == number
        await conversation.end()
        await conversation.rest()
