"""Which web pages may call the HTTP APIs, and under which host names this server is called.

A browser lets a page of any site send requests to any address, also to this machine and its network, and names the
page's site in the Origin header. A page can also let its own name resolve to this server's address (DNS rebinding);
then Origin and Host agree, and only the name in Host is wrong.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.errors import LightTtsError, PermissionDenied, quoted

_READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": 80, "https": 443}

Refuse = Callable[[LightTtsError, Scope, Receive, Send], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own: only its programs reach it."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class OriginCheck:
    """Refuses WebSockets and requests that may change something from pages of other sites, and unknown host names.

    Programs send no Origin, and pass.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...], hosts: frozenset[str] | None, refuse: Refuse) -> None:
        """`origins`: sites allowed in addition to this server's own; "*" allows all. `hosts`: names allowed in addition
        to those of this machine; None allows all. `refuse` answers a request with an error."""
        self._app = app
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._hosts = hosts
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            try:
                self._check_host(headers)
                if scope["type"] == "websocket" or scope["method"] not in _READING_METHODS:
                    self._check_origin(headers)
            except PermissionDenied as error:
                await self._refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        if self._hosts is None or "host" not in headers:  # every browser sends one
            return
        name, _ = _place("http", headers["host"])
        if name not in self._hosts and not is_loopback(name):
            raise PermissionDenied(
                f"this server is not called {quoted(name)}; use localhost, or list the name in LIGHTTTS_ALLOWED_HOSTS"
            )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin", "").lower()
        if not origin or "*" in self._origins or origin in self._origins:
            return
        # A browser's own statement, which pages cannot set; it also holds behind a proxy that changes Host.
        if headers.get("sec-fetch-site") == "same-origin":
            return
        scheme, _, place = origin.partition("://")
        if scheme in _DEFAULT_PORTS and _place(scheme, place) == _place(scheme, headers.get("host", "")):
            return
        raise PermissionDenied(
            f"pages of {quoted(origin)} may not send this request; list the origin in LIGHTTTS_CORS_ORIGINS to allow it"
        )


def _place(scheme: str, authority: str) -> tuple[str, int | None]:
    """Return name and port of `name:port`, with the scheme's default port; an empty name if it cannot be parsed."""
    try:
        parts = urlsplit(f"{scheme}://{authority}")
        return (parts.hostname or "").rstrip("."), parts.port or _DEFAULT_PORTS[scheme]
    except ValueError:
        return "", None
