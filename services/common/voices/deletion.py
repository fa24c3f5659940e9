"""Eviction of a deleted voice from the workers: the gRPC service that workers offer, and the call to all of a pool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
import structlog

from lighttts.v1 import voice_pb2, voice_pb2_grpc
from services.common.pool import Pool

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger(__name__)

NAME = "lighttts.v1.VoiceCache"
TIMEOUT_SECONDS = 2.0
"""A worker that does not answer in this time counts as unreached. A worker that calls further workers gives them half
of it, so that its own answer still arrives in time."""


class VoiceCacheServicer(voice_pb2_grpc.VoiceCacheServicer):
    """`lighttts.v1.VoiceCache` over a service's own caches."""

    def __init__(self, evict: Callable[[str], Awaitable[int]]) -> None:
        """`evict`: evicts a voice by hash and returns how many workers further down could not be reached."""
        self._evict = evict

    async def ForgetVoice(
        self, request: voice_pb2.ForgetVoiceRequest, context: Context
    ) -> voice_pb2.ForgetVoiceResponse:
        return voice_pb2.ForgetVoiceResponse(unreached=await self._evict(request.voice_hash))


async def evict_on_all_workers(pool: Pool, voice_hash: str, timeout_seconds: float = TIMEOUT_SECONDS) -> int:
    """Evict a voice on all workers of a pool; return how many of them, and of those that they call, were unreached."""

    async def evict(channel: grpc.aio.Channel) -> int:
        request = voice_pb2.ForgetVoiceRequest(voice_hash=voice_hash)
        answer = await voice_pb2_grpc.VoiceCacheStub(channel).ForgetVoice(request, timeout=timeout_seconds)
        return int(answer.unreached)

    unreached = 0
    for address, outcome in (await pool.call_all(evict)).items():
        if isinstance(outcome, grpc.aio.AioRpcError):
            log.warning("voice eviction failed on a worker", peer=address, reason=outcome.details())
            unreached += 1
        else:
            unreached += outcome
    return unreached
