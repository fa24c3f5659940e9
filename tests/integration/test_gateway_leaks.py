"""Clients that disconnect in every way, at a gateway with API keys: each gets an error where possible, others are
served as before, and no resource of any client stays in use."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import psutil
import pytest

from gateway.auth.keys import key_hash
from gateway.session.turn import utterance_seed
from lighttts.v1 import audio_pb2, tts_pb2
from tests.support.fake_stages import Conversation, Rig, Script, ids_of, rig, samples, speech, until

KEY, EXPIRED = "ltts_good", "ltts_expired"
SEED = 7
MINE = (("x-api-key", KEY),)
FORM = {"tts_text": "Yes.", "prompt_text": "hello"}
Request = tts_pb2.StreamingSynthesizeRequest
Status = grpc.StatusCode


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Rig]:
    entries = [
        f"{{name: good, sha256: {key_hash(KEY)}}}",
        f"{{name: old, sha256: {key_hash(EXPIRED)}, expires: 2020-01-01T00:00:00Z}}",
    ]
    (tmp_path / "keys.yaml").write_text(f"keys: [{', '.join(entries)}]")
    options: dict[str, Any] = {"api_keys_file": tmp_path / "keys.yaml", "voices_dir": tmp_path / "voices"}
    async with rig(limit_seconds=600, max_text_chars=100_000, **options) as r:
        r.http.headers["x-api-key"] = KEY
        yield r


async def begin(r: Rig, **config: float) -> Conversation:
    wanted = tts_pb2.SynthesisConfig(seed=SEED, format=audio_pb2.SAMPLE_FORMAT_F32LE, **config)  # type: ignore[arg-type]
    return await Conversation(r, wanted, MINE).begin()


@contextlib.contextmanager
def refused(code: grpc.StatusCode, words: str) -> Iterator[None]:
    with pytest.raises(grpc.aio.AioRpcError, match=words) as refusal:
        yield
    assert refusal.value.code() == code


async def is_unharmed(r: Rig) -> None:
    """Another client is served as before."""
    client = await begin(r)
    await client.text("Yes.")
    await client.end()
    assert np.array_equal(samples(await client.rest()), speech(ids_of("Yes."), utterance_seed(SEED, 0, 0)))


async def http_is_unharmed(r: Rig) -> None:
    response = await r.http.post("/inference_zero_shot", data=FORM, files={"prompt_wav": b"RIFF"})
    assert (response.status_code, len(response.content)) == (200, 4 * 240 * 2)


async def test_no_resource_of_a_client_stays_in_use_however_it_leaves(served: Rig) -> None:
    await is_unharmed(served)
    await http_is_unharmed(served)
    process = psutil.Process()

    def held() -> tuple[int, int, int]:
        gc.collect()
        # asyncio's own threads, which name lookups and files use, grow to a fixed number and stay.
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
        return len(asyncio.all_tasks()), len(threads), process.num_fds()

    await until(lambda: len(served.llm.calls) == 2)
    before = held()
    for act in ACTS * 3:
        await act(served)
        await is_unharmed(served)
    await http_is_unharmed(served)
    context, after = served.gateway._context, list[tuple[int, int, int]]()

    def settled() -> bool:
        after[:] = [held()]
        return all(now <= then for now, then in zip(after[0], before, strict=True))

    await until(settled)
    assert all(call.cancelled.is_set() or call.ended.is_set() for call in served.llm.calls)
    assert served.encode.open_texts == 0
    assert not context.admission._sessions
    assert context.registry._uploads.held == 0
    assert all(worker.active == 0 for pool in (context.encode, context.llm) for worker in pool.workers())


async def vanish(r: Rig) -> None:
    """Disconnect in the middle of a word."""
    client = await begin(r)
    await client.text("One is long. And more")
    await client.next_of(audio_pb2.AudioChunk)
    client.call.cancel()


async def never_read(r: Rig) -> None:
    """Request much audio, read none of it, disconnect."""
    client = await begin(r)
    await client.text("x" * 5000 + ".")
    calls = len(r.llm.calls)
    await until(lambda: len(r.llm.calls) > calls and r.llm.calls[-1].hops > 1)
    await is_unharmed(r)
    client.call.cancel()


async def say_nothing(r: Rig) -> None:
    """Open a stream and disconnect without a message."""
    client = await begin(r)
    await client.next_of(tts_pb2.Started)
    client.call.cancel()


async def dawdle(r: Rig) -> None:
    """Send a text byte by byte, slower than other clients are served, and disconnect before its end."""
    client = await begin(r)
    for character in "A slow one":
        await client.text(character)
        await is_unharmed(r)
    client.call.cancel()


async def text_before_config(r: Rig) -> None:
    with refused(Status.INVALID_ARGUMENT, "first message must be the config"):
        await r.tts.StreamingSynthesize(iter([Request(text="One.")]), metadata=MINE).read()


async def two_configs(r: Rig) -> None:
    client = await begin(r)
    await client.call.write(Request(config=tts_pb2.SynthesisConfig()))
    with refused(Status.INVALID_ARGUMENT, "one config"):
        await client.rest()


async def empty_fragments(r: Rig) -> None:
    """Send ten thousand empty messages; the text among them is spoken."""

    async def sent() -> AsyncIterator[Request]:
        yield Request(config=tts_pb2.SynthesisConfig(seed=SEED, format=audio_pb2.SAMPLE_FORMAT_F32LE))
        for number in range(10_001):
            yield Request(text="Yes." if number == 5000 else "")

    responses = [response async for response in r.tts.StreamingSynthesize(sent(), metadata=MINE)]
    events = [getattr(response, response.WhichOneof("event") or "") for response in responses]
    assert np.array_equal(samples(events), speech(ids_of("Yes."), utterance_seed(SEED, 0, 0)))


async def megabyte_fragment(r: Rig) -> None:
    client = await begin(r)
    await client.text("x" * 1_000_000)
    with refused(Status.INVALID_ARGUMENT, "more than 100000 characters wait"):
        await client.rest()


async def speed_that_is_no_number(r: Rig) -> None:
    client = await begin(r, speed=float("nan"))
    with refused(Status.INVALID_ARGUMENT, "speed is nan"):
        await client.rest()


async def bad_keys(r: Rig) -> None:
    """Send no key, a wrong one, an expired one, one in the wrong place."""
    for metadata, words in (
        ((), "an API key is needed"),
        ((("x-api-key", "wrong"),), "unknown API key"),
        ((("x-api-key", EXPIRED),), "expired on 2020-01-01"),
        ((("authorization", KEY),), "no 'Bearer' key"),
        ((("api-key", KEY),), "an API key is needed"),
    ):
        with refused(Status.UNAUTHENTICATED, words):
            await r.tts.StreamingSynthesize(iter([Request(text="One.")]), metadata=metadata).read()
    response = await r.http.post("/inference_zero_shot", params={"api_key": KEY}, data=FORM)
    assert (response.status_code, "ends up in logs" in response.text) == (401, True)


async def drop_mid_upload(r: Rig) -> None:
    """Register a voice and disconnect after half of the upload."""
    registry = r.gateway._context.registry
    call = r.voices.CreateVoice(metadata=MINE)
    header = tts_pb2.CreateVoiceHeader(name="half", transcript="hello", consent=True)
    await call.write(tts_pb2.CreateVoiceRequest(header=header))
    await call.write(tts_pb2.CreateVoiceRequest(audio=b"x" * 100_000))
    await until(lambda: registry._uploads.held == 1)
    call.cancel()


async def drop_mid_upload_over_http(r: Rig) -> None:
    """Disconnect after half of the prompt."""
    port = httpx.URL(r.http.base_url).port
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /inference_zero_shot HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nContent-Length: 200000\r\n"
    writer.write(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
    part = b'--b\r\nContent-Disposition: form-data; name="prompt_wav"; filename="a.wav"\r\n\r\n'
    writer.write(part + b"x" * 100_000)
    await writer.drain()
    writer.transport.abort()


async def close_in_the_middle(r: Rig) -> None:
    """Half-close, and disconnect while the worker is blocked."""
    r.llm.scripts[len(r.llm.calls)] = Script(hold={1: asyncio.Event()})
    client = await begin(r)
    await client.text("One is long.")
    await client.call.done_writing()
    await client.next_of(audio_pb2.AudioChunk)
    client.call.cancel()


ACTS = (
    vanish,
    never_read,
    say_nothing,
    dawdle,
    text_before_config,
    two_configs,
    empty_fragments,
    megabyte_fragment,
    speed_that_is_no_number,
    bad_keys,
    drop_mid_upload,
    drop_mid_upload_over_http,
    close_in_the_middle,
)
