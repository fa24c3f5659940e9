"""The encode service over gRPC: one extraction per prompt, text in any fragments, clear errors for bad input."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import grpc.aio
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lighttts.v1 import encode_pb2, encode_pb2_grpc, voice_pb2
from services.common.errors import InvalidInput, LightTtsError, NotFound, Overloaded, from_rpc_error
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.common.single_flight import SingleFlight
from services.common.voices.voice import Voice, voice_hash
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.encode.voice.extractor import OnStep, VoiceExtractor
from tests.support.llm import metric, until

TINY = Path(__file__).parents[2] / "models" / "tiny"
ANNA = (TINY / "prompt_anna.wav").read_bytes()
ANNA_WORDS = (TINY / "prompt_anna.txt").read_text().strip()
Request = encode_pb2.EncodeVoiceRequest


@asynccontextmanager
async def encode_service(**changes: Any) -> AsyncIterator[Any]:
    """Run the service with models/tiny and yield its stub; the block has a timeout."""
    defaults: dict[str, Any] = {"port": 0, "normaliser": "builtin"}
    options = EncodeSettings(**(defaults | changes))
    server = ServiceServer(EncodeService(options), options)
    try:
        await server.start()
        async with asyncio.timeout(400), open_channel(server.address) as channel:
            yield encode_pb2_grpc.EncodeStub(channel)
    finally:
        await server.close()


def header(**prompt: Any) -> Request:
    return Request(header=encode_pb2.EncodeVoiceHeader(request_id="r", **prompt))


async def encode_voice(stub: Any, *requests: Request) -> encode_pb2.EncodeVoiceResponse:
    async def outgoing() -> AsyncIterator[Request]:
        for request in requests:
            yield request

    return await stub.EncodeVoice(outgoing())


async def encode_prompt(
    stub: Any, audio: bytes, words: str = ANNA_WORDS, part: int = 2**20
) -> encode_pb2.EncodeVoiceResponse:
    parts = [Request(audio=audio[start : start + part]) for start in range(0, len(audio), part)]
    return await encode_voice(stub, header(transcript=words), *parts)


async def refused(call: Any) -> tuple[grpc.StatusCode, LightTtsError]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), from_rpc_error(caught.value)


def wav(samples: NDArray[Any], rate: int = 24000, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def sound(seconds: float, rate: int = 24000) -> NDArray[np.float64]:
    """Return noise whose level rises four times a second, loud enough not to be silence."""
    times = np.arange(int(seconds * rate)) / rate
    return np.random.default_rng(1).normal(0, 0.1, len(times)) * (1.2 + np.sin(2 * np.pi * 4 * times)) / 2


async def test_the_model_describes_itself() -> None:
    async with encode_service() as stub:
        model = await stub.DescribeModel(encode_pb2.DescribeModelRequest())
        voice = (await encode_voice(stub, header(bundled_voice="anna"))).voice
    assert (model.name, model.family, model.sample_rate) == ("tiny", "cosyvoice2", 24000)
    assert (list(model.languages), list(model.voices)) == (["en"], ["anna", "hugo", "slt", "rms"])
    assert model.interleaved_text
    assert "demonstration" in model.description
    assert voice.model == model.model


def unwarned(voice: voice_pb2.VoiceContent) -> voice_pb2.VoiceContent:
    """Return the voice without the warnings for the caller who sent the prompt."""
    bare = voice_pb2.VoiceContent()
    bare.CopyFrom(voice)
    del bare.warnings[:]
    return bare


async def test_a_prompt_in_parts_is_the_bundled_voice() -> None:
    extracted = metric("lighttts_encode_voices_total", outcome="extracted")
    async with encode_service() as stub:
        # The bundled voices are extracted at the start.
        assert metric("lighttts_encode_voices_total", outcome="extracted") == extracted + 2
        bundled = await encode_voice(stub, header(bundled_voice="anna"))
        uploaded = await encode_prompt(stub, ANNA, part=1000)
        by_hash = await encode_voice(stub, header(voice_hash=bundled.voice.voice_hash))
        sent_ahead = {each.name: each.voice async for each in stub.BundledVoices(encode_pb2.BundledVoicesRequest())}
        assert metric("lighttts_encode_voices_total", outcome="extracted") == extracted + 2
        other = await encode_prompt(stub, ANNA, ANNA_WORDS + " Yes.")
    assert bundled.cached
    assert list(sent_ahead) == ["anna", "hugo", "slt", "rms"]
    assert sent_ahead["anna"] == sent_ahead["slt"] == bundled.voice  # a former name is the same recording
    assert uploaded.cached
    assert by_hash.cached
    assert uploaded.voice == by_hash.voice
    assert unwarned(uploaded.voice) == bundled.voice
    # A caller who uses a voice by name cannot improve its recording.
    assert not bundled.voice.warnings
    assert bool(uploaded.voice.warnings) == (len(uploaded.voice.speech_tokens) < 3 * 25)
    assert not other.cached
    voice = bundled.voice
    assert voice.voice_hash == voice_hash(ANNA, ANNA_WORDS, voice.model)
    assert other.voice.voice_hash != voice.voice_hash
    assert other.voice.mel == voice.mel
    assert len(voice.mel) == len(voice.speech_tokens) * 2 * 80 * 4
    recording = soundfile.info(TINY / "prompt_anna.wav")
    assert len(voice.speech_tokens) == recording.frames * 25 // recording.samplerate
    assert len(voice.embedding) == 192


async def test_an_extracted_voice_equals_the_bundled_one() -> None:
    """Extracts the same recording in two services, so that neither result comes from a cache."""
    async with encode_service() as first, encode_service(cache_capacity=1) as second:
        bundled = await encode_voice(first, header(bundled_voice="anna"))
        fresh = await encode_prompt(second, ANNA)
    assert not fresh.cached  # hugo was extracted after anna and has the only place
    assert unwarned(fresh.voice) == bundled.voice


class Gate:
    """Blocks every extraction until it is opened, and counts them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.entered: list[str] = []
        extract = VoiceExtractor.extract

        def gated(extractor: VoiceExtractor, audio: bytes, transcript: str, on_step: OnStep) -> Voice:
            self.entered.append(transcript)
            assert self.opened.wait(120)
            return extract(extractor, audio, transcript, on_step)

        patch.setattr(VoiceExtractor, "extract", gated)


