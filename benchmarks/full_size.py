"""Runs the whole stack with the 0.5B layout and random weights: the audio is noise, memory and load times are real.

    python -m benchmarks.full_size [--family cosyvoice3] [--keep DIR]

Writes the checkpoint in official format (4 GB on disk), loads it into encode, llm, one decode worker and a gateway,
speaks two texts and prints the memory of each process. Exit status 1 if a text has no audio.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.official.checkpoint import FAMILIES, write_checkpoint
from benchmarks.official.graphs import write_speaker_encoder, write_speech_tokenizer
from cli.client import Speech, speak
from cli.local.process import Worker, WorkerEvent
from cli.local.stack import Stack, StackConfig
from lighttts.v1 import audio_pb2, tts_pb2
from services.common.families import family_named

PROMPT = Path(__file__).parents[1] / "models" / "tiny" / "prompt_anna.wav"
TEXTS = ("hello", "hello world over there")
PATIENCE = "300"
"""Seconds without a step or a message after which a worker counts as lost: there is no other one to move to."""
SECONDS = 2.0
"""Longest speech per text: a random model does not end by itself."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="write the checkpoint to DIR, or use an existing one in DIR"
    )
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help="layout of the checkpoint")
    parser.add_argument("--devices", default="", metavar="NAMES", help="devices, such as cuda:0; default: cpu")
    options = parser.parse_args()
    devices = tuple(filter(None, options.devices.split(",")))
    with tempfile.TemporaryDirectory(prefix="full-size-") as temporary:
        directory: Path = options.keep or Path(temporary) / f"{options.family}-0.5b-random"
        if not directory.exists():
            started = time.monotonic()
            write_checkpoint(directory, family=options.family)
            write_speech_tokenizer(directory / family_named(options.family).speech_tokenizer)
            write_speaker_encoder(directory / "campplus.onnx")
            size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
            print(f"wrote {directory} ({size / 2**30:.1f} GiB) in {time.monotonic() - started:.0f} s")
        return asyncio.run(run(directory, Path(temporary), devices))


async def run(directory: Path, logs: Path, devices: tuple[str, ...]) -> int:
    serving: dict[str, float] = {}
    started = time.monotonic()

    def record(event: WorkerEvent) -> None:
        if event.kind == "serving":
            serving[event.worker] = time.monotonic() - started

    flags = {"gateway": patient("llm"), "llm": patient("decode")}
    config = StackConfig(model_dir=directory, decode_workers=1, log_dir=logs / "logs", devices=devices, flags=flags)
    async with Stack(config, record) as stack:
        for text in TEXTS:
            speech = await say(stack, text)
            factor = speech.real_time_factor
            first = speech.time_to_first_audio
            print(f"{text!r}: {speech.audio_seconds:.2f} s of audio, first after {first:.1f} s, {factor:.1f} s per s")
            if not speech.audio_seconds:
                return 1
        print("process    serving after  memory now  peak")
        for worker in stack.workers():
            now, peak = memory(worker)
            print(f"{worker.name:<9} {serving[worker.name]:>11.1f} s {now:>7.2f} GiB {peak:>5.2f} GiB")
    return 0


def patient(stage: str) -> tuple[str, ...]:
    """Flags of the service before `stage`: on a busy machine a step takes longer than a worker may stand still."""
    return (f"--{stage}-stall-seconds", PATIENCE, f"--{stage}-silence-seconds", PATIENCE)


async def say(stack: Stack, text: str) -> Speech:
    config = tts_pb2.SynthesisConfig(format=audio_pb2.SAMPLE_FORMAT_S16LE, seed=1)
    config.prompt.audio = PROMPT.read_bytes()
    config.prompt.transcript = PROMPT.with_suffix(".txt").read_text(encoding="utf-8").strip()
    config.sampling.max_seconds = SECONDS
    return await speak(stack.gateway.address, config, text, lambda audio: None)


def memory(worker: Worker) -> tuple[float, float]:
    """Return the current and the peak resident memory, in GiB."""
    if worker.pid is None:
        raise RuntimeError(f"{worker.name} is not running")
    now = psutil.Process(worker.pid).memory_info().rss / 2**30
    status = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return now, peak / 2**20


if __name__ == "__main__":
    sys.exit(main())
