"""Encode and llm workers that tests control step by step, behind real servers, and a real gateway that uses them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
from prometheus_client import REGISTRY

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from lighttts.v1 import audio_pb2, llm_pb2, llm_pb2_grpc, tts_pb2, tts_pb2_grpc, voice_pb2, voice_pb2_grpc
from services.common.end_to_end import LLM_END_TO_END
from services.common.errors import LightTtsError
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from tests.support.events import chunks as chunks
from tests.support.events import samples as samples
from tests.support.fake_encode import SAMPLE_RATE, FakeEncode, recording_voice_cache
from tests.support.fake_encode import ids_of as ids_of

SAMPLES_PER_ID = 240
LIMIT_SECONDS = 400
STYLES = ("default", "calm")
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # to read the system's takes a tenth of a rig's start


def speech(ids: list[int], seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the fake llm's audio of an utterance: a function of its ids and seed."""
    ramp = np.linspace(-0.5, 0.5, SAMPLES_PER_ID, dtype=np.float32)
    return np.concatenate([ramp * np.float32((value + seed % 97) % 101 / 101) for value in ids])


@dataclass
class Script:
    """The course of one Generate call."""

    refusal: LightTtsError | None = None
    """Refuse the call with this error instead of accepting it."""
    fail_at_hop: int | None = None
    error: LightTtsError | None = None
    need_voice: bool = False
    hold: dict[int, asyncio.Event] = field(default_factory=dict)
    """Hop n waits for its event."""
    stop_at_hop: int | None = None
    """End the call there as if it were complete."""
    skip_at_hop: int | None = None
    """Skip the first sample of that hop."""
    cut_at_hop: int | None = None
    """Mark that hop as the last one."""
    beats_at_hop: int | None = None
    """Send only heartbeats from there on."""
    beating_steps: bool = False
    """Whether the step counts of these heartbeats grow."""
    beating_state: audio_pb2.Heartbeat.State.ValueType = audio_pb2.Heartbeat.STATE_RUNNING
    repeat_samples: int = 0
    """Every hop except the first repeats this number of samples of the previous one."""
    moved: bool = False


@dataclass
class Generation:
    """The state of one Generate call."""

    number: int
    start: llm_pb2.GenerateStart
    script: Script
    ids: list[int] = field(default_factory=list)
    text_messages: int = 0
    beats: int = 0
    voice: voice_pb2.VoiceContent | None = None
    positions: list[float] = field(default_factory=list)
    hops: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    text_complete: asyncio.Event = field(default_factory=asyncio.Event)
    voice_came: asyncio.Event = field(default_factory=asyncio.Event)
    positioned: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, text: llm_pb2.TextTokens) -> None:
        self.ids.extend(text.ids)
        self.text_messages += 1
        if text.last:
            self.text_complete.set()


