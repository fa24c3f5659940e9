"""LightTTS's WebSocket, with a client written from the wire specification."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from gateway.auth.keys import key_hash
from services.common.errors import Internal
from tests.support.fake_stages import Rig, Script, ids_of, rig, until

WAV = b"RIFF a recording"
START = {"prompt_text": "hello", "tts_model_name": "default"}


@asynccontextmanager
async def socket(r: Rig) -> AsyncIterator[ClientConnection]:
    url = f"ws://127.0.0.1:{r.gateway.http_port}/inference_zero_shot_bistream"
    async with connect(url, max_size=None, proxy=None) as connection:
        yield connection


async def send(connection: ClientConnection, *frames: dict[str, Any] | bytes | str) -> None:
    for frame in frames:
        await connection.send(json.dumps(frame) if isinstance(frame, dict) else frame)


async def receive_all(connection: ClientConnection) -> tuple[bytes, list[Any], int]:
    """Return the audio, the text frames and the close code."""
    audio, texts = b"", []
    with contextlib.suppress(ConnectionClosed):
        while True:
            frame = await connection.recv()
            if isinstance(frame, bytes):
                audio += frame
            else:
                texts.append(json.loads(frame))
    return audio, texts, connection.close_code or 0


KEY = "ltts_a-key"


@asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[str]:
    """The WebSocket's address at a gateway that requires a key."""
    (folder / "keys.yaml").write_text(f"keys: [{{name: app, sha256: {key_hash(KEY)}}}]")
    async with rig(api_keys_file=folder / "keys.yaml") as r:
        yield f"ws://127.0.0.1:{r.gateway.http_port}/inference_zero_shot_bistream"


@pytest.mark.parametrize(
    "options",
    [
        {"additional_headers": {"x-api-key": KEY}},
        {"additional_headers": {"authorization": f"Bearer {KEY}"}},
        {"subprotocols": ["lighttts", f"lighttts.key.{KEY}"]},
    ],
)
async def test_a_key_is_accepted_in_a_header_or_as_a_subprotocol(tmp_path: Path, options: dict[str, Any]) -> None:
    async with guarded(tmp_path) as url, connect(url, proxy=None, **options) as connection:
        assert connection.subprotocol == ("lighttts" if "subprotocols" in options else None)
        await send(connection, START, WAV, {"tts_text": "One."}, {"finish": True})
        audio, texts, code = await receive_all(connection)
        assert (bool(audio), texts, code) == (True, [], 1000)


@pytest.mark.parametrize(
    ("query", "options", "words"),
    [
        ("", {}, "an API key is needed here"),
        ("", {"additional_headers": {"x-api-key": "wrong"}}, "unknown API key"),
        (f"?api_key={KEY}", {}, "ends up in logs"),
    ],
)
async def test_a_handshake_without_a_valid_key_is_401_with_the_reason(
    tmp_path: Path, query: str, options: dict[str, Any], words: str
) -> None:
    async with guarded(tmp_path) as url:
        with pytest.raises(InvalidStatus) as refusal:
            async with connect(url + query, proxy=None, **options):
                pass
        response = refusal.value.response
        assert response.status_code == 401
        assert words in json.loads(response.body or b"")["message"]


@pytest.mark.parametrize(
    ("query", "key", "words"), [("", "wrong", "unknown API key"), (f"?token={KEY}", KEY, "ends up in logs")]
)
async def test_a_browser_without_a_valid_key_gets_the_reason_in_the_socket(
    tmp_path: Path, query: str, key: str, words: str
) -> None:
    protocols = [Subprotocol("lighttts"), Subprotocol(f"lighttts.key.{key}")]
    async with guarded(tmp_path) as url, connect(url + query, proxy=None, subprotocols=protocols) as connection:
        audio, texts, code = await receive_all(connection)
        assert (audio, code) == (b"", 1008)
        assert words in texts[0]["error"]


