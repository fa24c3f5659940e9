"""What clients of a soak do: use every API, leave early, be hostile. Each act returns its outcome in a word."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import grpc.aio
import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from cli.client import Access
from lighttts.compat import riva_common_pb2, riva_tts_pb2, riva_tts_pb2_grpc
from lighttts.v1 import tts_pb2, tts_pb2_grpc
from tests.faults.conversation import converse
from tests.soak.pace import Pace

TEXTS = ("Yes.", "Good morning, Alice.", "The train was late. It rained, and nobody minded.", "One. Two. Three. Four.")
VOICES = ("anna", "hugo")
CHECK_SECONDS = 1.0
"""Interval of the checks whether an act is stuck."""
WHOLE = "whole"
"""Outcome of a request whose speech was complete."""
HUNG = "hung"
"""Outcome of an act that was stuck."""


@dataclass(frozen=True)
class Doors:
    """The addresses of one gateway."""

    access: Access
    """The gRPC APIs."""
    http: str
    """Base URL of the HTTP APIs."""
    cosyvoice: str
    """Base URL for clients of CosyVoice."""
    start_seconds: float = 0.0
    """Time in which the whole stack started."""


Act = Callable[[Doors, random.Random], Awaitable[str]]


async def native_stream(doors: Doors, choose: random.Random) -> str:
    fragments = random.Random(choose.random()) if choose.random() < 0.5 else None
    recording = await converse(
        doors.access,
        choose.choice(TEXTS),
        choose.randrange(100),
        choose.choice(VOICES),
        fragments=fragments,
        limit=None,
    )
    return WHOLE if recording.code == "OK" and recording.chunks else recording.code


async def leave_early(doors: Doors, choose: random.Random) -> str:
    """Cancel a stream at a random moment."""
    speaking = asyncio.create_task(converse(doors.access, " ".join(TEXTS), 1, "anna", limit=None))
    await asyncio.wait({speaking}, timeout=choose.uniform(0, 2))
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    return "left"


async def riva(doors: Doors, choose: random.Random) -> str:
    request = riva_tts_pb2.SynthesizeSpeechRequest(
        text=choose.choice(TEXTS), language_code="en-US", encoding=riva_common_pb2.LINEAR_PCM, voice_name="anna"
    )
    async with doors.access.open() as channel:
        response = await riva_tts_pb2_grpc.RivaSpeechSynthesisStub(channel).Synthesize(request)
    return WHOLE if response.audio else "empty"


async def openai(doors: Doors, choose: random.Random) -> str:
    body = {"model": "tts-1", "voice": choose.choice(VOICES), "input": choose.choice(TEXTS), "response_format": "wav"}
    return await _post(f"{doors.http}/v1/audio/speech", json=body)


async def cosyvoice(doors: Doors, choose: random.Random) -> str:
    return await _post(f"{doors.cosyvoice}/inference_sft", data={"tts_text": choose.choice(TEXTS), "spk_id": "anna"})


async def bad_json(doors: Doors, choose: random.Random) -> str:
    kind = choose.choice([b"{", b"[" * 100_000, b'{"input": 1}', bytes(choose.randrange(256) for _ in range(500))])
    return await _post(f"{doors.http}/v1/audio/speech", content=kind, headers={"content-type": "application/json"})


async def garbage(doors: Doors, choose: random.Random) -> str:
    """Send random bytes, or half a request, to a port and disconnect."""
    address = choose.choice((doors.access.server, doors.http.removeprefix("http://")))
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    half = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{"
    writer.write(choose.choice((half, bytes(choose.randrange(256) for _ in range(300)))))
    with suppress(TimeoutError, OSError):
        await asyncio.wait_for(reader.read(1000), choose.uniform(0, 0.5))
    writer.transport.abort()
    return "hostile"


async def unknown_method(doors: Doors, choose: random.Random) -> str:
    async with doors.access.open() as channel:
        name = f"/lighttts.v1.TextToSpeech/M{choose.randrange(10**6)}"
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(name)
        await call(b"x")
    return "accepted"


async def bad_message(doors: Doors, choose: random.Random) -> str:
    """Send a stream's first message as bytes that are no message."""
    async with doors.access.open() as channel:
        call: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/lighttts.v1.TextToSpeech/StreamingSynthesize"
        )
        async for _ in call(iter([bytes(choose.randrange(256) for _ in range(50))])):
            pass
    return "accepted"


