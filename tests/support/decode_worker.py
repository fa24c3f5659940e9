"""A decode worker for tests of the llm service: a real gRPC server whose audio is a function of the tokens alone."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from numpy.typing import NDArray

from lighttts.v1 import audio_pb2, decode_pb2, decode_pb2_grpc, voice_pb2
from services.common.errors import Internal, InvalidInput, LightTtsError, StateMismatch, to_status
from services.common.rpc import channel_options

SERVICE = "lighttts.v1.Decode"
SAMPLE_RATE = 24000
SAMPLES_PER_TOKEN = 960
CHUNK, LOOKAHEAD = 25, 3
PROMPT_TOKENS = 10
"""Length of the prompt of these tests' voices."""
BEAT_SECONDS = 0.02


def audio_of(tokens: list[int], first: int = 0) -> NDArray[np.float32]:
    """Return the audio of tokens: each sample depends on its token, its index in the token and the token's index."""
    places = np.arange(first, first + len(tokens))[:, None]
    mixed = 31 * np.array(tokens, dtype=np.int64)[:, None] + 17 * places + 7 * np.arange(SAMPLES_PER_TOKEN)
    return (mixed % 65521).astype(np.float32).reshape(-1)


@dataclass
class Script:
    """A worker's faults. Counts are the audio messages of a call that are sent before the fault."""

    needs_voice: bool = False
    refusal: tuple[grpc.StatusCode, str] | None = None
    refuses_state: bool = False
    """Refuse resume records, as a worker with other weights does."""
    misreads_state: bool = False
    """Refuse resume records, as a worker of an earlier release does."""
    die_after: int | None = None
    fail_after: int | None = None
    """Answer as a service does whose engine raised an error."""
    fails_seeds: frozenset[int] = frozenset()
    """Fail in the same way, after one audio message, on requests with these seeds."""
    silent_after: int | None = None
    stand_still_after: int | None = None
    hand_over_after: int | None = None
    speaks_on: bool = False
    """Continue after the hand-over message, as a real worker does until its client has left."""
    end_after: int | None = None
    """Close the stream as if it were complete."""
    skip_after: int | None = None
    """Skip the samples of one token."""
    claim_last_after: int | None = None
    """Send `last` although more tokens will come."""
    cut_short_after: int | None = None
    """Send `last` although it has more tokens, including the last one."""
    overlap: int = 0
    """Number of tokens decoded again after a resume."""
    gate: asyncio.Event | None = None
    """Send no audio before it is set."""


