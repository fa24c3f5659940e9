"""One `Generate` call: what one llm worker does for an utterance."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import grpc.aio

from gateway import tasks
from gateway.record import UtteranceRecord
from lighttts.v1 import audio_pb2, llm_pb2, llm_pb2_grpc
from services.common import tracing
from services.common.call_end import CallEnd
from services.common.failover import LossReason, MovePolicy, ProgressWatch, WorkerLost, lost_or_refused

_Call: TypeAlias = "grpc.aio.StreamStreamCall[llm_pb2.GenerateRequest, llm_pb2.GenerateResponse]"
_OWES_NOTHING = (audio_pb2.Heartbeat.STATE_WAITING, audio_pb2.Heartbeat.STATE_WARMING)


@dataclass
class _Sent:
    """What this call has been sent."""

    texts: int = 0
    position: float = 0.0
    voice_wanted: bool = False


async def generate(
    channel: grpc.aio.Channel,
    record: UtteranceRecord,
    policy: MovePolicy,
    handle: Callable[[llm_pb2.GenerateResponse], Awaitable[None]],
) -> None:
    """Goes on where `record` stands, to the last audio; `handle` gets what is not dealt with here.

    Raises WorkerLost where another worker may do better, else what the worker meant for the client.
    """
    call = llm_pb2_grpc.LlmStub(channel).Generate(metadata=tracing.outgoing(record.start.request_id))
    end, sent, watch = CallEnd(call), _Sent(), ProgressWatch(policy)
    try:
        async with tasks.group() as group:
            writer = group.create_task(_write(call, record, sent))
            while isinstance(response := await _next(call, end, policy), llm_pb2.GenerateResponse):
                match response.WhichOneof("response"):
                    case "heartbeat":
                        beat = response.heartbeat
                        watch.beat(beat.steps, owes_nothing=beat.state in _OWES_NOTHING)
                        continue
                    case "need_voice":
                        sent.voice_wanted = True
                        record.changed.set()
                    case _:
                        await handle(response)
                watch.progress()  # only now: our own reader may have kept us, which is not the worker's fault
            writer.cancel()
    finally:
        call.cancel()
    if not record.complete:
        raise WorkerLost(LossReason.BROKE_PROTOCOL, "an llm worker ended an utterance before its last audio")


async def _next(call: _Call, end: CallEnd, policy: MovePolicy) -> llm_pb2.GenerateResponse | object:
    try:
        async with asyncio.timeout(policy.silence_seconds):
            return await call.read()
    except TimeoutError as error:
        raise WorkerLost(LossReason.SILENT, "an llm worker fell silent; try again") from error
    except grpc.aio.AioRpcError as error:
        raise lost_or_refused(await end.error(error)) from error


async def _write(call: _Call, record: UtteranceRecord, sent: _Sent) -> None:
    """Sends what this call has not been sent yet, whenever something changes."""
    try:
        await call.write(llm_pb2.GenerateRequest(start=record.opening()))
        while True:
            record.changed.clear()
            if sent.voice_wanted:
                sent.voice_wanted = False
                await call.write(llm_pb2.GenerateRequest(voice=record.voice))
            while sent.texts < len(record.texts):
                sent.texts += 1
                await call.write(llm_pb2.GenerateRequest(text=record.texts[sent.texts - 1]))
            if record.position > sent.position:
                sent.position = record.position
                position = audio_pb2.PlaybackPosition(seconds=sent.position)
                await call.write(llm_pb2.GenerateRequest(position=position))
            await record.changed.wait()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return  # the call has ended; its reader learns why
