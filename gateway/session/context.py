"""The settings, pools and services that all sessions of a gateway share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cached_property

from gateway.audio.credentials import Credentials
from gateway.auth import ticket
from gateway.auth.admission import Admission, Admitted
from gateway.auth.quota import Quotas
from gateway.cache.speech_cache import SpeechCache
from gateway.lexicon.registry import LexiconRegistry
from gateway.request_stats import RequestStats
from gateway.settings import GatewaySettings
from gateway.utterance.recent_refusal import RecentRefusal
from gateway.utterance.utterance import LlmClientContext
from gateway.voices.registry import VoiceRegistry
from gateway.voices.resolver import VoiceResolver
from services.common.pool import Pool
from services.common.workers.budget import FailoverBudget
from services.common.workers.failover import MovePolicy


@dataclass(frozen=True)
class GatewayContext:
    """The settings, pools and services that all sessions of a gateway share."""

    settings: GatewaySettings
    voices: VoiceResolver
    encode: Pool
    llm: Pool
    admission: Admission
    quotas: Quotas
    registry: VoiceRegistry
    lexicon: LexiconRegistry
    speech_cache: SpeechCache | None = None
    credentials: Credentials | None = None
    """Signs complete files; None: they are not signed."""
    request_stats: RequestStats = field(default_factory=RequestStats)
    failover_budget: FailoverBudget = field(default_factory=FailoverBudget)
    clock: Callable[[], float] = time.monotonic
    """Seconds; measures the silence and the stalls of llm workers."""

    @cached_property
    def recent_refusal(self) -> RecentRefusal:
        """The latest refusal of a new session."""
        return RecentRefusal(self.settings.refusal_seconds)

    @property
    def llm_client_context(self) -> LlmClientContext:
        """The part of this context that utterances use."""
        settings = self.settings
        policy = MovePolicy(
            settings.llm_silence_seconds,
            settings.llm_stall_seconds,
            settings.llm_max_moves,
            settings.session_patience_seconds,
            settings.llm_frozen_seconds,
        )
        return LlmClientContext(
            self.llm,
            policy,
            self.request_stats,
            settings.audio_queue_messages,
            self.failover_budget,
            self.clock,
            self.recent_refusal,
        )

    @contextlib.asynccontextmanager
    async def admit(self, session: Admitted, *, continues: bool = False) -> AsyncIterator[None]:
        """Admit a session of the current caller; `continues`: it continues an admitted one.

        Raises Overloaded, QuotaExceeded or Unavailable.
        """
        with self.admission.admit(session, continues=continues):
            async with ticket.stream(self.quotas):
                yield
