"""Every request's first step: whose is it? For gRPC an interceptor, for HTTP and WebSockets a middleware."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

import grpc
import grpc.aio
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import metrics
from gateway.auth.caller import ANONYMOUS, Caller, bind_caller
from gateway.auth.keys import KeyRing
from services.common.errors import LightTtsError, Unauthenticated

log = structlog.get_logger(__name__)

HOW = "send it as 'authorization: Bearer KEY' or 'x-api-key: KEY'"
OPEN_PATHS = frozenset({"/", "/health", "/healthz", "/liveness", "/readiness", "/metrics"})
"""HTTP paths that need no key: probes, metrics, and the page, which asks for one itself."""
OPEN_PREFIX = "/web/"
"""The page's own files."""
_KEY_PARAMETERS = frozenset({"api_key", "apikey", "api-key", "key", "token", "access_token"})
_POLICY_VIOLATION = 1008
"""WebSocket close code."""
SUBPROTOCOL = "lighttts"
"""What a browser's WebSocket offers beside `lighttts.key.KEY`, as it can set no header; this one is accepted."""
_KEY_PROTOCOL = f"{SUBPROTOCOL}.key."


class Authenticator:
    """Turns what a request carries into its caller."""

    def __init__(self, keys: KeyRing | None) -> None:
        """`keys`: None lets everybody in, as the same anonymous caller."""
        self._keys = keys

    def caller(self, headers: Iterable[tuple[str, str]], query: str = "") -> Caller:
        """`headers` by lower-case name. Raises Unauthenticated, saying where a key belongs."""
        if self._keys is None:
            return ANONYMOUS
        if any(name.lower() in _KEY_PARAMETERS for name, _ in parse_qsl(query)):
            raise Unauthenticated(f"an API key in the address ends up in logs, so it is not accepted there; {HOW}")
        return self._keys.caller(_presented(headers))


def _presented(headers: Iterable[tuple[str, str]]) -> str:
    keys: set[str] = set()
    for name, value in headers:
        if name == "x-api-key":
            keys.add(value.strip())
        elif name == "authorization":
            scheme, _, key = value.strip().partition(" ")
            if scheme.lower() != "bearer" or not key.strip():
                raise Unauthenticated(f"the authorization header holds no 'Bearer' key; {HOW}")
            keys.add(key.strip())
    if not keys - {""}:
        raise Unauthenticated(f"an API key is needed here; {HOW}")
    if len(keys) > 1:
        raise Unauthenticated(f"the request carries two different API keys; {HOW}, one of them")
    return keys.pop()


def chosen_protocol(scope: Scope) -> str | None:
    """The subprotocol to accept a WebSocket with: a browser hangs up on a server that takes none of those it offers."""
    return SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls in with their caller bound. gRPC's own services (health, reflection) need no key."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if not str(handler_call_details.method).startswith("/grpc."):
            try:
                bind_caller(self._authenticator.caller(_texts(handler_call_details.invocation_metadata or ())))
            except LightTtsError as error:
                metrics.ERRORS.labels("grpc", error.reason).inc()
                return _refusal(error)
        return await continuation(handler_call_details)


def _texts(metadata: Iterable[tuple[str, str | bytes]]) -> Iterable[tuple[str, str]]:
    return ((name, value) for name, value in metadata if isinstance(value, str))


def _refusal(error: LightTtsError) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(requests: object, context: object) -> AsyncIterator[Any]:
        raise error
        yield  # makes it what a streaming handler has to be

    # Whatever the method's kind: a handler of streams is the only one that answers before it has read anything.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


class AuthMiddleware:
    """Lets HTTP requests in with their caller bound, before anything of their body is read."""

    def __init__(
        self, app: ASGIApp, authenticator: Authenticator, refuse: Callable[[Request, LightTtsError], Response]
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not _open(scope["path"]):
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
            offered = scope.get("subprotocols", ())
            headers += [
                ("x-api-key", name.removeprefix(_KEY_PROTOCOL)) for name in offered if name.startswith(_KEY_PROTOCOL)
            ]
            try:
                bind_caller(self._authenticator.caller(headers, scope["query_string"].decode("latin-1")))
            except LightTtsError as error:
                await self._turn_away(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _turn_away(self, error: LightTtsError, scope: Scope, receive: Receive, send: Send) -> None:
        # The handshake of a WebSocket is a request too; as such it is refused.
        response = self._refuse(Request({**scope, "type": "http", "method": "GET"}, receive), error)
        if scope["type"] == "websocket":
            await receive()  # it has to be read before it can be answered
        if chosen_protocol(scope) is not None:
            await _say_and_close(error, send)
        else:
            await response(scope, receive, send)


async def _say_and_close(error: LightTtsError, send: Send) -> None:
    """Turns a browser's WebSocket away within it: of a refused handshake its page would learn nothing."""
    await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
    await send({"type": "websocket.send", "text": json.dumps({"error": error.message})})
    await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