async def test_clients_cannot_make_the_server_log_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with guarded(tmp_path) as url:
        with pytest.raises(InvalidStatus):
            await connect(url, proxy=None)
        async with connect(url, proxy=None, additional_headers={"x-api-key": KEY}) as connection:
            await connection.send(b"\xff", text=True)
            _, _, code = await receive_all(connection)
            assert code == 1007
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_fragments_are_spoken_and_the_socket_closes_cleanly() -> None:
    async with rig() as r, socket(r) as connection:
        await send(connection, START, WAV, {"tts_text": "On"}, {"tts_text": "e. Tw"}, {"tts_text": "o."})
        await send(connection, {"finish": True})
        audio, texts, code = await receive_all(connection)
        assert (len(audio), texts, code) == (len("One. Two.") * 240 * 2, [], 1000)
        assert [call.ids for call in r.llm.calls] == [ids_of("One."), ids_of(" Two.")]
        ((header, parts),) = r.encode.uploads
        assert (header.transcript, b"".join(parts)) == ("hello", WAV)


async def test_audio_is_sent_before_the_text_is_complete() -> None:
    async with rig() as r, socket(r) as connection:
        await send(connection, START, WAV, {"tts_text": "One. "})
        assert isinstance(await connection.recv(), bytes)
        await send(connection, {"tts_text": "Two."}, {"finish": True})
        audio, _, code = await receive_all(connection)
        assert np.frombuffer(audio, "<i2").size > 0
        assert code == 1000


async def test_finish_before_any_text_closes_cleanly() -> None:
    async with rig() as r, socket(r) as connection:
        await send(connection, START, WAV, {"finish": True})
        assert await receive_all(connection) == (b"", [], 1000)


async def test_the_style_is_used_and_text_after_finish_is_not_spoken() -> None:
    async with rig() as r, socket(r) as connection:
        await send(connection, START | {"tts_model_name": "calm"}, WAV, {"tts_text": "One."}, {"finish": True})
        await send(connection, {"tts_text": "Two."})
        await receive_all(connection)
        assert [(call.start.style, call.ids) for call in r.llm.calls] == [("calm", ids_of("One."))]


async def test_invalid_audio_has_its_own_close_code() -> None:
    async with rig() as r:
        for audio in (b"BAD", b""):
            async with socket(r) as connection:
                await send(connection, START, audio, {"tts_text": "One."})
                assert await receive_all(connection) == (b"", [], 1003)
                assert connection.close_reason == "audio file format is incorrect"


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (["no json"], "JSON"),
        ([{"prompt_text": 7}], "prompt_text"),
        ([{}], "prompt_text"),
        ([b"audio first"], "second"),
        ([START, {"tts_text": "One."}], "binary"),
        ([START, WAV, b"more audio"], "second"),
        ([START, WAV, {"tts_text": ["One."]}], "tts_text"),
        ([START, WAV, '{"tts_text": "\\ud800"}'], "cannot be read"),
        ([START, WAV, {"tts_text": "a" * 30_000}], "20000"),
        ([{"prompt_text": " "}, WAV], "transcript"),
    ],
)
async def test_an_invalid_frame_gets_an_error_in_a_text_frame(frames: list[Any], words: str) -> None:
    async with rig() as r:
        async with socket(r) as connection:
            await send(connection, *frames)
            audio, texts, code = await receive_all(connection)
            assert (audio, code) == (b"", 1008)
            assert list(texts[0]) == ["error"]
            assert words in texts[0]["error"]
        async with socket(r) as connection:
            await send(connection, START, WAV, {"tts_text": "One."}, {"finish": True})
            assert (await receive_all(connection))[2] == 1000


async def test_a_server_error_follows_the_audio_before_it() -> None:
    async with rig() as r, socket(r) as connection:
        r.llm.scripts[0] = Script(fail_at_hop=1, error=Internal("the model produced nothing", repeated=True))
        await send(connection, START, WAV, {"tts_text": "A long sentence."}, {"finish": True})
        audio, texts, code = await receive_all(connection)
        assert audio
        assert (texts, code) == ([{"error": "the model produced nothing"}], 1011)


@pytest.mark.parametrize("finished", [True, False])
async def test_a_client_that_disconnects_frees_everything(finished: bool) -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={1: asyncio.Event()})
        async with socket(r) as connection:
            await send(connection, START, WAV, {"tts_text": "A long sentence."})
            if finished:
                await send(connection, {"finish": True})
            await connection.recv()
        await r.llm.calls[0].cancelled.wait()
        await until(lambda: r.encode.open_texts == 0)
