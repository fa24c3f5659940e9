"""The client for threads."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from lighttts.v1 import tts_pb2, tts_pb2_grpc
from lighttts_client.connection import OPTIONS, Connection, voice_messages
from lighttts_client.conversation import ConversationState, Event
from lighttts_client.errors import ConnectionLost, LightTtsError, NotFound, check_text, from_rpc_error
from lighttts_client.retry import Retry
from lighttts_client.speech import SpeechState

if TYPE_CHECKING:
    from lighttts.v1.audio_pb2 import AudioChunk

T = TypeVar("T")
Sleep = Callable[[float], None]
Request = tts_pb2.StreamingSynthesizeRequest


class Speech(SpeechState):
    """The speech of one text. Iterate over it once, for chunks of audio; leaving the loop stops the synthesis."""

    def __init__(self, client: Client, text: str, config: tts_pb2.SynthesisConfig) -> None:
        super().__init__(text, config, client.retry)
        self._client = client

    def __iter__(self) -> Iterator[AudioChunk]:
        client = self._client
        while True:
            client.check_open()
            call = client.speech.Synthesize(self.request(), metadata=client.connection.metadata)
            try:
                for response in call:
                    if (chunk := self.take(response)) is not None:
                        yield chunk
                if self.finished is not None:
                    return
                delay = self.failed(ConnectionLost("the speech ended before its end"))
            except grpc.RpcError as error:
                delay = self.failed(from_rpc_error(error))
            finally:
                call.cancel()
            client.pause(delay)

    def read(self) -> bytes:
        """Return all audio."""
        return b"".join(chunk.pcm for chunk in self)


class Conversation(ConversationState):
    """Iterate over it, once, for events; send from another thread, or between two events."""

    def __init__(self, client: Client, config: tts_pb2.SynthesisConfig) -> None:
        super().__init__(config, client.retry)
        self._client = client

    def __iter__(self) -> Iterator[Event]:
        client = self._client
        while True:
            client.check_open()
            requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
            self.open(requests)
            call = client.speech.StreamingSynthesize(iter(requests.get, None), metadata=client.connection.metadata)
            try:
                for response in call:
                    if (event := self.take(response)) is not None:
                        yield event
                if self.finished is not None:
                    return
                delay = self.failed(ConnectionLost("the stream ended before its end"))
            except grpc.RpcError as error:
                delay = self.failed(from_rpc_error(error))
            finally:
                self.close()
                call.cancel()
            client.pause(delay)


class Client:
    """A gateway's client for threads; several threads may use it."""

    def __init__(
        self, connection: Connection | str | None = None, *, retry: Retry | None = None, sleep: Sleep = time.sleep
    ) -> None:
        """`connection`: an address is enough; None takes it from the environment. `sleep` waits before a retry."""
        self.connection = Connection(connection) if isinstance(connection, str) else connection or Connection()
        self.retry = retry or Retry()
        self._sleep = sleep
        self._closed = False
        credentials = self.connection.credentials
        address, options = self.connection.address, list(OPTIONS)
        self._channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self.speech = tts_pb2_grpc.TextToSpeechStub(self._channel)
        self._voices = tts_pb2_grpc.VoicesStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; running calls end."""
        self._closed = True
        self._channel.close()

    def speak(self, text: str, config: tts_pb2.SynthesisConfig | None = None) -> Speech:
        """Speak a text. The iteration raises LightTtsErrors; a broken connection is resumed at the next sample."""
        return Speech(self, text, config or tts_pb2.SynthesisConfig())

    def conversation(self, config: tts_pb2.SynthesisConfig | None = None) -> Conversation:
        """Open a conversation; the first iteration makes the call."""
        return Conversation(self, config or tts_pb2.SynthesisConfig())

    def list_voices(self) -> tts_pb2.ListVoicesResponse:
        """Return the voices of the checkpoint and those of the key's owner. Raises LightTtsError."""
        return self._retried(
            lambda: self._voices.ListVoices(tts_pb2.ListVoicesRequest(), metadata=self.connection.metadata)
        )

    def register_voice(self, header: tts_pb2.CreateVoiceHeader, audio: bytes) -> tts_pb2.Voice:
        """Register the voice of a recording, an audio file. Registering it again changes nothing."""
        return self._retried(
            lambda: self._voices.CreateVoice(voice_messages(header, audio), metadata=self.connection.metadata)
        ).voice

    def delete_voice(self, voice: str) -> None:
        """Delete a registered voice, by name or id."""
        check_text("voice", voice)
        request = tts_pb2.DeleteVoiceRequest(voice=voice)
        lost: list[LightTtsError] = []
        try:
            self._retried(lambda: self._voices.DeleteVoice(request, metadata=self.connection.metadata), lost)
        except NotFound:
            if not lost:  # otherwise an attempt whose answer was lost has deleted it
                raise

    def _retried(self, call: Callable[[], T], lost: list[LightTtsError] | None = None) -> T:
        """Call until there is an answer. `lost` gets the errors of attempts that may have been carried out."""
        failures = 0
        while True:
            self.check_open()
            try:
                return call()
            except grpc.RpcError as rpc_error:
                failures += 1
                error = from_rpc_error(rpc_error)
                if lost is not None and isinstance(error, ConnectionLost):
                    lost.append(error)
                self.pause(self.retry.delay(failures, error))

    def pause(self, seconds: float) -> None:
        """Wait before an attempt. Raises ConnectionLost if the client has been closed."""
        self.check_open()
        self._sleep(seconds)

    def check_open(self) -> None:
        """Raise ConnectionLost if the client has been closed."""
        if self._closed:
            raise ConnectionLost("the client has been closed")
