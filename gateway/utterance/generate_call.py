"""One `Generate` call: one llm worker speaks an utterance, or the rest of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from gateway.utterance.utterance_state import UtteranceState
from lighttts.v1 import audio_pb2, llm_pb2, llm_pb2_grpc
from services.common import tracing
from services.common.pool import Lease
from services.common.workers.failover import LossReason, WorkerLost
from services.common.workers.worker_call import ProgressWatch, accepting_state, conversation


@dataclass
class _Sent:
    """What this call has sent to its worker."""

    texts: int = 0
    position: float = 0.0
    voice_wanted: bool = False


async def generate(
    worker: Lease,
    state: UtteranceState,
    watch: ProgressWatch,
    handle: Callable[[llm_pb2.GenerateResponse], Awaitable[None]],
) -> None:
    """Generate from `state` to the last audio; `handle` gets the responses that are not handled here.

    Raises WorkerLost if another worker could take over, otherwise the error that the worker sent for the client.
    """
    call = llm_pb2_grpc.LlmStub(worker.channel).Generate(metadata=tracing.outgoing(state.start.request_id))
    sent = _Sent()
    async with (
        accepting_state(bool(state.samples)) as acceptance,
        conversation(call, _requests(state, sent), watch) as responses,
    ):
        async for response in responses:
            acceptance.given |= response.HasField("started")
            if response.HasField("need_voice"):
                sent.voice_wanted = True
                state.changed.set()
            else:
                await handle(response)
    if not state.complete:
        raise WorkerLost(LossReason.BROKE_PROTOCOL, "an llm worker ended an utterance before its last audio")


async def _requests(state: UtteranceState, sent: _Sent) -> AsyncGenerator[llm_pb2.GenerateRequest]:
    """Yield what this call has not sent yet, whenever `state` changes."""
    opening = state.start_message()
    sent.texts = int(opening.HasField("text"))
    yield llm_pb2.GenerateRequest(start=opening)
    while True:
        state.changed.clear()
        if sent.voice_wanted:
            sent.voice_wanted = False
            yield llm_pb2.GenerateRequest(voice=state.voice)
        while sent.texts < len(state.texts):
            sent.texts += 1
            yield llm_pb2.GenerateRequest(text=state.texts[sent.texts - 1])
        if state.position > sent.position:
            sent.position = state.position
            yield llm_pb2.GenerateRequest(position=audio_pb2.PlaybackPosition(seconds=sent.position))
        await state.changed.wait()
