"""Sessions of the gateway's own API over fake stages: order, continuity, pipelining, barge-in, endings."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from gateway.session.turn import utterance_seed
from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2
from tests.support.fake_stages import Conversation, Script, chunks, ids_of, rig, samples, speech, until
from tests.support.gateway_speech import SEED, config, expected, synthesize


async def test_a_text_is_spoken_in_order_and_numbered_without_gap() -> None:
    async with rig() as r:
        events = await synthesize(r, "One. Two. Three.")
        assert np.array_equal(samples(events), expected("One.", " Two.", " Three."))
        started, finished = events[0], events[-1]
        assert (started.sample_rate, started.seed, started.voice_hash) == (24000, SEED, "hash of hugo")
        assert finished.chunks == len(chunks(events))
        assert finished.audio_seconds == pytest.approx(len(samples(events)) / 24000)
        assert list(finished.decode_workers) == ["decode-0", "decode-1", "decode-2"]
        assert [event.message for event in events if isinstance(event, tts_pb2.Warning)] == ["a bit quiet"]
        assert [chunk.last for chunk in chunks(events)].count(True) == 3


async def test_the_same_seed_gives_the_same_audio_and_a_chosen_seed_is_reported() -> None:
    async with rig() as r:
        first, again = await synthesize(r, "One. Two."), await synthesize(r, "One. Two.")
        assert np.array_equal(samples(first), samples(again))
        call: Any = r.tts.Synthesize(tts_pb2.SynthesizeRequest(text="One."))
        started = (await call.read()).started
        await until(lambda: len(r.llm.calls) == 5)
        assert r.llm.calls[4].start.seed == utterance_seed(started.seed, 0, 0)
        call.cancel()


async def test_options_reach_the_llm() -> None:
    async with rig() as r:
        sampling = llm_pb2.SamplingOptions(top_k=5, max_seconds=3)
        priority = audio_pb2.Urgency.PRIORITY_OFFLINE
        await synthesize(
            r, "One.", config(speed=1.5, style="calm", sampling=sampling, priority=priority, voice_name="anna")
        )
        start = r.llm.calls[0].start
        assert (start.speed, start.style, start.sampling, start.voice_hash) == (1.5, "calm", sampling, "hash of anna")
        assert start.urgency.priority == priority
        assert start.prompt_use == llm_pb2.PROMPT_USE_ZERO_SHOT
        assert start.request_id


async def test_s16_is_the_default_format() -> None:
    async with rig() as r:
        call = r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=tts_pb2.SynthesisConfig(seed=SEED), text="One."))
        pcm = b"".join([response.audio.pcm async for response in call])
        assert np.array_equal(np.frombuffer(pcm, "<i2"), np.rint(expected("One.") * 32768).astype(np.int16))


async def test_the_trailers_contain_the_figures() -> None:
    async with rig() as r:
        call = r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=config(), text="One. Two."))
        finished = [response.finished async for response in call][-1]
        trailers = dict(await call.trailing_metadata())
        assert int(trailers["lighttts-chunks"]) == finished.chunks
        assert trailers["lighttts-decode-workers"] == "decode-0,decode-1"
        assert float(trailers["lighttts-time-to-first-audio"]) == pytest.approx(finished.time_to_first_audio, abs=1e-3)


async def test_the_next_utterance_starts_with_the_audio_of_the_one_before() -> None:
    async with rig() as r:
        first, release = asyncio.Event(), asyncio.Event()
        r.llm.scripts[0] = Script(hold={0: first, 1: release})
        client = await Conversation(r).begin()
        await client.text("One is long. Two. Three.")
        await client.end()
        await until(lambda: len(r.llm.calls) == 1 and r.encode.open_texts == 0)
        assert len(r.llm.calls) == 1, "no second utterance before the first audio"
        first.set()
        await client.next_of(audio_pb2.AudioChunk)
        await until(lambda: len(r.llm.calls) == 2)
        await r.llm.calls[1].ended.wait()
        assert not r.llm.calls[0].ended.is_set()
        assert len(r.llm.calls) == 2, "only one utterance may run ahead of the delivered one"
        release.set()
        assert np.array_equal(samples(await client.rest()), expected("One is long.", " Two.", " Three."))


async def test_a_stopped_reader_holds_the_llm_back() -> None:
    async with rig(audio_queue_messages=2) as r:
        client = await Conversation(r, tts_pb2.SynthesisConfig(format=audio_pb2.SAMPLE_FORMAT_F32LE)).begin()
        await client.text("x" * 19_000 + ".")  # 18 MB of samples: more than may be in flight
        await until(lambda: bool(r.llm.calls) and r.llm.calls[0].hops > 3)
        hops = -1
        while hops != r.llm.calls[0].hops:
            hops = r.llm.calls[0].hops
            await asyncio.sleep(0.3)
        assert hops < 19_000 / r.llm.HOP_IDS / 2
        client.call.cancel()
        await r.llm.calls[0].cancelled.wait()


async def test_fragments_of_any_size_give_the_same_audio() -> None:
    async with rig() as r:
        client = await Conversation(r).begin()
        for character in "One. Two. Three.":
            await client.text(character)
        await client.end()
        assert np.array_equal(samples(await client.rest()), expected("One.", " Two.", " Three."))


async def test_ten_thousand_empty_fragments_have_no_effect() -> None:
    async with rig() as r:
        client = await Conversation(r).begin()
        await client.text("One. ")
        for _ in range(10_000):
            await client.text("")
        await client.text("Two.")
        await client.end()
        assert np.array_equal(samples(await client.rest()), expected("One.", " Two."))
        assert "".join(r.encode.texts[0]) == "One. Two."


async def test_interleaved_runs_are_forwarded_on_arrival() -> None:
    async with rig(interleaved_text=True) as r:
        client = await Conversation(r).begin()
        await client.text("One two ")
        await until(lambda: bool(r.llm.calls) and r.llm.calls[0].ids == ids_of("One two "))
        assert not r.llm.calls[0].text_complete.is_set()
        await client.text("three.")
        await client.end()
        assert np.array_equal(samples(await client.rest()), expected("One two three."))
        assert r.llm.calls[0].text_messages == 3


async def test_flush_speaks_an_unfinished_sentence_and_is_marked_after_its_audio() -> None:
    async with rig() as r:
        client = await Conversation(r).begin()
        await client.text("One. Two")
        await client.flush()
        mark = await client.next_of(tts_pb2.Mark)
        assert mark.flush == 0
        assert np.array_equal(samples(client.events), expected("One.", " Two"))
        await until(lambda: r.encode.open_texts == 0)  # a paused session keeps no call open
        await client.flush()
        assert (await client.next_of(tts_pb2.Mark)).flush == 1
        await client.text(" Three.")
        await client.end()
        assert np.array_equal(samples(await client.rest()), expected("One.", " Two", " Three."))


async def test_flush_ends_an_interleaved_utterance() -> None:
    async with rig(interleaved_text=True) as r:
        client = await Conversation(r).begin()
        await client.text("One two ")  # nothing is held back, so no run is marked as the last
        await client.flush()
        await client.next_of(tts_pb2.Mark)
        assert np.array_equal(samples(client.events), expected("One two "))
        client.call.cancel()


async def test_a_flush_without_text_is_marked_after_started() -> None:
    async with rig() as r:
        r.encode.voice_gate.clear()
        client = await Conversation(r).begin()
        await client.flush()
        await client.text(" ... ")
        await client.flush()
        await until(lambda: len(r.encode.uploads) == 1)
        r.encode.voice_gate.set()
        await client.end()
        kinds = [type(event) for event in await client.rest()]
        assert kinds == [tts_pb2.Started, tts_pb2.Warning, tts_pb2.Mark, tts_pb2.Mark, tts_pb2.Finished]
        assert r.encode.texts == [], "punctuation alone opens no call"


@pytest.mark.parametrize("ahead", [1, 3])
async def test_text_without_words_does_not_wait_after_its_mark(ahead: int) -> None:
    async with rig(max_text_chars=20) as r:
        client = await Conversation(r).begin()
        for sent in range(20 + ahead):
            if sent < 20:
                await client.text("... ")
                await client.flush()
            if sent >= ahead:
                assert (await client.next_of(tts_pb2.Mark)).flush == sent - ahead
        await client.text("A text of 20 letters")
        await client.end()
        assert np.array_equal(samples(await client.rest()), expected("A text of 20 letters"))


async def test_spoken_reports_the_text_offset_of_the_audio() -> None:
    async with rig() as r:
        client = await Conversation(r).begin()
        await client.text("One. Two")
        await client.flush()
        await client.text(" Three.")
        await client.end()
        spoken = [event for event in await client.rest() if isinstance(event, tts_pb2.Spoken)]
        assert [event.text_offset for event in spoken] == [4, 8, 15]
        assert [event.sample for event in spoken] == [4 * 240, 8 * 240, 15 * 240]


async def test_cancel_stops_both_utterances_and_the_stream_continues() -> None:
    async with rig() as r:
        never = asyncio.Event()
        r.llm.scripts = {0: Script(hold={1: never}), 1: Script(hold={0: never})}
        client = await Conversation(r).begin()
        await client.text("One is long. Two. Three.")
        await client.flush()
        await client.next_of(audio_pb2.AudioChunk)
        await until(lambda: len(r.llm.calls) == 2)
        await client.cancel()
        await r.llm.calls[0].cancelled.wait()
        await r.llm.calls[1].cancelled.wait()
        assert (await client.next_of(tts_pb2.Mark)).flush == 0, "cancelled text counts as done"
        await client.text("Yes?.")
        await client.end()
        events = await client.rest()
        heard = speech(ids_of("One is long."), utterance_seed(SEED, 0, 0))[: 4 * 240]
        assert np.array_equal(samples(events), np.concatenate([heard, expected("Yes?.", turn=1)]))
        offsets = [event.text_offset for event in events if isinstance(event, tts_pb2.Spoken) and not event.cut]
        assert offsets == [len("One is long. Two. Three.Yes?.")]
        assert len(r.llm.calls) == 3


async def test_audio_dropped_by_a_barge_in_counts_as_generated_but_not_delivered() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={3: asyncio.Event()})
        generated, delivered = (f"lighttts_gateway_audio_{how}_seconds_total" for how in ("generated", "delivered"))
        before = [REGISTRY.get_sample_value(name) or 0.0 for name in (generated, delivered)]
        client = await Conversation(r).begin()
        await client.text("A long sentence.")
        await until(lambda: bool(r.llm.calls) and r.llm.calls[0].hops == 3)
        await client.next_of(audio_pb2.AudioChunk)
        await client.cancel()
        await client.end()
        heard = samples(await client.rest())
        after = [REGISTRY.get_sample_value(name) or 0.0 for name in (generated, delivered)]
        made, sent = (now - then for now, then in zip(after, before, strict=True))
        # In samples: the counters are sums of all tests of this process, so their differences are inexact.
        generated_samples, delivered_samples = round(made * 24000), round(sent * 24000)
        assert delivered_samples == len(heard)
        assert delivered_samples <= generated_samples <= 3 * 4 * 240


async def test_cancel_takes_effect_before_waiting_text() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
        client = await Conversation(r).begin()
        for _ in range(500):
            await client.text("A sentence that has to wait. ")
        await client.cancel()
        await client.text("Now.")
        await client.end()
        assert np.array_equal(samples(await client.rest()), expected("Now.", turn=1))


async def test_repeated_cancels() -> None:
    async with rig() as r:
        client = await Conversation(r).begin()
        for _ in range(20):
            await client.text("One. Two.")
            await client.cancel()
        await client.cancel()
        await client.text("Three.")
        await client.end()
        events = await client.rest()
        samples(events)
        assert isinstance(events[-1], tts_pb2.Finished)
        await until(lambda: all(call.cancelled.is_set() or call.ended.is_set() for call in r.llm.calls))


async def test_a_half_close_ends_the_text() -> None:
    async with rig() as r:
        client = await Conversation(r).begin()
        await client.text("One.")
        await client.call.done_writing()
        assert np.array_equal(samples(await client.rest()), expected("One."))
        assert isinstance(client.events[-1], tts_pb2.Finished)


async def test_a_stream_without_text_ends_without_an_error() -> None:
    async with rig() as r:
        client = await Conversation(r).begin()
        await client.end()
        assert [type(event) for event in await client.rest()] == [tts_pb2.Started, tts_pb2.Warning, tts_pb2.Finished]


async def test_a_client_that_disconnects_frees_all_downstream_calls() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        before = cancellations()
        client = await Conversation(r).begin()
        await client.text("One is long. And more")  # the encoder waits for the rest of this sentence
        await client.next_of(audio_pb2.AudioChunk)
        client.call.cancel()
        await r.llm.calls[0].cancelled.wait()
        await until(lambda: r.encode.open_texts == 0)
        await until(lambda: active_sessions() == 0)
        assert cancellations() == before + 1


async def test_a_client_that_disconnects_before_its_voice_is_encoded() -> None:
    async with rig() as r:
        r.encode.voice_gate.clear()
        client = await Conversation(r).begin()
        await client.text("One.")
        await until(lambda: len(r.encode.uploads) == 1)
        client.call.cancel()
        await until(lambda: active_sessions() == 0)
        r.encode.voice_gate.set()


async def test_a_position_is_sent_to_the_utterance_that_contains_it() -> None:
    async with rig() as r:
        release = asyncio.Event()
        r.llm.scripts[1] = Script(hold={1: release})
        client = await Conversation(r).begin()
        await client.text("One. Two is longer.")
        await client.next_of(tts_pb2.Spoken)
        await client.next_of(audio_pb2.AudioChunk)
        await client.position(0.05)
        await r.llm.calls[1].positioned.wait()
        assert r.llm.calls[1].positions == [pytest.approx(0.05 - 4 * 240 / 24000)]
        release.set()
        await client.end()
        await client.rest()


async def test_a_move_of_the_decode_worker_is_reported_and_repeated_audio_is_dropped() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(moved=True, repeat_samples=100)
        events = await synthesize(r, "One is moved.")
        assert np.array_equal(samples(events), expected("One is moved."))
        assert [event.reason for event in events if isinstance(event, tts_pb2.Resumed)] == [
            "decode worker decode-0 was lost: died"
        ]


def active_sessions() -> float:
    return REGISTRY.get_sample_value("lighttts_gateway_sessions_active") or 0.0


def cancellations() -> float:
    return REGISTRY.get_sample_value("lighttts_gateway_cancellations_total", {"by": "client"}) or 0.0
