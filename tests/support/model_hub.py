"""A model hub on loopback, with the parts that downloads need: listing, HEAD, GET with ranges, and faults."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"

MOST_EMPTY = 50


@dataclass
class ModelHub:
    """Serves `files` as repository `name`; a context manager. Files above `lfs_above` bytes are LFS files."""

    name: str
    files: dict[str, bytes]
    lfs_above: int = 1000
    cut_once: dict[str, int] = field(default_factory=dict)
    """The connection closes once, after this number of bytes of the file."""
    refuse_after_cut: bool = False
    """After a cut the hub answers 503, so that the client gives up."""
    empty: set[str] = field(default_factory=set)
    """Files whose answers have no content; after MOST_EMPTY of them, the hub is down."""
    corrupt: set[str] = field(default_factory=set)
    """Files sent with their first byte changed."""
    ranges: list[tuple[str, str]] = field(default_factory=list)
    """The Range headers received."""
    sent: list[str] = field(default_factory=list)
    """Files requested by GET."""
    tokens: set[str] = field(default_factory=set)
    """Tokens that callers sent."""
    down: bool = False

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_: object) -> None:
                """Write nothing to stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0]
        if authorization := request.headers.get("Authorization"):
            self.tokens.add(authorization.removeprefix("Bearer "))
        file = path.removeprefix(f"/{self.name}/resolve/{COMMIT}/")
        if self.down:
            _send(request, 503, b"", body)
        elif path.startswith(f"/api/models/{self.name}"):
            _send(request, 200, json.dumps(self._listing()).encode(), body, {"Content-Type": "application/json"})
        elif file in self.files:
            self._file(request, file, body)
        else:
            _send(request, 404, b"", body, {"X-Error-Code": "RepoNotFound"})

    def _listing(self) -> dict[str, object]:
        siblings = []
        for path, content in self.files.items():
            entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": _blob_id(content)}
            if len(content) > self.lfs_above:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": self.name, "sha": COMMIT, "siblings": siblings, "private": False, "downloads": 0, "tags": []}

    def _file(self, request: BaseHTTPRequestHandler, path: str, body: bool) -> None:
        content = self.files[path]
        etag = hashlib.sha256(content).hexdigest() if len(content) > self.lfs_above else _blob_id(content)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if path in self.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        if path in self.empty:
            content = b""
            self.down = self.sent.count(path) > MOST_EMPTY
        status, start = 200, 0
        if body:
            self.sent.append(path)
            if wanted := request.headers.get("Range"):
                self.ranges.append((path, wanted))
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.cut_once.pop(path, None) if body else None
        _send(request, status, content[start:], body, headers, cut)
        if cut is not None and self.refuse_after_cut:
            self.down = True


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    content: bytes,
    body: bool,
    headers: dict[str, str] | None = None,
    cut: int | None = None,
) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if body:
        request.wfile.write(content[:cut])
    if cut is not None:
        request.close_connection = True


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
