"""Conversations: audio is paced to the listener, a cut reports what was played, a drain asks to reconnect."""

from __future__ import annotations

import asyncio
import math

import grpc
import grpc.aio
import numpy as np
import pytest

from gateway.session.turn import utterance_seed
from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2
from tests.support.fake_stages import Conversation, Script, chunks, ids_of, rig, samples, speech, until
from tests.support.gateway_speech import SEED, config, expected, synthesize

HOP_SECONDS = 0.04
Status = grpc.StatusCode


async def test_started_reports_the_limits() -> None:
    async with rig(max_lead_seconds=3, max_pending_flushes=5) as r:
        client = await Conversation(r).begin()
        started = await client.next_of(tts_pb2.Started)
        assert (started.max_lead_seconds, started.max_pending_flushes, started.max_text_chars) == (3, 5, 20_000)
        assert (started.max_speech_seconds, started.idle_seconds) == (3600, 300)
        client.call.cancel()
        (started, *_) = await synthesize(r, "One.", config())
        assert started.max_lead_seconds == 0, "a whole text is not held back"


async def test_audio_is_sent_at_most_the_lead_ahead_of_the_reported_position() -> None:
    async with rig(max_lead_seconds=2.5 * HOP_SECONDS) as r:
        client = await Conversation(r).begin()
        await client.position(0)
        await client.text("One is rather long, and this listener is slow." + " And two." * 3)
        await client.flush()
        played = sent = 0.0
        while not isinstance(event := await client.next(), tts_pb2.Mark):
            if isinstance(event, audio_pb2.AudioChunk):
                sent += len(event.pcm) / 4 / 24000
                assert sent - played <= 2.5 * HOP_SECONDS + 1e-6
                played = max(0.0, sent - 1.5 * HOP_SECONDS)
                await client.position(played)
        assert sent == pytest.approx(
            len("One is rather long, and this listener is slow. And two. And two. And two.") / 100
        )
        client.call.cancel()


async def test_a_listener_who_pauses_gets_no_more_audio() -> None:
    async with rig(max_lead_seconds=2.5 * HOP_SECONDS, audio_queue_messages=1) as r:
        client = await Conversation(r).begin()
        await client.position(0)
        await client.text("x" * 400 + ".")
        for _ in range(2):
            await client.next_of(audio_pb2.AudioChunk)
        waiting = asyncio.create_task(client.next_of(audio_pb2.AudioChunk))
        barge_in = await Conversation(r).begin()  # another session continues meanwhile
        await barge_in.text("Yes.")
        await barge_in.end()
        assert np.array_equal(samples(await barge_in.rest()), expected("Yes."))
        assert not waiting.done()
        await client.position(HOP_SECONDS)
        await waiting
        client.call.cancel()


async def test_the_end_of_the_text_lifts_the_limit_if_no_position_was_reported() -> None:
    async with rig(max_lead_seconds=0.01) as r:
        client = await Conversation(r).begin()
        await client.text("x" * 3000 + ".")  # half a minute
        await client.end()
        assert len(samples(await client.rest())) == 3001 * 240


async def test_offline_streams_are_not_paced() -> None:
    async with rig(max_lead_seconds=0.01) as r:
        client = await Conversation(r, config(priority=audio_pb2.Urgency.PRIORITY_OFFLINE)).begin()
        await client.position(0)
        await client.text("x" * 3000 + ".")
        await client.flush()
        await client.next_of(tts_pb2.Mark)
        client.call.cancel()


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
async def test_an_invalid_position_is_refused(seconds: float) -> None:
    async with rig() as r:
        client = await Conversation(r).begin()
        await client.position(seconds)
        with pytest.raises(grpc.aio.AioRpcError, match="position is") as refusal:
            await client.rest()
        assert refusal.value.code() == Status.INVALID_ARGUMENT


async def test_a_cut_reports_what_was_played_by_the_reported_position() -> None:
    async with rig() as r:
        r.llm.scripts[1] = Script(hold={2: asyncio.Event()})
        client = await Conversation(r).begin()
        await client.text("One is ten. Two is not heard to its end.")
        await client.flush()
        await client.next_of(tts_pb2.Spoken)
        for _ in range(2):
            await client.next_of(audio_pb2.AudioChunk)
        await client.position((11 + 5) * 240 / 24000)
        await client.cancel()
        cut = await client.next_of(tts_pb2.Spoken)
        assert (cut.cut, cut.estimated) == (True, True)
        assert (cut.text_offset, cut.sample) == (11 + 5, (11 + 5) * 240)
        assert isinstance(await client.next(), tts_pb2.Mark)
        await client.text("Yes.")
        await client.end()
        events = await client.rest()
        heard = np.concatenate([expected("One is ten."), speech(ids_of(" Two is not heard to its end."), second())])
        sent = len(samples(events)) - len(expected("Yes.", turn=1))
        assert sent == (11 + 8) * 240
        assert np.array_equal(samples(events), np.concatenate([heard[:sent], expected("Yes.", turn=1)]))
        assert events[-2].text_offset == len("One is ten. Two is not heard to its end.Yes.")


def second() -> int:
    return utterance_seed(SEED, 0, 1)


