"""`light-tts verify`: proves a model directory end to end, in one process without servers."""

from __future__ import annotations

import argparse
import json
import math
import queue
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from cli.console import counted, err, out, output_errors, show_finding
from cli.finding import Finding
from cli.model.checkpoint import examine_checkpoint
from cli.model.recognition import Recogniser, recogniser_for
from services.common.checkpoint.chunk_plan import ChunkPlan
from services.common.checkpoint.model_dir import BundledVoice, ModelDir, ModelDirError, open_model_dir
from services.common.engine.device import first_line
from services.common.engine.shell import FailedEvent
from services.common.errors import InvalidInput
from services.common.settings import EMBEDDED_MODEL
from services.common.start_error import StartError
from services.common.voices.voice import Voice
from services.decode.engine.backends import Hop
from services.decode.engine.state import StreamSpec
from services.decode.engine.torch_backend import TorchBackend
from services.decode.loading import load_backend
from services.decode.settings import DecodeSettings
from services.encode.text.frontend import TextFrontend
from services.encode.text.normalise import Normaliser
from services.encode.text.text_encoder import SentenceEncoder
from services.encode.voice.extractor import VoiceExtractor
from services.encode.voice.speakers import FILE, read_speakers
from services.llm.engine.layout import Prompt
from services.llm.engine.sequence import Request, SamplingOptions, TokensEvent
from services.llm.loading import load_engine
from services.llm.settings import LlmSettings
from services.llm.styles import read_styles

SENTENCES = tuple((EMBEDDED_MODEL / "heldout25.txt").read_text(encoding="utf-8").split("\n")[:25])
SPOKEN = (5, 8, 20)
"""Sentences of six words and more: from a shorter one a recogniser tells little."""
CHINESE = "今天天气很好，我们去公园散步吧。"
SEED = 7
MAX_SECONDS = 30.0
"""Longest utterance; the texts take a few seconds."""
STREAM_TOLERANCE = 1e-3
"""Largest difference between streamed and one-shot audio; float32 reaches 3e-4."""
SECONDS_PER_LETTER, SECONDS_PER_CHARACTER = (0.03, 0.25), (0.1, 0.8)
"""Plausible pace of Latin and of Chinese text."""
LEVEL_DB, MOST_SILENT = (-45.0, -6.0), 0.8
_SILENCE = 1e-3


@dataclass(frozen=True)
class Measured:
    """One text as it was spoken."""

    text: str
    voice: str
    seconds: float
    ended: bool
    """Whether the model ended the utterance, not a length limit."""
    level_db: float
    peak: float
    silent: float
    """Share of 20 ms frames without sound."""
    stream_difference: float
    recognised: bool | None
    """None: there is no recogniser for this text."""

    def problems(self) -> Iterator[str]:
        """Yield what is implausible."""
        letters = sum(not character.isspace() for character in self.text)
        low, high = SECONDS_PER_LETTER if self.text.isascii() else SECONDS_PER_CHARACTER
        if not math.isfinite(self.peak):
            yield "the audio has values that are not finite numbers"
            return
        if not low * letters <= self.seconds <= high * letters:
            yield f"{self.seconds:.1f} s are no plausible length of {letters} letters"
        if not self.ended:
            yield "the model did not end the utterance; a length limit did"
        if not LEVEL_DB[0] <= self.level_db <= LEVEL_DB[1]:
            yield f"the level is {self.level_db:.0f} dBFS, speech has {LEVEL_DB[0]:.0f} to {LEVEL_DB[1]:.0f}"
        if self.silent > MOST_SILENT:
            yield f"{self.silent:.0%} of it is silent"
        if self.stream_difference > STREAM_TOLERANCE:
            yield f"streamed audio differs from audio made in one go by {self.stream_difference:.1e}"
        if self.recognised is False:
            yield "the recogniser did not recognise it"


