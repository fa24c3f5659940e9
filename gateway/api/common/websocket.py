"""What the WebSocket APIs share: frames with deadlines, and the error that a refused socket gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect, status

from gateway.api.common.body import TEXT_BYTES
from gateway.api.common.errors import ELEVENLABS_PREFIXES, elevenlabs_status
from services.common.errors import InvalidInput, LightTtsError, TimedOut

FRAMES_AHEAD = 16
"""Frames that may wait for a session; beyond that reading stops, which slows the client down."""
MAX_FIELD_CHARS = 100
CONVERSATION_PATH = "/v1/conversation"
"""Our own WebSocket."""


async def receive(websocket: WebSocket) -> str | bytes:
    """Return the next frame. Raises WebSocketDisconnect."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", status.WS_1006_ABNORMAL_CLOSURE))
    text, data = message.get("text"), message.get("bytes")
    return text if isinstance(text, str) else bytes(data or b"")


def check_text_frame(text: str) -> None:
    """Raise InvalidInput for a text frame that is too long."""
    if len(text) > TEXT_BYTES:
        raise InvalidInput(f"a text frame has more than {TEXT_BYTES} characters; send the text in several frames")


@contextlib.asynccontextmanager
async def deadline(seconds: float | None, what: str) -> AsyncGenerator[None]:
    """Raise TimedOut, which names `what`, if the block takes longer; None: it may take any time."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TimedOut(f"the {what} did not arrive within {seconds:g} s") from error


def error_frame(path: str, error: LightTtsError) -> dict[str, Any]:
    """Return the text frame that tells the client of the WebSocket at `path` about an error."""
    if path.startswith(ELEVENLABS_PREFIXES):
        status_ = elevenlabs_status(error.reason.lower(), error.field)
        return {"message": error.message, "error": status_, "code": close_code(error)}
    if path != CONVERSATION_PATH:
        return {"error": error.message}
    details = {
        "reason": error.reason,
        "message": error.message,
        "field": error.field and error.field.encode("utf-8", "replace").decode()[:MAX_FIELD_CHARS],
        "retry_after_seconds": error.retry_after,
    }
    return {"error": {name: value for name, value in details.items() if value is not None}}


def close_code(error: LightTtsError) -> int:
    """Return the close code of a socket that ends with an error."""
    if error.retry_after is not None:
        return status.WS_1013_TRY_AGAIN_LATER
    ours = error.http_status >= 500
    return status.WS_1011_INTERNAL_ERROR if ours else status.WS_1008_POLICY_VIOLATION


async def refuse(websocket: WebSocket, error: LightTtsError) -> None:
    """Send an error and close the socket. A client that has disconnected gets nothing."""
    with contextlib.suppress(WebSocketDisconnect):
        await websocket.send_json(error_frame(websocket.scope["path"], error))
        await websocket.close(close_code(error))
