"""ElevenLabs' WebSockets over fake stages; tests/peers runs its real clients."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.auth.keys import key_hash
from tests.support.fake_stages import Rig, Script, ids_of, rig, until

TEXT = "Hello there, big world. And more."
RATE = 24000
KEY = "ltts_a-key"
Messages = list[dict[str, Any]]


@asynccontextmanager
async def socket(
    r: Rig, path: str = "stream-input", voice: str = "anna", key: str = "", **query: Any
) -> AsyncIterator[ClientConnection]:
    parameters = "&".join(f"{name}={value}" for name, value in ({"output_format": "pcm_24000"} | query).items())
    url = f"ws://127.0.0.1:{r.gateway.http_port}/v1/text-to-speech/{voice}/{path}?{parameters}"
    headers = {"xi-api-key": key} if key else {}
    async with connect(url, max_size=None, proxy=None, additional_headers=headers) as connection:
        yield connection


async def send(connection: ClientConnection, *messages: dict[str, Any] | str) -> None:
    for message in messages:
        await connection.send(message if isinstance(message, str) else json.dumps(message))


async def rest(connection: ClientConnection) -> Messages:
    """Return the messages up to the close."""
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(json.loads(await connection.recv()))
    return messages


async def until_final(connection: ClientConnection, context: str) -> Messages:
    """Return the messages up to the last one of a context."""
    messages: Messages = []
    while not (messages and messages[-1].get("isFinal") and messages[-1].get("contextId") == context):
        messages.append(json.loads(await connection.recv()))
    return messages


def of(messages: Messages, context: str) -> Messages:
    return [message for message in messages if message.get("contextId") == context]


def audio(messages: Messages) -> bytes:
    return b"".join(base64.b64decode(message.get("audio") or "") for message in messages)


def characters(messages: Messages) -> list[tuple[str, int, int]]:
    """Return all characters with their begin and end; the times of a message count from the end of the one before."""
    found, before = [], 0
    for message in messages:
        assert message.get("alignment") == message.get("normalizedAlignment")
        if (each := message.get("alignment")) is not None:
            times = zip(each["chars"], each["charStartTimesMs"], each["charDurationsMs"], strict=True)
            found += [(character, before + start, before + start + long) for character, start, long in times]
            before = found[-1][2]
    return found


@asynccontextmanager
async def guarded(folder: Path, **limits: Any) -> AsyncIterator[Rig]:
    """A gateway that requires a key."""
    more = "".join(f", {name}: {value}" for name, value in limits.items())
    (folder / "keys.yaml").write_text(f"keys: [{{name: app, sha256: {key_hash(KEY)}{more}}}]")
    async with rig(api_keys_file=folder / "keys.yaml") as r:
        yield r


async def test_a_text_is_spoken_with_the_times_of_its_characters() -> None:
    async with rig() as r:
        r.llm.aligns = True
        async with socket(r) as connection:
            await send(connection, {"text": " ", "voice_settings": {"stability": 0.5, "speed": None}})
            await send(connection, {"text": TEXT[:8], "try_trigger_generation": True}, {"text": TEXT[8:]})
            await send(connection, {"text": ""})
            messages = await rest(connection)
            assert connection.close_code == 1000
    assert messages[-1] == {"audio": None, "isFinal": True, "alignment": None, "normalizedAlignment": None}
    samples = len(audio(messages)) // 2
    assert samples
    timed = characters(messages)
    assert "".join(character for character, _, _ in timed) == TEXT
    assert all(start <= end for _, start, end in timed)
    assert [start for _, start, _ in timed[1:]] == [end for _, _, end in timed[:-1]]
    assert timed[-1][2] == pytest.approx(1000 * samples / RATE, abs=len(messages))


async def test_with_sync_alignment_times_count_from_the_begin_of_the_context() -> None:
    async with rig() as r:
        r.llm.aligns = True
        async with socket(r, sync_alignment="true") as connection:
            await send(connection, {"text": TEXT}, {"text": ""})
            messages = await rest(connection)
    found = [message["alignment"] for message in messages if message["alignment"]]
    assert len(found) > 1
    assert "".join("".join(each["chars"]) for each in found) == TEXT
    starts = [start for each in found for start in each["charStartTimesMs"]]
    assert starts == sorted(starts)
    end = starts[-1] + found[-1]["charDurationsMs"][-1]
    assert end == pytest.approx(1000 * len(audio(messages)) / 2 / RATE, abs=len(messages))


async def test_without_heads_that_follow_the_text_no_times_are_sent() -> None:
    async with rig() as r, socket(r) as connection:
        await send(connection, {"text": TEXT}, {"text": ""})
        messages = await rest(connection)
    assert audio(messages)
    assert all(message["alignment"] is None for message in messages)


async def test_a_flush_speaks_an_unfinished_sentence_and_the_socket_stays_open() -> None:
    async with rig() as r, socket(r) as connection:
        await send(connection, {"text": "no end"}, {"text": "", "flush": True})
        assert audio([json.loads(await connection.recv())])
        await send(connection, {"text": "and more"}, {"text": ""})
        await rest(connection)
        assert connection.close_code == 1000
        assert [call.ids for call in r.llm.calls] == [ids_of("no end "), ids_of("and more")]


async def test_more_flushes_than_may_wait_are_no_error() -> None:
    async with rig(max_pending_flushes=2) as r, socket(r) as connection:
        r.llm.scripts[0] = Script(hold={0: (held := asyncio.Event())})
        for number in range(10):
            await send(connection, {"text": f"Number {number}.", "flush": True})
        await until(lambda: bool(r.llm.calls))
        held.set()
        await send(connection, {"text": ""})
        messages = await rest(connection)
        assert (messages[-1]["isFinal"], connection.close_code) == (True, 1000)
        spoken = "".join(map(chr, (value for call in r.llm.calls for value in call.ids)))
        assert spoken.replace(" ", "") == "".join(f"Number{number}." for number in range(10))


async def test_an_end_without_text_is_final_at_once() -> None:
    async with rig() as r, socket(r) as connection:
        await send(connection, {"text": " "}, {"text": ""})
        assert [message["isFinal"] for message in await rest(connection)] == [True]
        assert (connection.close_code, r.llm.calls) == (1000, [])


async def test_contexts_speak_side_by_side_with_their_own_settings() -> None:
    async with rig() as r:
        r.llm.aligns = True
        async with socket(r, "multi-stream-input", model_id="eleven_flash_v2_5") as connection:
            await send(connection, {"text": "", "context_id": "unknown"}, {"context_id": "unknown", "flush": True})
            for name, speed in (("one", 0.8), ("two", 1.2)):
                await send(connection, {"text": " ", "context_id": name, "voice_settings": {"speed": speed}})
                await send(connection, {"text": f"Here is {name}.", "context_id": name})
            for name in ("one", "two"):
                await send(connection, {"text": "", "context_id": name, "flush": True})
                await send(connection, {"contextId": name, "close_context": True})
            await send(connection, {"close_socket": True})
            messages = await rest(connection)
            assert connection.close_code == 1000
        for name in ("one", "two"):
            assert audio(of(messages, name))
            assert of(messages, name)[-1]["isFinal"]
            assert "".join(each for each, _, _ in characters(of(messages, name))) == f"Here is {name}. "
        assert {round(call.start.speed, 1) for call in r.llm.calls} == {0.8, 1.2}


async def test_in_auto_mode_each_message_is_spoken_as_it_is_and_its_words_end() -> None:
    async with rig() as r:
        r.llm.aligns = True
        async with socket(r, "multi-stream-input", auto_mode="true") as connection:
            await send(connection, {"text": " ", "context_id": "a"})
            await send(connection, {"text": "One", "context_id": "a"}, {"text": "Two.", "context_id": "a"})
            await send(connection, {"context_id": "a", "flush": True}, {"context_id": "a", "close_context": True})
            messages = await until_final(connection, "a")
        assert [call.ids for call in r.llm.calls] == [ids_of("One "), ids_of("Two.")]
        assert "".join(each for each, _, _ in characters(messages)) == "One Two. "


async def test_closing_a_context_stops_what_was_not_flushed_and_nothing_else() -> None:
    async with rig() as r, socket(r, "multi-stream-input") as connection:
        held = asyncio.Event()
        for number in range(2):
            r.llm.scripts[number] = Script(hold={0: held})
        await send(connection, {"text": "Spoken. ", "context_id": "flushed", "flush": True})
        await until(lambda: len(r.llm.calls) == 1)
        await send(connection, {"text": "A barge-in follows. ", "context_id": "stopped"})
        await until(lambda: len(r.llm.calls) == 2)
        await send(connection, {"context_id": "stopped", "close_context": True})
        await send(connection, {"context_id": "flushed", "close_context": True})
        assert audio(await until_final(connection, "stopped")) == b""
        await r.llm.calls[1].cancelled.wait()
        held.set()
        assert audio(await until_final(connection, "flushed"))


async def test_a_name_can_be_used_again() -> None:
    async with rig() as r, socket(r, "multi-stream-input") as connection:
        for text in ("One.", "Two."):
            await send(connection, {"text": text, "context_id": "a", "flush": True})
            await send(connection, {"context_id": "a", "close_context": True})
        first, second = await until_final(connection, "a"), await until_final(connection, "a")
        assert audio(first)
        assert audio(second)
        assert [call.ids for call in r.llm.calls] == [ids_of("One."), ids_of("Two.")]


BAD: list[tuple[str, dict[str, str], list[Any], str, str]] = [
    ("nobody", {}, [{"text": "One. "}], "voice_not_found", "voice_id"),
    ("anna", {"model_id": "nothing"}, [], "model_not_found", "model_id"),
    ("anna", {"output_format": "tape"}, [], "invalid_input", "output_format"),
    ("anna", {"output_format": "opus_44100_32"}, [], "invalid_input", "output_format"),
    ("anna", {"inactivity_timeout": "soon"}, [], "invalid_input", "inactivity_timeout"),
    ("anna", {"inactivity_timeout": "0"}, [], "invalid_input", "inactivity_timeout"),
    ("nobody", {"inactivity_timeout": "300"}, [{"text": "One. "}], "voice_not_found", "voice_id"),
    ("anna", {"language_code": "!"}, [], "invalid_input", "language_code"),
    ("anna", {}, [{"text": 7}], "invalid_input", "text"),
    ("anna", {}, [{"text": " ", "voice_settings": {"speed": 9}}], "invalid_input", "voice_settings.speed"),
    ("anna", {}, ["no JSON"], "invalid_input", "JSON"),
    ("anna", {}, [{"text": "x" * 101}], "invalid_input", "text"),
]
"""Voice, address, messages; ElevenLabs' word for the error, and a word of its message."""


