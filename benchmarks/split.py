"""Measures the cost of separate services for first audio: engines called directly, and four processes over gRPC.

    python -m benchmarks.split [--requests 100]

Both engines run simulated backends, so that the transport is compared and not the computing. The same texts go
alternately each way: text normalised and tokenised, speech tokens generated, the first hop decoded, until the first
samples. Over gRPC the time ends with the client's first audio chunk, with an open connection and a known voice. It
begins with the client's call of `Synthesize`, or, in a conversation whose stream is open, with its text. A chain of the
same calls between four processes that do nothing else (benchmarks.bare_chain) shows what gRPC itself takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import queue
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import grpc.aio

from benchmarks import bare_chain
from cli.local.stack import Stack, StackConfig
from lighttts.v1 import encode_pb2, encode_pb2_grpc, tts_pb2, tts_pb2_grpc, voice_pb2
from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.settings import EMBEDDED_MODEL
from services.common.voices.message import from_message
from services.common.voices.voice import voice_identity
from services.decode.engine.backends import AudioFormat, CostModel, SimulatedBackend
from services.decode.engine.engine import DecodeEngine
from services.decode.engine.events import AudioEvent
from services.decode.engine.scheduler import EngineLimits
from services.decode.engine.state import StreamSpec
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.text_encoder import SentenceEncoder
from services.llm.engine.layout import Prompt
from services.llm.engine.sequence import Request, SamplingOptions, TokensEvent
from services.llm.loading import load_engine
from services.llm.settings import LlmSettings
from services.llm.stream.hops import HopPlan
from services.llm.styles import read_styles

TEXT = "And who is this person you are speaking of?"
VOICE = "anna"
LLM_COSTS = {"step_s": 0.002, "step_s_per_sequence": 0.0, "prefill_s_per_token": 0.0}
DECODE_COSTS = {"batch_s": 0.02, "stream_s": 0.0, "frame_s": 0.0}
STAGES = ("encode", "first_token", "first_hop", "decode", "delivery")


class Direct:
    """The engines in this process, called directly."""

    def __init__(self, voice: voice_pb2.VoiceContent, costs: dict[str, Path]) -> None:
        self._model: ModelDir = open_model_dir(EMBEDDED_MODEL)
        self._voice = from_message(voice, voice_identity(self._model), self._model.flow)
        self._frontend = TextFrontend(self._model, Normaliser())
        settings = LlmSettings(llm_backend="simulated", llm_cost_file=costs["llm"])
        self._llm = load_engine(settings, self._model, read_styles(self._model))
        backend = SimulatedBackend(CostModel.read(costs["decode"]), AudioFormat.of(self._model))
        self._decode = DecodeEngine(backend, EngineLimits(admission=False))

    def first_audio(self, seed: int) -> float:
        """Return the seconds to the first samples of one request."""
        began = time.perf_counter()
        encoder = SentenceEncoder(self._frontend)
        pieces = [piece for step in chain(encoder.push(TEXT), encoder.finish()) for piece in step]
        voice, flow = self._voice, self._model.flow
        prompt = Prompt(tuple(voice.prompt_text_ids.tolist()), tuple(voice.speech_tokens.tolist()))
        request = Request(pieces[0].ids, prompt, SamplingOptions(seed=seed), play_at=time.monotonic() + 0.5)
        events: queue.SimpleQueue[object] = queue.SimpleQueue()
        generating = self._llm.submit(request, events.put)
        plan = ChunkPlan(flow.chunk_tokens, flow.chunk_tokens)
        spec = StreamSpec(voice.speech_tokens, voice.mel, voice.embedding, voice.hash, seed, plan)
        decoding = self._decode.open(spec, events.put)
        wanted, waiting = HopPlan(plan, flow.lookahead_tokens).next(len(voice.speech_tokens), 0), list[int]()
        try:
            while not isinstance(event := events.get(), AudioEvent):
                if not isinstance(event, TokensEvent):
                    raise RuntimeError(f"the engines failed: {event}")
                waiting += event.ids
                if len(waiting) >= wanted or event.last:
                    self._decode.push(decoding, waiting, event.last)
                    waiting = []
            return time.perf_counter() - began
        finally:
            self._llm.cancel(generating)
            self._decode.cancel(decoding)

    def close(self) -> None:
        self._llm.close()
        self._decode.close()


async def over_grpc(tts: tts_pb2_grpc.TextToSpeechAsyncStub, seed: int) -> tuple[float, tts_pb2.FirstAudio]:
    """Return the seconds to the first chunk of one request, and their parts as the gateway measures them."""
    config = tts_pb2.SynthesisConfig(voice_name=VOICE, seed=seed)
    began = time.perf_counter()
    call = tts.Synthesize(tts_pb2.SynthesizeRequest(config=config, text=TEXT))
    seconds = 0.0
    async for response in call:
        if response.HasField("audio") and not seconds:
            seconds = time.perf_counter() - began
        if response.HasField("first_audio"):
            call.cancel()
            return seconds, response.first_audio
    raise RuntimeError("a request ended without audio")


async def over_stream(tts: tts_pb2_grpc.TextToSpeechAsyncStub, seed: int) -> float:
    """Return the seconds from the text of a conversation to its first chunk; its stream has been opened before."""
    config = tts_pb2.SynthesisConfig(voice_name=VOICE, seed=seed)
    call = tts.StreamingSynthesize()
    await call.write(tts_pb2.StreamingSynthesizeRequest(config=config))
    async for response in call:
        if response.HasField("started"):
            began = time.perf_counter()
            await call.write(tts_pb2.StreamingSynthesizeRequest(text=TEXT))
            await call.write(tts_pb2.StreamingSynthesizeRequest(flush=tts_pb2.Flush()))
        elif response.HasField("audio"):
            seconds = time.perf_counter() - began
            call.cancel()
            return seconds
    raise RuntimeError("a conversation ended without audio")


@dataclass
class Times:
    """Seconds to the first audio of each request, by way."""

    direct: list[float] = field(default_factory=list)
    requests: list[tuple[float, tts_pb2.FirstAudio]] = field(default_factory=list)
    streams: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)


async def measure(requests: int, folder: Path) -> None:
    """Run the stack, the chain and the engines; print the times of as many requests each way."""
    costs = {"llm": LLM_COSTS, "decode": DECODE_COSTS}
    files = {name: folder / f"{name}.json" for name in costs}
    for name, file in files.items():
        file.write_text(json.dumps(costs[name]), encoding="utf-8")
    flags: dict[str, tuple[str, ...]] = {"llm": (), "decode": ("--decode-admission", "off")}
    for name, file in files.items():
        flags[name] += (f"--{name}-backend", "simulated", f"--{name}-cost-file", str(file))
    async with Stack(StackConfig(decode_workers=1, log_dir=folder, flags=flags)) as stack:
        direct = Direct(await voice_content(stack.encode.address), files)
        try:
            with bare_chain.processes() as chain:
                await chain.wait_until_served()
                async with grpc.aio.insecure_channel(stack.gateway.address) as channel:
                    tts = tts_pb2_grpc.TextToSpeechStub(channel)
                    await alternate(5, direct, tts, chain)  # not measured
                    times = await alternate(requests, direct, tts, chain)
        finally:
            direct.close()
    report(times)


async def voice_content(encode_address: str) -> voice_pb2.VoiceContent:
    """Return the content of VOICE from an encode worker."""
    async with grpc.aio.insecure_channel(encode_address) as channel:
        header = encode_pb2.EncodeVoiceHeader(bundled_voice=VOICE)
        messages = iter([encode_pb2.EncodeVoiceRequest(header=header)])
        return (await encode_pb2_grpc.EncodeStub(channel).EncodeVoice(messages)).voice


async def alternate(
    requests: int, direct: Direct, tts: tts_pb2_grpc.TextToSpeechAsyncStub, chain: bare_chain.Chain
) -> Times:
    """Return the times of as many requests each way, one way after the other for each seed."""
    times = Times()
    for seed in range(requests):
        times.direct.append(await asyncio.to_thread(direct.first_audio, seed))
        times.requests.append(await over_grpc(tts, seed))
        times.streams.append(await over_stream(tts, seed))
        times.bare.append(await chain.first_audio())
    return times


def report(times: Times) -> None:
    over = [seconds for seconds, _ in times.requests]
    rows = {
        "engines called directly": times.direct,
        "a request over gRPC": over,
        "a text on an open stream": times.streams,
        "bare calls, no work": times.bare,
    }
    for name, seconds in rows.items():
        deciles = [1000 * value for value in statistics.quantiles(seconds, n=10)]
        print(f"{name:<26} p10 {deciles[0]:6.1f}  p50 {deciles[4]:6.1f}  p90 {deciles[8]:6.1f} ms")
    floor = statistics.median(times.direct)
    for name, seconds in (("request", over), ("text on an open stream", times.streams)):
        cost = 1000 * (statistics.median(seconds) - floor)
        print(f"the split costs {cost:.1f} ms per {name}, at the median of {len(over)}")
    parts = {stage: 1000 * statistics.median(getattr(first, stage) for _, first in times.requests) for stage in STAGES}
    print("a request by stage, medians: " + "  ".join(f"{stage} {value:.1f}" for stage, value in parts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=100)
    with tempfile.TemporaryDirectory(prefix="split-") as folder:
        asyncio.run(measure(parser.parse_args().requests, Path(folder)))


if __name__ == "__main__":
    main()
