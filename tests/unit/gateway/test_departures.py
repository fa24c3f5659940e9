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


LINE = [{"event": "the client has left", "path": "/here", "log_level": "debug"}]


@pytest.mark.parametrize(("kind", "error"), [("http", ""), ("websocket", "ClientDisconnected")])
async def test_an_error_after_the_client_has_left_is_one_debug_line(kind: str, error: str) -> None:
    assert await served(reads_and_fails, kind, works, f"{kind}.disconnect") == (LINE, error)
    assert await served(sends, kind, breaks(ClientDisconnected())) == (LINE, error)


async def test_a_send_that_fails_before_the_loss_is_noticed_is_one_too() -> None:
    send = breaks(RuntimeError("Expected ASGI message 'websocket.accept'"))
    messages = ("websocket.receive", "websocket.disconnect")
    assert await served(sends, "websocket", send, *messages) == (LINE, "ClientDisconnected")


async def test_a_defect_is_raised() -> None:
    assert await served(reads_and_fails, "http", works, "http.request") == ([], "KeyError")
