"""The modes of the encode service: registered speakers, timbre only, instructions, source speech."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from lighttts.v1 import encode_pb2, encode_pb2_grpc
from services.common.checkpoint.model_dir import CARD, open_model_dir
from services.common.errors import from_rpc_error
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.encode.text.tokenizer import TextTokenizer

MINI = Path(__file__).parents[1] / "data" / "cosyvoice2-mini"
AUDIO = (Path(__file__).parents[2] / "models" / "tiny" / "prompt_anna.wav").read_bytes()
TEXT = encode_pb2.EncodeTextRequest


@asynccontextmanager
async def encode_service(model_dir: Path) -> AsyncIterator[Any]:
    settings = EncodeSettings(port=0, normaliser="builtin", model_dir=model_dir, text_idle_seconds=0.05)
    server = ServiceServer(EncodeService(settings), settings)
    try:
        await server.start()
        async with asyncio.timeout(400), open_channel(server.address) as channel:
            yield encode_pb2_grpc.EncodeStub(channel)
    finally:
        await server.close()


@pytest.fixture
async def stub() -> AsyncIterator[Any]:
    """Run the service with the mini checkpoint, which has registered speakers and accepts interleaved text."""
    async with encode_service(MINI) as stub:
        yield stub


async def encode_voice(stub: Any, *audio: bytes, **prompt: Any) -> encode_pb2.EncodeVoiceResponse:
    async def outgoing() -> AsyncIterator[encode_pb2.EncodeVoiceRequest]:
        yield encode_pb2.EncodeVoiceRequest(header=encode_pb2.EncodeVoiceHeader(**prompt))
        for part in audio:
            yield encode_pb2.EncodeVoiceRequest(audio=part)

    return await stub.EncodeVoice(outgoing())


async def encode_text(stub: Any, text: str, **start: Any) -> list[encode_pb2.EncodedText]:
    async def outgoing() -> AsyncIterator[encode_pb2.EncodeTextRequest]:
        yield TEXT(start=encode_pb2.EncodeTextStart(**start))
        yield TEXT(fragment=text)

    return [response.text async for response in stub.EncodeText(outgoing())]


async def test_registered_speakers_are_voices(stub: Any) -> None:
    described = await stub.DescribeModel(encode_pb2.DescribeModelRequest())
    assert list(described.voices) == ["mini_a", "mini_b"]
    answer = await encode_voice(stub, bundled_voice="mini_b")
    assert answer.cached
    assert len(answer.voice.embedding) == 192
    assert not answer.voice.speech_tokens
    assert answer.voice.mel == b""


async def test_a_prompt_for_its_timbre_needs_no_words(stub: Any) -> None:
    answer = await encode_voice(stub, AUDIO, timbre_only=True)
    assert answer.voice.speech_tokens
    assert not answer.voice.prompt_text_ids
    assert set(answer.seconds) == {"decode", "features", "speech_tokens", "embedding"}
    assert (await encode_voice(stub, AUDIO, timbre_only=True)).cached
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await encode_voice(stub, AUDIO, transcript="")
    assert from_rpc_error(caught.value).field == "transcript"


async def test_a_preview_says_what_is_left_out(stub: Any) -> None:
    preview = await stub.ReadText(encode_pb2.ReadTextRequest(text="<foo></foo>"))
    assert preview.warnings
    assert not preview.utterances


async def test_speech_to_be_converted(stub: Any) -> None:
    async def outgoing(*audio: bytes) -> AsyncIterator[encode_pb2.EncodeSpeechRequest]:
        yield encode_pb2.EncodeSpeechRequest(header=encode_pb2.EncodeSpeechHeader())
        for part in audio:
            yield encode_pb2.EncodeSpeechRequest(audio=part)

    speech = await stub.EncodeSpeech(outgoing(AUDIO[:1000], AUDIO[1000:]))
    voice = (await encode_voice(stub, AUDIO, timbre_only=True)).voice
    assert list(speech.speech_tokens)[: len(voice.speech_tokens)] == list(voice.speech_tokens)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EncodeSpeech(outgoing(b"no audio"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "cannot be decoded" in from_rpc_error(caught.value).message


async def test_instructions_go_before_every_utterance(stub: Any) -> None:
    ids = TextTokenizer(open_model_dir(MINI)).encode("say it angrily<|endofprompt|>")
    runs = await encode_text(stub, "hello world. " * 30, instruct_text="say it angrily")
    assert len(runs) > 1
    assert all(list(run.instruct_ids) == ids for run in runs)
    assert not any(run.instruct_ids for run in await encode_text(stub, "hello world", instruct_text=""))
    assert not any(run.instruct_ids for run in await encode_text(stub, "hello world"))
    interleaved = await encode_text(stub, "hello world, over there", interleaved=True, instruct_text="say it angrily")
    assert [list(run.instruct_ids) for run in interleaved] == [ids] + [[]] * (len(interleaved) - 1)


async def test_a_pause_releases_the_last_word(stub: Any) -> None:
    call = stub.EncodeText()
    await call.write(TEXT(start=encode_pb2.EncodeTextStart(interleaved=True)))
    await call.write(TEXT(fragment="hello wor"))
    first = (await call.read()).text
    second = (await call.read()).text  # arrives although no more text was sent
    assert (first.text, second.text) == ("hello", " wor")
    assert not second.last
    await call.write(TEXT(fragment="ld"))
    await call.done_writing()
    assert (await call.read()).text.text == "ld"


async def test_a_pause_releases_a_finished_sentence_and_a_worker_that_takes_over_does_the_same(stub: Any) -> None:
    call = stub.EncodeText()
    await call.write(TEXT(start=encode_pb2.EncodeTextStart(text="One moment please.")))
    first = (await call.read()).text  # arrives although no more text was sent
    assert (first.text, first.last, first.released) == ("One moment please.", True, 18)
    await call.write(TEXT(fragment=" It is here."))
    await call.done_writing()
    second = (await call.read()).text
    assert (second.utterance, second.text) == (1, " It is here.")
    whole = "One moment please. It is here."

    async def at_once(**start: Any) -> list[str]:
        request = TEXT(start=encode_pb2.EncodeTextStart(text=whole, complete=True, **start))
        return [response.text.text async for response in stub.EncodeText(iter([request]))]

    assert await at_once(releases=[18]) == [first.text, second.text]
    assert await at_once() == [whole]


async def test_a_model_of_whole_sentences_refuses_interleaved_text(tmp_path: Path) -> None:
    folder = tmp_path / "sentences"
    shutil.copytree(MINI, folder, ignore=shutil.ignore_patterns("*.npz"))
    (folder / CARD).write_text("name: sentences\ntext_streaming: sentence\n", encoding="utf-8")
    async with encode_service(folder) as stub:
        assert not (await stub.DescribeModel(encode_pb2.DescribeModelRequest())).interleaved_text
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await encode_text(stub, "Hello.", interleaved=True)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value).field == "interleaved"
