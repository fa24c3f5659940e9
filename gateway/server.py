"""The gateway as a service: its parts, and how it starts, drains and closes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc.aio
import structlog

from gateway.aliases import FOREIGN_VOICES, Aliases
from gateway.api.cosyvoice import grpc as cosyvoice_grpc
from gateway.api.cosyvoice.grpc import CosyVoiceServicer
from gateway.api.http_app import create_app, create_cosyvoice_app
from gateway.api.native.lexicon import LexiconServicer
from gateway.api.native.speech import TextToSpeechServicer
from gateway.api.native.voices import VoicesServicer
from gateway.api.riva import speech as riva
from gateway.api.riva.speech import RivaServicer
from gateway.audio.credentials import Credentials
from gateway.auth.admission import Admission
from gateway.auth.authentication import Authenticator, AuthInterceptor
from gateway.auth.keys import KeyFileError, KeyRing
from gateway.auth.shares import Shares
from gateway.backends import Shared, open_shared
from gateway.lexicon.registry import LexiconRegistry
from gateway.process.budgets import body_budget
from gateway.process.calls import FirstMessage
from gateway.process.connections import ConnectionLimits
from gateway.process.deadlines import with_budget
from gateway.process.grpc_port import GrpcPort, socket_folder, socket_path
from gateway.process.health import GatewayHealth
from gateway.process.http_server import HttpServer
from gateway.process.port_mux import http_or_grpc
from gateway.process.relay import Relays
from gateway.session.context import GatewayContext
from gateway.settings import GatewaySettings
from gateway.voices.audit import Audit
from gateway.voices.consents import ConsentRegistry
from gateway.voices.content_cache import VoiceContentCache
from gateway.voices.deletion import VoiceDeletion
from gateway.voices.registry import VoiceRegistry
from gateway.voices.resolver import VoiceResolver
from gateway.voices.uploads import UploadLimits, Uploads
from lighttts.compat import cosyvoice_pb2_grpc, riva_tts_pb2_grpc
from lighttts.v1 import tts_pb2_grpc
from services.common.discovery import discover
from services.common.end_to_end import GATEWAY_END_TO_END, LLM_END_TO_END
from services.common.errors import LightTtsError
from services.common.pool import Pool, dialler
from services.common.start_error import StartError

log = structlog.get_logger(__name__)

_START_POLL_SECONDS = 0.5


class GatewayService:
    """Implements services.common.server.Service; the same event loop serves HTTP."""

    name = "gateway"
    end_to_end = GATEWAY_END_TO_END
    rpc_services: tuple[str, ...] = (
        "lighttts.v1.TextToSpeech",
        "lighttts.v1.Voices",
        "lighttts.v1.Lexicon",
        riva.NAME,
        cosyvoice_grpc.NAME,
    )

    def __init__(self, settings: GatewaySettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Create it on the running loop. Raises StartError for a malformed target and for budgets beyond the memory.

        `clock` returns seconds; it measures the silence and the stalls of llm workers.
        """
        bodies = body_budget(settings)
        encode = _pool("encode", settings.encode_target, "lighttts.v1.Encode", settings)
        llm = _pool("llm", settings.llm_target, "lighttts.v1.Llm", settings, LLM_END_TO_END)
        self._settings = settings
        self._shared = open_shared(settings)
        self._context = _context(settings, self._shared, encode, llm, clock)
        authenticator = Authenticator(_keys(settings))
        self._bodies = Shares("bytes of requests", bodies, bodies // 2)
        self.interceptors: tuple[grpc.aio.ServerInterceptor, ...] = (
            AuthInterceptor(authenticator),
            FirstMessage(self._shared.quotas, settings.first_message_seconds, settings.idle_seconds, self._bodies),
        )
        self.health = GatewayHealth(self._context.admission, encode, llm, settings.health_grace_seconds, clock)
        app = create_app(self._context, self.health, authenticator, self._bodies)
        limit = settings.max_prompt_bytes
        self._http = HttpServer(
            app,
            settings.host,
            settings.http_port,
            settings.tls_of_server,
            max_frame_bytes=limit,
            websockets=with_budget(self._bodies, settings.idle_seconds),
            limits=_connection_limits(settings),
            idle_seconds=settings.idle_seconds,
        )
        self._sockets = socket_folder()
        self._relays = Relays(socket_path(self._sockets))
        self._grpc = GrpcPort(
            self._relays, settings.host, settings.port, settings.tls_of_server, _connection_limits(settings)
        )
        self._cosyvoice = self._cosyvoice_server(authenticator)
        self._polling: asyncio.Task[None] | None = None

    def unable(self) -> str:
        """Return why no text can be spoken now, or an empty string if it can."""
        return self.health.unable()

    @property
    def http_port(self) -> int:
        """The port of the HTTP server, once it has started."""
        return self._http.port

    @property
    def cosyvoice_port(self) -> int:
        """The port for CosyVoice's clients, once it has started; 0 if it is off."""
        return 0 if self._cosyvoice is None else self._cosyvoice.port

    def register(self, server: grpc.aio.Server) -> None:
        riva_tts_pb2_grpc.add_RivaSpeechSynthesisServicer_to_server(RivaServicer(self._context), server)
        cosyvoice_pb2_grpc.add_CosyVoiceServicer_to_server(CosyVoiceServicer(self._context), server)
        server.add_insecure_port(f"unix:{self._relays.path}")
        tts_pb2_grpc.add_TextToSpeechServicer_to_server(TextToSpeechServicer(self._context), server)
        tts_pb2_grpc.add_VoicesServicer_to_server(VoicesServicer(self._context), server)
        tts_pb2_grpc.add_LexiconServicer_to_server(LexiconServicer(self._context), server)

    async def start(self) -> None:
        """Serve HTTP at once, because liveness must answer, then wait until the encode service responds."""
        await self._shared.start()
        await self._http.start()
        log.info("http", port=self.http_port)
        if self._cosyvoice is not None:
            await self._cosyvoice.start()
            log.info("cosyvoice", port=self.cosyvoice_port)
        await self._context.encode.start()
        await self._context.llm.start()
        while True:
            if await self._refresh():
                break
            await asyncio.sleep(_START_POLL_SECONDS)
        self.health.started = True
        self._polling = asyncio.create_task(self._poll(), name="model poll")

    async def listen(self) -> int:
        await self._grpc.start()
        return self._grpc.port

    def retire(self) -> None:
        for http in filter(None, (self._http, self._cosyvoice)):
            http.retire()

    async def send_goaway(self) -> None:
        grace = self._settings.drain_grace_seconds
        self._context.admission.retire(grace)
        await self._grpc.retire(grace)

    @property
    def streams(self) -> int:
        return self._relays.streams

    async def drain(self) -> None:
        await self._context.admission.drain()

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait({self._polling})
        await self._grpc.close()
        await self._http.close()
        if self._cosyvoice is not None:
            await self._cosyvoice.close()
        self._sockets.cleanup()
        await self._context.voices.close()
        await self._context.llm.close()
        await self._context.encode.close()
        await self._shared.close()

    def _cosyvoice_server(self, authenticator: Authenticator) -> HttpServer | None:
        """Create the server for CosyVoice's clients: HTTP and gRPC on one port. None if it is off."""
        settings = self._settings
        if settings.cosyvoice_port == "off":
            return None
        return HttpServer(
            create_cosyvoice_app(self._context, self.health, authenticator, self._bodies),
            settings.host,
            settings.cosyvoice_port,
            settings.tls_of_server,
            protocol=http_or_grpc(self._relays),
            alpn=("h2", "http/1.1"),
            limits=_connection_limits(settings),
            idle_seconds=settings.idle_seconds,
            port_setting="LIGHTTTS_COSYVOICE_PORT (or 'off')",
        )

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._settings.model_poll_seconds)
            await self._refresh()

    async def _refresh(self) -> bool:
        try:
            await self._context.voices.refresh()
            await self._context.voices.sweep()
        except LightTtsError as error:
            log.warning("cannot query the encode service", reason=error.message)
            return False
        except Exception:  # a defect must not end the polling: changes of the model would go unnoticed
            log.exception("the refresh of model and voices failed")
            return False
        return True


