"""Clients that leave: one debug line instead of a traceback for whatever their leaving makes fail."""

from __future__ import annotations

import asyncio
import logging

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

log = structlog.get_logger(__name__)

_LEFT = frozenset({"http.disconnect", "websocket.disconnect"})
_NOTICE_SECONDS = 1.0
"""Longest wait for the notice of a lost connection after a send has failed."""

LOGGED_CHARS = 500
"""Most characters of a path and of an error in the log."""


class Departures:
    """Passes requests to an application. An error that it raises after the client has left is no defect."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = sent_badly = False

        async def receive_or_leave() -> Message:
            nonlocal left
            message = await receive()
            left = left or message["type"] in _LEFT
            return message

        async def send_or_leave(message: Message) -> None:
            nonlocal left, sent_badly
            try:
                await send(message)
            except OSError:  # uvicorn's ClientDisconnected is one
                left = True
                raise
            except Exception:
                sent_badly = True
                raise

        failed: Exception | None = None
        try:
            await self._app(scope, receive_or_leave, send_or_leave)
        except Exception as error:
            # On a connection that is being closed, uvicorn's send raises other errors until the loss is noticed.
            if not left and not (sent_badly and await _leaves(receive)):
                raise
            left, failed = True, error
        if left:
            # A defect that only departures trigger has no other trace.
            reason = {} if failed is None else {"error": repr(failed)[:LOGGED_CHARS]}
            log.debug("the client has left", path=scope.get("path", "")[:LOGGED_CHARS], **reason)
            if scope["type"] == "websocket":
                raise ClientDisconnected  # uvicorn expects it, and logs nothing


_LOGGED_ELSEWHERE = {
    "ASGI callable returned without completing handshake.",
    "ASGI callable returned without completing response.",
}


async def _leaves(receive: Receive) -> bool:
    """Return whether the client's next message says that it has left."""
    try:
        async with asyncio.timeout(_NOTICE_SECONDS):
            while (await receive())["type"] not in _LEFT:
                pass
    except TimeoutError:
        return False
    return True


def drop_client_faults(record: logging.LogRecord) -> bool:
    """Filter out what uvicorn logs as errors although clients cause it at will.

    These are the traceback about a text frame that is not UTF-8, which ends with close code 1007, and a line about each
    handshake that was refused with an HTTP response. A response that is cut has a line of the API that cut it.
    """
    bad_frame = record.exc_info is not None and isinstance(record.exc_info[1], UnicodeDecodeError)
    return not bad_frame and record.msg not in _LOGGED_ELSEWHERE