async def test_equal_prompts_are_extracted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with encode_service() as stub:
        extracted = metric("lighttts_encode_voices_total", outcome="extracted")
        gate, joined = Gate(monkeypatch), mock.Mock(side_effect=SingleFlight.run)
        monkeypatch.setattr(SingleFlight, "run", lambda *arguments: joined(*arguments))
        words = ANNA_WORDS + " Again."
        calls = [asyncio.create_task(encode_prompt(stub, ANNA, words)) for _ in range(20)]
        await until(lambda: len(gate.entered) == 1 and joined.call_count == 20)
        calls[0].cancel()  # a cancelled caller does not affect the others
        gate.opened.set()
        answers = await asyncio.gather(*calls[1:])
        assert (await encode_prompt(stub, ANNA, words)).cached
    assert gate.entered == [words]
    assert metric("lighttts_encode_voices_total", outcome="extracted") == extracted + 1
    assert len({answer.voice.SerializeToString(deterministic=True) for answer in answers}) == 1


async def test_text_and_cached_voices_are_served_while_extraction_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with encode_service(parallel=2, max_queue=1) as stub:
        gate = Gate(monkeypatch)
        busy = [asyncio.create_task(encode_prompt(stub, ANNA, f"{ANNA_WORDS} {n}.")) for n in ("One", "Two", "Six")]
        await until(lambda: len(gate.entered) == 2 and metric("lighttts_encode_voices_in_work") == 3)
        code, error = await refused(encode_prompt(stub, ANNA, ANNA_WORDS + " Ten."))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(error, Overloaded)
        assert error.stage == "encode"
        assert error.retry_after == 1.0
        assert (await encode_voice(stub, header(bundled_voice="anna"))).cached
        assert await pieces(stub, ["Hello there."])
        assert not any(call.done() for call in busy)
        gate.opened.set()
        assert all(answer.voice.speech_tokens for answer in await asyncio.gather(*busy))
        assert metric("lighttts_encode_voices_in_work") == 0
        assert not (await encode_prompt(stub, ANNA, ANNA_WORDS + " Ten.")).cached


async def pieces(stub: Any, fragments: Sequence[str], **start: Any) -> list[encode_pb2.EncodeTextResponse]:
    async def outgoing() -> AsyncIterator[encode_pb2.EncodeTextRequest]:
        yield encode_pb2.EncodeTextRequest(start=encode_pb2.EncodeTextStart(request_id="r", **start))
        for fragment in fragments:
            yield encode_pb2.EncodeTextRequest(fragment=fragment)

    return [response async for response in stub.EncodeText(outgoing())]


