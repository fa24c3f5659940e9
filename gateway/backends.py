"""State that outlives a request and that gateways may share: registered voices, quotas, cached speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from gateway.auth.quota import LocalQuotas, Quotas
from gateway.auth.redis_quota import SharedQuotas
from gateway.cache.speech_cache import SpeechCache
from gateway.cache.store import MemoryResults, RedisResults, ResultStore
from gateway.lexicon.store import DirectoryLexicons, LexiconStore, RedisLexicons
from gateway.redis_client import connect
from gateway.settings import GatewaySettings
from gateway.voices.audit import AUDIT_FOLDER, AuditTrail, DirectoryTrail, RedisTrail
from gateway.voices.directory_store import DirectoryStore
from gateway.voices.redis_store import RedisStore
from gateway.voices.store import VoiceStore
from services.common.errors import Unavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Shared:
    """Created by `open_shared`, released by `close`."""

    store: VoiceStore
    consents: VoiceStore
    """Recorded consents, in the form of voices."""
    audit: AuditTrail
    lexicons: LexiconStore
    quotas: Quotas
    speech_cache: SpeechCache | None
    redis: Redis | None

    async def start(self) -> None:
        """Remove the files that a crash left behind."""
        for store in (self.store, self.consents):
            if isinstance(store, DirectoryStore):
                try:
                    await store.sweep()
                except Unavailable as error:  # speech with the model's voices still works
                    log.warning("registered voices cannot be used", reason=error.message)

    async def close(self) -> None:
        if self.redis is not None:
            await self.redis.aclose()


def open_shared(settings: GatewaySettings) -> Shared:
    """Create the stores; they connect at their first use. Raises StartError for settings that cannot work."""
    if settings.redis_url is None:
        return Shared(
            *_directories(settings),
            _trail(settings, None),
            _lexicons(settings, None),
            LocalQuotas(),
            _speech_cache(settings, None),
            None,
        )
    redis = connect(settings.redis_url.get_secret_value())
    prefix = settings.redis_prefix
    stores: tuple[VoiceStore, VoiceStore] = _directories(settings)
    if settings.voice_store == "redis":
        stores = RedisStore(redis, prefix), RedisStore(redis, f"{prefix}consents:")
    lexicons = _lexicons(settings, redis)
    quotas, cache = SharedQuotas(redis, prefix), _speech_cache(settings, redis)
    return Shared(*stores, _trail(settings, redis), lexicons, quotas, cache, redis)


def _directories(settings: GatewaySettings) -> tuple[VoiceStore, VoiceStore]:
    """Return the stores of voices and of consents. No owner's name begins with a dot."""
    return DirectoryStore(settings.voices_dir), DirectoryStore(settings.voices_dir / ".consents")


def _trail(settings: GatewaySettings, redis: Redis | None) -> AuditTrail:
    """Return the audit of voices, which is where the voices are."""
    if redis is not None and settings.voice_store == "redis":
        return RedisTrail(redis, settings.redis_prefix)
    return DirectoryTrail(settings.voices_dir / AUDIT_FOLDER)


def _lexicons(settings: GatewaySettings, redis: Redis | None) -> LexiconStore:
    """Return the store of callers' lexicons, which is where the voices are."""
    if redis is not None and settings.voice_store == "redis":
        return RedisLexicons(redis, settings.redis_prefix)
    return DirectoryLexicons(settings.voices_dir / ".lexicons")


def _speech_cache(settings: GatewaySettings, redis: Redis | None) -> SpeechCache | None:
    store: ResultStore
    if settings.result_cache == "off":
        return None
    if settings.result_cache == "redis" and redis is not None:
        store = RedisResults(redis, settings.redis_prefix, settings.result_cache_seconds)
    else:
        store = MemoryResults(settings.result_cache_bytes)
    return SpeechCache(
        store,
        settings.result_cache_any_seed,
        settings.result_cache_text_chars,
        settings.result_cache_generation,
        settings.result_cache_shared,
    )
