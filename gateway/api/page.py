"""The demonstration page: static files from `gateway/web`, no build step, nothing loaded from other sites."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

WEB = Path(__file__).parents[1] / "web"
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def router() -> APIRouter:
    """Return the routes of `/` and of the page's files."""
    routes = APIRouter(include_in_schema=False)
    files = {path.name: path for path in WEB.iterdir() if path.suffix in _MEDIA_TYPES}

    @routes.get("/")
    async def page() -> Response:
        return _file(files["index.html"])

    @routes.get("/web/{name}")
    async def part(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "Not Found")
        return _file(files[name])

    return routes


def _file(path: Path) -> Response:
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=_HEADERS)