def _context(
    settings: GatewaySettings, shared: Shared, encode: Pool, llm: Pool, clock: Callable[[], float]
) -> GatewayContext:
    memory = VoiceContentCache(settings.voice_cache_bytes)
    speech_cache = None if shared.speech_cache is None else shared.speech_cache.store
    voice_deletion = VoiceDeletion(memory, speech_cache, (encode, llm))
    aliases = Aliases(settings.voice_aliases, FOREIGN_VOICES)
    voices = VoiceResolver(
        encode, shared.store, memory, voice_deletion, default_voice=settings.default_voice, aliases=aliases
    )
    uploads = Uploads(_upload_limits(settings))
    audit = Audit(shared.audit)
    consents = ConsentRegistry(shared.consents, shared.quotas, uploads, audit)
    policy = settings.consent_policy
    registry = VoiceRegistry(shared.store, voices, shared.quotas, uploads, voice_deletion, consents, audit, policy)
    return GatewayContext(
        settings,
        voices,
        encode,
        llm,
        Admission(settings.max_sessions),
        shared.quotas,
        registry,
        LexiconRegistry(shared.lexicons, shared.quotas, settings.max_lexicon_entries),
        shared.speech_cache,
        _credentials(settings),
        clock=clock,
    )


def _keys(settings: GatewaySettings) -> KeyRing | None:
    if settings.api_keys_file is None:
        log.warning("no API keys are configured: anyone who can reach this gateway can use it")
        return None
    try:
        keys = KeyRing(settings.api_keys_file)
    except KeyFileError as error:
        raise StartError(f"LIGHTTTS_API_KEYS_FILE: {error}") from error
    log.info("API keys are required", keys=len(keys))
    return keys


def _credentials(settings: GatewaySettings) -> Credentials | None:
    if settings.c2pa_cert is None or settings.c2pa_key is None:
        return None
    return Credentials(settings.c2pa_cert, settings.c2pa_key)


def _connection_limits(settings: GatewaySettings) -> ConnectionLimits:
    return ConnectionLimits(
        total=settings.max_connections,
        per_address=settings.max_connections_per_address,
        handshake_seconds=settings.handshake_seconds,
        header_seconds=settings.header_seconds,
    )


def _upload_limits(settings: GatewaySettings) -> UploadLimits:
    return UploadLimits(
        bytes=settings.max_prompt_bytes,
        seconds=settings.upload_seconds,
        at_once=settings.max_uploads,
        per_key=settings.max_uploads_per_key,
        silence_seconds=settings.first_message_seconds,
        voices=settings.max_voices,
    )


def _pool(name: str, target: str, service: str, settings: GatewaySettings, behind: str = "") -> Pool:
    """`behind` names the health service with which workers report on the services behind them."""
    try:
        discovery = discover(target)
    except ValueError as error:
        raise StartError(f"LIGHTTTS_{name.upper()}_TARGET: {error}") from error
    wait = settings.worker_wait_seconds
    return Pool(discovery, service, name=name, dial=dialler(settings), wait_seconds=wait, end_to_end=behind)
