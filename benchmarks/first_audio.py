"""Measures where the time to first audio goes, for 1, 2, 4 and 8 streams at once, with each way to compute on a CPU.

    python -m benchmarks.first_audio [--at-once 1,2,4,8] [--rounds 6] [--threads 1] [--model DIR]

Two whole stacks run side by side, whose settings differ. In each round they speak one after the other, so that other
work on the machine disturbs both alike. All streams of a round begin at once, each with one sentence. Columns:

    encode … delivery   parts of the time to first audio as the gateway measures them (`FirstAudio`), medians
    first chunk         seconds of audio in the first chunk: how long the second one may take
    underruns           streams whose listener, who plays every chunk on arrival, ran dry; and their silence in all
    work                processor time of all processes per second of speech
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import grpc.aio
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.decode import load_average
from cli.bench.playback import Playback
from cli.bench.prompts import SENTENCES
from cli.bench.report import percentile
from cli.local.ports import HOST
from cli.local.stack import Stack, StackConfig
from cli.local.start_clock import processor_seconds
from lighttts.v1 import audio_pb2, tts_pb2, tts_pb2_grpc
from services.common.settings import EMBEDDED_MODEL

WAYS: dict[str, dict[str, tuple[str, ...]]] = {
    "single operations": {"llm": ("--no-llm-cpu-graph",), "decode": ("--decode-cpu-step", "plain")},
    "default": {},
}
STAGES = ("encode", "first_token", "first_hop", "decode", "delivery")
PHASES = ("flow", "vocoder")
IDLE_SECONDS = 0.5
"""Between two requests of which one is cut, so that the work of the first has ended."""
HEADER = (
    "| backends | at once | first audio p50 | p95 | encode | first token | first hop | decode | delivery | first chunk"
    " | underruns | silence | work |",
    "|" + "---|" * 13,
)


@dataclass
class Heard:
    """One utterance, in seconds."""

    seconds: float = 0.0
    """To the first audio, at the client."""
    stages: tts_pb2.FirstAudio = field(default_factory=tts_pb2.FirstAudio)
    first_chunk: float = 0.0
    playback: Playback = field(default_factory=Playback)


@dataclass
class Streams:
    """What one way has given for a number of streams at once."""

    heard: list[Heard] = field(default_factory=list)
    work: float = 0.0

    def row(self, name: str, at_once: int) -> str:
        """Return the row of the table, times in milliseconds."""
        first = [one.seconds for one in self.heard]
        times = [percentile(first, 50), percentile(first, 95)]
        times += [median(getattr(one.stages, stage) for one in self.heard) for stage in STAGES]
        cells = [name, str(at_once), *(f"{1000 * seconds:.0f} ms" for seconds in times)]
        dry = [one.playback for one in self.heard if one.playback.underruns]
        cells += [f"{median(one.first_chunk for one in self.heard):.2f} s", f"{len(dry)} of {len(self.heard)}"]
        speech = sum(one.playback.seconds for one in self.heard)
        cells += [f"{sum(one.silence for one in dry):.2f} s", f"{self.work / speech:.2f}"]
        return "| " + " | ".join(cells) + " |"


class Way:
    """A running stack."""

    def __init__(self, name: str, stack: Stack, channel: grpc.aio.Channel) -> None:
        self.name, self._stack = name, stack
        self._stub = tts_pb2_grpc.TextToSpeechStub(channel)
        self.streams: dict[int, Streams] = {}
        self.first_hops: list[dict[str, float]] = []

    async def speak(self, seed: int, *, cut: bool = False) -> Heard:
        """Speak a sentence; with `cut` only until the stages of its first audio are known."""
        config = tts_pb2.SynthesisConfig(seed=seed, format=audio_pb2.SAMPLE_FORMAT_S16LE)
        heard, began = Heard(), time.monotonic()
        call = self._stub.Synthesize(tts_pb2.SynthesizeRequest(config=config, text=SENTENCES[seed % len(SENTENCES)]))
        async for response in call:
            if response.HasField("audio") and response.audio.pcm:
                now, audio = time.monotonic(), response.audio
                heard.playback.take(now, len(audio.pcm) / 2 / audio.sample_rate)
                if not heard.seconds:
                    heard.seconds, heard.first_chunk = now - began, heard.playback.seconds
            elif response.HasField("first_audio"):
                heard.stages = response.first_audio
                if cut:
                    call.cancel()
                    break
        return heard

    async def together(self, at_once: int, seed: int) -> None:
        """Speak as many sentences at once."""
        streams, before = self.streams.setdefault(at_once, Streams()), self._processor()
        streams.heard += await asyncio.gather(*(self.speak(seed + number) for number in range(at_once)))
        streams.work += self._processor() - before

    async def first_hop(self, seed: int) -> None:
        """Speak the first chunk of a sentence alone, and note what the decode worker computed for it."""
        before = await self._phases()
        await self.speak(seed, cut=True)
        after = await self._phases()
        self.first_hops.append({phase: after[phase] - before[phase] for phase in PHASES})
        await asyncio.sleep(IDLE_SECONDS)

    def _processor(self) -> float:
        return sum(processor_seconds(worker.pid) for worker in self._stack.workers())

    async def _phases(self) -> dict[str, float]:
        url = f"http://{HOST}:{self._stack.decode[0].spec.metrics_port}/metrics"

        def read() -> str:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read(), "utf-8")

        families = text_string_to_metric_families(await asyncio.to_thread(read))
        samples = [sample for family in families for sample in family.samples]
        return {
            sample.labels["phase"]: sample.value
            for sample in samples
            if sample.name == "lighttts_decode_phase_seconds_total"
        }


async def measure(model: Path, at_once: Sequence[int], rounds: int, threads: int, folder: Path) -> list[Way]:
    """Return every way with what it has given."""
    async with contextlib.AsyncExitStack() as running:
        ways = []
        for name, flags in WAYS.items():
            config = StackConfig(model, 1, log_dir=folder / name, torch_threads=threads, flags=flags)
            stack = await running.enter_async_context(Stack(config))
            channel = await running.enter_async_context(grpc.aio.insecure_channel(stack.gateway.address))
            ways.append(Way(name, stack, channel))
        for way in ways:
            await way.speak(0)  # a new voice's prompt, and the first use of everything
        for number in range(rounds):
            for way in ways if number % 2 else ways[::-1]:
                await way.first_hop(number)
        for streams in at_once:
            for number in range(rounds):
                for way in ways if number % 2 else ways[::-1]:
                    await way.together(streams, number * streams)
    return ways


def report(ways: Sequence[Way], at_once: Sequence[int]) -> None:
    """Print the tables."""
    print(*HEADER, sep="\n")
    for streams in at_once:
        for way in ways:
            print(way.streams[streams].row(way.name, streams))
    for way in ways:
        parts = [f"{phase} {1000 * median(one[phase] for one in way.first_hops):.0f} ms" for phase in PHASES]
        print(f"the first hop of one stream, {way.name}: {', '.join(parts)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_audio",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--at-once", default="1,2,4,8", help="streams that begin at once (default: 1,2,4,8)")
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each number and way (default: 6)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each process (default: 1)")
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="model directory")
    options = parser.parse_args()
    at_once = [int(number) for number in options.at_once.split(",")]
    print(load_average(), flush=True)
    with tempfile.TemporaryDirectory(prefix="first-audio-") as folder:
        ways = asyncio.run(measure(options.model, at_once, options.rounds, options.threads, Path(folder)))
    report(ways, at_once)
    print(load_average())


if __name__ == "__main__":
    main()
