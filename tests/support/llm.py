"""The llm service in this process, and a client that checks and collects its responses."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from lighttts.v1 import llm_pb2, llm_pb2_grpc, voice_pb2
from services.common.checkpoint.model_dir import open_model_dir
from services.common.errors import LightTtsError, from_rpc_error
from services.common.pool import open_channel
from services.common.server import ServiceServer
from services.common.voices.message import to_message
from services.common.voices.voice import Voice, voice_identity
from services.common.workers.call_end import CallEnd, answers
from services.llm.server import LlmService
from services.llm.settings import LlmSettings
from tests.support.decode_worker import PROMPT_TOKENS, SAMPLES_PER_TOKEN

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"
MODEL_ID = voice_identity(open_model_dir(TINY))
LIMIT_SECONDS = 400
TEXT = tuple(range(5, 25))
TOKENS_PER_TEXT_ID = 6
SPEECH_TOKENS = len(TEXT) * TOKENS_PER_TEXT_ID
"""Speech tokens that the simulated backend generates for TEXT."""


def make_voice(name: str = "one") -> voice_pb2.VoiceContent:
    voice = Voice(
        hash=f"hash-of-{name}",
        transcript="a prompt",
        prompt_text_ids=np.array([1, 2, 3], dtype=np.int32),
        speech_tokens=np.arange(PROMPT_TOKENS, dtype=np.int32),
        mel=np.full((2 * PROMPT_TOKENS, 80), 0.5, dtype=np.float32),
        embedding=np.full(192, 0.25, dtype=np.float32),
        seconds=0.4,
    )
    return to_message(voice, MODEL_ID)


VOICE = make_voice()


@asynccontextmanager
async def llm_service(
    tmp_path: Path,
    *decode: str,
    step_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    **changes: Any,
) -> AsyncIterator[Llm]:
    """Run an llm service that sends its tokens to the `decode` addresses; by default with the simulated backend.

    The block's time is limited, so that a lost event fails a test instead of hanging it.
    """
    costs = {"step_s": step_s, "step_s_per_sequence": 0, "prefill_s_per_token": 0}
    cost_file = tmp_path / "costs.json"
    cost_file.write_text(json.dumps({**costs, "tokens_per_text_id": TOKENS_PER_TEXT_ID}))
    options: dict[str, Any] = {
        "port": 0,
        "decode_target": "static:///" + ",".join(decode),
        "llm_backend": "simulated",
        "llm_cost_file": cost_file,
        "heartbeat_seconds": 0.02,
        "worker_name": "llm-0",
        "drain_notice_seconds": 0.0,
    }
    settings = LlmSettings(**(options | changes))
    server = ServiceServer(LlmService(settings, clock), settings)
    try:
        await server.start()
        async with asyncio.timeout(LIMIT_SECONDS), open_channel(server.address) as channel:
            yield Llm(llm_pb2_grpc.LlmStub(channel), server)
    finally:
        await server.close()


@dataclass
class Llm:
    stub: Any
    server: ServiceServer

    def generate(self, *requests: llm_pb2.GenerateRequest) -> AsyncIterator[llm_pb2.GenerateResponse]:
        """Return the responses of a call with these requests."""

        async def outgoing() -> AsyncIterator[llm_pb2.GenerateRequest]:
            for request in requests:
                yield request

        call = self.stub.Generate(outgoing())
        return answers(call, CallEnd(call))

    async def speak(self, text: Sequence[int] = TEXT, **options: Any) -> Spoken:
        """Generate one utterance to its end."""
        spoken = Spoken()
        async for _ in self.responses(spoken, text, **options):
            pass
        return spoken

    async def responses(
        self,
        spoken: Spoken,
        text: Sequence[int] = TEXT,
        voice: voice_pb2.VoiceContent = VOICE,
        deadline: float | None = None,
        **start: Any,
    ) -> AsyncGenerator[llm_pb2.GenerateResponse]:
        """Yield the responses and collect them in `spoken`; the voice is sent when it is requested."""
        call = self.stub.Generate(metadata=(("x-request-id", "request-7"),), timeout=deadline)
        end = CallEnd(call)
        try:
            await call.write(llm_pb2.GenerateRequest(start=start_message(voice_hash=voice.voice_hash, **start)))
            await call.write(text_message(text))
            while (response := await call.read()) is not grpc.aio.EOF:
                if response.HasField("need_voice"):
                    await call.write(llm_pb2.GenerateRequest(voice=voice))
                spoken.note(response)
                yield response
        except grpc.aio.AioRpcError as error:
            raise await end.error(error) from error
        finally:
            call.cancel()


@dataclass
class Spoken:
    """The collected responses of one utterance."""

    chunks: list[NDArray[np.float32]] = field(default_factory=list)
    raw_ids: list[int] = field(default_factory=list)
    started: list[llm_pb2.GenerateStarted] = field(default_factory=list)
    moved: list[llm_pb2.DecodeMoved] = field(default_factory=list)
    audio: list[llm_pb2.GeneratedAudio] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    done: llm_pb2.GenerateDone | None = None

    @property
    def samples(self) -> NDArray[np.float32]:
        return np.concatenate(self.chunks)

    def note(self, response: llm_pb2.GenerateResponse) -> None:
        kind = response.WhichOneof("response")
        self.kinds.append(kind or "")
        match kind:
            case "started":
                self.started.append(response.started)
            case "moved":
                self.moved.append(response.moved)
            case "done":
                self.done = response.done
            case "audio":
                self._note_audio(response.audio)

    def _note_audio(self, generated: llm_pb2.GeneratedAudio) -> None:
        audio = generated.audio
        assert audio.sequence == len(self.chunks)
        assert audio.first_sample == sum(map(len, self.chunks))
        assert self.done is None
        assert not (self.audio and self.audio[-1].audio.last)
        self.audio.append(generated)
        self.raw_ids.extend(generated.raw_ids)
        self.chunks.append(np.frombuffer(audio.pcm, dtype="<f4"))
        if not audio.last:
            assert len(self.chunks[-1]) % SAMPLES_PER_TOKEN == 0


def start_message(voice_hash: str = VOICE.voice_hash, **fields: Any) -> llm_pb2.GenerateStart:
    defaults: dict[str, Any] = {"request_id": "r", "seed": 3}
    return llm_pb2.GenerateStart(voice_hash=voice_hash, **(defaults | fields))


def starting(**fields: Any) -> llm_pb2.GenerateRequest:
    return llm_pb2.GenerateRequest(start=start_message(**fields))


def text_message(ids: Sequence[int], *, last: bool = True) -> llm_pb2.GenerateRequest:
    return llm_pb2.GenerateRequest(text=llm_pb2.TextTokens(ids=ids, last=last))


def metric(name: str, **labels: str) -> float:
    value = REGISTRY.get_sample_value(name, labels)
    return 0.0 if value is None else value


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own limit ends the wait otherwise."""
    while not condition():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.005)


async def all_serving(addresses: Sequence[str]) -> None:
    """Wait until the pool can lease each of these decode workers."""
    await until(lambda: all(metric("lighttts_pool_healthy", pool="decode", worker=one) == 1 for one in addresses))


async def all_free() -> None:
    """Wait until the engine holds nothing of any utterance."""
    names = ("sequences_running", "sequences_waiting", "kv_blocks_used")
    await until(lambda: all(metric(f"lighttts_llm_{name}") == 0 for name in names))


async def refusal(call: AsyncIterator[Any]) -> tuple[grpc.StatusCode, LightTtsError]:
    """Return how a call fails: its status, and the error that our services read from it."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), from_rpc_error(error)
    raise AssertionError("the call was not refused")