TEXT = "The train leaves at 9. Dr. Smith paid 25 dollars! Who knows?"


@pytest.mark.hypothesis
async def test_fragments_make_the_same_pieces_as_the_whole() -> None:
    async with encode_service(text_idle_seconds=1000) as stub:  # no pause between fragments releases text
        whole = await pieces(stub, [TEXT])
        assert await pieces(stub, [], text=TEXT, complete=True) == whole
        loop = asyncio.get_running_loop()

        @settings(max_examples=60)
        @given(cuts=st.sets(st.integers(1, len(TEXT) - 1)), begun=st.booleans())
        def holds(cuts: set[int], begun: bool) -> None:
            offsets = [0, *sorted(cuts), len(TEXT)]
            fragments = [TEXT[start:end] for start, end in pairwise(offsets)]
            first = fragments.pop(0) if begun else ""
            answer = asyncio.run_coroutine_threadsafe(pieces(stub, fragments, text=first), loop)
            assert answer.result(120) == whole

        await asyncio.to_thread(holds)
    texts = [response.text for response in whole]
    assert [text.utterance for text in texts] == list(range(len(texts)))
    assert all(text.last and text.ids for text in texts)
    assert len(texts) == 3
    assert (texts[0].start, texts[-1].end) == (0, len(TEXT))
    assert "nine" in texts[0].text


async def test_long_texts_do_not_delay_a_short_one() -> None:
    digits = "1234567890" * 20_000
    async with encode_service(text_threads=1, max_text_chars=len(digits)) as stub:

        async def long_text(begun: asyncio.Event) -> None:
            async for _ in stub.EncodeText(iter([long])):
                begun.set()

        long = encode_pb2.EncodeTextRequest(start=encode_pb2.EncodeTextStart(text=digits, complete=True))
        begun = [asyncio.Event() for _ in range(8)]
        texts = [asyncio.create_task(long_text(event)) for event in begun]
        await asyncio.gather(*(event.wait() for event in begun))
        await pieces(stub, [], text=TEXT, complete=True)
        # Each long text has 500 steps; the short one waits for one step of each.
        assert not any(task.done() for task in texts)
        for task in texts:
            task.cancel()
        await asyncio.gather(*texts, return_exceptions=True)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "text is empty"),
        ([""], "text is empty"),
        (["  \n "], "only punctuation or blanks"),
        (["...", "?!"], "only punctuation or blanks"),
        (["x" * 100_000], "longer than 20000 characters"),
        (["hello there. "] * 2000, "longer than 20000 characters"),
        (["你好"], "this model speaks en"),
    ],
    ids=["nothing", "empty", "blanks", "punctuation", "100 kB", "many fragments", "another language"],
)
async def test_text_that_cannot_be_spoken_is_refused(messages: list[str], words: str) -> None:
    async with encode_service() as stub:
        code, error = await refused(pieces(stub, messages))
        assert await pieces(stub, ["Hello there."])
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error, InvalidInput)
    assert error.field == "text"
    assert words in error.message


