"""Middleware for every HTTP request: its path and method, its id."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common import tracing
from services.common.telemetry import REQUEST_ID_KEY, bind_request_id, given_or_new_request_id


class RequestLine:
    """Serves HEAD as GET without its body, and a path with a final slash as the same path without it.

    A redirect would lose the body of clients that do not follow it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        if scope.get("method") != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, send_without_body)


class RequestId:
    """Takes the caller's request id, or creates one, for logs, workers and the response's header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = given_or_new_request_id(dict(scope["headers"]).get(REQUEST_ID_KEY.encode(), b""))
        bind_request_id(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (REQUEST_ID_KEY.encode(), request_id.encode())]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with tracing.serving(f"{scope.get('method', 'WS')} {scope['path']}", headers):
            await self._app(scope, receive, send_with_id)
