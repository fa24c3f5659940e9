"""The HTTP applications: the APIs of each port, health checks and metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from gateway.api import page
from gateway.api.common.body import TEXT_BYTES, BodyLimit, BodyLimits
from gateway.api.common.errors import ELEVENLABS_SPEECH, add_error_handlers, error_response
from gateway.api.common.middleware import RequestId, RequestLine
from gateway.api.common.provenance import HEADER as PROVENANCE
from gateway.api.common.response import RATE_HEADER
from gateway.api.common.warnings import HEADER as WARNING
from gateway.api.common.websocket import error_frame
from gateway.api.cosyvoice import http as cosyvoice_http
from gateway.api.elevenlabs import http as elevenlabs
from gateway.api.elevenlabs import voices as elevenlabs_voices
from gateway.api.elevenlabs import websocket as elevenlabs_websocket
from gateway.api.lighttts import batch as lighttts_batch
from gateway.api.lighttts import http as lighttts
from gateway.api.lighttts import websocket as lighttts_websocket
from gateway.api.native import detect, lexicon, preview
from gateway.api.native import websocket as native_websocket
from gateway.api.openai import consents as openai_consents
from gateway.api.openai import models as openai_models
from gateway.api.openai import speech as openai
from gateway.api.openai import voices as openai_voices
from gateway.auth.authentication import Authenticator, AuthMiddleware, refuser
from gateway.auth.origin import OriginCheck
from gateway.auth.shares import Shares
from gateway.process.health import GatewayHealth
from gateway.session.context import GatewayContext
from gateway.settings import GatewaySettings
from services.common.errors import NotFound
from services.common.metrics import exposition
from services.common.single_flight import SingleFlight
from services.common.telemetry import REQUEST_ID_KEY

_TEXT_ROUTES = ("/inference_sft", "/inference_instruct", preview.PATH, lexicon.PATH)
_FORM_ROUTES = ("/inference_zero_shot", "/inference_cross_lingual", "/inference_instruct2")
_UPLOAD_ROUTES = ("/v1/audio/voices", "/v1/audio/voice_consents", detect.PATH)
_JSON_ROUTES = ("/v1/audio/speech", "/synthesize_batch")
RETRY_AFTER_SECONDS = 1
"""Hint of an answer that no text can be spoken now."""


def create_app(context: GatewayContext, health: GatewayHealth, authenticator: Authenticator, bodies: Shares) -> FastAPI:
    """Create the application of the HTTP port. `bodies`: the bytes of all open bodies, over all applications."""
    models = openai_models.Models(context)
    return _application(
        context,
        authenticator,
        bodies,
        [
            lighttts.router(context),
            lighttts_websocket.router(context, bodies),
            native_websocket.router(context, bodies),
            lighttts_batch.router(context),
            openai.router(context, models),
            openai_models.router(models),
            openai_voices.router(context),
            openai_consents.router(context),
            elevenlabs.router(context, models),
            elevenlabs_websocket.router(context, models, bodies),
            elevenlabs_voices.router(context),
            _health(health),
            preview.router(context),
            lexicon.router(context),
            detect.router(context.settings),
            page.router(),
        ],
    )


def create_cosyvoice_app(
    context: GatewayContext, health: GatewayHealth, authenticator: Authenticator, bodies: Shares
) -> FastAPI:
    """Create the HTTP application of CosyVoice's port."""
    return _application(context, authenticator, bodies, [cosyvoice_http.router(context), _health(health)])


def _body_limits(settings: GatewaySettings) -> BodyLimits:
    prompt = settings.max_prompt_bytes
    return BodyLimits(
        routes={
            **dict.fromkeys(_TEXT_ROUTES, TEXT_BYTES),
            ELEVENLABS_SPEECH: TEXT_BYTES,
            **dict.fromkeys((*_FORM_ROUTES, *_UPLOAD_ROUTES), prompt + TEXT_BYTES),
            **dict.fromkeys(_JSON_ROUTES, prompt * 4 // 3 + TEXT_BYTES),  # base64 encodes three bytes as four
        },
        first_seconds=settings.first_message_seconds,
        whole_seconds=settings.body_seconds,
    )


def _application(
    context: GatewayContext, authenticator: Authenticator, bodies: Shares, routers: list[APIRouter]
) -> FastAPI:
    # The framework's documentation pages load scripts from other sites, so only /openapi.json is served.
    app = FastAPI(
        title="light-tts",
        description="Zero-shot streaming text-to-speech",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    refuse = refuser(error_response, error_frame)
    app.add_middleware(
        BodyLimit,
        limits=_body_limits(context.settings),
        budget=bodies,
        quotas=context.quotas,
        refuse=error_response,
    )
    app.add_middleware(AuthMiddleware, authenticator=authenticator, refuse=refuse)
    settings = context.settings
    app.add_middleware(OriginCheck, origins=settings.cors_origins, hosts=settings.checked_hosts, refuse=refuse)
    app.add_middleware(RequestId)
    if context.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(context.settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=[RATE_HEADER, WARNING, PROVENANCE, "retry-after", REQUEST_ID_KEY],
        )
    app.add_middleware(RequestLine)
    add_error_handlers(app)
    for router in routers:
        app.include_router(router)
    otherwise = app.router.default

    async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # the framework would answer 403, as if the key were wrong
            await refuse(NotFound("there is no WebSocket at this path; docs/api.md lists them"), scope, receive, send)
        else:
            await otherwise(scope, receive, send)

    app.router.default = unknown
    return app


def _health(gateway: GatewayHealth) -> APIRouter:
    routes = APIRouter(tags=["health"])
    scrapes: SingleFlight[str, bytes] = SingleFlight()

    @routes.get("/health", responses={503: {"description": "No text can be spoken now; `reason` says why."}})
    @routes.get("/healthz", responses={503: {"description": "No text can be spoken now; `reason` says why."}})
    async def health() -> JSONResponse:
        """Report whether text can be spoken now, by all services together."""
        if reason := gateway.unable():
            content = {"message": "Error", "reason": reason}
            return JSONResponse(content, 503, headers={"retry-after": str(RETRY_AFTER_SECONDS)})
        return JSONResponse({"message": "Ok"})

    @routes.get("/liveness")
    async def liveness() -> dict[str, str]:
        """Respond as long as the process works."""
        return {"status": "ok"}

    @routes.get("/readiness", responses={503: {"description": "Not ready; `status` gives the reason."}})
    async def readiness() -> JSONResponse:
        """Report whether this gateway accepts requests, and the reason if not; other services do not affect it."""
        reason = gateway.not_ready()
        return JSONResponse({"status": reason or "ok"}, 503 if reason else 200)

    @routes.get("/metrics")
    async def prometheus() -> Response:
        """Return the metrics in Prometheus's text format."""
        # In a thread, and once for scrapes at the same time: it lasts longer than the pause between two audio chunks.
        body = await scrapes.run("metrics", lambda: asyncio.to_thread(exposition))
        return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})

    return routes
