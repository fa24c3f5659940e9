"""Audio output over the wire: every format, across sentences, cancels and turns."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from gateway.audio.formats import ENCODINGS, Encoding
from lighttts.v1 import audio_pb2, tts_pb2
from tests.support.decoders import decode
from tests.support.fake_stages import Conversation, Rig, chunks, rig

TEXT = "A first sentence of a text. And a second one."
SAMPLES = len(TEXT) * 240


def config(**output: Any) -> tts_pb2.SynthesisConfig:
    return tts_pb2.SynthesisConfig(seed=7, audio=audio_pb2.AudioOutput(**output))


async def say(r: Rig, configuration: tts_pb2.SynthesisConfig) -> list[Any]:
    call = r.tts.Synthesize(tts_pb2.SynthesizeRequest(config=configuration, text=TEXT))
    return [getattr(response, response.WhichOneof("event") or "") async for response in call]


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=lambda encoding: encoding.name)
async def test_every_encoding_is_one_file_over_all_sentences(encoding: Encoding) -> None:
    async with rig() as r:
        events = await say(r, config(encoding=encoding.number, sample_rate=16000))
        parts = chunks(events)
        assert events[0].sample_rate == 16000
        assert {(part.encoding, part.sample_rate) for part in parts} == {(encoding.number, 16000)}
        assert [part.sequence for part in parts] == list(range(len(parts)))
        decoded, rate = decode(b"".join(part.pcm for part in parts), encoding, 16000)
        assert len(decoded) / rate == pytest.approx(SAMPLES / 24000, abs=0.15), (
            "except for the codec's frames and delay"
        )
        assert events[-1].audio_seconds == pytest.approx(SAMPLES / 24000, abs=1e-3)


async def test_samples_are_numbered_at_the_requested_rate() -> None:
    async with rig() as r:
        events = await say(r, config(encoding=audio_pb2.AUDIO_ENCODING_PCM_F32LE, sample_rate=8000))
        position = 0
        for part in chunks(events):
            assert part.first_sample == position
            position += len(part.pcm) // 4
        assert position == SAMPLES // 3
        spoken = [event for event in events if isinstance(event, tts_pb2.Spoken)]
        assert not spoken or spoken[-1].sample == position


async def test_a_cancel_keeps_the_file_valid() -> None:
    encoding = ENCODINGS[audio_pb2.AUDIO_ENCODING_OGG_OPUS]
    async with rig() as r:
        client = await Conversation(r, config(encoding=encoding.number)).begin()
        await client.text("A sentence that is cut off before long, or so one hopes.")
        await client.next_of(audio_pb2.AudioChunk)
        await client.cancel()
        await client.text(TEXT)
        await client.end()
        events = await client.rest()
        decoded, rate = decode(b"".join(part.pcm for part in chunks(events)), encoding, 24000)
        assert len(decoded) / rate > SAMPLES / 24000
        assert len(decoded) / rate == pytest.approx(events[-1].audio_seconds, abs=0.15)


async def test_loudness_normalization_keeps_the_length() -> None:
    async with rig() as r:
        plain = await say(r, config(encoding=audio_pb2.AUDIO_ENCODING_PCM_F32LE))
        level = await say(r, config(encoding=audio_pb2.AUDIO_ENCODING_PCM_F32LE, level_loudness=True))
        both = [np.frombuffer(b"".join(part.pcm for part in chunks(events)), "<f4") for events in (plain, level)]
        assert len(both[0]) == len(both[1]) == SAMPLES
        assert not np.array_equal(both[0], both[1])


@pytest.mark.parametrize("output", [{"encoding": 99}, {"sample_rate": 3}, {"sample_rate": 44100, "encoding": 5}])
async def test_an_invalid_format_is_refused_at_once(output: dict[str, Any]) -> None:
    async with rig() as r:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await say(r, config(**output))
        assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert r.llm.calls == []