@dataclass
class Call:
    """The requests of one call, and how it ended."""

    start: decode_pb2.DecodeStart
    request_id: str = ""
    voice: voice_pb2.VoiceContent | None = None
    tokens: list[int] = field(default_factory=list)
    hops: list[tuple[int, int, bool]] = field(default_factory=list)
    """First index, count and last flag of every tokens message."""
    positions: list[float] = field(default_factory=list)
    last: bool = False
    audio_messages: int = 0
    cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class DecodeWorker(decode_pb2_grpc.DecodeServicer):
    """One worker on loopback."""

    def __init__(self, name: str = "decode", script: Script | None = None) -> None:
        self.name = name
        self.script = script or Script()
        self.calls: list[Call] = []
        self.called = asyncio.Event()
        self.port = 0
        self._steps = 0
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=channel_options(2**20))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        decode_pb2_grpc.add_DecodeServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once, like a killed process: running streams break."""
        await self._server.stop(None)

    async def Decode(
        self,
        request_iterator: AsyncIterator[decode_pb2.DecodeRequest],
        context: grpc.aio.ServicerContext[decode_pb2.DecodeRequest, decode_pb2.DecodeResponse],
    ) -> AsyncIterator[decode_pb2.DecodeResponse]:
        first = await anext(request_iterator)
        metadata = dict(context.invocation_metadata() or ())
        call = Call(first.start, str(metadata.get("x-request-id", "")))
        self.calls.append(call)
        self.called.set()
        reader = asyncio.create_task(_read(request_iterator, call))
        try:
            async for response in self._serve(call, context):
                yield response
        except (asyncio.CancelledError, GeneratorExit):  # GeneratorExit if it is writing while its client leaves
            call.cancelled = True
            raise
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            call.ended.set()

    async def _serve(
        self, call: Call, context: grpc.aio.ServicerContext[decode_pb2.DecodeRequest, decode_pb2.DecodeResponse]
    ) -> AsyncIterator[decode_pb2.DecodeResponse]:
        script = self.script
        if script.refusal is not None:
            await context.abort(*script.refusal)
        if call.start.resume_record and script.refuses_state:
            await _abort(context, StateMismatch("the resume record is of other weights"))
        if call.start.resume_record and script.misreads_state:
            await _abort(context, InvalidInput("the resume record is of another version"))
        if script.needs_voice:
            need = audio_pb2.NeedVoice(voice_hash=call.start.voice_hash)
            yield decode_pb2.DecodeResponse(need_voice=need)
            while call.voice is None:
                await _wait(call.changed, BEAT_SECONDS)
        started = decode_pb2.DecodeStarted(worker=self.name, sample_rate=SAMPLE_RATE)
        yield decode_pb2.DecodeResponse(started=started)
        record = call.start.resume_record
        spoken = max(0, struct.unpack("<I", record)[0] - script.overlap) if record else 0
        while True:
            sent = call.audio_messages
            if sent == script.die_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")
            if sent == script.fail_after or (sent == 1 and call.start.seed in script.fails_seeds):
                await _abort(context, Internal(f"decoding failed on {self.name}"))
            if sent == script.end_after:
                return
            if sent == script.silent_after:
                await asyncio.Event().wait()
            if sent == script.hand_over_after:
                yield decode_pb2.DecodeResponse(hand_over=decode_pb2.HandOver(reason="draining"))
                if not script.speaks_on:
                    await asyncio.Event().wait()
                script.hand_over_after = None
            reach = self._reach(call, spoken)
            if sent == script.cut_short_after and not call.last:
                reach = None
            if reach is None or sent == script.stand_still_after:
                self._steps += sent != script.stand_still_after
                state = audio_pb2.Heartbeat.STATE_RUNNING
                yield decode_pb2.DecodeResponse(heartbeat=audio_pb2.Heartbeat(steps=self._steps, state=state))
                await _wait(call.changed, BEAT_SECONDS)
                continue
            yield self._audio(call, spoken + (sent == script.skip_after), reach)
            spoken = reach
            call.audio_messages += 1
            if call.last and spoken == len(call.tokens):
                return

    def _reach(self, call: Call, spoken: int) -> int | None:
        """Return the end of the next audio in tokens: the next chunk boundary with its lookahead, or the last token."""
        if self.script.gate is not None and not self.script.gate.is_set():
            return None
        prompt = len(call.voice.speech_tokens) if call.voice is not None else PROMPT_TOKENS
        boundary = ((spoken + prompt) // CHUNK + 1) * CHUNK - prompt
        if call.last:
            return min(boundary, len(call.tokens))
        return boundary if boundary + LOOKAHEAD <= len(call.tokens) else None

    def _audio(self, call: Call, begin: int, end: int) -> decode_pb2.DecodeResponse:
        claims = (self.script.claim_last_after, self.script.cut_short_after)
        audio = audio_pb2.AudioChunk(
            sequence=call.audio_messages,
            first_sample=begin * SAMPLES_PER_TOKEN,
            pcm=audio_of(call.tokens[begin:end], begin).tobytes(),
            format=audio_pb2.SAMPLE_FORMAT_F32LE,
            sample_rate=SAMPLE_RATE,
            last=(call.last and end == len(call.tokens)) or call.audio_messages in claims,
        )
        decoded = decode_pb2.DecodedAudio(audio=audio, resume_record=struct.pack("<I", end), tokens_spoken=end)
        return decode_pb2.DecodeResponse(audio=decoded)


StartWorker = Callable[..., Awaitable[DecodeWorker]]
"""Start a worker by name, with the fields of `Script`."""


async def _read(requests: AsyncIterator[decode_pb2.DecodeRequest], call: Call) -> None:
    async for request in requests:
        match request.WhichOneof("request"):
            case "voice":
                call.voice = request.voice
            case "tokens":
                assert request.tokens.first_index == len(call.tokens)
                call.hops.append((request.tokens.first_index, len(request.tokens.ids), request.tokens.last))
                call.tokens.extend(request.tokens.ids)
                call.last = request.tokens.last
            case "position":
                call.positions.append(request.position.seconds)
        call.changed.set()


async def _abort(
    context: grpc.aio.ServicerContext[decode_pb2.DecodeRequest, decode_pb2.DecodeResponse], error: LightTtsError
) -> None:
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
