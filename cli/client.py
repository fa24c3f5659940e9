"""Client of the gateway's streaming API; measures what a listener notices."""

from __future__ import annotations

import asyncio
import os
import socket
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
from services.common.end_to_end import GATEWAY_END_TO_END
from services.common.errors import from_rpc_error
from services.common.workers.call_end import CallEnd, answers

CONNECT_TIMEOUT = 5.0
"""Seconds to wait for a connection before reporting that no gateway is there."""


HEALTH_SECONDS = 0.25
"""Interval of health checks while waiting for a gateway that can have text spoken."""


class ClientError(Exception):
    """The request failed; the message says why and what to do."""


def check_text(name: str, text: str) -> None:
    """Raise ClientError if `text`, the value of `name`, has bytes that are not UTF-8, which Python reads as
    surrogates: no message can hold them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ClientError(f"{name} is not UTF-8 text; convert it, for example with iconv") from error


class Refused(ClientError):
    """The gateway refused the request for load; the message says when to try again."""


class Absent(ClientError):
    """No gateway or no worker is available now. Retry while a stack is starting."""


@dataclass(frozen=True)
class Access:
    """Address and credentials of a gateway."""

    server: str
    """host:port, or https://host:port for TLS."""
    authority: Path | None = None
    """PEM file of the authorities that sign the gateway's certificate; None for those the system trusts."""
    name: str = ""
    """Name in the gateway's certificate, if it differs from the host in `server`."""
    key: str = ""
    """API key; empty for none."""

    def __post_init__(self) -> None:
        """Raise ClientError for an address that no message can hold, and for a key that no header can hold."""
        check_text("the address of the server", self.server)
        if not (self.key.isascii() and self.key.isprintable()):
            raise ClientError("the API key has a line break or another character that no key has; remove it")

    @classmethod
    def of(cls, server: str | Access) -> Access:
        """Take the other fields from LIGHTTTS_SERVER_CA, LIGHTTTS_SERVER_NAME and LIGHTTTS_API_KEY."""
        if isinstance(server, Access):
            return server
        authority = os.environ.get("LIGHTTTS_SERVER_CA")
        name, key = os.environ.get("LIGHTTTS_SERVER_NAME", ""), os.environ.get("LIGHTTTS_API_KEY", "")
        return cls(server, Path(authority) if authority else None, name, key)

    @property
    def tls(self) -> bool:
        return self.server.startswith("https://")

    @property
    def address(self) -> str:
        return self.server.removeprefix("https://").removeprefix("http://").rstrip("/")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),) if self.key else ()

    def open(self, *options: tuple[str, str | int]) -> grpc.aio.Channel:
        """Return a channel, which connects at its first call. Raises ClientError if `authority` is unreadable."""
        if not self.tls:
            return grpc.aio.insecure_channel(self.address, options)
        try:
            trusted = self.authority.read_bytes() if self.authority else None
        except OSError as error:
            raise ClientError(f"cannot read the authority's certificate {self.authority}: {error.strerror}") from error
        if self.name:
            options += (("grpc.ssl_target_name_override", self.name),)
        return grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(trusted), options)


