"""Recordings that callers upload: bounded in number, size and time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from weakref import WeakValueDictionary

from gateway.auth.caller import Caller
from gateway.auth.shares import Shares
from services.common.errors import InvalidInput, TimedOut


@dataclass(frozen=True)
class UploadLimits:
    bytes: int
    """Size of one recording."""
    seconds: float
    """Time for one whole upload."""
    at_once: int
    """Concurrent uploads of all callers; each is held in memory until it is complete."""
    per_key: int
    """Concurrent uploads of one key."""
    silence_seconds: float
    """Longest wait for the next part of an upload."""
    voices: int
    """Voices per owner, and consents per owner."""


class Uploads:
    """The uploads that run now, of voices and of consents."""

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits
        self._running = Shares("voice uploads", limits.at_once, limits.per_key)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def held(self) -> int:
        """The number of uploads that run."""
        return self._running.held

    @contextlib.contextmanager
    def hold(self, caller: Caller) -> Iterator[None]:
        """Hold a place while the block receives a recording and works on it. Raises Overloaded, QuotaExceeded."""
        with self._running.hold(caller):
            yield

    @contextlib.asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Hold back the other uploads of the owner while the block compares one with what is stored, and stores it."""
        async with self._turns.setdefault(caller.owner, asyncio.Lock()):
            yield

    async def receive(self, parts: AsyncIterator[bytes], field: str) -> bytes:
        """Return the whole recording. Raises InvalidInput, which names `field`, and TimedOut."""
        audio = bytearray()
        limits, now = self.limits, asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(limits.seconds), asyncio.timeout(limits.silence_seconds) as silence:
                async for part in parts:
                    silence.reschedule(now() + limits.silence_seconds)
                    if len(audio) + len(part) > limits.bytes:
                        raise InvalidInput(
                            f"the recording has more than {limits.bytes} bytes; send 3 to 30 seconds", field=field
                        )
                    audio += part
        except TimeoutError as error:
            raise TimedOut(
                f"the upload took longer than {limits.seconds:g} s, or no part of it arrived for"
                f" {limits.silence_seconds:g} s; send it again"
            ) from error
        if not audio:
            raise InvalidInput("the recording is missing; send a WAV, FLAC, MP3 or Ogg file", field=field)
        return bytes(audio)
