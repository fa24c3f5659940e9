"""Speaks the held-out sentences with the whole stack and measures each answer."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from numpy.typing import NDArray

from cli.local.stack import Stack, StackConfig
from cli.model.recognition import Recogniser
from cli.say import make_config, say_to_file
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from training.report.judges import Dnsmos, SpeakerJudge, find_dnsmos, leading_silence
from training.report.words import spelled, word_errors
from training.teacher.check import Listener

F32 = NDArray[np.float32]
WARM_UP = "Good morning, this is a short sentence."


@dataclass(frozen=True)
class Sample:
    """One spoken sentence. Times in seconds."""

    text: str
    voice: str
    file: str
    seconds: float
    first_audio: float
    leading_silence: float
    chosen: bool
    """Whether the recogniser chose it among all sentences."""
    heard: str
    errors: int
    words: int
    overall: float | None
    """DNSMOS; None without the package speechmos."""
    same_speaker: bool
    """Whether the nearest prompt is the voice's own."""


@dataclass(frozen=True)
class Measured:
    """All samples, and the processor time of all processes per second of speech."""

    samples: tuple[Sample, ...]
    work_per_second: float
    directory: str

    def summary(self) -> dict[str, float]:
        """Return the figures that have a target."""
        samples = self.samples
        scores = [sample.overall for sample in samples if sample.overall is not None]
        return {
            "sentences": len(samples),
            "forced choice": sum(sample.chosen for sample in samples),
            "open word error": sum(one.errors for one in samples) / max(1, sum(one.words for one in samples)),
            "DNSMOS overall": statistics.mean(scores) if scores else float("nan"),
            "work per second": self.work_per_second,
            "first audio p50": statistics.median(sample.first_audio for sample in samples),
            "leading silence p95": float(np.percentile([sample.leading_silence for sample in samples], 95)),
            "speakers told apart": sum(sample.same_speaker for sample in samples),
        }

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"summary": self.summary(), "samples": [asdict(sample) for sample in self.samples]}


def measure(directory: Path, sentences: Sequence[str], choices: Sequence[str], folder: Path) -> Measured:
    """Speak `sentences` by the directory's voices, one after the other, and judge each among `choices`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = open_model_dir(directory)
    voices = list(dict.fromkeys(voice.audio for voice in model.card.voices))
    names = {voice.audio: voice.name for voice in reversed(model.card.voices)}
    order = [(text, names[voices[number % len(voices)]]) for number, text in enumerate(sentences)]
    spoken, work = asyncio.run(_speak(directory, order, folder))
    judges = _Judges(model, choices)
    samples = tuple(judges.judge(*said, *made) for said, made in zip(order, spoken, strict=True))
    return Measured(samples, work / max(1e-9, sum(sample.seconds for sample in samples)), str(directory))


async def _speak(
    directory: Path, order: Sequence[tuple[str, str]], folder: Path
) -> tuple[list[tuple[Path, float]], float]:
    """The file and the seconds to first audio of each sentence, and the processor seconds of all of them."""
    spoken: list[tuple[Path, float]] = []
    async with Stack(StackConfig(model_dir=directory, decode_workers=1, log_dir=folder / "logs")) as stack:
        address = stack.gateway.address
        for name in dict.fromkeys(name for _, name in order):
            await say_to_file(address, make_config(name, None, None, 1, 1.0), WARM_UP, folder / "warm_up.wav")
        before = _processor_seconds()
        for number, (text, name) in enumerate(order):
            path = folder / f"{number + 1:02d}_{name}.wav"
            speech = await say_to_file(address, make_config(name, None, None, number, 1.0), text, path)
            spoken.append((path, speech.time_to_first_audio))
        return spoken, _processor_seconds() - before


def _processor_seconds() -> float:
    """Of this process and all its children: the stack's processes are among them."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


class _Judges:
    def __init__(self, model: ModelDir, choices: Sequence[str]) -> None:
        self._choice, self._open = Recogniser(choices), Listener()
        network = find_dnsmos()
        self._dnsmos = None if network is None else Dnsmos(network)
        self._speakers = SpeakerJudge(model.speaker_encoder)
        self._prompts = {}
        for voice in model.card.voices:
            samples, rate = soundfile.read(voice.audio, dtype="float32")
            self._prompts[voice.name] = self._speakers.embed(samples, rate)

    def judge(self, text: str, name: str, path: Path, first_audio: float) -> Sample:
        samples, rate = soundfile.read(path, dtype="float32")
        heard, wanted = self._open.hear(samples, rate), spelled(text)
        vector = self._speakers.embed(samples, rate)
        nearest = max(self._prompts, key=lambda other: float(vector @ self._prompts[other]))
        return Sample(
            text=text,
            voice=name,
            file=path.name,
            seconds=len(samples) / rate,
            first_audio=first_audio,
            leading_silence=leading_silence(samples, rate),
            chosen=self._choice.hear(samples, rate) == text,
            heard=heard,
            errors=word_errors(wanted, heard),
            words=len(wanted.split()),
            overall=None if self._dnsmos is None else self._dnsmos.score(samples, rate)["overall"],
            same_speaker=bool(np.allclose(self._prompts[nearest], self._prompts[name])),
        )