@pytest.mark.parametrize("path", ["stream-input", "multi-stream-input"])
async def test_bad_input_gets_elevenlabs_s_error_and_close_code(path: str) -> None:
    async with rig(max_text_chars=100) as r:
        for voice, query, messages, word, field in BAD:
            async with socket(r, path, voice, **query) as connection:
                await send(connection, *messages)
                (error,) = await rest(connection)
                assert (error["error"], error["code"], connection.close_code) == (word, 1008, 1008)
                assert field in error["message"]
                assert connection.close_reason
                assert error["message"].startswith(connection.close_reason)


async def test_an_error_of_one_context_leaves_the_others_alone() -> None:
    async with rig(max_text_chars=100) as r, socket(r, "multi-stream-input") as connection:
        r.llm.scripts[0] = Script(hold={0: (held := asyncio.Event())})
        await send(connection, {"text": "It goes on. ", "context_id": "good", "flush": True})
        await until(lambda: bool(r.llm.calls))
        await send(connection, {"text": "x" * 101, "context_id": "bad"})
        error = json.loads(await connection.recv())
        assert (error["error"], error["contextId"]) == ("invalid_input", "bad")
        held.set()
        await send(connection, {"context_id": "good", "close_context": True})
        messages = await rest(connection)
        assert audio(of(messages, "good"))
        assert messages[-1]["isFinal"]
        assert connection.close_code == 1008