@pytest.mark.parametrize("aligns", [False, True])
async def test_a_later_cut_counts_from_the_turn_that_it_cancels(aligns: bool) -> None:
    first, second_ = "The first answer is cut here.", "Second answer of the talk."
    async with rig() as r:
        r.llm.aligns = aligns
        r.llm.scripts = {0: Script(hold={2: asyncio.Event()}), 2: Script(hold={6: asyncio.Event()})}
        client = await Conversation(r).begin()
        await client.text(first)
        await client.next_of(audio_pb2.AudioChunk)
        await client.position(HOP_SECONDS / 2)
        await client.cancel()
        begin = await client.next_of(tts_pb2.Spoken)
        assert begin.text_offset <= 4
        await client.text("Yes.")
        await client.flush()
        spoken = await client.next_of(tts_pb2.Spoken)
        assert spoken.text_offset == len(first + "Yes.")
        await client.text(second_)
        for _ in range(6):
            await client.next_of(audio_pb2.AudioChunk)
        await client.position((spoken.sample + 20 * 240) / 24000)
        await client.cancel()
        cut = await client.next_of(tts_pb2.Spoken)
        assert (cut.cut, cut.sample) == (True, spoken.sample + 20 * 240)
        heard = "Second answer of the" if aligns else second_[:20]
        assert cut.text_offset == len(first + "Yes." + heard)
        client.call.cancel()


async def test_a_cut_without_audio_is_answered() -> None:
    async with rig() as r:
        client = await Conversation(r).begin()
        await client.cancel()
        cut = await client.next_of(tts_pb2.Spoken)
        assert (cut.cut, cut.text_offset, cut.sample, cut.estimated) == (True, 0, 0, False)
        await client.text("Unheard.")
        await client.cancel()
        assert (await client.next_of(tts_pb2.Spoken)).text_offset == 0
        client.call.cancel()


async def test_a_drain_asks_a_silent_conversation_to_reconnect_at_once_and_others_in_a_pause() -> None:
    async with rig(drain_grace_seconds=20) as r:
        release = asyncio.Event()
        r.llm.scripts[0] = Script(hold={1: release})
        silent, speaking = await Conversation(r).begin(), await Conversation(r).begin()
        await silent.next_of(tts_pb2.Started)
        await speaking.text("One is long. ")
        await speaking.next_of(audio_pb2.AudioChunk)
        draining = asyncio.create_task(r.server.drain())
        reconnect = await silent.next_of(tts_pb2.Reconnect)
        assert reconnect.within_seconds == 20
        await silent.end()
        await silent.rest()
        release.set()
        await speaking.next_of(tts_pb2.Reconnect)
        assert np.array_equal(samples(speaking.events), expected("One is long."))
        await speaking.end()
        assert isinstance((await speaking.rest())[-1], tts_pb2.Finished)
        await draining


@pytest.mark.parametrize("start", [0, 1, 959, 960, 961, 4 * 240, 5 * 240 + 7, 20 * 240, 10**9])
async def test_the_rest_of_an_answer_can_be_requested(start: int) -> None:
    async with rig() as r:
        whole = expected("One is long.", " Two.")
        events = await synthesize(r, "One is long. Two.", config(), start)
        audio = chunks(events)
        assert np.array_equal(np.frombuffer(b"".join(chunk.pcm for chunk in audio), "<f4"), whole[start:])
        position = min(start, len(whole))
        for chunk in audio:
            if chunk.pcm:
                assert chunk.first_sample == position
                position += len(chunk.pcm) // 4
        assert events[-1].audio_seconds == pytest.approx(len(whole[start:]) / 24000)


async def test_the_rest_of_an_answer_needs_its_seed_and_raw_samples() -> None:
    cases = [
        (tts_pb2.SynthesisConfig(), 5, "seed"),
        (config(), -1, "0 or more"),
        (tts_pb2.SynthesisConfig(seed=1, audio=audio_pb2.AudioOutput(encoding=audio_pb2.AUDIO_ENCODING_WAV)), 5, "PCM"),
    ]
    async with rig() as r:
        for configuration, start, words in cases:
            with pytest.raises(grpc.aio.AioRpcError, match=words) as refusal:
                await synthesize(r, "One.", configuration, start)
            assert refusal.value.code() == Status.INVALID_ARGUMENT
        await until(lambda: not r.llm.calls)


async def test_the_time_to_first_audio_of_a_conversion_is_split_as_well() -> None:
    async with rig() as r:
        r.llm.first = llm_pb2.FirstTimes(token=0.0001, hop=0.0002, audio=0.0004)
        call = r.tts.ConvertVoice(tts_pb2.ConvertVoiceRequest(audio=b"RIFF"))
        first = [response.finished.first_audio async for response in call][-1]
        parts = [first.encode, first.first_token, first.first_hop, first.decode, first.delivery]
        assert all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(first.seconds)
        assert first.first_token == pytest.approx(0.0001)


async def test_the_time_to_first_audio_is_split_completely_and_reported_after_that_audio() -> None:
    async with rig() as r:
        r.llm.first = llm_pb2.FirstTimes(token=0.0001, hop=0.0002, audio=0.0004)
        call = r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=config(), text="One. Two."))
        events = [getattr(response, response.WhichOneof("event") or "") async for response in call]
        kinds = [type(event) for event in events]
        assert kinds.count(tts_pb2.FirstAudio) == 1
        assert kinds.index(tts_pb2.FirstAudio) == kinds.index(audio_pb2.AudioChunk) + 1
        first, finished = events[kinds.index(tts_pb2.FirstAudio)], events[-1]
        assert finished.first_audio == first
        assert finished.time_to_first_audio == first.seconds
        parts = [first.encode, first.first_token, first.first_hop, first.decode, first.delivery]
        assert all(part >= 0 for part in parts)
        assert sum(parts) == pytest.approx(first.seconds)
        assert (first.first_token, first.first_hop) == (pytest.approx(0.0001), pytest.approx(0.0001))
        trailers = dict(await call.trailing_metadata())
        assert float(trailers["lighttts-first-audio-first-token"]) == pytest.approx(0.0001)
