"""Middleware for every HTTP request: its path and method, its id."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common import tracing
from services.common.rpc import UNREGISTERED
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
        with tracing.serving(UNREGISTERED, headers):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                tracing.rename(_span_name(scope))


def _span_name(scope: Scope) -> str:
    """Return method and path template of the route that the application found, so that clients cannot invent names."""
    route = scope.get("route")
    if route is None:
        return UNREGISTERED
    method = scope.get("method", "WS")
    known = method == "WS" or method in (route.methods or ())
    return f"{method if known else UNREGISTERED} {route.path}"