async def test_a_socket_has_a_bounded_number_of_contexts() -> None:
    async with rig() as r, socket(r, "multi-stream-input") as connection:
        for number in range(17):
            await send(connection, {"text": " ", "context_id": str(number)})
        error = json.loads(await connection.recv())
        assert (error["error"], error["contextId"]) == ("max_active_conversations", "16")


KEYS: list[tuple[str, dict[str, str], int]] = [
    (KEY, {}, 1000),
    ("", {"xi_api_key": KEY}, 1000),
    ("", {"xi-api-key": KEY}, 1000),
    ("", {"authorization": f"Bearer {KEY}"}, 1000),
    ("", {"xi_api_key": "wrong"}, 1008),
    ("", {}, 1008),
]
"""The header, fields of the first message, the close code."""


async def test_the_key_may_be_in_the_header_or_in_the_first_message(tmp_path: Path) -> None:
    async with guarded(tmp_path) as r:
        for key, message, code in KEYS:
            async with socket(r, key=key) as connection:
                await send(connection, {"text": "One."} | message)
                if code == 1000:
                    await send(connection, {"text": ""})
                messages = await rest(connection)
                assert connection.close_code == code
                assert bool(audio(messages)) == (code == 1000)
                assert [one["error"] for one in messages if "error" in one] == ["invalid_api_key"] * (code == 1008)


