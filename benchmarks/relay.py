"""Counts the work of the relay path: what the services do per second of audio, and until the first audio.

    python -m benchmarks.relay [--requests 5]

Counts, unlike times, depend neither on the machine nor on its load, so two versions can be compared anywhere. The four
services run in this process, with simulated engines, over real gRPC. Of each service it counts the callbacks of the
event loop (a task that continues is one) and the Python functions entered in the loop's thread, generators and
coroutines that continue included; of each call between services the messages and their bytes. Callbacks of gRPC's
poller, one per wake-up of the loop by a network event, belong to no service.

Heartbeats are off for these counts, because their number depends on time. A second run, in which the engines are slow,
counts them: the costs of one heartbeat on its way from decode to llm, or from llm to the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from asyncio.events import Handle
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import grpc.aio

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from lighttts.v1 import audio_pb2, tts_pb2, tts_pb2_grpc
from services.common.rpc_batches import release_batches
from services.common.server import ServiceServer
from services.common.settings import ServiceSettings
from services.decode.server import DecodeService
from services.decode.settings import DecodeSettings
from services.encode.server import EncodeService
from services.encode.settings import EncodeSettings
from services.llm.server import LlmService
from services.llm.settings import LlmSettings

TEXT = "And who is this person you are speaking of, if I may ask?"
CONFIG = tts_pb2.SynthesisConfig(voice_name="anna", seed=1, format=audio_pb2.SAMPLE_FORMAT_F32LE)
SERVICES = ("gateway", "encode", "llm", "decode")
KINDS = ("callbacks", "calls")
POLLER = "grpc"
NEVER = 3600.0
"""Seconds; for heartbeats and watches whose number would depend on time."""
QUICK = {"llm": {"step_s": 0.001}, "decode": {"batch_s": 0.005}}
SLOW = {"llm": {"step_s": 0.01}, "decode": {"batch_s": 0.5}}
"""Costs of the simulated engines: slow ones leave time for heartbeats."""
_SERVICE: ContextVar[str] = ContextVar("service", default="client")


@dataclass
class Counts:
    """By service: callbacks and function calls. By method and direction: messages and bytes."""

    audio_seconds: float = 0.0
    callbacks: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)

    def minus(self, other: Counts) -> Counts:
        """Return the difference; negative counts are left out."""
        names = ("callbacks", "calls", "messages", "size")
        return Counts(self.audio_seconds, *(getattr(self, name) - getattr(other, name) for name in names))


class Meter(grpc.aio.ServerInterceptor):
    """Counts while a block of `counting` runs. As an interceptor of each service it counts messages."""

    def __init__(self) -> None:
        self._counts: Counts | None = None
        self._own: set[CodeType] = set()

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count in the block; of this thread's event loop only."""
        counts, run, service, own = Counts(), Handle._run, "client", self._own

        def counted(handle: Any) -> None:
            nonlocal service
            service = handle._context.get(_SERVICE, "client")
            counts.callbacks[service] += 1
            run(handle)

        def on_event(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and frame.f_code not in own:
                counts.calls[service] += 1

        own |= {counted.__code__, run.__code__}
        self._counts = counts
        Handle._run = counted  # type: ignore[method-assign,assignment]
        sys.setprofile(on_event)
        try:
            yield counts
        finally:
            sys.setprofile(None)
            Handle._run = run  # type: ignore[method-assign]
            self._counts = None

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        name = str(handler_call_details.method).rpartition(".")[2]
        if handler is None or name.startswith("Health/"):
            return handler
        return handler._replace(
            request_deserializer=self._counted(handler.request_deserializer, f"{name} requests"),
            response_serializer=self._counted(handler.response_serializer, f"{name} responses"),
        )

    def _counted(self, convert: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
        def counted(message: Any) -> Any:
            converted = convert(message)
            if self._counts is not None:
                self._counts.messages[name] += 1
                self._counts.size[name] += len(message if isinstance(message, bytes) else converted)
            return converted

        self._own.add(counted.__code__)
        return counted


async def _serve(stack: AsyncExitStack, meter: Meter, service: Any, settings: ServiceSettings) -> ServiceServer:
    """Start a service; its tasks belong to its name."""
    service.interceptors = (*getattr(service, "interceptors", ()), meter)
    server = ServiceServer(service, settings)
    stack.push_async_callback(server.close)
    context = copy_context()
    context.run(_SERVICE.set, service.name)
    await asyncio.create_task(server.start(), context=context)
    return server


@asynccontextmanager
async def serving(
    meter: Meter, folder: Path, costs: dict[str, dict[str, float]], heartbeat_seconds: float = NEVER
) -> AsyncIterator[tts_pb2_grpc.TextToSpeechAsyncStub]:
    """Run the four services in this process, with simulated engines of these costs."""
    llm_costs = {"step_s_per_sequence": 0.0, "prefill_s_per_token": 0.0, "tokens_per_text_id": 8.0} | costs["llm"]
    decode_costs = {"stream_s": 0.0, "frame_s": 0.0} | costs["decode"]
    release_batches()
    (folder / "llm.json").write_text(json.dumps(llm_costs), encoding="utf-8")
    (folder / "decode.json").write_text(json.dumps(decode_costs), encoding="utf-8")
    context = copy_context()
    context.run(_SERVICE.set, POLLER)
    context.run(grpc.aio.init_grpc_aio)
    async with AsyncExitStack() as stack:
        encode = await _serve(stack, meter, EncodeService(encode_settings := EncodeSettings(port=0)), encode_settings)
        decode_settings = DecodeSettings(
            port=0,
            decode_backend="simulated",
            decode_cost_file=folder / "decode.json",
            decode_fixed_hops=True,
            decode_admission="off",
            heartbeat_seconds=heartbeat_seconds,
        )
        decode = await _serve(stack, meter, DecodeService(decode_settings), decode_settings)
        llm_settings = LlmSettings(
            port=0,
            llm_backend="simulated",
            llm_cost_file=folder / "llm.json",
            decode_target=f"static:///{decode.address}",
            heartbeat_seconds=heartbeat_seconds,
            decode_frozen_seconds=NEVER,
            decode_silence_seconds=NEVER,
        )
        llm = await _serve(stack, meter, LlmService(llm_settings), llm_settings)
        gateway_settings = GatewaySettings(
            port=0,
            http_port=0,
            cosyvoice_port="off",
            voices_dir=folder / "voices",
            encode_target=f"static:///{encode.address}",
            llm_target=f"static:///{llm.address}",
            llm_frozen_seconds=NEVER,
            llm_silence_seconds=NEVER,
        )
        gateway = await _serve(stack, meter, GatewayService(gateway_settings), gateway_settings)
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            stub: tts_pb2_grpc.TextToSpeechAsyncStub = tts_pb2_grpc.TextToSpeechStub(channel)
            await listen(stub)  # caches the voice and opens the connections
            yield stub


async def listen(tts: tts_pb2_grpc.TextToSpeechAsyncStub, *, first_only: bool = False) -> float:
    """Speak TEXT, up to its first audio or to its end; return the seconds of audio received."""
    call = tts.Synthesize(tts_pb2.SynthesizeRequest(config=CONFIG, text=TEXT))
    seconds = 0.0
    async for response in call:
        if response.HasField("audio"):
            seconds += len(response.audio.pcm) / 4 / response.audio.sample_rate
            if first_only:
                break
    call.cancel()
    return seconds


@dataclass(frozen=True)
class Report:
    """Sums over the requests."""

    requests: int
    whole: Counts
    """Of whole utterances."""
    first: Counts
    """Up to the first audio."""

    def per_second(self, kind: str, name: str) -> float:
        return float(getattr(self.whole, kind)[name] / self.whole.audio_seconds)

    def per_first_audio(self, kind: str, name: str) -> float:
        return float(getattr(self.first, kind)[name] / self.requests)


async def measure(meter: Meter, tts: tts_pb2_grpc.TextToSpeechAsyncStub, requests: int) -> Report:
    """Count whole utterances, then first audio, one request at a time."""
    with meter.counting() as whole:
        for _ in range(requests):
            whole.audio_seconds += await listen(tts)
    first = Counts()
    for _ in range(requests):
        with meter.counting() as counts:
            await listen(tts, first_only=True)
        for name in ("callbacks", "calls", "messages", "size"):
            getattr(first, name).update(getattr(counts, name))
        await asyncio.sleep(0.2)  # the cancelled call ends everywhere
    return Report(requests, whole, first)


async def run(requests: int, folder: Path) -> None:
    meter = Meter()
    async with serving(meter, folder, QUICK) as tts:
        report = await measure(meter, tts, requests)
    print(f"{requests} utterances of {report.whole.audio_seconds / requests:.2f} s of audio\n")
    print("\n".join(table(report)))
    async with serving(meter, folder, SLOW) as tts:
        with meter.counting() as without:
            await listen(tts)
    async with serving(meter, folder, SLOW, heartbeat_seconds=0.02) as tts:
        with meter.counting() as beating:
            await listen(tts)
    print("\n" + "\n".join(heartbeats(beating.minus(without))))


def table(report: Report) -> Iterator[str]:
    """Yield a Markdown table of the counts."""
    yield "| | per second of audio: callbacks | functions | until the first audio: callbacks | functions |"
    yield "|---|---|---|---|---|"
    for name in (*SERVICES, POLLER):
        figures = [measured(kind, name) for measured in (report.per_second, report.per_first_audio) for kind in KINDS]
        yield f"| {name} | " + " | ".join(f"{figure:.0f}" for figure in figures) + " |"
    yield ""
    yield "| | messages per second of audio | kB per second of audio | messages until the first audio |"
    yield "|---|---|---|---|"
    for name in sorted(report.whole.messages):
        per_second, first = report.per_second("messages", name), report.per_first_audio("messages", name)
        yield f"| {name} | {per_second:.1f} | {report.per_second('size', name) / 1000:.1f} | {first:.1f} |"


def heartbeats(extra: Counts) -> Iterator[str]:
    """Yield the costs of a heartbeat; llm receives those of decode and sends its own."""
    from_decode, from_llm = extra.messages["Decode/Decode responses"], extra.messages["Llm/Generate responses"]
    for name, number in (("decode", from_decode), ("gateway", from_llm), ("llm", (from_decode + from_llm) / 2)):
        figures = [getattr(extra, kind)[name] / max(1, number) for kind in KINDS]
        both = "sent and one received" if name == "llm" else "sent" if name == "decode" else "received"
        yield f"a heartbeat {both}, {name}: {figures[0]:.1f} callbacks, {figures[1]:.1f} functions"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=5)
    with tempfile.TemporaryDirectory(prefix="relay-") as folder:
        asyncio.run(run(parser.parse_args().requests, Path(folder)))


if __name__ == "__main__":
    main()
