"""Measures the times of words against a recogniser's, and what they cost: `python -m benchmarks.words --help`.

The 25 held-out sentences are spoken in turn by the directory's voices, in one process. The times that the llm's heads
give are compared with those of pocketsphinx, which aligns the known words with the audio. Its own times have steps of
10 ms, and speech tokens have 40 ms. The cost is that of the same decode steps with and without alignment, run in turn;
on one CPU thread it is processor time, so that other programs on the machine hardly affect it.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from benchmarks.floor import Clock, clock_of
from cli.model.recognition import RATE
from cli.model.verify import SENTENCES, Pipeline
from gateway.utterance.words import UtteranceWords
from lighttts.v1 import audio_pb2, encode_pb2, llm_pb2
from services.common.checkpoint.model_dir import ModelDir, open_model_dir
from services.common.engine.shell import FailedEvent
from services.encode.text.pieces import Piece, TextRequest
from services.encode.text.text_encoder import SentenceEncoder
from services.encode.text.words import WordIds
from services.encode.voice.features import resample
from services.llm.engine.layout import Prompt
from services.llm.engine.scheduler import EngineLimits, Scheduler
from services.llm.engine.sequence import Request, SamplingOptions, TokensEvent
from services.llm.engine.sequence import Sequence as EngineSequence
from services.llm.model.model import load_speech_lm
from services.llm.model.torch_backend import TorchBackend, TorchOptions

TINY = Path(__file__).parents[1] / "models" / "tiny"
SILENCE_SECONDS = 0.2
"""Added around the audio for the recogniser."""
PROMPT_TOKENS, TEXT_IDS, REQUEST_TOKENS = 75, 30, 1024


class TimedPipeline(Pipeline):
    """A pipeline that also aligns."""

    def timed(self, piece: Piece, prompt: Prompt, seed: int) -> tuple[list[int], UtteranceWords]:
        """Return the speech tokens of a piece, and its words with their times."""
        events: queue.SimpleQueue[TokensEvent | FailedEvent] = queue.SimpleQueue()
        self._llm.submit(Request(piece.ids, prompt, SamplingOptions(seed=seed)), events.put)
        words, tokens = UtteranceWords(), list[int]()
        words.add_words([_message(word) for word in piece.words], 0)
        words.start(self._model.sample_rate / self._model.token_rate)
        last = False
        while not last:
            event = events.get()
            if isinstance(event, FailedEvent):
                raise event.error
            tokens += event.ids
            last = event.last
            words.add_tokens(
                llm_pb2.GeneratedAudio(
                    audio=audio_pb2.AudioChunk(last=last),
                    text_ids=[place.position for place in event.aligned],
                    confidences=[round(100 * place.confidence) for place in event.aligned],
                    tokens_generated=len(tokens),
                )
            )
        return tokens, words


def _message(word: WordIds) -> encode_pb2.EncodedWord:
    return encode_pb2.EncodedWord(first_id=word.first_id, ids=word.ids, start=word.start, end=word.end)


class Recogniser:
    """Aligns known words with audio."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(loglevel="FATAL", lm=None)

    def times(self, sentence: str, audio: NDArray[np.float32], rate: int) -> list[tuple[float, float]]:
        """Return the start and end of each word, in seconds; none if the recogniser finds no way through the words."""
        self._decoder.set_align_text(re.sub(r"[^a-z' ]", "", sentence.lower()))
        quiet = np.zeros(round(SILENCE_SECONDS * RATE), np.float32)
        samples = np.concatenate((quiet, np.clip(resample(audio, rate, RATE), -1, 1), quiet))
        samples = 0.7 * samples / max(1e-6, float(np.abs(samples).max()))
        samples += np.random.default_rng(0).normal(0, 1e-4, len(samples)).astype(np.float32)
        self._decoder.start_utt()
        self._decoder.process_raw((samples * 32767).astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        parts = self._decoder.seg() or ()
        frames = [(part.start_frame, part.end_frame + 1) for part in parts if part.word[0] not in "<("]
        return [(start / 100 - SILENCE_SECONDS, end / 100 - SILENCE_SECONDS) for start, end in frames]


def errors(pipeline: TimedPipeline, model: ModelDir) -> Iterator[tuple[float, float]]:
    """Yield the errors of the start and the end of each word, in seconds."""
    recogniser = Recogniser()
    voices = list(pipeline.voices(""))
    for number, sentence in enumerate(SENTENCES):
        _, voice = voices[number % len(voices)]
        prompt = Prompt(tuple(voice.prompt_text_ids.tolist()), tuple(voice.speech_tokens.tolist()))
        encoder = SentenceEncoder(pipeline.frontend, request=TextRequest(words=True))
        [piece] = [piece for step in chain(encoder.push(sentence), encoder.finish()) for piece in step]
        tokens, words = pipeline.timed(piece, prompt, seed=7 + number)
        heard = recogniser.times(sentence, pipeline.decoded(tokens, voice, in_hops=False), model.sample_rate)
        spans = [words.spoken(word) for word in words.words]
        if len(heard) != len(spans) or not words.aligned:
            print(f"not compared: {sentence!r}: {len(heard)} words recognised of {len(spans)}")
            continue
        for span, (start, end) in zip(spans, heard, strict=True):
            length = len(tokens) / model.token_rate
            # A word that was never reached counts with the end of the audio.
            first = length if span is None else span.first / model.sample_rate
            last = length if span is None or span.end is None else span.end / model.sample_rate
            yield first - start, last - end


class Steps:
    """Decode steps of a batch."""

    def __init__(self, model_dir: ModelDir, backend: TorchBackend, batch: int) -> None:
        limits = EngineLimits(batch, 0, total_tokens=batch * REQUEST_TOKENS, max_request_tokens=REQUEST_TOKENS)
        backend.reserve(limits.num_blocks, limits.block_size)
        self._backend, self._scheduler, self._speech = backend, Scheduler(limits), model_dir.llm.speech_tokens
        for number in range(batch):
            prompt = Prompt((), tuple(range(PROMPT_TOKENS)))
            request = Request(tuple(range(TEXT_IDS)), prompt, SamplingOptions(seed=number))
            self._scheduler.add(EngineSequence(request, model_dir, REQUEST_TOKENS, number))

    def step(self) -> None:
        work = self._scheduler.schedule(1)
        for item, drawn in zip(work, self._backend.step(work), strict=True):
            item.sequence.computed += item.count + max(0, len(drawn) - 1)
            if drawn:
                item.sequence.accept_all([token % self._speech for token in drawn], item.aligned)


def cost(model_dir: ModelDir, batch: int, steps: int, clock: Clock, *, cpu_graph: bool) -> tuple[float, float]:
    """Return the seconds of a decode step without alignment, and those that alignment adds."""
    model = load_speech_lm(model_dir)
    kinds = [
        Steps(model_dir, TorchBackend(model, options=TorchOptions(cpu_graph=cpu_graph, alignment=heads)), batch)
        for heads in ((), model_dir.card.alignment)
    ]
    seconds: list[list[float]] = [[], []]
    for number in range(steps + 10):
        for kind, taken in zip(kinds, seconds, strict=True):
            start = clock()
            kind.step()
            if number >= 10:
                taken.append(clock() - start)
    plain, aligned = (float(np.median(taken)) for taken in seconds)
    return plain, aligned - plain


def line(name: str, values: Sequence[float]) -> str:
    size = np.abs(np.array(values)) * 1000
    median, most, worst = np.percentile(size, [50, 95, 100])
    shift = float(np.median(values)) * 1000
    return (
        f"{name}: median error {median:.0f} ms, p95 {most:.0f} ms, worst {worst:.0f} ms, median shift {shift:+.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.words", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model-dir", type=Path, default=TINY)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_num_threads(1)
    model = open_model_dir(args.model_dir)
    heads = ", ".join(f"layer {head.layer} head {head.head} ({head.score:g})" for head in model.card.alignment)
    print(f"{args.model_dir}: {heads or 'no heads'}; load average {os.getloadavg()[0]:.1f}")
    pipeline = TimedPipeline(model, "cpu", "")
    try:
        starts, ends = zip(*errors(pipeline, model), strict=True)
    finally:
        pipeline.close()
    print(f"{len(starts)} words of {len(SENTENCES)} sentences")
    print(line("starts", starts))
    print(line("ends", ends))
    clock: Callable[[], float] = clock_of(torch.device("cpu"))
    for cpu_graph in (True, False):
        for batch in args.batches:
            plain, added = cost(model, batch, args.steps, clock, cpu_graph=cpu_graph)
            kind = "one graph" if cpu_graph else "single operations"
            print(
                f"step of {batch} ({kind}): {plain * 1e3:.2f} ms, alignment {added * 1e6:+.0f} us, {added / plain:+.1%}"
            )


if __name__ == "__main__":
    main()
