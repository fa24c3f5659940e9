"""The HTTP application: every HTTP interface, health, metrics, and errors as JSON."""

from __future__ import annotations

import math

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException

from gateway import metrics
from gateway.access.door import Door, DoorMiddleware
from gateway.fronts import lighttts
from gateway.fronts.middleware import BodyLimit, RequestId
from gateway.session import Stages
from services.common.errors import LightTtsError
from services.common.pool import Pool, WorkerState
from services.common.telemetry import current_request_id

FRONT = "http"
FORM_BYTES = 2**20
"""What a form may hold beside the prompt: texts and the form's own framing."""


def create_app(stages: Stages, door: Door) -> FastAPI:
    """The application behind the HTTP port."""
    app = FastAPI(title="light-tts", description="Zero-shot streaming text-to-speech", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, max_bytes=stages.settings.max_prompt_bytes + FORM_BYTES)
    app.add_middleware(DoorMiddleware, door=door, refuse=error_response)
    app.add_middleware(RequestId)
    app.add_exception_handler(LightTtsError, _refuse)
    app.add_exception_handler(StarletteHTTPException, _refuse_request)
    app.add_exception_handler(Exception, _fail)
    app.include_router(lighttts.router(stages))
    _add_health(app, stages)
    return app


def not_ready(stages: Stages) -> str:
    """Why nothing can be spoken now; empty when it can."""
    if stages.admission.draining:
        return "stopping"
    missing = [name for name, pool in (("encode", stages.encode), ("llm", stages.llm)) if not _serves(pool)]
    return f"no {' and no '.join(missing)} worker is serving" if missing else ""


def _serves(pool: Pool) -> bool:
    return any(worker.state is WorkerState.SERVING for worker in pool.workers())


def _add_health(app: FastAPI, stages: Stages) -> None:
    @app.get("/health", tags=["health"])
    @app.get("/healthz", tags=["health"])
    async def health() -> JSONResponse:
        """Whether speech can be made now."""
        if not_ready(stages):
            return JSONResponse({"message": "Error"}, 404)
        return JSONResponse({"message": "Ok"})

    @app.get("/liveness", tags=["health"])
    async def liveness() -> dict[str, str]:
        """Answers as long as the process does its work."""
        return {"status": "ok"}

    @app.get("/readiness", tags=["health"])
    async def readiness() -> JSONResponse:
        """Whether to send requests here; if not, why."""
        reason = not_ready(stages)
        return JSONResponse({"status": reason or "ok"}, 503 if reason else 200)

    @app.get("/metrics", tags=["health"])
    async def prometheus() -> Response:
        """Prometheus metrics of this process."""
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, LightTtsError):
        raise error
    return error_response(request, error)


def error_response(request: Request, error: LightTtsError) -> Response:
    """The answer to a request that fails with `error`."""
    metrics.ERRORS.labels(FRONT, error.reason).inc()
    headers = {} if error.retry_after is None else {"retry-after": str(math.ceil(error.retry_after))}
    return JSONResponse({"message": error.message}, error.http_status, headers)


async def _refuse_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException | StarletteHTTPException):
        raise error
    metrics.ERRORS.labels(FRONT, f"HTTP_{error.status_code}").inc()
    return JSONResponse({"message": error.detail}, error.status_code, error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    metrics.ERRORS.labels(FRONT, LightTtsError.reason).inc()
    message = f"internal error; the server's log has the details under request {current_request_id()}"
    return JSONResponse({"message": message}, 500)
