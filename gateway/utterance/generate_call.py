"""One `Generate` call: what one llm worker does for an utterance."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from gateway.utterance.utterance_state import UtteranceState
from lighttts.v1 import audio_pb2, llm_pb2, llm_pb2_grpc
from services.common import tracing
from services.common.pool import Lease
from services.common.workers.failover import LossReason, WorkerLost
from services.common.workers.worker_call import ProgressWatch, conversation


@dataclass
class _Sent:
    """What this call has been sent."""

    texts: int = 0
    position: float = 0.0
    voice_wanted: bool = False


async def generate(
    worker: Lease,
    record: UtteranceState,
    watch: ProgressWatch,
    handle: Callable[[llm_pb2.GenerateResponse], Awaitable[None]],
) -> None:
    """Goes on where `record` stands, to the last audio; `handle` gets what is not dealt with here.

    Raises WorkerLost where another worker may do better, else what the worker meant for the client.
    """
    call = llm_pb2_grpc.LlmStub(worker.channel).Generate(metadata=tracing.outgoing(record.start.request_id))
    sent = _Sent()
    async with conversation(call, _requests(record, sent), watch) as responses:
        async for response in responses:
            if response.HasField("need_voice"):
                sent.voice_wanted = True
                record.changed.set()
            else:
                await handle(response)
    if not record.complete:
        raise WorkerLost(LossReason.BROKE_PROTOCOL, "an llm worker ended an utterance before its last audio")


async def _requests(record: UtteranceState, sent: _Sent) -> AsyncGenerator[llm_pb2.GenerateRequest]:
    """What this call has not been sent yet, whenever something changes."""
    opening = record.opening()
    sent.texts = int(opening.HasField("text"))
    yield llm_pb2.GenerateRequest(start=opening)
    while True:
        record.changed.clear()
        if sent.voice_wanted:
            sent.voice_wanted = False
            yield llm_pb2.GenerateRequest(voice=record.voice)
        while sent.texts < len(record.texts):
            sent.texts += 1
            yield llm_pb2.GenerateRequest(text=record.texts[sent.texts - 1])
        if record.position > sent.position:
            sent.position = record.position
            yield llm_pb2.GenerateRequest(position=audio_pb2.PlaybackPosition(seconds=sent.position))
        await record.changed.wait()
