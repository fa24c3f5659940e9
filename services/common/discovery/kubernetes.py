"""`kubernetes:///service[.namespace][:port]`: the Ready pods behind a headless service, by watching its EndpointSlices.

The API server reports a change within a fraction of a second: a pod is used when it is Ready, and gets no new work
when it terminates. Needs the right to list and watch `endpointslices` in that namespace, and the package `kubernetes`
(the extra `k8s`). The cluster is the one this process runs in, otherwise the kubeconfig's.

* The port is a name or a number; the default is the port named grpc, otherwise the only one.
* A watch ends at its timeout; the next one continues from the last version seen. When that version is too old
  (410 Gone), all slices are listed again.
* When all pods turn NotReady at once, they stay in the set; see `endpoints.Listing`.
* After a failure (no connection, no permission, a broken stream) the last set stays valid; the next attempt follows
  after 0.1 s, then less often, at least every 5 s.
* The package's own `Watch` is not used: it retries 410 only once, and limits the length of a line.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

import structlog

from services.common.discovery.endpoints import Listing, Slice, port_number
from services.common.discovery.metrics import FAILURES

log = structlog.get_logger(__name__)

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_LIST_SECONDS = 10.0
_WATCH_SECONDS = 60
"""Length of a watch. Short, because a connection that died silently is noticed only at its end."""
_WATCH_SLACK_SECONDS = 10.0
_RETRY_MIN_SECONDS = 0.1
_RETRY_MAX_SECONDS = 5.0
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_TARGET = re.compile(rf"(?P<service>{_LABEL})(\.(?P<namespace>{_LABEL}))?(:(?P<port>{_LABEL}))?", re.ASCII)
_HTTP_GONE = 410


class _SourceError(Exception):
    """The API server cannot be reached, or its answer is not valid."""


class _GoneError(Exception):
    """The version to continue from is too old."""


@dataclass(frozen=True)
class _Source:
    """The API of one cluster, and the namespace of the service."""

    api: Any
    """kubernetes.aio.client.DiscoveryV1Api; `Any`, because the package may be absent."""
    namespace: str


@dataclass(frozen=True)
class _Event:
    """One line of a watch."""

    kind: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    name: str
    """Name of the slice; empty for a bookmark."""
    version: str
    """The version to continue from."""
    item: Slice


class KubernetesDiscovery:
    """The Ready pods of a service, from its EndpointSlices."""

    def __init__(self, service: str, namespace: str, port: str) -> None:
        """An empty `namespace` is this process's own; an empty `port` is the one named grpc, otherwise the only one."""
        self._service = service
        self._namespace = namespace
        self._port = port
        self._portless: set[str] = set()
        self._listing = Listing()

    @classmethod
    def from_url(cls, url: SplitResult) -> KubernetesDiscovery:
        if url.netloc:
            raise ValueError(f"write kubernetes:///{url.netloc}{url.path}, with three slashes")
        parts = _TARGET.fullmatch(url.path.removeprefix("/"))
        if parts is None:
            raise ValueError("write kubernetes:///service[.namespace][:port], in lower-case letters, digits and '-'")
        port = parts["port"] or ""
        if port.isdigit() and not 1 <= int(port) <= 65535:
            raise ValueError(f"the port is {port}; a port is a number from 1 to 65535, or a name")
        if importlib.util.find_spec("kubernetes") is None:
            raise ValueError("the package kubernetes is missing; install light-tts[k8s]")
        return cls(parts["service"], parts["namespace"] or "", port)

    @property
    def target(self) -> str:
        namespace = f".{self._namespace}" if self._namespace else ""
        port = f":{self._port}" if self._port else ""
        return f"kubernetes:///{self._service}{namespace}{port}"

    async def watch(self) -> AsyncGenerator[frozenset[str], None]:
        known: frozenset[str] | None = None
        failures = 0
        while True:
            try:
                async with _connect(self._namespace) as source, aclosing(self._follow(source)) as snapshots:
                    async for slices in snapshots:
                        if failures:
                            log.info("lookup works again", target=self.target)
                        failures = 0
                        addresses = self._addresses(slices)
                        if addresses != known:
                            known = addresses
                            yield addresses
            except _SourceError as error:
                FAILURES.labels(self.target).inc()
                if failures == 0:
                    log.warning("lookup failed", target=self.target, reason=str(error))
                failures += 1
            except _GoneError:
                log.info("watch too old; listing again", target=self.target)
            delay = min(_RETRY_MIN_SECONDS * 2.0 ** min(failures, 10), _RETRY_MAX_SECONDS)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))

    def _addresses(self, slices: dict[str, Slice]) -> frozenset[str]:
        """Return the addresses to use. Log each slice without the port once, because its pods are left out."""
        portless = {
            name for name, piece in slices.items() if piece.get("endpoints") and port_number(piece, self._port) is None
        }
        for name in portless - self._portless:
            log.warning("endpoint slice without the port; its pods are left out", target=self.target, slice=name)
        self._portless = portless
        kept_before = self._listing.kept
        addresses = self._listing.update(slices.values(), self._port)
        if self._listing.kept and not kept_before:
            log.warning("every endpoint is NotReady; keeping those that answer health checks", target=self.target)
        elif kept_before and not self._listing.kept:
            log.info("endpoints are Ready again, or gone", target=self.target)
        return addresses

    async def _follow(self, source: _Source) -> AsyncGenerator[dict[str, Slice], None]:
        """Yield all slices of the service by name, now and after every change. Raises _SourceError and _GoneError."""
        slices, version = await self._list(source)
        yield slices
        while True:
            async with aclosing(self._events(source, version)) as events:
                async for event in events:
                    version = event.version
                    if event.kind == "BOOKMARK":
                        continue
                    if event.kind == "DELETED":
                        slices.pop(event.name, None)
                    else:
                        slices[event.name] = event.item
                    yield slices
            await asyncio.sleep(_RETRY_MIN_SECONDS)  # limits the rate if a server ends every watch at once

    async def _list(self, source: _Source) -> tuple[dict[str, Slice], str]:
        """Return all slices by name, and the version of the list."""
        async with self._request(source, _LIST_SECONDS) as response:
            listing = json.loads(await response.read())
            slices = {str(item["metadata"]["name"]): item for item in listing.get("items") or ()}
            return slices, str(listing["metadata"]["resourceVersion"])

    async def _events(self, source: _Source, version: str) -> AsyncGenerator[_Event, None]:
        """Yield the changes since `version`, until the server ends the watch."""
        async with self._request(
            source,
            _WATCH_SECONDS + _WATCH_SLACK_SECONDS,
            watch=True,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=_WATCH_SECONDS,
        ) as response:
            async for line in _lines(response):
                event = json.loads(line)
                kind, item = str(event["type"]), event["object"]
                if kind == "ERROR":
                    raise _refusal(item.get("code", 0), item.get("message", "an error without a message"))
                metadata = item["metadata"]
                yield _Event(kind, str(metadata.get("name", "")), str(metadata["resourceVersion"]), item)

    @asynccontextmanager
    async def _request(self, source: _Source, seconds: float, **query: Any) -> AsyncIterator[Any]:
        """Request a response with status 200 and close it after the block. Failures are raised as _SourceError."""
        import aiohttp
        from kubernetes.aio.client.exceptions import ApiException

        try:
            response = await source.api.list_namespaced_endpoint_slice_without_preload_content(
                source.namespace,
                label_selector=f"kubernetes.io/service-name={self._service}",
                _request_timeout=seconds,
                **query,
            )
            try:
                if response.status != 200:
                    body = await response.read()
                    raise _refusal(response.status, _message(body, source.namespace))
                yield response
            finally:
                response.close()
        except (aiohttp.ClientError, ApiException, OSError, TimeoutError) as error:
            raise _SourceError(f"{type(error).__name__}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _SourceError(f"the API server sent no endpoint slices ({type(error).__name__}: {error})") from error


@asynccontextmanager
async def _connect(namespace: str) -> AsyncIterator[_Source]:
    """Connect to the cluster this process runs in, or the kubeconfig's. Raises _SourceError if there is neither."""
    await asyncio.to_thread(importlib.import_module, "kubernetes.aio.client.api.discovery_v1_api")  # takes 1 s
    from kubernetes.aio import client, config

    configuration = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            namespace = namespace or await asyncio.to_thread(NAMESPACE_FILE.read_text, encoding="utf-8")
        else:
            loader = await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            namespace = namespace or loader.current_context["context"].get("namespace", "default")
        made = client.ApiClient(configuration)  # reads the certificate of the cluster's authority
    except (config.ConfigException, OSError) as error:
        raise _SourceError(f"neither the service account of a pod nor a kubeconfig can be used ({error})") from error
    async with made as api_client:
        yield _Source(client.DiscoveryV1Api(api_client), namespace.strip())


async def _lines(response: Any) -> AsyncGenerator[bytes, None]:
    """Yield whole lines of a body as they arrive, of any length; an incomplete last line is left out."""
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield line


def _refusal(code: int, message: str) -> Exception:
    return _GoneError(message) if code == _HTTP_GONE else _SourceError(f"the API server answered {code}: {message}")


def _message(body: bytes, namespace: str) -> str:
    """Return the message of an error response, and what to do about a missing permission."""
    try:
        status = json.loads(body)
    except ValueError:
        return body[:200].decode(errors="replace")
    message = str(status.get("message", "")) if isinstance(status, dict) else ""
    if isinstance(status, dict) and status.get("reason") in ("Forbidden", "Unauthorized"):
        message += f" (the service account needs get, list and watch of endpointslices in {namespace})"
    return message
