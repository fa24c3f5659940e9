"""Speaking through a gateway's streaming API, with the figures a listener cares about."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lighttts.v1 import tts_pb2, tts_pb2_grpc
from lighttts.v1.audio_pb2 import AudioChunk
from services.common.errors import from_rpc_error

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection before saying that no gateway is there."""


class ClientError(Exception):
    """The request failed; the message says why and what to do."""


class Refused(ClientError):
    """The gateway has too much to do; the message says when to try again."""


@dataclass
class Speech:
    """What became of one request. Times are measured here, at the client, from the moment the text was sent."""

    seed: int = 0
    sample_rate: int = 0
    chunks: int = 0
    samples: int = 0
    time_to_first_audio: float = 0.0
    seconds_spent: float = 0.0
    """Until the last audio arrived."""
    underrun_seconds: float = 0.0
    """Silence a listener heard who played from the first chunk on; reported by the gateway."""
    decode_workers: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def audio_seconds(self) -> float:
        return self.samples / self.sample_rate if self.sample_rate else 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds spent per second of audio; below 1 the system keeps up with a listener."""
        return self.seconds_spent / self.audio_seconds if self.samples else 0.0


async def speak(
    server: str, config: tts_pb2.SynthesisConfig, text: str, on_audio: Callable[[AudioChunk], None]
) -> Speech:
    """Speaks `text` through StreamingSynthesize; `on_audio` gets every chunk (s16le, mono) as it arrives.

    `server` is host:port, or https://host:port for TLS. An API key is taken from LIGHTTTS_API_KEY; on a command line
    others could read it. Raises ClientError.
    """
    async with _channel(server) as channel:
        await _connect(channel, server)
        speech = Speech()
        started = time.monotonic()
        responses = tts_pb2_grpc.TextToSpeechStub(channel).StreamingSynthesize(
            _requests(config, text), metadata=_api_key()
        )
        try:
            async for response in responses:
                if response.HasField("audio") and response.audio.pcm:
                    speech.seconds_spent = time.monotonic() - started
                    _count(speech, response.audio)
                    on_audio(response.audio)
                else:
                    _note(speech, response)
        except grpc.aio.AioRpcError as error:
            raise _client_error(error, server) from error
        return speech


async def check_health(server: str) -> None:
    """Raises ClientError unless the gateway reports SERVING."""
    async with _channel(server) as channel:
        await _connect(channel, server)
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its published types leave the methods out
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5.0)
        except grpc.aio.AioRpcError as error:
            raise _client_error(error, server) from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            raise ClientError(f"{server} reports {status}: it is starting, stopping, or has lost its workers")


async def list_voices(server: str) -> tts_pb2.ListVoicesResponse:
    """The voices a gateway offers. Raises ClientError."""
    async with _channel(server) as channel:
        await _connect(channel, server)
        try:
            return await tts_pb2_grpc.VoicesStub(channel).ListVoices(
                tts_pb2.ListVoicesRequest(), timeout=30.0, metadata=_api_key()
            )
        except grpc.aio.AioRpcError as error:
            raise _client_error(error, server) from error


def _api_key() -> tuple[tuple[str, str], ...]:
    key = os.environ.get("LIGHTTTS_API_KEY")
    return (("authorization", f"Bearer {key}"),) if key else ()


def _channel(server: str) -> grpc.aio.Channel:
    """A channel to `server`; for https:// with the system's authorities, unless LIGHTTTS_SERVER_CA names a PEM file.

    LIGHTTTS_SERVER_NAME is the name to find in the certificate, where it is not the one that is dialled.
    """
    address = server.removeprefix("https://")
    if address == server:
        return grpc.aio.insecure_channel(server)
    authority = os.environ.get("LIGHTTTS_SERVER_CA")
    try:
        trusted = Path(authority).read_bytes() if authority else None
    except OSError as error:
        raise ClientError(f"LIGHTTTS_SERVER_CA: cannot read {authority}: {error.strerror}") from error
    name = os.environ.get("LIGHTTTS_SERVER_NAME")
    options = (("grpc.ssl_target_name_override", name),) if name else ()
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(trusted), options)


async def _connect(channel: grpc.aio.Channel, server: str) -> None:
    way = ", with a certificate to be trusted" if server.startswith("https://") else ""
    no_gateway = (
        f"no gateway answers at {server}{way}. Start one with `light-tts up` (or `make run`), or name one with --server"
    )
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            state = channel.get_state(try_to_connect=True)
            while state != grpc.ChannelConnectivity.READY:
                if state == grpc.ChannelConnectivity.TRANSIENT_FAILURE:  # refused: nothing listens there
                    raise ClientError(no_gateway)
                await channel.wait_for_state_change(state)
                state = channel.get_state()
    except TimeoutError as error:
        raise ClientError(no_gateway) from error


async def _requests(config: tts_pb2.SynthesisConfig, text: str) -> AsyncIterator[tts_pb2.StreamingSynthesizeRequest]:
    yield tts_pb2.StreamingSynthesizeRequest(config=config)
    yield tts_pb2.StreamingSynthesizeRequest(text=text)
    yield tts_pb2.StreamingSynthesizeRequest(end=tts_pb2.End())


def _count(speech: Speech, audio: AudioChunk) -> None:
    if speech.chunks == 0:
        speech.time_to_first_audio = speech.seconds_spent
        speech.sample_rate = audio.sample_rate
    speech.chunks += 1
    speech.samples += len(audio.pcm) // 2


def _note(speech: Speech, response: tts_pb2.StreamingSynthesizeResponse) -> None:
    if response.HasField("started"):
        speech.seed = response.started.seed
    elif response.HasField("warning"):
        speech.warnings.append(response.warning.message)
    elif response.HasField("resumed"):
        speech.warnings.append(f"moved to another worker: {response.resumed.reason}")
    elif response.HasField("finished"):
        speech.underrun_seconds = response.finished.underrun_seconds
        speech.decode_workers = list(response.finished.decode_workers)


def _client_error(error: grpc.aio.AioRpcError, server: str) -> ClientError:
    meant = from_rpc_error(error)
    hint = f" (try again in {meant.retry_after:.0f} s)" if meant.retry_after else ""
    kind = Refused if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else ClientError
    return kind(f"{server} answered {error.code().name}: {meant.message}{hint}")
