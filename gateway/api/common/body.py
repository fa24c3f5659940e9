"""Bounds on the bodies of HTTP requests: quota before reading, bytes per route and over all requests, and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message as Headers

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.auth.caller import Caller, current_caller
from gateway.auth.quota import Quotas
from gateway.auth.shares import Shares
from services.common.errors import LightTtsError

TEXT_BYTES = 2**20
"""Most bytes of a body without its recording: texts and the framing of a form."""
URLENCODED_BYTES = 256 * 1024
"""Most bytes of a URL-encoded form. Each `&` in it costs much more time than a byte of another form."""
OTHER_BYTES = 64 * 1024
"""Most bytes of a body on a route that needs none."""


@dataclass(frozen=True)
class BodyLimits:
    routes: Mapping[str, int]
    """Most bytes of a body by path, without a final slash, for the routes that speak or register voices. A path that
    ends in a slash stands for all paths that begin with it."""
    first_seconds: float
    """Longest wait for the first byte."""
    whole_seconds: float
    """Longest time for the whole body."""

    def of(self, path: str) -> int | None:
        """Return the most bytes of a body, None for a route that needs none."""
        begins = (limit for route, limit in self.routes.items() if route.endswith("/") and path.startswith(route))
        return self.routes.get(path.rstrip("/"), next(begins, None))


class BodyLimit:
    """Admits a body before it is read, and counts it until its request has ended."""

    def __init__(
        self,
        app: ASGIApp,
        limits: BodyLimits,
        budget: Shares,
        quotas: Quotas,
        refuse: Callable[[Request, LightTtsError], Response],
    ) -> None:
        """`budget`: the bytes of all open bodies; one instance may serve several applications."""
        self._app = app
        self._limits = limits
        self._budget = budget
        self._quotas = quotas
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        declared = int(headers.get(b"content-length", b"0"))
        if not declared and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        caller = current_caller()
        limit = self._limit(scope["path"], headers.get(b"content-type", b"").decode("latin-1"))
        try:
            if declared > limit:
                raise too_large(limit)
            if self._limits.of(scope["path"]) is not None:
                await self._quotas.check(caller)
            self._budget.check(caller, declared)
        except LightTtsError as error:
            # Without closing the connection: a client that still sends would not get the answer. The server drops the
            # rest of the body for a few seconds.
            await self._refuse(Request(scope, receive), error)(scope, receive, send)
            return
        body = _Body(receive, self._limits, limit, self._budget, caller)
        try:
            await self._app(scope, body.receive, send)
        finally:
            # Not earlier: the recording is part of the request's voice until its speech has ended.
            body.release()

    def _limit(self, path: str, content_type: str) -> int:
        limit = self._limits.of(path) or OTHER_BYTES
        headers = Headers()
        headers["content-type"] = content_type
        urlencoded = headers.get_content_type() == "application/x-www-form-urlencoded"
        return min(limit, URLENCODED_BYTES) if urlencoded else limit


class TooLarge(LightTtsError):
    http_status = 413
    reason = "REQUEST_ENTITY_TOO_LARGE"


def too_large(limit: int) -> TooLarge:
    """Return the error of a body with more than `limit` bytes."""
    return TooLarge(f"the request has more than {limit} bytes; send less audio or text")


class _Body:
    """One body while it is read. The framework passes only HTTPExceptions on from here."""

    def __init__(self, receive: Receive, limits: BodyLimits, limit: int, budget: Shares, caller: Caller) -> None:
        self._receive = receive
        self._limits = limits
        self._limit = limit
        self._budget = budget
        self._caller = caller
        self._received = 0
        self._ended = False
        self._begun: float | None = None

    async def receive(self) -> Message:
        if self._ended:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._begun = now if self._begun is None else self._begun
        seconds = self._limits.whole_seconds if self._received else self._limits.first_seconds
        try:
            async with asyncio.timeout_at(self._begun + seconds):
                message = await self._receive()
        except TimeoutError:
            what = "the request's body" if self._received else "the first byte of the request's body"
            raise HTTPException(408, f"{what} did not arrive within {seconds:g} s; send it again") from None
        if message["type"] == "http.request":
            self._take(len(message.get("body", b"")))
            self._ended = not message.get("more_body", False)
        return message

    def _take(self, size: int) -> None:
        try:
            if self._received + size > self._limit:
                raise too_large(self._limit)
            self._budget.take(self._caller, size)
        except LightTtsError as error:
            hint = {} if error.retry_after is None else {"retry-after": str(round(error.retry_after))}
            raise HTTPException(error.http_status, error.message, hint) from error
        self._received += size

    def release(self) -> None:
        """Give the bytes back to the budget."""
        self._budget.give(self._caller, self._received)
        self._received = 0
