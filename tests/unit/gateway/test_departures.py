"""A client that leaves makes one debug line; an error of our own is raised as ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs
from uvicorn.protocols.utils import ClientDisconnected

from gateway.process.departures import Departures


async def served(app: Any, kind: str, send: Callable[[Message], None], *messages: str) -> tuple[list[Any], str]:
    """Return the lines of the log and the name of the error that the server gets."""
    queue = [{"type": message} for message in messages]

    async def receive() -> Message:
        return queue.pop(0)

    async def sending(message: Message) -> None:
        send(message)

    error = ""
    with capture_logs() as lines:
        try:
            await Departures(app)({"type": kind, "path": "/here"}, receive, sending)
        except Exception as raised:  # noqa: BLE001 - the test compares it
            error = type(raised).__name__
    return lines, error


def works(message: Message) -> None: ...


def breaks(error: Exception) -> Callable[[Message], None]:
    def send(message: Message) -> None:
        raise error

    return send


async def reads_and_fails(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise KeyError("what was not there any more")


async def sends(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "anything"})


def line(error: str) -> list[dict[str, str]]:
    """The only line of the log, which names the error so that a defect leaves a trace."""
    return [{"event": "the client has left", "path": "/here", "error": error, "log_level": "debug"}]


@pytest.mark.parametrize(("kind", "error"), [("http", ""), ("websocket", "ClientDisconnected")])
async def test_an_error_after_the_client_has_left_is_one_debug_line(kind: str, error: str) -> None:
    failed = line("KeyError('what was not there any more')")
    assert await served(reads_and_fails, kind, works, f"{kind}.disconnect") == (failed, error)
    assert await served(sends, kind, breaks(ClientDisconnected())) == (line("ClientDisconnected()"), error)


async def test_a_send_that_fails_before_the_loss_is_noticed_is_one_too() -> None:
    send = breaks(RuntimeError("Expected ASGI message 'websocket.accept'"))
    messages = ("websocket.receive", "websocket.disconnect")
    failed = line("""RuntimeError("Expected ASGI message 'websocket.accept'")""")
    assert await served(sends, "websocket", send, *messages) == (failed, "ClientDisconnected")


async def test_a_client_that_leaves_without_an_error_is_a_line_without_one() -> None:
    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    lines, _ = await served(reads, "http", works, "http.disconnect")
    assert lines == [{"event": "the client has left", "path": "/here", "log_level": "debug"}]


async def test_a_defect_is_raised() -> None:
    assert await served(reads_and_fails, "http", works, "http.request") == ([], "KeyError")
