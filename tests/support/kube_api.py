"""A Kubernetes API server for EndpointSlices only, with the real protocol of list and watch, for tests of discovery.

It keeps a history of versions: a list is a snapshot with its version, a watch sends the changes after a version and
then new ones, as one JSON object per line. A version older than the history is answered with an ERROR event of code
410, as a real server does. Tests change slices, compact the history, cut connections and refuse requests.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True)
class _Change:
    version: int
    kind: str
    item: dict[str, Any]


def endpoint(
    address: str, pod: str, *, ready: bool | None = True, terminating: bool | None = False, **more: Any
) -> dict[str, Any]:
    """Return an endpoint of a slice; a condition of None is left out, as the API may do."""
    conditions = {"ready": ready, "serving": ready, "terminating": terminating}
    return {
        "addresses": [address],
        "conditions": {name: value for name, value in conditions.items() if value is not None},
        "targetRef": {"kind": "Pod", "name": pod, "namespace": "speech", "uid": f"uid-of-{pod}"},
        "nodeName": "node-1",
        **more,
    }


def endpoint_slice(
    name: str,
    service: str,
    endpoints: Iterable[dict[str, Any]] | None,
    *,
    family: str = "IPv4",
    ports: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Return a slice in the API's form, where an empty list of endpoints is null."""
    ports = {"grpc": 50061} if ports is None else ports
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "speech", "labels": {SERVICE_LABEL: service}},
        "addressType": family,
        "endpoints": list(endpoints) if endpoints is not None else None,
        "ports": [{"name": port, "port": number, "protocol": "TCP"} for port, number in ports.items()],
    }


def write_kubeconfig(path: Path, port: int) -> None:
    """Write a kubeconfig for the server on this loopback port, in the namespace speech."""
    named = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "speech"}}],
    }
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x", **named}))


class KubeApi:
    """The server, on a loopback port while entered. `refuse` answers every request with that status."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.refuse: int | None = None
        self.rights: dict[str, frozenset[str]] | None = None
        """Permitted verbs (list, watch) by token; None permits everything to every client."""
        self.requests: Counter[str] = Counter()
        """Counts of requested lists and watches."""
        self.watched_from: list[str] = []
        """The version from which each watch continued."""
        self.port = 0
        self._context = context
        self._slices: dict[tuple[str, str], dict[str, Any]] = {}
        self._history: list[_Change] = []
        self._version = 100
        self._oldest = 100
        self._changed = asyncio.Condition()
        self._watches: set[web.StreamResponse] = set()
        self._ended = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> KubeApi:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a stop on the same port as before."""
        app = web.Application()
        app.router.add_get(PATH, self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop; the state stays, as in the store behind a real server."""
        await self.end_watches(cut=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def put(self, item: dict[str, Any]) -> None:
        """Create or replace a slice."""
        key = (item["metadata"]["namespace"], item["metadata"]["name"])
        await self._record("MODIFIED" if key in self._slices else "ADDED", key, item)

    async def delete(self, name: str, namespace: str = "speech") -> None:
        await self._record("DELETED", (namespace, name), self._slices[namespace, name])

    async def bookmark(self) -> None:
        """Send the latest version to every watch."""
        async with self._changed:
            self._version += 1
            item = {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self._version)}}
            self._history.append(_Change(self._version, "BOOKMARK", item))
            self._changed.notify_all()

    def compact(self) -> None:
        """Drop the history: earlier watches cannot continue."""
        self._oldest = self._version
        self._history.clear()

    async def end_watches(self, *, cut: bool) -> None:
        """End all watches, as the timeout does, or cut their connections."""
        if cut:
            for response in self._watches:
                transport = response._req.transport if response._req is not None else None
                if transport is not None:
                    transport.abort()
        async with self._changed:
            self._ended += 1
            self._changed.notify_all()

    async def asked(self, kind: str, times: int) -> None:
        """Wait until the total of requests of a kind (list or watch) is `times`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.requests[kind] >= times)

    async def _record(self, kind: str, key: tuple[str, str], item: dict[str, Any]) -> None:
        async with self._changed:
            self._version += 1
            item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self._version)}}
            if kind == "DELETED":
                del self._slices[key]
            else:
                self._slices[key] = item
            self._history.append(_Change(self._version, kind, item))
            self._changed.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        kind = "watch" if request.query.get("watch") in ("true", "True", "1") else "list"
        async with self._changed:
            self.requests[kind] += 1
            self._changed.notify_all()
        if self.refuse is not None:
            return _failure(self.refuse, "Forbidden" if self.refuse == 403 else "InternalError")
        if self.rights is not None:
            token = request.headers.get("Authorization", "").partition(" ")[2]
            if token not in self.rights:
                return _failure(401, "Unauthorized")
            if kind not in self.rights[token]:
                return _failure(403, "Forbidden")
        selector, namespace = request.query.get("labelSelector", ""), request.match_info["namespace"]
        if kind == "watch":
            return await self._watch(request, namespace, selector)
        items = [item for (place, _), item in self._slices.items() if place == namespace and _selected(item, selector)]
        metadata = {"resourceVersion": str(self._version)}
        return web.json_response({"kind": "EndpointSliceList", "metadata": metadata, "items": items})

    async def _watch(self, request: web.Request, namespace: str, selector: str) -> web.StreamResponse:
        version = int(request.query["resourceVersion"])
        self.watched_from.append(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if version < self._oldest:
            await _send(response, "ERROR", _status(410, "Expired", f"too old resource version: {version}"))
            return response
        ended = self._ended
        self._watches.add(response)
        try:
            async with asyncio.timeout(float(request.query["timeoutSeconds"])):
                while ended == self._ended:
                    for change in [change for change in self._history if change.version > version]:
                        version = change.version
                        wanted = change.item["metadata"].get("namespace") == namespace
                        if change.kind == "BOOKMARK" or (wanted and _selected(change.item, selector)):
                            await _send(response, change.kind, change.item)
                    async with self._changed:
                        while self._version <= version and ended == self._ended:
                            await self._changed.wait()
        except (TimeoutError, ConnectionError):
            return response
        finally:
            self._watches.discard(response)
        return response


async def _send(response: web.StreamResponse, kind: str, item: dict[str, Any]) -> None:
    line = json.dumps({"type": kind, "object": item}).encode() + b"\n"
    half = len(line) // 2
    await response.write(line[:half])  # lines sometimes arrive in pieces
    await response.write(line[half:])


def _selected(item: dict[str, Any], selector: str) -> bool:
    label, _, value = selector.partition("=")
    return not selector or item["metadata"].get("labels", {}).get(label) == value


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def _failure(code: int, reason: str) -> web.Response:
    return web.json_response(_status(code, reason, f'endpointslices is refused: "{reason}"'), status=code)
