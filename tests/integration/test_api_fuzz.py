"""Bytes at every API of the gateway: valid messages and damaged ones are answered, and never by an internal error.

`tests/data/fuzz` keeps a corpus: a file for each API, a line for each example, which is a sequence of messages in
hexadecimal digits (`-` is an empty message). Random tests damage these examples. A failure prints its line; add it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from services.common.workers.call_end import CallEnd
from tests.support.fake_stages import Rig, rig

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"
SERVICES = {
    "TextToSpeech": "lighttts.v1.TextToSpeech",
    "Voices": "lighttts.v1.Voices",
    "Riva": "nvidia.riva.tts.RivaSpeechSynthesis",
    "CosyVoice": "cosyvoice.CosyVoice",
}
HTTP = {
    "http.speech": ("/v1/audio/speech", "application/json"),
    "http.elevenlabs": ("/v1/text-to-speech/anna/stream/with-timestamps?output_format=pcm_24000", "application/json"),
    "http.cosyvoice": ("/inference_sft", "application/x-www-form-urlencoded"),
}
WEBSOCKETS = {
    "websocket": ("/inference_zero_shot_bistream", '{"finish": true}'),
    "websocket.conversation": ("/v1/conversation", '{"end": {}}'),
    "websocket.elevenlabs": ("/v1/text-to-speech/anna/stream-input?output_format=pcm_24000", '{"text": ""}'),
    "websocket.elevenlabs-contexts": (
        "/v1/text-to-speech/anna/multi-stream-input?output_format=pcm_24000&auto_mode=true",
        '{"close_socket": true}',
    ),
}
"""Paths and the messages that end the text."""
INTERNAL = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
APIS = sorted(path.stem for path in CORPUS.glob("*.txt"))
LIMIT_SECONDS = 400.0
Example = list[bytes]


def examples(api: str) -> list[Example]:
    lines = (CORPUS / f"{api}.txt").read_text().splitlines()
    return [[b"" if word == "-" else bytes.fromhex(word) for word in line.split()] for line in lines]


def line_of(example: Example) -> str:
    return " ".join(message.hex() or "-" for message in example)


@st.composite
def damaged(draw: st.DrawFn, api: str) -> Example:
    """Draw an example of the corpus with some bytes removed, inserted or replaced, or messages repeated or left out."""
    example = list(draw(st.sampled_from(examples(api))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(example) - 1)))
        match draw(st.sampled_from(["bytes", "bytes", "bytes", "repeat", "leave out"])):
            case "bytes" if example:
                message = example[place]
                start = draw(st.integers(0, len(message)))
                end = draw(st.integers(start, min(len(message), start + 8)))
                example[place] = message[:start] + draw(st.binary(max_size=8)) + message[end:]
            case "repeat" if example:
                example.insert(place, example[place])
            case "leave out" if len(example) > 1:
                del example[place]
            case _:
                pass
    return example


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Rig]:
    async with rig(limit_seconds=600, max_text_chars=2000, cosyvoice_port=0) as r:
        yield r


@pytest.mark.parametrize("api", APIS)
async def test_the_corpus_is_answered(served: Rig, api: str) -> None:
    for example in examples(api):
        await is_answered(served, api, example)


@pytest.mark.parametrize("api", APIS)
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_damaged_messages_are_answered(served: Rig, api: str, data: st.DataObject) -> None:
    await is_answered(served, api, data.draw(damaged(api)))


async def is_answered(r: Rig, api: str, example: Example) -> None:
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            if api in WEBSOCKETS:
                await websocket(r, api, example)
            elif api in HTTP:
                await http(r, api, example)
            else:
                await rpc(r, api, example)
    except (AssertionError, TimeoutError) as error:
        raise AssertionError(f"{error or type(error)}; add to tests/data/fuzz/{api}.txt: {line_of(example)}") from error


async def rpc(r: Rig, api: str, example: Example) -> None:
    service, _, method = api.partition(".")

    async def messages() -> AsyncIterator[bytes]:
        for message in example:
            yield message

    # On the wire, a call with one message is a stream of one.
    method_of: grpc.aio.StreamStreamMultiCallable[bytes, Any] = r.channel.stream_stream(
        f"/{SERVICES[service]}/{method}"
    )
    call = method_of(messages())
    end = CallEnd(call)
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        refusal = await end.error(error)
        internal = refusal.code() in INTERNAL
        # gRPC itself answers a unary call with several messages, or none.
        assert not internal or "deserializ" in (refusal.details() or "") or len(example) != 1, refusal


async def http(r: Rig, api: str, example: Example) -> None:
    path, kind = HTTP[api]
    port = r.gateway.cosyvoice_port if api == "http.cosyvoice" else r.gateway.http_port
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_SECONDS) as client:
        response = await client.post(path, content=b"".join(example), headers={"content-type": kind})
    assert response.status_code < 500, (response.status_code, response.text[:200])


async def websocket(r: Rig, api: str, example: Example) -> None:
    path, end = WEBSOCKETS[api]
    url = f"ws://127.0.0.1:{r.gateway.http_port}{path}"
    async with connect(url, proxy=None) as socket:
        try:
            for message in example:
                await socket.send(message if message[:1] not in (b"{", b"[") else message.decode(errors="replace"))
            await socket.send(end)
            await socket.send(b"")  # ends a wait for the prompt's audio
            async for _ in socket:
                pass
        except ConnectionClosed:
            pass
        assert socket.close_code != 1011, socket.close_reason
