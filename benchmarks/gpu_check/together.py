"""First audio without services: the llm's tokens go directly into the decode engine of the same process."""

from __future__ import annotations

import contextlib
import queue
import time
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.decode import made_up_voice
from benchmarks.gpu_check.check import Check
from benchmarks.gpu_check.decode import PROMPT_TOKENS, load_decode
from benchmarks.gpu_check.kernel import step_kernels
from benchmarks.gpu_check.llm import (
    MOST_SEQUENCES,
    PREFILL_SIZES,
    PROGRAM_SIZES,
    REQUEST_TOKENS,
    load_llm,
    make_engine,
)
from services.common.engine.shell import FailedEvent
from services.decode.engine import events as decode_events
from services.decode.engine import scheduler as decode_scheduler
from services.decode.engine.engine import DecodeEngine
from services.decode.engine.state import StreamSpec
from services.llm.engine.engine import LlmEngine
from services.llm.engine.layout import Prompt
from services.llm.engine.sequence import Event, Request, SamplingOptions
from services.llm.model.torch_backend import TorchBackend, TorchOptions

SPEECH_SECONDS = 4.0
WAIT_S = 60.0


def together(check: Check) -> None:
    """Report the first audio of one stream alone, several times, and on a GPU of 16 streams at once."""
    model_dir, model = load_llm(check, check.compute)
    backend = load_decode(check, check.compute, check.compute, programs=MOST_SEQUENCES if check.on_gpu else 2)
    voice = replace(made_up_voice(backend, PROMPT_TOKENS, np.random.default_rng(1)), voice="known voice")
    kernels = step_kernels(check, model)
    options = TorchOptions(False, kernels, PROGRAM_SIZES, REQUEST_TOKENS, PREFILL_SIZES)
    llm_backend = TorchBackend(model, options=options)
    limits = decode_scheduler.EngineLimits(max_batch=MOST_SEQUENCES, max_queue=MOST_SEQUENCES, admission=False)
    with (
        contextlib.closing(make_engine(llm_backend, model_dir, 4 if check.on_gpu else 1)) as llm,
        contextlib.closing(DecodeEngine(backend, limits)) as decode,
    ):
        check.report("first audio of a new voice, ms", _measure(llm, decode, voice, 1))
        alone = [_measure(llm, decode, voice, 1)[0] for _ in range(5 if check.on_gpu else 1)]
        check.report("first audio of a known voice, alone, ms", alone)
        if check.on_gpu:
            _measure(llm, decode, voice, MOST_SEQUENCES)
            times = _measure(llm, decode, voice, MOST_SEQUENCES)
            check.report(
                "first audio, 16 at once: least, median, most, ms", [times[0], times[len(times) // 2], times[-1]]
            )


def _measure(llm: LlmEngine, decode: DecodeEngine, voice: StreamSpec, count: int) -> list[int]:
    """Return the milliseconds to the first audio of `count` utterances that start at once, ascending.

    Waits for their end. Raises the error of a failed one.
    """
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    utterances = [Utterance(llm, decode, ended) for _ in range(count)]
    for seed, utterance in enumerate(utterances):
        utterance.start(replace(voice, seed=seed))
    for _ in utterances:
        error = ended.get(timeout=WAIT_S)
        if error is not None:
            raise error
    return sorted(round(utterance.first_audio_s * 1e3) for utterance in utterances)


@dataclass
class Utterance:
    """One utterance through both engines; its end or its error goes to `ended`."""

    llm: LlmEngine
    decode: DecodeEngine
    ended: queue.SimpleQueue[Exception | None]
    first_audio_s: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def start(self, voice: StreamSpec) -> None:
        self._started = time.perf_counter()
        stream = self.decode.open(voice, self._on_audio)

        def on_tokens(event: Event) -> None:
            if isinstance(event, FailedEvent):
                self.ended.put(event.error)
            else:
                self.decode.push(stream, event.ids, event.last)

        prompt = Prompt((), tuple(range(PROMPT_TOKENS)))
        sampling = SamplingOptions(seed=voice.seed)
        self.llm.submit(Request(tuple(range(3, 23)), prompt, sampling, max_seconds=SPEECH_SECONDS), on_tokens)

    def _on_audio(self, event: decode_events.Event) -> None:
        if isinstance(event, FailedEvent):
            self.ended.put(event.error)
            return
        if not self.first_audio_s and len(event.samples):
            self.first_audio_s = time.perf_counter() - self._started
        if event.last:
            self.ended.put(None)
