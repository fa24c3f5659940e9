"""The client's calls without a gateway: what ends them, and keys that cannot be sent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from lighttts.v1 import tts_pb2, tts_pb2_grpc
from lighttts_client import AsyncClient, Client, Connection, ConnectionLost, InvalidInput, NotFound, Retry
from lighttts_client.conversation import ConversationState

NO_GATEWAY = "127.0.0.1:1"
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "call",
    [lambda client: client.speak("Hi.").read(), lambda client: list(client.conversation()), Client.list_voices],
    ids=["speak", "conversation", "voices"],
)
def test_a_client_that_is_closed_between_two_attempts_says_so(call: Callable[[Client], object]) -> None:
    client = Client(NO_GATEWAY, sleep=lambda seconds: client.close())
    with pytest.raises(ConnectionLost, match="the client has been closed"):
        call(client)


@pytest.mark.parametrize(
    "call", [lambda client: client.speak("Hi.").read(), AsyncClient.list_voices], ids=["speak", "voices"]
)
async def test_an_async_client_that_is_closed_between_two_attempts_says_so(
    call: Callable[[AsyncClient], Awaitable[object]],
) -> None:
    async def close(seconds: float) -> None:
        await client.close()

    client = AsyncClient(NO_GATEWAY, sleep=close)
    with pytest.raises(ConnectionLost, match="the client has been closed"):
        await call(client)


HALF = "Good morning \ud83d"
"""Half of an emoji, as a language model's tokens may end; Python's json reads it so."""


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.speak(HALF).read(),
        lambda client: client.conversation().text(HALF),
        lambda client: client.delete_voice(HALF),
    ],
    ids=["speak", "conversation", "voice"],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_half_of_a_character_is_invalid_input(
    kind: type[Client | AsyncClient], call: Callable[[Any], Any]
) -> None:
    client = kind(NO_GATEWAY)

    async def called() -> None:
        if isawaitable(pending := call(client)):
            await pending

    with pytest.raises(InvalidInput, match=r"half of a character \('\\ud83d' at 13\)") as refused:
        await called()
    assert refused.value.field in ("text", "voice")


async def test_a_conversation_goes_on_after_a_text_that_cannot_be_sent() -> None:
    talk = ConversationState(tts_pb2.SynthesisConfig(), Retry())
    requests: asyncio.Queue[Any] = asyncio.Queue()
    with pytest.raises(InvalidInput):
        talk.text(HALF)
    talk.text("Good morning.")
    talk.open(requests)
    assert [requests.get_nowait().WhichOneof("request") for _ in range(requests.qsize())] == ["config", "text"]


@pytest.mark.parametrize(
    "call",
    [lambda client: client.speak("Hi.").read(), lambda client: list(client.conversation()), Client.list_voices],
    ids=["speak", "conversation", "voices"],
)
def test_a_call_of_a_closed_client_says_so(call: Callable[[Client], object]) -> None:
    client = Client(NO_GATEWAY)
    client.close()
    with pytest.raises(ConnectionLost, match="the client has been closed"):
        call(client)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.speak("Hi.").read(),
        lambda client: anext(aiter(client.conversation())),
        AsyncClient.list_voices,
    ],
    ids=["speak", "conversation", "voices"],
)
async def test_a_call_of_a_closed_async_client_says_so(call: Callable[[AsyncClient], Awaitable[object]]) -> None:
    client = AsyncClient(NO_GATEWAY)
    await client.close()
    with pytest.raises(ConnectionLost, match="the client has been closed"):
        await call(client)


class SilentVoices(tts_pb2_grpc.VoicesServicer):
    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def ListVoices(self, request, context):  # type: ignore[no-untyped-def]
        self.asked.set()
        await asyncio.Event().wait()
        return tts_pb2.ListVoicesResponse()


async def test_a_client_that_is_closed_under_a_call_does_not_cancel_the_caller_s_task() -> None:
    voices, server = SilentVoices(), grpc.aio.server()
    tts_pb2_grpc.add_VoicesServicer_to_server(voices, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = AsyncClient(f"127.0.0.1:{port}")
    listing = asyncio.create_task(client.list_voices())
    await voices.asked.wait()
    await client.close()
    ended = (await asyncio.gather(listing, return_exceptions=True))[0]
    assert isinstance(ended, ConnectionLost)
    await server.stop(0)


def test_any_number_of_attempts_has_a_wait() -> None:
    retry = Retry(attempts=10**6)
    assert retry.delay(5000, ConnectionLost("no gateway")) == retry.longest_delay


@pytest.mark.parametrize("key", ["secret\n", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="the API key has a line break"):
        Connection(NO_GATEWAY, key=key)


@pytest.mark.parametrize("program", ["examples/reflection.py", "examples/conversation.py", "clients/python/README.md"])
def test_a_program_without_a_gateway_ends_with_the_error_of_its_call(program: str, tmp_path: Path) -> None:
    """A wave file without parameters raises an error of its own when it is closed, which would come last."""
    text = (ROOT / program).read_text(encoding="utf-8")
    if program.endswith(".md"):
        text = text.partition("```python\n")[2].partition("```")[0].replace('"127.0.0.1:50050"', f'"{NO_GATEWAY}"')
    ended = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "LIGHTTTS_SERVER": NO_GATEWAY},
    )
    assert ended.returncode == 1
    assert "wave.Error" not in ended.stderr
    assert "onnect" in ended.stderr.splitlines()[-1] or "UNAVAILABLE" in ended.stderr


class ForgetfulVoices(tts_pb2_grpc.VoicesServicer):
    """Deletes a voice, and loses the connection before it answers."""

    def __init__(self, *ends: grpc.StatusCode) -> None:
        self.ends = list(ends)

    async def DeleteVoice(self, request, context):  # type: ignore[no-untyped-def]
        await context.abort(self.ends.pop(0), "no answer")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_a_deletion_whose_answer_was_lost_is_done_when_the_voice_is_gone(
    kind: type[Client | AsyncClient],
) -> None:
    voices, server = ForgetfulVoices(grpc.StatusCode.UNAVAILABLE, *[grpc.StatusCode.NOT_FOUND] * 2), grpc.aio.server()
    tts_pb2_grpc.add_VoicesServicer_to_server(voices, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = kind(f"127.0.0.1:{port}", retry=Retry(first_delay=0.0))

    async def delete() -> None:
        if isinstance(client, AsyncClient):
            await client.delete_voice("mine")
        else:
            await asyncio.to_thread(client.delete_voice, "mine")

    await delete()
    with pytest.raises(NotFound):
        await delete()
    if isawaitable(closing := client.close()):
        await closing
    await server.stop(None)


def test_a_connection_that_a_program_logs_does_not_show_its_key() -> None:
    assert "secret" not in repr(Connection(NO_GATEWAY, key="secret"))
