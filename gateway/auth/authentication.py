"""Authentication of every request: an interceptor for gRPC, a middleware for HTTP and WebSockets."""

from __future__ import annotations

import json
import re
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
from gateway.auth.caller import ANONYMOUS, Caller, bind_caller, bind_source
from gateway.auth.keys import KeyRing
from gateway.auth.origin import Refuse
from services.common.errors import LightTtsError, Unauthenticated

log = structlog.get_logger(__name__)

HOW = "send it as 'authorization: Bearer KEY', 'x-api-key: KEY' or 'xi-api-key: KEY'"
OPEN_PATHS = frozenset({"/", "/health", "/healthz", "/liveness", "/readiness", "/metrics"})
"""HTTP paths that need no key: probes, metrics, and the page, which has a field for the key."""
OPEN_PREFIX = "/web/"
"""The page's own files."""
_KEY_PARAMETERS = frozenset({"api_key", "apikey", "api-key", "key", "token", "access_token"})
_POLICY_VIOLATION = 1008
"""WebSocket close code."""
SUBPROTOCOL = "lighttts"
"""The server accepts this one; a browser, which cannot set headers, also offers `lighttts.key.KEY`."""
_KEY_PROTOCOL = f"{SUBPROTOCOL}.key."
_KEY_HEADERS = frozenset({"x-api-key", "xi-api-key"})
"""The second one is that of ElevenLabs' clients."""
_KEY_IN_MESSAGE = re.compile(r"/v1/text-to-speech/[^/]+/(multi-)?stream-input")
"""WebSockets of ElevenLabs' API, whose first message may carry the key."""
_KEY_DUE = "lighttts.key_due"


class Authenticator:
    """Finds the caller of a request from its API key."""

    def __init__(self, keys: KeyRing | None) -> None:
        """`keys`: None accepts every request, as the same anonymous caller."""
        self._keys = keys

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return self._keys is not None

    def caller(self, headers: Iterable[tuple[str, str]], query: str = "") -> Caller:
        """Return the caller. `headers` have lower-case names. Raises Unauthenticated, which names the key's place."""
        if self._keys is None:
            return ANONYMOUS
        if any(name.lower() in _KEY_PARAMETERS for name, _ in parse_qsl(query)):
            raise Unauthenticated(f"an API key in the address ends up in logs, so it is not accepted there; {HOW}")
        return self._keys.caller(_presented(headers))


def _presented(headers: Iterable[tuple[str, str]]) -> str:
    keys: set[str] = set()
    for name, value in headers:
        if name in _KEY_HEADERS:
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


def _names_key(headers: Iterable[tuple[str, str]]) -> bool:
    return any(name in _KEY_HEADERS or name in ("authorization", "sec-websocket-protocol") for name, _ in headers)


def key_due(scope: Scope) -> Authenticator | None:
    """Return what checks the key in the first message of a WebSocket; None if the caller is known already."""
    due: Authenticator | None = scope.get(_KEY_DUE)
    return due if due is not None and due.required else None


def chosen_protocol(scope: Scope) -> str | None:
    """Return the subprotocol to accept a WebSocket with. A browser disconnects if all its offers are refused."""
    return SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Binds the caller of each call, or refuses it. gRPC's own services (health, reflection) need no key."""

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
        yield  # makes this an async generator, as a streaming handler must be

    # For every kind of method: only a stream handler can respond before it has read a message.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


class AuthMiddleware:
    """Binds the caller of each HTTP request, or refuses it, before its body is read."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator, refuse: Refuse) -> None:
        """`refuse` answers a request with an error."""
        self._app = app
        self._authenticator = authenticator
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not _open(scope["path"]):
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
            forwarded = ", ".join(value for name, value in headers if name == "x-forwarded-for")
            bind_source((scope.get("client") or ("",))[0], forwarded)
            if scope["type"] == "websocket" and _KEY_IN_MESSAGE.fullmatch(scope["path"]) and not _names_key(headers):
                await self._app({**scope, _KEY_DUE: self._authenticator}, receive, send)
                return
            offered = scope.get("subprotocols", ())
            headers += [
                ("x-api-key", name.removeprefix(_KEY_PROTOCOL)) for name in offered if name.startswith(_KEY_PROTOCOL)
            ]
            try:
                bind_caller(self._authenticator.caller(headers, scope["query_string"].decode("latin-1")))
            except LightTtsError as error:
                await self._refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)


def refuser(
    response: Callable[[Request, LightTtsError], Response], frame: Callable[[str, LightTtsError], dict[str, Any]]
) -> Refuse:
    """Return a function that answers requests and handshakes of WebSockets with an error.

    `response`: its HTTP form. `frame`: the text frame for a socket of this path.
    """

    async def refuse(error: LightTtsError, scope: Scope, receive: Receive, send: Send) -> None:
        # The handshake of a WebSocket is a request too, and is refused as one.
        answer = response(Request({**scope, "type": "http", "method": "GET"}, receive), error)
        if scope["type"] == "websocket":
            await receive()  # ASGI: the connect event must be read before the response
        if isinstance(error, Unauthenticated) and chosen_protocol(scope) is not None:
            await _accept_and_close(frame(scope["path"], error), send)
        else:
            await answer(scope, receive, send)

    return refuse


async def _accept_and_close(frame: dict[str, Any], send: Send) -> None:
    """Send the error over the WebSocket and close it: a browser does not show its page why a handshake was refused."""
    await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
    await send({"type": "websocket.send", "text": json.dumps(frame)})
    await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