@dataclass
class Speech:
    """The result of one request. Times in seconds, measured by this client from the moment it sends the text."""

    seed: int = 0
    sample_rate: int = 0
    chunks: int = 0
    samples: int = 0
    time_to_first_audio: float = 0.0
    seconds_spent: float = 0.0
    """Until the last audio arrived."""
    underrun_seconds: float = 0.0
    """Silence for a listener who plays every chunk on arrival, as the gateway reports it."""
    decode_workers: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def audio_seconds(self) -> float:
        return self.samples / self.sample_rate if self.sample_rate else 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds spent per second of audio; below 1 the system keeps up with playback."""
        return self.seconds_spent / self.audio_seconds if self.samples else 0.0


async def speak(
    server: str | Access, config: tts_pb2.SynthesisConfig, text: str, on_audio: Callable[[AudioChunk], None]
) -> Speech:
    """Speak `text` through StreamingSynthesize and call `on_audio` with every chunk (s16le, mono) on arrival.

    Raises ClientError.
    """
    access = Access.of(server)
    async with access.open() as channel:
        await connect(channel, access)
        speech = Speech()
        started = time.monotonic()
        call = tts_pb2_grpc.TextToSpeechStub(channel).StreamingSynthesize(
            _requests(config, text), metadata=access.metadata
        )
        try:
            async for response in answers(call, CallEnd(call)):
                if response.HasField("audio") and response.audio.pcm:
                    speech.seconds_spent = time.monotonic() - started
                    _count(speech, response.audio)
                    on_audio(response.audio)
                else:
                    _note(speech, response)
        except grpc.aio.AioRpcError as error:
            raise client_error(error, access) from error
        return speech


async def check_health(server: str | Access, wait: float = 0.0) -> None:
    """Raise ClientError unless the gateway reports within `wait` seconds that text can be spoken, end to end."""
    access = Access.of(server)
    async with access.open() as channel:
        await connect(channel, access)
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs omit the methods
        until = time.monotonic() + wait
        while True:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=GATEWAY_END_TO_END), timeout=5.0)
            except grpc.aio.AioRpcError as error:
                raise client_error(error, access) from error
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            if time.monotonic() >= until:
                status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
                raise ClientError(
                    f"{access.server} reports {status}: it is starting, stopping, or lacks workers of a service"
                )
            await asyncio.sleep(HEALTH_SECONDS)


async def list_voices(server: str | Access) -> tts_pb2.ListVoicesResponse:
    """Return the voices that a gateway offers. Raises ClientError."""
    access = Access.of(server)
    async with access.open() as channel:
        await connect(channel, access)
        try:
            return await tts_pb2_grpc.VoicesStub(channel).ListVoices(
                tts_pb2.ListVoicesRequest(), timeout=30.0, metadata=access.metadata
            )
        except grpc.aio.AioRpcError as error:
            raise client_error(error, access) from error


async def connect(channel: grpc.aio.Channel, access: Access) -> None:
    """Wait until the channel has a connection. Raises ClientError, which says what answers there instead."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            state = channel.get_state(try_to_connect=True)
            while state != grpc.ChannelConnectivity.READY:
                if state == grpc.ChannelConnectivity.TRANSIENT_FAILURE:  # refused: no process listens there
                    raise await _unreachable(access)
                await channel.wait_for_state_change(state)
                state = channel.get_state()
    except TimeoutError as error:
        raise await _unreachable(access) from error


async def _unreachable(access: Access) -> ClientError:
    """Return why the connection failed, as far as a plain TCP connection to the same address shows."""
    host, _, port = access.address.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        return ClientError(f"{access.server} is not an address; write host:port, such as 127.0.0.1:50050")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (socket.gaierror, UnicodeError):  # UnicodeError: a label of the name is empty or too long
        return Absent(f"the host {host} was not found; check the name in --server host:port")
    except (OSError, TimeoutError):
        return Absent(
            f"no gateway answers at {access.server}. Start one with `light-tts up` (or `make run`), or give its address"
            " with --server"
        )
    writer.close()
    if access.tls:
        return ClientError(
            f"a server answers at {access.address}, but not over TLS with a trusted certificate; give the certificate's"
            " authority with --ca FILE, or omit --tls"
        )
    return ClientError(
        f"a server answers at {access.address}, but not with plain gRPC. Use the gRPC port (50050 by default) instead"
        " of the HTTP port, or add --tls"
    )


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


def client_error(error: grpc.aio.AioRpcError, access: Access) -> ClientError:
    """Return what a call's error means for a person at the command line."""
    cause = from_rpc_error(error)
    hint = f" (try again in {cause.retry_after:.0f} s)" if cause.retry_after else ""
    kinds = {grpc.StatusCode.RESOURCE_EXHAUSTED: Refused, grpc.StatusCode.UNAVAILABLE: Absent}
    kind = kinds.get(error.code(), ClientError)
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        hint = ". Set LIGHTTTS_API_KEY or --api-key"
    return kind(f"{access.server} answered {error.code().name}: {cause.message}{hint}")
