"""ElevenLabs' contexts over fake stages: flushes at the limits, what a close drops, and the bytes that text holds."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.api.elevenlabs.alignment import Characters
from gateway.api.elevenlabs.text_stream import TextStream
from gateway.auth.caller import ANONYMOUS
from gateway.auth.shares import Shares
from gateway.session.options import SpeechOptions
from services.common.errors import InvalidInput
from tests.integration.test_elevenlabs_socket import audio, characters, of, rest, send, socket, until_final
from tests.support.fake_stages import Script, ids_of, rig, until

BYTES_PER_ID = 2 * 240


async def test_text_that_arrives_after_an_error_holds_no_bytes() -> None:
    async def refused() -> SpeechOptions:
        raise InvalidInput("no such voice", field="voice")

    async def send_nothing(audio: bytes, characters: Characters | None) -> None:
        raise AssertionError

    async with rig() as r:
        bodies = Shares("bytes", 1000, 1000)
        stream = TextStream(r.gateway._context, bodies, relative=True)
        stream.feed("One. ")
        assert bodies.held == 5
        with pytest.raises(InvalidInput):
            await stream.run(refused, send_nothing)
        stream.feed("The error is still on its way to the client. ")
        assert bodies.held == 0


async def test_a_context_that_waits_for_another_one_of_its_name_gives_its_bytes_back() -> None:
    async with rig() as r:
        r.llm.scripts[0] = Script(hold={0: asyncio.Event()})
        async with socket(r, "multi-stream-input") as connection:
            await send(connection, {"text": "One. ", "context_id": "a", "flush": True})
            await until(lambda: bool(r.llm.calls))
            await send(connection, {"context_id": "a", "close_context": True})
            await send(connection, {"text": "It waits until the other one has been spoken.", "context_id": "a"})
            await until(lambda: r.gateway._bodies.held > 0)
        await r.llm.calls[0].cancelled.wait()
        assert r.gateway._bodies.held == 0


async def test_as_much_text_as_may_wait_can_be_flushed() -> None:
    text = "x" * 49 + "."
    async with rig(max_text_chars=len(text)) as r, socket(r, "multi-stream-input") as connection:
        await send(connection, {"text": text, "context_id": "a", "flush": True})
        r.llm.scripts[1] = Script(hold={0: (held := asyncio.Event())})
        begin = json.loads(await connection.recv())
        assert audio([begin])
        await send(connection, {"text": text, "context_id": "b"})
        await until(lambda: len(r.llm.calls) == 2)
        await send(connection, {"context_id": "b", "flush": True}, {"close_socket": True})
        held.set()
        messages = [begin, *await rest(connection)]
        for name in ("a", "b"):
            assert len(audio(of(messages, name))) == BYTES_PER_ID * len(text)
            assert of(messages, name)[-1]["isFinal"]
        assert connection.close_code == 1000


async def test_a_flush_that_finds_no_room_fails_its_context_alone() -> None:
    async with rig() as r, socket(r, "multi-stream-input") as connection:
        r.llm.scripts[0] = Script(hold={0: (held := asyncio.Event())})
        await send(connection, {"text": "It goes on. ", "context_id": "good", "flush": True})
        await until(lambda: bool(r.llm.calls))
        bodies = r.gateway._bodies
        taken = bodies._total - bodies.held - len("word")
        with bodies.hold(ANONYMOUS, taken):
            await send(connection, {"text": "word", "context_id": "bad", "flush": True})
            error = json.loads(await connection.recv())
        assert (error["error"], error["contextId"]) == ("system_busy", "bad")
        held.set()
        await send(connection, {"context_id": "good", "close_context": True})
        messages = await rest(connection)
        assert audio(of(messages, "good"))
        assert messages[-1]["isFinal"]
        assert connection.close_code == 1013


@pytest.mark.parametrize("query", [{}, {"auto_mode": "true"}])
async def test_closing_a_context_drops_the_text_after_the_last_flush(query: dict[str, str]) -> None:
    async with rig() as r, socket(r, "multi-stream-input", **query) as connection:
        r.llm.aligns = True
        r.llm.scripts[0] = Script(hold={2: (held := asyncio.Event())})
        await send(connection, {"text": "One is here. ", "context_id": "a", "flush": True})
        await until(lambda: bool(r.llm.calls))
        await send(connection, {"text": "It was not flushed. ", "context_id": "a"})
        await until(lambda: len(r.llm.calls) == 2 and r.llm.calls[1].hops > 1)  # its audio waits for that before it
        await send(connection, {"context_id": "a", "close_context": True}, {"text": "Next. ", "context_id": "a"})
        await until(lambda: r.gateway._bodies.held == len("Next. "))
        held.set()
        messages = await until_final(connection, "a")
        assert len(audio(messages)) == BYTES_PER_ID * len("One is here.")
        assert "".join(each for each, _, _ in characters(messages)) == "One is here. "
        await send(connection, {"context_id": "a", "flush": True})
        assert audio([json.loads(await connection.recv())])
        assert r.llm.calls[-1].ids == ids_of("Next.")