async def only_connect(doors: Doors, choose: random.Random) -> str:
    """Open a stream, send its configuration and nothing else, then disconnect."""
    async with doors.access.open() as channel:
        call = tts_pb2_grpc.TextToSpeechStub(channel).StreamingSynthesize()
        await call.write(tts_pb2.StreamingSynthesizeRequest(config=tts_pb2.SynthesisConfig(voice_name="anna")))
        await asyncio.sleep(choose.uniform(0, 0.5))
        call.cancel()
    return "left"


async def conversation_socket(doors: Doors, choose: random.Random) -> str:
    """Speak over our own WebSocket, and interrupt half of the conversations."""
    words = choose.choice(TEXTS).split()
    messages: list[object] = [{"config": {"voice_name": choose.choice(VOICES)}}, *({"text": f"{w} "} for w in words)]
    messages += [{"flush": {}}, *([{"cancel": {}}] if choose.random() < 0.5 else []), {"end": {}}]
    last = ""
    async with connect(_socket_url(doors, "/v1/conversation"), proxy=None) as socket:
        for message in messages:
            await socket.send(json.dumps(message))
        async for frame in socket:
            last = frame if isinstance(frame, str) else last
    return WHOLE if "finished" in last else "cut"


def _socket_url(doors: Doors, path: str) -> str:
    return doors.http.replace("http://", "ws://") + path


async def half_websocket(doors: Doors, choose: random.Random) -> str:
    path = choose.choice(("/inference_zero_shot_bistream", "/v1/conversation"))
    async with connect(_socket_url(doors, path), proxy=None) as socket:
        await socket.send(choose.choice(("{", "[]", '{"tts_text": 1}', '{"config": {"prompt": {}}}', b"\0" * 1000)))
        await asyncio.sleep(choose.uniform(0, 0.2))
        socket.transport.abort()
    return "hostile"


ACTS: tuple[Act, ...] = (
    native_stream,
    native_stream,
    leave_early,
    riva,
    openai,
    cosyvoice,
    conversation_socket,
    bad_json,
    garbage,
    unknown_method,
    bad_message,
    only_connect,
    half_websocket,
)


async def perform(act: Act, doors: Doors, choose: random.Random, pace: Pace) -> str:
    """Return the outcome of an act; errors that the gateway answers, or that a broken connection causes, included."""
    run, acting = pace.begin(), asyncio.create_task(_outcome(act, doors, choose))
    outcome = HUNG
    try:
        while not acting.done() and not pace.stuck(run):
            await asyncio.wait({acting}, timeout=CHECK_SECONDS)
        if acting.done():
            outcome = acting.result()
    finally:
        pace.end(run, whole=outcome == WHOLE)
        acting.cancel()
        await asyncio.gather(acting, return_exceptions=True)
    return outcome


async def _outcome(act: Act, doors: Doors, choose: random.Random) -> str:
    try:
        return await act(doors, choose)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    except (httpx.HTTPError, WebSocketException, OSError) as error:
        return type(error).__name__


async def _post(url: str, **request: object) -> str:
    async with httpx.AsyncClient(timeout=None, trust_env=False) as client:  # noqa: S113 - Pace limits acts
        response = await client.post(url, **request)  # type: ignore[arg-type]
    if response.status_code != 200:
        return f"HTTP {response.status_code}"
    return WHOLE if response.content else "empty"