class FakeLlm(llm_pb2_grpc.LlmServicer):
    """Send audio of `HOP_IDS` ids per message. `scripts[n]` controls the n-th call."""

    name = "llm"
    rpc_services: tuple[str, ...] = ("lighttts.v1.Llm",)
    end_to_end = LLM_END_TO_END
    HOP_IDS = 4

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.scripts: dict[int, Script] = {}
        self.origin = b"\1 weights"
        self.aligns = False  # tokens with the text: each id is a token, of a confidence of 80 %
        self.first = llm_pb2.FirstTimes()
        """Times in the first audio message of every call."""
        self.calls: list[Generation] = []
        self.evicted: list[str] = []
        """Hashes of the voices that this worker was asked to evict."""
        self.behind = ""
        """Why the services behind this worker cannot serve; empty while they can."""

    def unable(self) -> str:
        return self.behind

    def register(self, server: grpc.aio.Server) -> None:
        llm_pb2_grpc.add_LlmServicer_to_server(self, server)
        voice_pb2_grpc.add_VoiceCacheServicer_to_server(recording_voice_cache(self.evicted), server)

    async def start(self) -> None: ...
    async def drain(self) -> None: ...
    async def close(self) -> None: ...

    async def ListStyles(self, request: Any, context: Any) -> llm_pb2.ListStylesResponse:
        return llm_pb2.ListStylesResponse(styles=STYLES)

    async def Generate(self, request_iterator: Any, context: Any) -> AsyncIterator[llm_pb2.GenerateResponse]:
        start = (await anext(aiter(request_iterator))).start
        number = len(self.calls)
        call = Generation(number, start, self.scripts.get(number, Script()))
        self.calls.append(call)
        if start.HasField("text") or start.speech_tokens:  # a conversion takes no text
            whole = llm_pb2.TextTokens(ids=start.speech_tokens, last=True)
            call.take(whole if start.speech_tokens else start.text)
        reader = asyncio.create_task(self._read(request_iterator, call))
        try:
            async for response in self._speak(call):
                yield response
            call.ended.set()
        finally:
            reader.cancel()
            if not call.ended.is_set():
                call.cancelled.set()

    async def _read(self, requests: Any, call: Generation) -> None:
        async for request in requests:
            match request.WhichOneof("request"):
                case "voice":
                    call.voice = request.voice
                    call.voice_came.set()
                case "text":
                    call.take(request.text)
                case "position":
                    call.positions.append(request.position.seconds)
                    call.positioned.set()

    async def _speak(self, call: Generation) -> AsyncIterator[llm_pb2.GenerateResponse]:
        if call.script.need_voice:
            yield llm_pb2.GenerateResponse(need_voice=audio_pb2.NeedVoice(voice_hash=call.start.voice_hash))
            await call.voice_came.wait()
        if call.script.refusal is not None:
            raise call.script.refusal
        started = llm_pb2.GenerateStarted(
            llm_worker=f"llm-{self.number}",
            decode_worker="decode-0",
            sample_rate=SAMPLE_RATE,
            text_order=call.start.text_order or llm_pb2.TEXT_ORDER_WHOLE,
            origin=self.origin,
            samples_per_token=SAMPLES_PER_ID * self.aligns,
        )
        yield llm_pb2.GenerateResponse(started=started)
        await call.text_complete.wait()
        pcm = speech(call.ids, call.start.seed)
        hop = self.HOP_IDS * SAMPLES_PER_ID
        resume = call.start.resume
        known, sent = resume.next_sample, len(resume.raw_ids)
        assert list(resume.raw_ids) == call.ids[:sent]
        assert resume.decode_record == (b"record at %d" % known if known else b"")
        assert resume.HasField("text_position") == bool(self.aligns and known)
        for first in range(known, len(pcm), hop):
            if call.hops in call.script.hold:
                await call.script.hold[call.hops].wait()
            if call.hops == call.script.fail_at_hop:
                assert call.script.error is not None
                raise call.script.error
            if call.hops == call.script.stop_at_hop:
                return
            while call.hops == call.script.beats_at_hop:
                call.beats += 1
                steps = call.hops + call.beats * call.script.beating_steps
                beat = audio_pb2.Heartbeat(steps=steps, state=call.script.beating_state)
                yield llm_pb2.GenerateResponse(heartbeat=beat)
                await asyncio.sleep(0.01)
            if call.script.moved and call.hops == 1:
                moved = llm_pb2.DecodeMoved(from_worker="decode-0", to_worker="decode-1", reason="died")
                yield llm_pb2.GenerateResponse(moved=moved)
            begin = max(0, first - call.script.repeat_samples) + (call.hops == call.script.skip_at_hop)
            chunk = audio_pb2.AudioChunk(
                sequence=call.hops,
                first_sample=begin,
                pcm=pcm[begin : first + hop].astype("<f4").tobytes(),
                format=audio_pb2.SAMPLE_FORMAT_F32LE,
                sample_rate=SAMPLE_RATE,
                last=first + hop >= len(pcm) or call.hops == call.script.cut_at_hop,
            )
            call.hops += 1
            end = first + len(pcm[first : first + hop])
            raw_ids = call.ids[sent : end // SAMPLES_PER_ID]
            places, sent = range(sent, sent + len(raw_ids)) if self.aligns else (), sent + len(raw_ids)
            record = b"record at %d" % end
            audio = llm_pb2.GeneratedAudio(
                audio=chunk,
                raw_ids=raw_ids,
                decode_record=record,
                tokens_generated=sent if self.aligns else len(call.ids),
                text_ids=places,
                confidences=[80 for _ in places],
                text_position=sent - 1 if self.aligns else None,
                tokens_spoken=end // SAMPLES_PER_ID,
                first=self.first if call.hops == 1 else None,
            )
            yield llm_pb2.GenerateResponse(audio=audio)
            yield llm_pb2.GenerateResponse(heartbeat=audio_pb2.Heartbeat(steps=call.hops))
        worker = f"decode-{call.number}"
        yield llm_pb2.GenerateResponse(done=llm_pb2.GenerateDone(decode_worker=worker, speech_tokens=len(call.ids)))


@dataclass
class Rig:
    """A gateway with fake workers, and a client of it."""

    encodes: list[FakeEncode]
    llms: list[FakeLlm]
    llm_servers: list[ServiceServer]
    gateway: GatewayService
    server: ServiceServer
    channel: grpc.aio.Channel
    http: httpx.AsyncClient
    encode_servers: list[ServiceServer]

    @property
    def encode(self) -> FakeEncode:
        return self.encodes[0]

    @property
    def llm(self) -> FakeLlm:
        return self.llms[0]

    @property
    def tts(self) -> tts_pb2_grpc.TextToSpeechAsyncStub:
        return tts_pb2_grpc.TextToSpeechStub(self.channel)

    @property
    def lexicon(self) -> tts_pb2_grpc.LexiconAsyncStub:
        return tts_pb2_grpc.LexiconStub(self.channel)

    @property
    def voices(self) -> tts_pb2_grpc.VoicesAsyncStub:
        return tts_pb2_grpc.VoicesStub(self.channel)


@asynccontextmanager
async def rig(
    llms: int = 1,
    limit_seconds: float = LIMIT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    behind: str = "",
    encodes: int = 1,
    end_of_prompt: bool | None = None,
    encode_settings: EncodeSettings | None = None,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """Start everything; at the end check that no new task is left.

    `behind` is the reason for which the llm workers cannot serve end to end. `end_of_prompt`: whether the model has the
    token that ends an instruction. `encode_settings`: use a real encode service with these instead of a fake one.
    """
    before = asyncio.all_tasks()
    async with asyncio.timeout(limit_seconds):
        async with AsyncExitStack() as stack:
            encoders = [FakeEncode() for _ in range(encodes)]
            workers = [FakeLlm(number) for number in range(llms)]
            for worker in workers:
                worker.behind = behind
            for encode in encoders:
                encode.end_of_prompt = end_of_prompt
            encode_servers = [await _serve(stack, encode, ServiceSettings()) for encode in encoders]
            if encode_settings is not None:
                encode_servers = [await _serve(stack, EncodeService(encode_settings), encode_settings)]
            llm_servers = [await _serve(stack, llm, ServiceSettings()) for llm in workers]
            # A held worker sends no heartbeats, and must not count as silent except in tests of that.
            patient = {"llm_silence_seconds": LIMIT_SECONDS, "llm_frozen_seconds": 0}
            places = {"http_port": 0, "port": 0, "cosyvoice_port": "off", "voices_dir": stack.enter_context(_folder())}
            options: dict[str, Any] = {"drain_notice_seconds": 0, "refusal_seconds": 0} | places | patient | settings
            targets = ["static:///" + ",".join(one.address for one in each) for each in (encode_servers, llm_servers)]
            gateway_settings = GatewaySettings(encode_target=targets[0], llm_target=targets[1], **options)
            gateway = GatewayService(gateway_settings, clock)
            server = await _serve(stack, gateway, gateway_settings)
            channel = grpc.aio.insecure_channel(server.address, options=[("grpc.max_send_message_length", 64 * 2**20)])
            stack.push_async_callback(channel.close)
            url = f"http://127.0.0.1:{gateway.http_port}"
            client = httpx.AsyncClient(base_url=url, trust_env=False, timeout=None, verify=NO_CERTIFICATES)  # noqa: S113 - the rig has its own limit
            http = await stack.enter_async_context(client)
            for pool, servers in (("encode", encode_servers), ("llm", llm_servers)):
                for worker_server in servers:
                    await until(partial(_is_healthy, pool, worker_server.address))
            yield Rig(encoders, workers, llm_servers, gateway, server, channel, http, encode_servers)
        await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


def _is_healthy(pool: str, worker: str) -> bool:
    return REGISTRY.get_sample_value("lighttts_pool_healthy", {"pool": pool, "worker": worker}) == 1


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until `holds` returns true; raises TimeoutError after LIMIT_SECONDS."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not holds():  # noqa: ASYNC110 - what is awaited may lie in another process or library
            await asyncio.sleep(0.005)


async def _serve(stack: AsyncExitStack, service: Any, settings: ServiceSettings) -> ServiceServer:
    server = ServiceServer(service, settings)
    stack.push_async_callback(server.close)
    await server.start()
    return server


class Conversation:
    """A client of StreamingSynthesize."""

    def __init__(
        self, rig_: Rig, config: tts_pb2.SynthesisConfig | None = None, metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.call = rig_.tts.StreamingSynthesize(metadata=metadata)
        self._config = config or tts_pb2.SynthesisConfig(seed=7, format=audio_pb2.SAMPLE_FORMAT_F32LE)
        self.events: list[Any] = []

    async def begin(self) -> Conversation:
        await self.call.write(tts_pb2.StreamingSynthesizeRequest(config=self._config))
        return self

    async def text(self, text: str) -> None:
        await self.call.write(tts_pb2.StreamingSynthesizeRequest(text=text))

    async def flush(self) -> None:
        await self.call.write(tts_pb2.StreamingSynthesizeRequest(flush=tts_pb2.Flush()))

    async def configure(self, **fields: Any) -> None:
        configure = tts_pb2.Configure(config=tts_pb2.SynthesisConfig(**fields))
        await self.call.write(tts_pb2.StreamingSynthesizeRequest(configure=configure))

    async def cancel(self) -> None:
        await self.call.write(tts_pb2.StreamingSynthesizeRequest(cancel=tts_pb2.Cancel()))

    async def position(self, seconds: float) -> None:
        position = audio_pb2.PlaybackPosition(seconds=seconds)
        await self.call.write(tts_pb2.StreamingSynthesizeRequest(position=position))

    async def end(self) -> None:
        await self.call.write(tts_pb2.StreamingSynthesizeRequest(end=tts_pb2.End()))

    async def next(self) -> Any:
        """Return the next event, or None at the end."""
        response = await self.call.read()
        if not isinstance(response, tts_pb2.StreamingSynthesizeResponse):
            return None
        event = getattr(response, response.WhichOneof("event") or "")
        self.events.append(event)
        return event

    async def next_of(self, kind: type) -> Any:
        """Return the next event of a kind; other events are stored in `events`."""
        while not isinstance(event := await self.next(), kind):
            assert event is not None, f"the stream ended without {kind.__name__}"
        return event

    async def rest(self) -> list[Any]:
        """Read to the end and return all events of the stream."""
        while await self.next() is not None:
            pass
        return self.events
