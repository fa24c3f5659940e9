"""Clients that mean no good, or do not know better: whatever they send, they get an answer, others are unharmed and
nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import psutil
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.turn import utterance_seed
from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2
from services.common.call_end import CallEnd
from tests.support.fake_stages import Conversation, Rig, Script, chunks, ids_of, rig, samples, speech, until

SEED = 7
TEXT = "One is here. Two follows it at once, as it should! No. Three is the last one."
METHOD = "/lighttts.v1.TextToSpeech/StreamingSynthesize"
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
Request = tts_pb2.StreamingSynthesizeRequest


def expected(*sentences: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([speech(ids_of(text), utterance_seed(SEED, 0, n)) for n, text in enumerate(sentences)])


async def is_unharmed(r: Rig) -> None:
    """Another client is served as ever."""
    client = await Conversation(r).begin()
    await client.text("Yes.")
    await client.end()
    assert np.array_equal(samples(await client.rest()), expected("Yes."))


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Rig]:
    async with rig(limit_seconds=120, max_text_chars=2000, max_pending_flushes=5) as r:
        yield r


floats = st.floats(allow_nan=True, allow_infinity=True)
sampling = st.builds(
    llm_pb2.SamplingOptions,
    temperature=st.none() | floats,
    top_p=st.none() | floats,
    top_k=st.none() | st.integers(-(2**31), 2**31 - 1),
    max_seconds=st.none() | floats,
)
configs = st.builds(
    tts_pb2.SynthesisConfig,
    voice_name=st.sampled_from(["", "rms", "nobody", "\0"]),
    style=st.text(max_size=5),
    format=st.integers(0, 4),
    speed=st.sampled_from([0.0, 1.0]) | floats,
    seed=st.none() | st.integers(0, 2**64 - 1),
    sampling=st.none() | sampling,
    priority=st.integers(0, 3),
    mode=st.integers(0, 4),
    instruct_text=st.text(max_size=5),
)
plain = st.builds(tts_pb2.SynthesisConfig, seed=st.integers(0, 9))
texts = st.sampled_from(["One. ", "two", ".", " ", "", "x" * 300, "\0", "😀", "…"]) | st.text(max_size=30)
messages = st.one_of(
    st.builds(Request, text=texts),
    st.builds(Request, flush=st.just(tts_pb2.Flush())),
    st.builds(Request, cancel=st.just(tts_pb2.Cancel())),
    st.builds(
        Request, position=st.builds(audio_pb2.PlaybackPosition, seconds=st.sampled_from([0.0, 0.1, 9e9]) | floats)
    ),
    st.builds(Request, end=st.just(tts_pb2.End())),
    st.builds(Request, config=configs),
    st.just(Request()),
)
talks = st.tuples(st.builds(Request, config=plain | configs) | messages, st.lists(messages, max_size=12))


@given(talk=talks, garbage=st.none() | st.binary(min_size=1, max_size=20))
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_whatever_is_sent_is_answered(
    served: Rig, talk: tuple[Request, list[Request]], garbage: bytes | None
) -> None:
    first, rest = talk
    sent = [message.SerializeToString() for message in (first, *rest)]
    if garbage is not None:
        sent.append(garbage)
    call = served.channel.stream_stream(METHOD, None, tts_pb2.StreamingSynthesizeResponse.FromString)(iter_of(sent))
    end, events, refusal = CallEnd(call), [], None
    try:
        async for response in call:
            events.append(getattr(response, response.WhichOneof("event") or ""))
    except grpc.aio.AioRpcError as error:
        refusal = await end.error(error)
    if refusal is None:
        assert isinstance(events[-1], tts_pb2.Finished)
    elif refusal.code() not in ANSWERS:
        assert garbage is not None, refusal
        assert "deserializ" in (refusal.details() or ""), refusal
    position = 0
    for number, chunk in enumerate(chunks(events)):
        assert (chunk.sequence, chunk.first_sample) == (number, position)
        position += len(chunk.pcm) // (4 if chunk.format == audio_pb2.SAMPLE_FORMAT_F32LE else 2)
    await is_unharmed(served)


async def iter_of(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_however_a_text_is_cut_the_same_reaches_the_llm_once() -> None:
    shuffled = random.Random(0)
    async with rig(limit_seconds=120) as r:
        for number in range(25):
            cuts = sorted(shuffled.sample(range(1, len(TEXT)), shuffled.randrange(len(TEXT) - 1)))
            client = await Conversation(r).begin()
            for start, end in zip([0, *cuts], [*cuts, len(TEXT)], strict=True):
                await client.text(TEXT[start:end])
            await client.end()
            audio = samples(await client.rest())
            said = [call.ids for call in r.llm.calls]
            r.llm.calls.clear()
            if number == 0:
                whole, first = said, audio
                assert [ident for ids in whole for ident in ids] == ids_of(TEXT[: TEXT.rindex(".") + 1])
            assert said == whole
            assert np.array_equal(audio, first)


async def test_nothing_of_a_client_stays_however_it_leaves() -> None:
    async with rig(limit_seconds=120, max_text_chars=100_000) as r:
        await is_unharmed(r)
        await http_is_unharmed(r)
        process = psutil.Process()

        def held() -> tuple[int, int, int]:
            gc.collect()
            return len(asyncio.all_tasks()), threading.active_count(), process.num_fds()

        await until(lambda: len(r.llm.calls) == 2)
        before = held()
        for leave in (vanish, never_read, say_nothing, dawdle, drop_mid_upload, overfill, close_in_the_middle) * 4:
            await leave(r)
        await is_unharmed(r)
        await http_is_unharmed(r)
        after: list[tuple[int, int, int]] = []

        def settled() -> bool:
            after[:] = [held()]
            return all(now <= then for now, then in zip(after[0], before, strict=True))

        await until(settled)
        assert all(call.cancelled.is_set() or call.ended.is_set() for call in r.llm.calls)
        assert r.encode.open_texts == 0


async def vanish(r: Rig) -> None:
    """Goes away in the middle of a word."""
    client = await Conversation(r).begin()
    await client.text("One is long. And more")
    await client.next_of(audio_pb2.AudioChunk)
    client.call.cancel()


async def never_read(r: Rig) -> None:
    """Asks for a lot, reads none of it, goes away."""
    client = await Conversation(r).begin()
    await client.text("x" * 5000 + ".")
    calls = len(r.llm.calls)
    await until(lambda: len(r.llm.calls) > calls and r.llm.calls[-1].hops > 1)
    client.call.cancel()


async def say_nothing(r: Rig) -> None:
    """Opens a stream and leaves without a word."""
    client = await Conversation(r).begin()
    await client.next_of(tts_pb2.Started)
    client.call.cancel()


async def dawdle(r: Rig) -> None:
    """Sends a text byte by byte and gives up before its end."""
    client = await Conversation(r).begin()
    for character in "A very slow one":
        await client.text(character)
    await is_unharmed(r)
    client.call.cancel()


async def drop_mid_upload(r: Rig) -> None:
    """Cuts the connection when half of the prompt is sent."""
    port = httpx.URL(r.http.base_url).port
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /inference_zero_shot HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n"
    writer.write(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
    part = b'--b\r\nContent-Disposition: form-data; name="prompt_wav"; filename="a.wav"\r\n\r\n'
    writer.write(part + b"x" * 100_000)
    await writer.drain()
    writer.transport.abort()


async def overfill(r: Rig) -> None:
    """Sends more than may wait."""
    client = await Conversation(r).begin()
    await client.text("x" * 1_000_000)
    refusal = None
    try:
        await client.rest()
    except grpc.aio.AioRpcError as error:
        refusal = error
    assert refusal is not None
    assert refusal.code() == grpc.StatusCode.INVALID_ARGUMENT


async def close_in_the_middle(r: Rig) -> None:
    """Half-closes while its worker fails."""
    r.llm.scripts[len(r.llm.calls)] = Script(hold={1: asyncio.Event()})
    client = await Conversation(r).begin()
    await client.text("One is long.")
    await client.call.done_writing()
    await client.next_of(audio_pb2.AudioChunk)
    client.call.cancel()


async def http_is_unharmed(r: Rig) -> None:
    form = {"tts_text": "Yes.", "prompt_text": "hello"}
    response = await r.http.post("/inference_zero_shot", data=form, files={"prompt_wav": b"RIFF"})
    assert (response.status_code, len(response.content)) == (200, 4 * 240 * 2)