async def test_a_wrong_key_or_a_foreign_page_refuses_the_handshake(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, str], int, str]] = [
        ({"xi-api-key": "wrong"}, 401, "invalid_api_key"),
        ({"authorization": "Bearer wrong"}, 401, "invalid_api_key"),
        ({"xi-api-key": KEY, "origin": "https://elsewhere.example"}, 403, "permission_denied"),
    ]
    async with guarded(tmp_path) as r:
        url = f"ws://127.0.0.1:{r.gateway.http_port}/v1/text-to-speech/anna/stream-input"
        for headers, status, word in cases:
            with pytest.raises(InvalidStatus) as refusal:
                await connect(url, proxy=None, additional_headers=headers)
            assert refusal.value.response.status_code == status
            assert json.loads(refusal.value.response.body or b"")["detail"]["status"] == word


async def test_a_socket_counts_as_a_stream_of_its_key(tmp_path: Path) -> None:
    async with guarded(tmp_path, max_streams=1) as r, socket(r, key=KEY) as first:
        await send(first, {"text": "One. ", "flush": True})
        await first.recv()
        async with socket(r, key=KEY) as second:
            (error,) = await rest(second)
            assert (error["error"], second.close_code) == ("too_many_concurrent_requests", error["code"])
        async with socket(r, "multi-stream-input") as third:
            await send(third, {"text": " ", "xi_api_key": KEY})
            assert [one["error"] for one in await rest(third)] == ["too_many_concurrent_requests"]


async def test_a_silent_socket_is_closed(tmp_path: Path) -> None:
    async with guarded(tmp_path) as r:
        async with socket(r, key=KEY, inactivity_timeout=0.05) as plain:
            (error,) = await rest(plain)
            assert (error["error"], plain.close_code) == ("input_timeout_exceeded", 1008)
        async with socket(r, "multi-stream-input", key=KEY, inactivity_timeout=0.05) as several:
            assert (await rest(several), several.close_code) == ([], 1000)
        async with socket(r, "multi-stream-input", inactivity_timeout=0.05) as several:
            # The time counts from the first message, because it has the key.
            await send(several, {"text": "One.", "context_id": "a", "xi_api_key": KEY})
            messages = await rest(several)  # the context is spoken to its end, then the socket is closed
            assert audio(messages)
            assert (messages[-1]["isFinal"], several.close_code) == (True, 1000)


async def test_a_socket_without_the_key_must_send_it_soon(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(f"keys: [{{name: app, sha256: {key_hash(KEY)}}}]")
    async with rig(api_keys_file=tmp_path / "keys.yaml", first_message_seconds=0.05) as r, socket(r) as connection:
        (error,) = await rest(connection)
        assert error["error"] == "input_timeout_exceeded"


async def test_a_drain_ends_sockets_as_soon_as_they_have_no_context() -> None:
    async with rig() as r, socket(r, "multi-stream-input") as idle, socket(r, "multi-stream-input") as busy:
        r.llm.scripts[0] = Script(hold={0: (held := asyncio.Event())})
        await send(busy, {"text": "It is spoken to its end. ", "context_id": "a", "flush": True})
        await until(lambda: bool(r.llm.calls))
        r.gateway._context.admission.retire(60)
        assert (await rest(idle), idle.close_code) == ([], 1001)
        held.set()
        await send(busy, {"context_id": "a", "close_context": True})
        messages = await rest(busy)
        assert audio(messages)
        assert (messages[-1]["isFinal"], busy.close_code) == (True, 1001)


async def test_a_client_that_disconnects_cancels_its_contexts() -> None:
    async with rig() as r:
        held = asyncio.Event()
        for number in range(2):
            r.llm.scripts[number] = Script(hold={0: held})
        async with socket(r, "multi-stream-input") as connection:
            for name in ("a", "b"):
                await send(connection, {"text": "One. ", "context_id": name})
            await until(lambda: len(r.llm.calls) == 2)
        for call in r.llm.calls:
            await call.cancelled.wait()
        assert r.gateway._bodies.held == 0
