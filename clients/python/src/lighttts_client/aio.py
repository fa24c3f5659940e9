"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc.aio

from lighttts.v1 import tts_pb2, tts_pb2_grpc
from lighttts_client.call_end import CallEnd
from lighttts_client.connection import OPTIONS, Connection, voice_messages
from lighttts_client.conversation import ConversationState, Event
from lighttts_client.errors import ConnectionLost, LightTtsError, NotFound, check_text, from_rpc_error
from lighttts_client.responses import responses
from lighttts_client.retry import Retry
from lighttts_client.speech import SpeechState

if TYPE_CHECKING:
    from lighttts.v1.audio_pb2 import AudioChunk
    from lighttts.v1.tts_pb2_grpc import TextToSpeechAsyncStub, VoicesAsyncStub

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
Request = tts_pb2.StreamingSynthesizeRequest


class AsyncSpeech(SpeechState):
    """The speech of one text. Iterate over it once, for chunks of audio; leaving the loop stops the synthesis."""

    def __init__(self, client: AsyncClient, text: str, config: tts_pb2.SynthesisConfig) -> None:
        super().__init__(text, config, client.retry)
        self._client = client

    async def __aiter__(self) -> AsyncIterator[AudioChunk]:
        client = self._client
        while True:
            client.check_open()
            call = client.speech.Synthesize(self.request(), metadata=client.connection.metadata)
            try:
                async with aclosing(responses(call)) as answer:
                    async for response in answer:
                        if (chunk := self.take(response)) is not None:
                            yield chunk
                if self.finished is not None:
                    return
                delay = self.failed(ConnectionLost("the speech ended before its end"))
            except grpc.aio.AioRpcError as error:
                delay = self.failed(from_rpc_error(error))
            except asyncio.CancelledError:
                client.check_open()
                raise
            await client.pause(delay)

    async def read(self) -> bytes:
        """Return all audio."""
        return b"".join([chunk.pcm async for chunk in self])


class AsyncConversation(ConversationState):
    """Iterate over it, once, for events; send from any task."""

    def __init__(self, client: AsyncClient, config: tts_pb2.SynthesisConfig) -> None:
        super().__init__(config, client.retry)
        self._client = client

    async def __aiter__(self) -> AsyncIterator[Event]:
        client = self._client
        while True:
            client.check_open()
            requests: asyncio.Queue[Request | None] = asyncio.Queue()
            self.open(requests)
            call = client.speech.StreamingSynthesize(_each(requests), metadata=client.connection.metadata)
            end = CallEnd(call)
            try:
                async with aclosing(responses(call)) as answer:
                    async for response in answer:
                        if (event := self.take(response)) is not None:
                            yield event
                if self.finished is not None:
                    return
                delay = self.failed(ConnectionLost("the stream ended before its end"))
            except grpc.aio.AioRpcError as error:
                delay = self.failed(from_rpc_error(await end.error(error)))
            except asyncio.CancelledError:
                client.check_open()
                raise
            finally:
                self.close()
            await client.pause(delay)


class AsyncClient:
    """A gateway's client for asyncio. Create it on the running loop."""

    def __init__(
        self, connection: Connection | str | None = None, *, retry: Retry | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        """`connection`: an address is enough; None takes it from the environment. `sleep` waits before a retry."""
        self.connection = Connection(connection) if isinstance(connection, str) else connection or Connection()
        self.retry = retry or Retry()
        self._sleep = sleep
        self._closed = False
        credentials = self.connection.credentials
        address = self.connection.address
        self._channel = (
            grpc.aio.insecure_channel(address, OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, OPTIONS)
        )
        self.speech: TextToSpeechAsyncStub = tts_pb2_grpc.TextToSpeechStub(self._channel)
        self._voices: VoicesAsyncStub = tts_pb2_grpc.VoicesStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; running calls end."""
        self._closed = True
        await self._channel.close()

    def speak(self, text: str, config: tts_pb2.SynthesisConfig | None = None) -> AsyncSpeech:
        """Speak a text. The iteration raises LightTtsErrors; a broken connection is resumed at the next sample."""
        return AsyncSpeech(self, text, config or tts_pb2.SynthesisConfig())

    def conversation(self, config: tts_pb2.SynthesisConfig | None = None) -> AsyncConversation:
        """Open a conversation; the first iteration makes the call."""
        return AsyncConversation(self, config or tts_pb2.SynthesisConfig())

    async def list_voices(self) -> tts_pb2.ListVoicesResponse:
        """Return the voices of the checkpoint and those of the key's owner. Raises LightTtsError."""
        return await self._retried(
            lambda: self._voices.ListVoices(tts_pb2.ListVoicesRequest(), metadata=self.connection.metadata)
        )

    async def register_voice(self, header: tts_pb2.CreateVoiceHeader, audio: bytes) -> tts_pb2.Voice:
        """Register the voice of a recording, an audio file. Registering it again changes nothing."""
        response = await self._retried(
            lambda: self._voices.CreateVoice(voice_messages(header, audio), metadata=self.connection.metadata)
        )
        return response.voice

    async def delete_voice(self, voice: str) -> None:
        """Delete a registered voice, by name or id."""
        check_text("voice", voice)
        request = tts_pb2.DeleteVoiceRequest(voice=voice)
        lost: list[LightTtsError] = []
        try:
            await self._retried(lambda: self._voices.DeleteVoice(request, metadata=self.connection.metadata), lost)
        except NotFound:
            if not lost:  # otherwise an attempt whose answer was lost has deleted it
                raise

    async def _retried(self, call: Callable[[], Awaitable[T]], lost: list[LightTtsError] | None = None) -> T:
        """Call until there is an answer. `lost` gets the errors of attempts that may have been carried out."""
        failures = 0
        while True:
            self.check_open()
            try:
                return await call()
            except grpc.aio.AioRpcError as rpc_error:
                failures += 1
                error = from_rpc_error(rpc_error)
                if lost is not None and isinstance(error, ConnectionLost):
                    lost.append(error)
                await self.pause(self.retry.delay(failures, error))
            except asyncio.CancelledError:
                self.check_open()
                raise

    async def pause(self, seconds: float) -> None:
        """Wait before an attempt. Raises ConnectionLost if the client has been closed."""
        self.check_open()
        await self._sleep(seconds)

    def check_open(self) -> None:
        """Raise ConnectionLost if the client has been closed, which cancels its calls; grpcio reports that as if this
        task had been cancelled."""
        task = asyncio.current_task()
        if self._closed and not (task is not None and task.cancelling()):
            raise ConnectionLost("the client has been closed")


async def _each(requests: asyncio.Queue[Request | None]) -> AsyncGenerator[Request]:
    while (request := await requests.get()) is not None:
        yield request
