"""Riva's API over fake stages; tests/peers runs its real client."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
import soundfile

from lighttts.compat import riva_common_pb2, riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import llm_pb2
from tests.support.fake_stages import Rig, Script, ids_of, rig, until

Request = riva_tts_pb2.SynthesizeSpeechRequest
PCM = riva_common_pb2.LINEAR_PCM
NAMED: dict[str, Any] = {
    "language_code": "en-US",
    "encoding": PCM,
    "sample_rate_hz": 24000,
    "voice_name": "lighttts.anna",
}


@asynccontextmanager
async def api(**settings: Any) -> AsyncIterator[tuple[Rig, Any]]:
    async with rig(**settings) as r:
        yield r, riva_tts_pb2_grpc.RivaSpeechSynthesisStub(r.channel)


def samples(text: str) -> int:
    return len(text) * 240


async def test_synthesize_answers_with_the_whole_audio() -> None:
    async with api() as (r, stub):
        request = Request(text="One. Two.", id=riva_common_pb2.RequestId(value="mine"), **NAMED)
        response = await stub.Synthesize(request, metadata=(("function-id", "x"), ("authorization", "Bearer y")))
        assert len(response.audio) == samples("One. Two.") * 2
        assert (response.id.value, response.meta.text) == ("mine", "One. Two.")
        assert not response.meta.words, "timings are not invented"
        assert [header.bundled_voice for header, _ in r.encode.uploads] == ["anna"]


@pytest.mark.parametrize(
    ("encoding", "rate", "begins"),
    [
        (riva_common_pb2.ENCODING_UNSPECIFIED, 16000, b""),
        (riva_common_pb2.FLAC, 22050, b"fLaC"),
        (riva_common_pb2.OGGOPUS, 48000, b"OggS"),
        (riva_common_pb2.MULAW, 8000, b""),
        (riva_common_pb2.ALAW, 8000, b""),
    ],
)
async def test_every_encoding(encoding: Any, rate: int, begins: bytes) -> None:
    async with api() as (_, stub):
        response = await stub.Synthesize(Request(text="One.", encoding=encoding, sample_rate_hz=rate))
        assert response.audio.startswith(begins)
        bare = {riva_common_pb2.ENCODING_UNSPECIFIED: 2, riva_common_pb2.MULAW: 1, riva_common_pb2.ALAW: 1}
        if encoding in bare:
            assert len(response.audio) == samples("One.") * rate // 24000 * bare[encoding]
        if encoding == riva_common_pb2.FLAC:
            assert len(soundfile.read(io.BytesIO(response.audio))[0]) == samples("One.") * rate // 24000


async def test_several_requests_on_one_stream_are_spoken_in_order_and_answered_by_id() -> None:
    async with api() as (r, stub):
        call = stub.SynthesizeOnline()
        await call.write(Request(text="One.", id=riva_common_pb2.RequestId(value="a"), **NAMED))
        first = await call.read()
        assert first.audio, "audio is sent while the stream is open"
        await call.write(Request(text="—", **NAMED))
        await call.write(Request(text="Two.", id=riva_common_pb2.RequestId(value="b"), **NAMED))
        await call.done_writing()
        received = [first]
        while isinstance(response := await call.read(), riva_tts_pb2.SynthesizeSpeechResponse):
            received.append(response)
        by_id = {key: sum(len(x.audio) for x in received if x.id.value == key) for key in ("a", "b")}
        assert by_id == {"a": samples("One.") * 2, "b": samples("Two.") * 2}
        assert [generation.ids for generation in r.llm.calls] == [ids_of("One."), ids_of("Two.")]
        assert len(r.encode.uploads) == 1, "one session, one voice"


async def test_another_voice_or_format_in_the_same_stream() -> None:
    async with api() as (r, stub):
        other = NAMED | {"voice_name": "hugo", "encoding": riva_common_pb2.MULAW, "sample_rate_hz": 8000}
        call = stub.SynthesizeOnline(iter([Request(text="One.", **NAMED), Request(text="Two.", **other)]))
        audio = b"".join([response.audio async for response in call])
        assert len(audio) == samples("One.") * 2 + samples("Two.") // 3
        assert [header.bundled_voice for header, _ in r.encode.uploads] == ["anna", "hugo"]


async def test_requests_beyond_the_limit_wait_until_earlier_ones_are_spoken() -> None:
    async with api() as (_, stub):
        requests = [Request(text="One.", **NAMED) for _ in range(40)]
        audio = b"".join([response.audio async for response in stub.SynthesizeOnline(iter(requests))])
        assert len(audio) == 40 * samples("One.") * 2


async def test_a_barge_in_cancels_the_call_and_frees_everything() -> None:
    async with api() as (r, stub):
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        call = stub.SynthesizeOnline()
        await call.write(Request(text="A long sentence.", **NAMED))
        await call.read()
        call.cancel()
        await r.llm.calls[0].cancelled.wait()
        await until(lambda: r.encode.open_texts == 0)


@pytest.mark.parametrize(
    ("prompt", "uploaded"),
    [
        (riva_tts_pb2.ZeroShotData(audio_prompt=b"RIFF a file", transcript="hello"), b"RIFF a file"),
        (
            riva_tts_pb2.ZeroShotData(audio_prompt=b"\1\0" * 9, sample_rate_hz=24000, encoding=PCM, transcript="hello"),
            b"RIFF" + struct.pack("<I", 54) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 24000, 48000, 2, 16),
        ),
        (
            riva_tts_pb2.ZeroShotData(
                audio_prompt=b"\1" * 9, sample_rate_hz=16000, encoding=riva_common_pb2.MULAW, transcript="hello"
            ),
            b"RIFF" + struct.pack("<I", 45) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 7, 1, 16000, 16000, 1, 8),
        ),
    ],
)
async def test_zero_shot_prompts(prompt: riva_tts_pb2.ZeroShotData, uploaded: bytes) -> None:
    async with api() as (r, stub):
        await stub.Synthesize(Request(text="One.", zero_shot_data=prompt))
        ((header, parts),) = r.encode.uploads
        assert header.transcript == "hello"
        assert b"".join(parts).startswith(uploaded)


async def test_a_prompt_without_transcript_gives_its_timbre() -> None:
    async with api() as (r, stub):
        await stub.Synthesize(Request(text="One.", zero_shot_data=riva_tts_pb2.ZeroShotData(audio_prompt=b"RIFF")))
        assert r.llm.calls[0].start.prompt_use == llm_pb2.PROMPT_USE_TIMBRE


async def test_the_configuration_lists_voices_and_options_reach_the_llm() -> None:
    async with api() as (r, stub):
        config = await stub.GetRivaSynthesisConfig(riva_tts_pb2.RivaSynthesisConfigRequest())
        (entry,) = config.model_config
        assert dict(entry.parameters) == {
            "language_code": "en-US",
            "voice_name": "lighttts",
            "subvoices": "hugo:0,anna:1",
        }
        options = {"seed": "7", "speed": "1.5", "style": "calm"}
        await stub.Synthesize(Request(text="One.", custom_configuration=options))
        assert (r.llm.calls[0].start.style, r.llm.calls[0].start.speed) == ("calm", 1.5)


@pytest.mark.parametrize(
    ("fields", "words", "field"),
    [
        ({"text": "a" * 30_000}, "20000", "text"),
        ({"voice_name": "bob"}, "known voices", "voice_name"),
        ({"language_code": "fr-FR"}, "does not speak", "language_code"),
        ({"encoding": 9}, "unknown encoding", "encoding"),
        ({"sample_rate_hz": 96000}, "8000 to 48000", "sample_rate_hz"),
        ({"sample_rate_hz": -1}, "8000 to 48000", "sample_rate_hz"),
        ({"encoding": riva_common_pb2.OGGOPUS, "sample_rate_hz": 44}, "8000 to 48000", "sample_rate_hz"),
        ({"encoding": riva_common_pb2.OGGOPUS, "sample_rate_hz": 96000}, "8000 to 48000", "sample_rate_hz"),
        ({"custom_dictionary": "tts tee tee ess"}, "lacks phones", "custom_dictionary"),
        ({"custom_configuration": {"mood": "x"}}, "unknown key", "custom_configuration"),
        ({"custom_configuration": {"speed": "nan"}}, "0.25 to 4", "custom_configuration"),
        ({"custom_configuration": {"seed": str(2**70)}}, "seed cannot be", "custom_configuration"),
        ({"zero_shot_data": riva_tts_pb2.ZeroShotData()}, "no audio", "zero_shot_data.audio_prompt"),
        ({"zero_shot_data": riva_tts_pb2.ZeroShotData(audio_prompt=b"x")}, "sample rate", "zero_shot_data"),
        (
            {"zero_shot_data": riva_tts_pb2.ZeroShotData(audio_prompt=b"x", encoding=riva_common_pb2.OGGOPUS)},
            "neither",
            "zero_shot_data.audio_prompt",
        ),
    ],
)
async def test_errors_name_riva_s_own_field(fields: dict[str, Any], words: str, field: str) -> None:
    async with api() as (_, stub):
        request = Request(**({"text": "One."} | fields))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Synthesize(request)
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        assert words in str(caught.value.details())
        assert field.encode() in dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(aiter(stub.SynthesizeOnline(iter([request]))))
        assert (await stub.Synthesize(Request(text="One."))).audio


@pytest.mark.parametrize("text", ["", " ", "?!", "—"])
@pytest.mark.parametrize("encoding", [PCM, riva_common_pb2.FLAC])
async def test_a_request_without_words_is_answered_without_sound(text: str, encoding: Any) -> None:
    async with api() as (r, stub):
        blank = Request(text=text, encoding=encoding, id=riva_common_pb2.RequestId(value="b"))
        answer = await stub.Synthesize(blank)
        assert (answer.audio, answer.id.value) == (b"", "b")
        online = b"".join([response.audio async for response in stub.SynthesizeOnline(iter([blank]))])
        assert online == b""
        words = Request(text="One.", encoding=PCM, sample_rate_hz=24000)
        blank = Request(text=text, encoding=PCM, sample_rate_hz=24000)
        audio = b"".join(
            [response.audio async for response in stub.SynthesizeOnline(iter([blank, words, blank, words]))]
        )
        assert len(audio) == 2 * samples("One.") * 2
        assert [generation.ids for generation in r.llm.calls] == 2 * [ids_of("One.")]


@pytest.mark.parametrize(("rate", "sent"), [(22050, 24000), (44100, 48000), (11025, 12000), (16000, 16000)])
async def test_opus_at_a_rate_that_it_lacks_has_the_next_one_and_says_so(rate: int, sent: int) -> None:
    async with api() as (_, stub):
        request = Request(text="One.", encoding=riva_common_pb2.OGGOPUS, sample_rate_hz=rate)
        for online in (False, True):
            call = stub.SynthesizeOnline(iter([request])) if online else stub.Synthesize(request)
            audio = b"".join([part.audio async for part in call]) if online else (await call).audio
            # Ogg's header of Opus: the original rate, 12 bytes behind its mark.
            assert struct.unpack_from("<I", audio, audio.index(b"OpusHead") + 12) == (sent,)
            notes = [value for key, value in await call.trailing_metadata() if key == "x-light-tts-warning"]
            assert any(f"{rate} Hz" in note and f"{sent} Hz" in note for note in notes) is (rate != sent)
