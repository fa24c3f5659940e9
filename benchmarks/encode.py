"""Measures the cost of a new voice: time of each step, throughput, and its share of the time to first audio.

    python -m benchmarks.encode [--seconds 10] [--repeats 3] [--no-full-size]

It uses the embedded voice's graphs and stand-ins of the official sizes (benchmarks/official/graphs.py), one thread per
graph run, and for first audio the whole local stack with the embedded voice.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import io
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.official.graphs import write_speaker_encoder, write_speech_tokenizer
from cli.client import speak
from cli.local.stack import Stack, StackConfig
from lighttts.v1 import audio_pb2, encode_pb2, encode_pb2_grpc, tts_pb2
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.pool import open_channel
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.voice.extractor import STEPS, VoiceExtractor

ROOT = Path(__file__).parents[1]
TINY = ROOT / "models" / "tiny"
TEXT = "Good morning."
CONCURRENCY = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the prompt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-full-size", action="store_true", help="only the embedded voice's graphs")
    options = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load averages before: {load}; prompts of {options.seconds:g} s")
    tiny = open_model_dir(TINY)
    with tempfile.TemporaryDirectory(prefix="encode-") as temporary:
        models = {"embedded": tiny}
        if not options.no_full_size:
            models["full size"] = with_full_size_graphs(tiny, Path(temporary))
        for name, model in models.items():
            extractor = VoiceExtractor(model, TextFrontend(model, Normaliser("builtin")))
            steps(name, extractor, options.seconds, options.repeats)
            several(name, extractor, options.seconds)
        asyncio.run(first_audio(options.repeats, Path(temporary)))


def with_full_size_graphs(model: ModelDir, directory: Path) -> ModelDir:
    """Return the embedded checkpoint with graphs as large as the official ones, whose ids go up to 6560."""
    for file in model.path.iterdir():
        if file.suffix != ".onnx":
            (directory / file.name).symlink_to(file)
    write_speech_tokenizer(directory / model.speech_tokenizer.name)
    write_speaker_encoder(directory / model.speaker_encoder.name)
    llm = dataclasses.replace(model.llm, speech_tokens=6561)
    return dataclasses.replace(open_model_dir(directory), llm=llm)


def prompt(seconds: float, seed: int) -> bytes:
    """Return noise whose level rises four times a second, as in speech."""
    time_ = np.arange(int(seconds * 24000)) / 24000
    noise = np.random.default_rng(seed).standard_normal(len(time_)) * (1.2 + np.sin(2 * np.pi * 4 * time_))
    file = io.BytesIO()
    soundfile.write(file, 0.1 * noise, 24000, format="WAV")
    return file.getvalue()


def steps(name: str, extractor: VoiceExtractor, seconds: float, repeats: int) -> None:
    """Print the seconds of work per second of prompt, by step, for one voice at a time: median of `repeats`."""
    taken: dict[str, list[float]] = {step: [] for step in STEPS}
    extractor.extract(prompt(seconds, 0), None)  # the first run is slower
    for seed in range(repeats):
        extractor.extract(prompt(seconds, seed), None, lambda step, value: taken[step].append(value))
    medians = {step: statistics.median(values) / seconds for step, values in taken.items()}
    print(f"\n{name} graphs, one at a time: seconds per second of prompt")
    print("  ".join(f"{step} {value:.4f}" for step, value in medians.items()), f" total {sum(medians.values()):.4f}")


def several(name: str, extractor: VoiceExtractor, seconds: float) -> None:
    """Print prompts per minute and the time of each, for several threads at once."""
    print(f"{name} graphs, several at once: concurrency, voices per minute, seconds each (median)")
    prompts = [prompt(seconds, seed) for seed in range(max(CONCURRENCY))]

    def timed(audio: bytes) -> float:
        started = time.perf_counter()
        extractor.extract(audio, None)
        return time.perf_counter() - started

    for threads in CONCURRENCY:
        started = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            each = list(pool.map(timed, prompts))
        rate = 60 * len(prompts) / (time.perf_counter() - started)
        print(f"  {threads}  {rate:8.1f}  {statistics.median(each):.2f}")


async def first_audio(repeats: int, logs: Path) -> None:
    """Print encode's share of the time to first audio, for a new voice and a known one."""
    recording = (TINY / "prompt_anna.wav").read_bytes()
    words = (TINY / "prompt_anna.txt").read_text(encoding="utf-8").strip()
    firsts: dict[str, list[float]] = {"new": [], "known": []}
    shares: dict[str, list[float]] = {"new": [], "known": []}
    async with Stack(StackConfig(log_dir=logs / "logs")) as stack, open_channel(stack.encode.address) as channel:
        encode = encode_pb2_grpc.EncodeStub(channel)
        for number in range(repeats):
            # Another transcript makes a new voice of the same recording.
            config = tts_pb2.SynthesisConfig(format=audio_pb2.SAMPLE_FORMAT_S16LE, seed=number)
            config.prompt.audio, config.prompt.transcript = recording, words + " And" * (number + 1)
            for kind in ("new", "known"):
                speech = await speak(stack.gateway.address, config, TEXT, lambda audio: None)
                other = words + " Or" * (number + 1) if kind == "new" else config.prompt.transcript
                started = time.perf_counter()
                await encode.EncodeVoice(voice_requests(recording, other))
                encoding = time.perf_counter() - started
                firsts[kind].append(speech.time_to_first_audio)
                shares[kind].append(encoding / speech.time_to_first_audio)
    seconds = soundfile.info(io.BytesIO(recording)).duration
    print(f"\nfirst audio through the stack, embedded voice, prompt of {seconds:.1f} s (medians of {repeats})")
    for kind, values in firsts.items():
        print(
            f"  {kind:<5}  first audio {statistics.median(values):.2f} s, encode {statistics.median(shares[kind]):.0%}"
        )


async def voice_requests(recording: bytes, transcript: str) -> AsyncIterator[encode_pb2.EncodeVoiceRequest]:
    yield encode_pb2.EncodeVoiceRequest(header=encode_pb2.EncodeVoiceHeader(transcript=transcript))
    yield encode_pb2.EncodeVoiceRequest(audio=recording)


if __name__ == "__main__":
    main()