def working_device(name: str) -> torch.device:
    """Return the device of that name. Raises StartError if it is absent or does not work: an engine would use the CPU
    instead, and its results would prove nothing about the device."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except Exception as error:  # torch without CUDA raises AssertionError, drivers many types
        raise StartError(
            f"--device {name} cannot be used here: {first_line(error)}; `light-tts doctor` lists the devices"
        ) from error
    return device


class Pipeline:
    """Text front end, llm and decode of one directory."""

    def __init__(self, model: ModelDir, device: str, weights: str) -> None:
        """Raises ModelDirError, and StartError for a device that is absent or fails."""
        wanted = working_device(device)
        self._model = model
        self.frontend = TextFrontend(model, Normaliser())
        self._extractor = VoiceExtractor(model, self.frontend)
        settings = LlmSettings(model_dir=model.path, device=device, llm_weights=weights)
        self._llm = load_engine(settings, model, read_styles(model, weights))
        backend = load_backend(DecodeSettings(model_dir=model.path, device=device), model)
        if not isinstance(backend, TorchBackend):
            raise StartError("verify needs the torch backend; unset LIGHTTTS_DECODE_BACKEND")
        if backend.device.type != wanted.type:
            raise StartError(f"--device {device}: decoding failed there, so nothing was computed on it; see above")
        self._decode = backend

    def close(self) -> None:
        self._llm.close()

    def voices(self, only: str) -> Iterator[tuple[str, Voice]]:
        """Yield the directory's own voices, or the one named; without any, those of the embedded recordings.

        Of two names for one recording, only the first is a voice of its own.
        """
        speakers = read_speakers(self._model.path / FILE, self._model)
        bundled: Iterable[BundledVoice] = self._model.card.voices
        if not speakers and not bundled:
            bundled = open_model_dir(EMBEDDED_MODEL).card.voices
        known = [voice.name for voice in bundled] + [*speakers]
        if only and only not in known:
            raise ModelDirError(f"there is no voice {only!r}; choose one of {', '.join(known)}")
        heard: set[Path] = set()
        for voice in bundled:
            if voice.name == only or (not only and voice.audio not in heard):
                heard.add(voice.audio)
                yield voice.name, self._extractor.extract(voice.audio.read_bytes(), voice.transcript)
        yield from ((name, speaker) for name, speaker in speakers.items() if only in ("", name))

    def speak(self, text: str, voice: Voice) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
        """Return the audio made in one go, the streamed audio, and whether the model ended the utterance."""
        encoder = SentenceEncoder(self.frontend)
        pieces = [piece for step in chain(encoder.push(text), encoder.finish()) for piece in step]
        prompt = Prompt(tuple(voice.prompt_text_ids.tolist()), tuple(voice.speech_tokens.tolist()))
        if not prompt.text_ids:
            prompt = Prompt(self.frontend.instruct_ids(""))
        whole: list[NDArray[np.float32]] = []
        streamed: list[NDArray[np.float32]] = []
        ended = True
        for piece in pieces:
            tokens, stopped = self.generate(piece.ids, prompt)
            ended = ended and stopped
            whole.append(self.decoded(tokens, voice, in_hops=False))
            streamed.append(self.decoded(tokens, voice, in_hops=True))
        return np.concatenate(whole), np.concatenate(streamed), ended

    def generate(self, ids: Sequence[int], prompt: Prompt) -> tuple[list[int], bool]:
        """Return the speech tokens of a text, and whether the model ended the utterance."""
        events: queue.SimpleQueue[TokensEvent | FailedEvent] = queue.SimpleQueue()
        self._llm.submit(Request(tuple(ids), prompt, SamplingOptions(seed=SEED), max_seconds=MAX_SECONDS), events.put)
        tokens: list[int] = []
        while True:
            event = events.get()
            if isinstance(event, FailedEvent):
                raise event.error
            tokens += event.ids
            if event.last:
                return tokens, event.finish_reason == "stop"

    def decoded(self, tokens: list[int], voice: Voice, *, in_hops: bool) -> NDArray[np.float32]:
        """Return the audio of speech tokens, made in one go or in the hops of a stream."""
        if not tokens:
            return np.zeros(0, np.float32)
        flow, prompt = self._model.flow, len(voice.speech_tokens)
        plan = ChunkPlan(flow.chunk_tokens, flow.chunk_tokens)
        spec = StreamSpec(voice.speech_tokens, voice.mel, voice.embedding, seed=SEED, plan=plan)
        state, total, audio = self._decode.open(spec), prompt + len(tokens), list[NDArray[np.float32]]()
        end = plan.boundary_at_or_after(prompt + 1) if in_hops else total
        while True:
            final = end + flow.lookahead_tokens > total
            end = total if final else end
            known = tokens if final else tokens[: end + flow.lookahead_tokens - prompt]
            [made] = self._decode.run([Hop(state, known, end, final)], beat=lambda: None)
            if isinstance(made, Exception):
                raise made
            audio.append(made.samples)
            if final:
                return np.concatenate(audio)
            end = plan.boundary_at_or_after(end + 1)


def measure(
    pipeline: Pipeline, text: str, name: str, voice: Voice, rate: int, recogniser: Recogniser | None
) -> Measured:
    """Speak a text and measure its audio."""
    whole, streamed, ended = pipeline.speak(text, voice)
    size = rate // 50
    frames = whole[: len(whole) // size * size].reshape(-1, size)
    level = float(np.sqrt(np.mean(np.square(whole, dtype=np.float64)))) if whole.size else 0.0
    same_length = streamed.shape == whole.shape
    return Measured(
        text=text,
        voice=name,
        seconds=len(whole) / rate,
        ended=ended,
        level_db=20 * math.log10(max(level, 1e-9)),
        peak=float(np.abs(whole).max(initial=0.0)),
        silent=float((np.abs(frames).max(axis=1) < _SILENCE).mean()) if len(frames) else 1.0,
        stream_difference=float(np.abs(streamed - whole).max(initial=0.0)) if same_length else math.inf,
        recognised=None if recogniser is None or text not in SENTENCES else recogniser.hear(whole, rate) == text,
    )


def verify(
    directory: Path, device: str, weights: str, only_voice: str = ""
) -> Iterator[tuple[Finding, Measured | None]]:
    """Yield the findings one by one, the measurement with those of spoken texts."""
    failed = False
    for finding in examine_checkpoint(directory):
        failed = failed or finding.level == "fail"
        yield finding, None
    if failed:
        return
    try:
        model = open_model_dir(directory)
        pipeline = Pipeline(model, device, weights)
    except (ModelDirError, StartError) as error:
        yield Finding("fail", str(error), "repair the named file or setting"), None
        return
    try:
        recogniser = recogniser_for(SENTENCES)
        if recogniser is None:
            remedy = "pip install pocketsphinx, to have the English texts recognised"
            yield Finding("warn", "no recogniser is installed; the words are not checked", remedy), None
        languages = set(model.card.languages)
        texts = [SENTENCES[number] for number in SPOKEN if "en" in languages]
        texts += [CHINESE] if "zh" in languages else []
        for name, voice in pipeline.voices(only_voice):
            for text in texts:
                measured = measure(pipeline, text, name, voice, model.sample_rate, recogniser)
                yield _judged(measured), measured
    except (InvalidInput, ModelDirError, ArithmeticError) as error:
        yield Finding("fail", f"speaking failed: {error}", "correct the option, or repair the checkpoint"), None
    finally:
        pipeline.close()


def _judged(measured: Measured) -> Finding:
    what = f"{measured.voice}: {measured.text!r}: {measured.seconds:.1f} s, {measured.level_db:.0f} dBFS"
    what += f", streamed within {measured.stream_difference:.0e}"
    what += {True: ", recognised", False: "", None: ""}[measured.recognised]
    problems = list(measured.problems())
    if not problems:
        return Finding("ok", what)
    return Finding("fail", f"{what}: {'; '.join(problems)}", "these weights do not speak this text as expected")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if everything is as expected, 1 if not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="light-tts verify", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", default="")
    parser.add_argument("--voice", default="")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    findings: list[dict[str, object]] = []
    failures = 0
    for finding, measured in verify(options.directory, options.device, options.weights, options.voice):
        show_finding(finding)
        failures += finding.level == "fail"
        findings.append(asdict(finding) | ({"measured": asdict(measured)} if measured else {}))
    if options.report is not None:
        result = {"directory": str(options.directory), "passed": not failures, "findings": findings}
        try:
            options.report.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            err.print(f"cannot write the report {options.report}: {error.strerror}", markup=False, soft_wrap=True)
            return 1
        err.print(f"report: {options.report}", markup=False, soft_wrap=True)
    out.print(f"{options.directory}: {counted(failures, 'problem') if failures else 'verified'}", soft_wrap=True)
    return 1 if failures else 0


if __name__ == "__main__":
    with output_errors():
        sys.exit(main())
