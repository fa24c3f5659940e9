"""Whatever is sent at the gRPC door is answered, and however a text is cut, the same is spoken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lighttts.v1 import audio_pb2, llm_pb2, tts_pb2
from services.common.workers.call_end import CallEnd
from tests.support.fake_stages import Conversation, Rig, chunks, ids_of, rig, samples
from tests.support.gateway_speech import expected

SENTENCES = ("One is here.", " Two follows it at once, as it should! No.", " Three is the last one.")
TEXT = "".join(SENTENCES)
METHOD = "/lighttts.v1.TextToSpeech/StreamingSynthesize"
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
Request = tts_pb2.StreamingSynthesizeRequest


async def is_unharmed(r: Rig) -> None:
    """Another client is served as ever."""
    client = await Conversation(r).begin()
    await client.text("Yes.")
    await client.end()
    assert np.array_equal(samples(await client.rest()), expected("Yes."))


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Rig]:
    async with rig(limit_seconds=600, max_text_chars=2000, max_pending_flushes=5) as r:
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
    voice_name=st.sampled_from(["", "hugo", "nobody", "\0"]),
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
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_whatever_is_sent_is_answered(
    served: Rig, talk: tuple[Request, list[Request]], garbage: bytes | None
) -> None:
    first, rest = talk
    sent = [message.SerializeToString() for message in (first, *rest)]
    if garbage is not None:
        sent.append(garbage)
    method: grpc.aio.StreamStreamMultiCallable[bytes, Any] = served.channel.stream_stream(
        METHOD, None, tts_pb2.StreamingSynthesizeResponse.FromString
    )
    call = method(iter_of(sent))
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


@given(cuts=st.sets(st.integers(1, len(TEXT) - 1)))
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_however_a_text_is_cut_the_same_reaches_the_llm_once(served: Rig, cuts: set[int]) -> None:
    before = len(served.llm.calls)
    client = await Conversation(served).begin()
    for start, end in pairwise([0, *sorted(cuts), len(TEXT)]):
        await client.text(TEXT[start:end])
    await client.end()
    assert np.array_equal(samples(await client.rest()), expected(*SENTENCES))
    assert [call.ids for call in served.llm.calls[before:]] == [ids_of(sentence) for sentence in SENTENCES]