async def test_bad_first_messages_are_refused() -> None:
    async with encode_service() as stub:

        async def text(*requests: encode_pb2.EncodeTextRequest) -> None:
            async def outgoing() -> AsyncIterator[encode_pb2.EncodeTextRequest]:
                for request in requests:
                    yield request

            async for _ in stub.EncodeText(outgoing()):
                pass

        start = encode_pb2.EncodeTextRequest(start=encode_pb2.EncodeTextStart())
        cases: list[tuple[Any, str | None]] = [
            (text(), "start"),
            (text(encode_pb2.EncodeTextRequest(fragment="Hello.")), "start"),
            (text(start, start), "request"),
            (encode_voice(stub), "header"),
            (encode_voice(stub, Request(audio=ANNA)), "header"),
            (encode_voice(stub, header()), "transcript"),
            (encode_voice(stub, header(transcript="Hello"), header(transcript="Hello")), "request"),
        ]
        for call, field in cases:
            code, error = await refused(call)
            assert (code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


SPEECH = sound(3.0)
WORDS = "These are the words that someone says."
BAD_PROMPTS: dict[str, tuple[bytes, str, str, str]] = {
    "0.1 s": (wav(sound(0.1)), "Hi", "audio", "send at least 1 s"),
    "31 s": (wav(sound(31.0, 16000), 16000), WORDS * 10, "audio", "31.0 s long; cut it to 30 s"),
    "61 s": (wav(sound(61.0, 16000), 16000, "PCM_U8"), WORDS, "audio", "longer than 60 s"),
    "silence": (wav(np.zeros(72000)), WORDS, "audio", "silent"),
    "not audio": (b"<html>not found</html>" * 100, WORDS, "audio", "cannot be decoded"),
    "cut header": (ANNA[:20], WORDS, "audio", "cannot be decoded"),
    "no samples": (wav(np.zeros(0)), WORDS, "audio", "no samples"),
    "8 kHz": (wav(sound(3.0, 8000), 8000), WORDS, "audio", "sampled at 8000 Hz"),
    "not numbers": (wav(np.full(72000, np.nan), subtype="FLOAT"), WORDS, "audio", "not numbers"),
    "no audio": (b"", WORDS, "audio", "audio is missing"),
    "too many bytes": (bytes(2**20 + 1), WORDS, "audio", "larger than 1048576 bytes"),
    "no transcript": (wav(SPEECH), "", "transcript", "transcript is missing"),
    "blank transcript": (wav(SPEECH), " \n", "transcript", "transcript is missing"),
    "punctuation": (wav(SPEECH), "...?!", "transcript", "no words"),
    "far too many words": (wav(SPEECH), WORDS * 20, "transcript", "3.0 s long"),
    "another language": (wav(SPEECH), "这是一个例子", "transcript", "this model speaks en"),
}


async def test_bad_prompts_are_refused_and_later_ones_work() -> None:
    async with encode_service(max_prompt_bytes=2**20, parallel=1, max_queue=0) as stub:
        good = await encode_voice(stub, header(bundled_voice="anna"))
        for name, (audio, words, field, message) in BAD_PROMPTS.items():
            code, error = await refused(encode_prompt(stub, audio, words))
            assert (code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field), (name, error.message)
            assert message in error.message, (name, error.message)
        assert unwarned((await encode_prompt(stub, ANNA)).voice) == good.voice
        fresh = await encode_prompt(stub, ANNA, ANNA_WORDS + " Yes.")
    assert fresh.voice.mel == good.voice.mel
    assert isinstance(fresh.voice, voice_pb2.VoiceContent)


async def test_uploads_are_limited_in_number() -> None:
    async with encode_service(max_uploads=1) as stub:
        slow = stub.EncodeVoice()
        await slow.write(header(transcript="hello"))
        await slow.write(Request(audio=ANNA[:1000]))
        while True:  # until the part of the first upload has arrived
            try:
                await stub.EncodeVoice(iter([header(transcript="hello"), Request(audio=b"no audio")]))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    break
        slow.cancel()
        answer = None
        while answer is None:  # until its place is free
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await encode_prompt(stub, ANNA)
        assert answer.voice.speech_tokens


async def test_unknown_voices_are_not_found() -> None:
    async with encode_service() as stub:
        for prompt, words in (
            ({"bundled_voice": "unknown"}, "this model has: anna, hugo"),
            ({"voice_hash": "0" * 64}, "send its prompt again"),
        ):
            code, error = await refused(encode_voice(stub, header(**prompt)))
            assert code is grpc.StatusCode.NOT_FOUND
            assert isinstance(error, NotFound)
            assert words in error.message


async def test_a_client_that_disconnects_during_an_upload_does_not_affect_others() -> None:
    async with encode_service() as stub:
        for _ in range(5):
            call = stub.EncodeVoice()
            await call.write(header(transcript=ANNA_WORDS))
            await call.write(Request(audio=ANNA[:5000]))
            call.cancel()
        method = "/lighttts.v1.Encode/EncodeVoice"
        await until(lambda: metric("lighttts_rpc_active", method=method) == 0)
        assert (await encode_prompt(stub, ANNA)).cached


async def test_a_stream_may_set_its_own_wait_for_more_text() -> None:
    async with encode_service(text_idle_seconds=1000) as stub:
        call = stub.EncodeText()
        start = encode_pb2.EncodeTextStart(text="Good morning, Alice. ", idle_seconds=0.05)
        await call.write(encode_pb2.EncodeTextRequest(start=start))
        response = await call.read()  # the stream stays open
        assert response.text.last
        call.cancel()
