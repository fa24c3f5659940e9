"""A deleted voice leaves the memory of every worker that may hold it: one small service, and who calls it."""

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
"""A worker that does not answer for so long has not been told. One that tells others gives them half of it, so that its
own answer is still waited for."""


class VoiceCacheServicer(voice_pb2_grpc.VoiceCacheServicer):
    """`lighttts.v1.VoiceCache` over a service's own memory."""

    def __init__(self, forget: Callable[[str], Awaitable[int]]) -> None:
        """`forget`: drops a voice by hash, and says how many workers behind could not be told."""
        self._forget = forget

    async def ForgetVoice(
        self, request: voice_pb2.ForgetVoiceRequest, context: Context
    ) -> voice_pb2.ForgetVoiceResponse:
        return voice_pb2.ForgetVoiceResponse(unreached=await self._forget(request.voice_hash))


async def evict_on_all_workers(pool: Pool, voice_hash: str, timeout_seconds: float = TIMEOUT_SECONDS) -> int:
    """Has every worker that a pool knows forget a voice; how many of them, and behind them, could not be told."""

    async def tell(channel: grpc.aio.Channel) -> int:
        request = voice_pb2.ForgetVoiceRequest(voice_hash=voice_hash)
        answer = await voice_pb2_grpc.VoiceCacheStub(channel).ForgetVoice(request, timeout=timeout_seconds)
        return int(answer.unreached)

    unreached = 0
    for address, outcome in (await pool.ask_all(tell)).items():
        if isinstance(outcome, grpc.aio.AioRpcError):
            log.warning("a worker could not be told to forget a voice", peer=address, reason=outcome.details())
            unreached += 1
        else:
            unreached += outcome
    return unreached
