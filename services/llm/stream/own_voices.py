"""The checkpoint's own voices, which an llm worker holds from Ready on.

It fetches them from an encode worker. Without them, the first utterance of each voice waits until the gateway has sent
the voice. An encode service that cannot be reached delays the start by a limited time: the voices then come with
requests, and are fetched as soon as an encode worker serves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import grpc.aio
import structlog

from lighttts.v1 import encode_pb2, encode_pb2_grpc, voice_pb2
from services.common.errors import LightTtsError, from_rpc_error
from services.common.pool import Pool
from services.common.voices.cache import VoiceCache
from services.common.voices.voice import Voice

log = structlog.get_logger(__name__)

RETRY_SECONDS = 15.0
"""Interval of the attempts to fetch the voices; a lease waits as long for an encode worker."""
CALL_SECONDS = 30.0


class OwnVoices:
    """Fetches the voices once. Everything runs on the loop that calls `start`."""

    def __init__(self, encode: Pool, voices: VoiceCache, check: Callable[[voice_pb2.VoiceContent], Voice]) -> None:
        """`check` raises InvalidInput for a voice that this worker's model cannot use."""
        self._encode = encode
        self._voices = voices
        self._check = check
        self._fetching: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        """Set when the first attempt has ended."""

    async def start(self, wait_seconds: float) -> None:
        """Fetch the voices. Return when they are here, when an encode worker cannot send them, or after `wait_seconds`
        without an encode worker; then later attempts follow."""
        await self._encode.start()
        self._fetching = asyncio.create_task(self._fetch(), name="own voices")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), wait_seconds)

    async def close(self) -> None:
        if self._fetching is not None and not self._fetching.done():
            self._fetching.cancel()
            await asyncio.wait({self._fetching})
            await self._encode.close()

    async def _fetch(self) -> None:
        while True:
            try:
                voices = await self._request()
            except LightTtsError as error:  # no worker, or one of an earlier version, or with another model
                log.info(
                    "the checkpoint's voices will come with requests, until an encode worker sends them",
                    reason=error.message,
                )
                self._tried.set()
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._voices.hold(voices.values())
                self._tried.set()
                log.info("the checkpoint's voices are here", voices=list(voices))
                break
        await self._encode.close()

    async def _request(self) -> dict[str, Voice]:
        async with self._encode.lease(wait_seconds=RETRY_SECONDS) as worker:
            stub: encode_pb2_grpc.EncodeAsyncStub = encode_pb2_grpc.EncodeStub(worker.channel)
            try:
                responses = stub.BundledVoices(encode_pb2.BundledVoicesRequest(), timeout=CALL_SECONDS)
                return {each.name: self._check(each.voice) async for each in responses}
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error
