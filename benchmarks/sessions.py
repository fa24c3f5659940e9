"""Measures sessions of several sentences under load: how many are whole, cut and refused, and what is delivered.

    python -m benchmarks.sessions [--sentences 1,3,8] [--loads 0.5,1,1.5,3,5] [--seconds 30]

The whole stack runs with simulated backends: real processes and gRPC, but the engines sleep for the cost files of the
embedded model instead of computing. Sessions arrive as a Poisson process. A load of 1 offers as many seconds of speech
per second as the stack delivers under a flood of short sessions; this capacity is measured first. Prints a table in
Markdown; its columns:

    whole       all audio arrived
    cut         admitted (some audio arrived), then ended by an error
    refused     ended by a refusal before any audio; `failed`: by another error
    goodput     seconds of speech per second that reached sessions which ended whole, relative to the table's best for
                this number of sentences
    refusal     milliseconds from the request to the refusal
    underruns   sessions that had silence between two chunks
    silence     its duration in all whole sessions, in parts of their speech
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from cli.bench.load import arrivals, text_load
from cli.bench.playback import Playback
from cli.bench.prompts import text_of
from cli.bench.report import percentile
from cli.local.stack import Stack, StackConfig
from lighttts.v1 import audio_pb2, tts_pb2, tts_pb2_grpc
from services.common.errors import LightTtsError, Overloaded, from_rpc_error
from services.common.workers.call_end import CallEnd, answers

SERVICES = Path(__file__).parents[1] / "services"
FLOOD_RATE = 20.0
"""Sessions of one sentence per second while the capacity is measured; more than the stack can speak."""
WARM_UP = 0.25
"""The first part of a load, which does not count as delivered: the stack fills up."""
HEADER = (
    "| sentences | load | sessions | admitted | whole | cut | refused | failed | goodput | refusal p50 | p95 |"
    " underruns | silence |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
)


@dataclass
class Outcome:
    """One session of a load. Times in seconds of the monotonic clock."""

    asked_at: float
    playback: Playback = field(default_factory=Playback)
    received: list[tuple[float, float]] = field(default_factory=list)
    """Arrival time and seconds of each chunk."""
    error: LightTtsError | None = None
    ended_at: float = math.nan

    @property
    def whole(self) -> bool:
        return self.error is None

    @property
    def admitted(self) -> bool:
        return self.whole or bool(self.received)

    @property
    def cut(self) -> bool:
        return self.admitted and not self.whole

    @property
    def refused(self) -> bool:
        return not self.admitted and isinstance(self.error, Overloaded)

    def delivered(self, start: float, end: float) -> float:
        """Seconds of audio that arrived between `start` and `end`; 0 for a session that did not end whole."""
        return sum(seconds for at, seconds in self.received if start <= at < end) if self.whole else 0.0


@dataclass(frozen=True)
class Row:
    """The figures of one load."""

    sentences: int
    load: float
    outcomes: Sequence[Outcome]
    goodput: float
    """Seconds of speech per second in sessions that ended whole."""

    def count(self, name: str) -> int:
        """Return the number of sessions that are `admitted`, `whole`, `cut` or `refused`."""
        return sum(getattr(one, name) for one in self.outcomes)

    def markdown(self, best: float) -> str:
        """Return the row of a table whose best goodput is `best`."""
        refusals = [1000 * (one.ended_at - one.asked_at) for one in self.outcomes if one.refused]
        times = [f"{percentile(refusals, percent):.0f} ms" if refusals else "" for percent in (50, 95)]
        failed = len(self.outcomes) - self.count("admitted") - self.count("refused")
        counts = [self.count(name) for name in ("admitted", "whole", "cut", "refused")]
        whole = [one for one in self.outcomes if one.whole]
        underruns = sum(one.playback.underruns > 0 for one in whole)
        speech = sum(seconds for one in whole for _, seconds in one.received)
        silence = sum(one.playback.silence for one in whole) / speech if speech else 0.0
        cells = [self.sentences, f"{self.load:g}", len(self.outcomes), *counts, failed]
        cells += [f"{self.goodput / best if best else 0:.2f}", *times, underruns, f"{silence:.1%}"]
        return "| " + " | ".join(map(str, cells)) + " |"


async def listen(stub: tts_pb2_grpc.TextToSpeechAsyncStub, text: str, seed: int = 0) -> Outcome:
    """Open a session, send `text` and listen to the end."""

    async def requests() -> AsyncIterator[tts_pb2.StreamingSynthesizeRequest]:
        config = tts_pb2.SynthesisConfig(seed=seed, format=audio_pb2.SAMPLE_FORMAT_S16LE)
        yield tts_pb2.StreamingSynthesizeRequest(config=config)
        yield tts_pb2.StreamingSynthesizeRequest(text=text)
        yield tts_pb2.StreamingSynthesizeRequest(end=tts_pb2.End())

    outcome = Outcome(time.monotonic())
    try:
        call = stub.StreamingSynthesize(requests())
        async for response in answers(call, CallEnd(call)):
            if response.HasField("audio") and response.audio.pcm:
                now, seconds = time.monotonic(), len(response.audio.pcm) / 2 / response.audio.sample_rate
                outcome.received.append((now, seconds))
                outcome.playback.take(now, seconds)
    except grpc.aio.AioRpcError as error:
        outcome.error = from_rpc_error(error)
    outcome.ended_at = time.monotonic()
    return outcome


async def offer(stub: tts_pb2_grpc.TextToSpeechAsyncStub, text: str, times: Iterable[float]) -> list[Outcome]:
    """Open a session at each of `times`, in seconds from now; return all outcomes when the last has ended."""
    started = time.monotonic()
    tasks = []
    for seed, at in enumerate(times):
        await asyncio.sleep(max(0.0, started + at - time.monotonic()))
        tasks.append(asyncio.create_task(listen(stub, text, seed)))
    return list(await asyncio.gather(*tasks))


async def measure(
    stub: tts_pb2_grpc.TextToSpeechAsyncStub, sentences: int, load: float, rate: float, seconds: float
) -> Row:
    """Offer `rate` sessions per second for `seconds`."""
    started = time.monotonic()
    text = text_of(sentences)
    outcomes = await offer(stub, text, arrivals(text_load(text, rate, seconds)))
    begin, end = started + WARM_UP * seconds, started + seconds
    goodput = sum(one.delivered(begin, end) for one in outcomes) / (end - begin)
    return Row(sentences, load, outcomes, goodput)


async def run(options: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as exits:
        folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="sessions-"))
        stack = await exits.enter_async_context(Stack(stack_config(Path(folder), options)))
        channel = await exits.enter_async_context(grpc.aio.insecure_channel(stack.gateway.address))
        stub: tts_pb2_grpc.TextToSpeechAsyncStub = tts_pb2_grpc.TextToSpeechStub(channel)
        await listen(stub, text_of(1))  # caches the voice and opens the connections
        flood = await measure(stub, 1, 0, FLOOD_RATE, options.seconds)
        print(f"capacity: {flood.goodput:.1f} seconds of speech per second\n")
        print("\n".join(HEADER), flush=True)
        for sentences in options.sentences:
            rows = await series(stub, sentences, options.loads, flood.goodput, options.seconds)
            best = max(row.goodput for row in rows)
            print("\n".join(row.markdown(best) for row in rows), flush=True)
            for row in rows:
                for message in sorted({str(one.error) for one in row.outcomes if one.error and not one.refused}):
                    print(f"load {row.load:g}: {message}")
    print(f"\nload average {' '.join(f'{load:.1f}' for load in os.getloadavg())} on {os.cpu_count()} cores")


async def series(
    stub: tts_pb2_grpc.TextToSpeechAsyncStub,
    sentences: int,
    loads: Sequence[float],
    capacity: float,
    seconds: float,
) -> list[Row]:
    """Measure every load, in parts of `capacity`, which is in seconds of speech per second."""
    one = await listen(stub, text_of(sentences))
    length = sum(part for _, part in one.received)
    rates = [load * capacity / length for load in loads]
    return [
        await measure(stub, sentences, load, rate, seconds + length) for load, rate in zip(loads, rates, strict=True)
    ]


def stack_config(folder: Path, options: argparse.Namespace) -> StackConfig:
    flags: dict[str, tuple[str, ...]] = {
        service: (
            *(f"--{service}-backend", "simulated"),
            *(f"--{service}-cost-file", str(SERVICES / service / "costs" / "guided-cpu.json")),
        )
        for service in ("llm", "decode")
    }
    flags["decode"] += tuple(options.decode_flags.split())
    return StackConfig(decode_workers=options.decode_workers, log_dir=folder, log_level="warning", flags=flags)


def main() -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions", description=description)
    parser.add_argument("--sentences", type=_numbers(int), default=[1, 3, 8], help="sentences per session")
    parser.add_argument("--loads", type=_numbers(float), default=[0.5, 1, 1.5, 3, 5], help="loads, in capacities")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of a load, without a session's length")
    parser.add_argument("--decode-workers", type=int, default=2, help="decode workers")
    parser.add_argument("--decode-flags", default="", help="further flags of the decode workers, separated by spaces")
    asyncio.run(run(parser.parse_args()))


def _numbers(kind: type[int] | type[float]) -> Callable[[str], list[float]]:
    return lambda text: [kind(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
