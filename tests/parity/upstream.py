"""Upstream's own streaming, rebuilt from our parts for comparison only (spec sections 6.1, 6.2 and 9).

Its cross-fade of cached samples, a phase that restarts in every call and a last call with full attention are not what
the product does; they show here that the same weights give upstream's audio.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.vocoder.pitch import accumulate, cycles_per_frame
from services.decode.vocoder.source import NoiseTable
from services.decode.vocoder.stream import Vocoder
from tests.parity.checks.flow import mel_after, open_stream, plans, tokens
from tests.parity.golden import Golden

MOST_CHUNKS = 4
"""The hop grows to at most so many attention chunks."""
CACHE_FRAMES = 8
HELD_FRAMES = 8
"""Frames that upstream's causal vocoder holds back."""


@dataclass(frozen=True)
class Call:
    """One call of upstream's token2wav: on the first `known` tokens, of which `end` become audio."""

    known: int
    end: int
    final: bool

    def as_row(self, frames_per_token: int) -> list[int]:
        """tokens, streaming, finalize, mel frames: a row of the goldens' `*_calls_*` arrays."""
        return [self.known, int(not self.final), int(self.final), frames_per_token * self.end]


def one_shot(golden: Golden) -> list[Call]:
    count = len(tokens(golden))
    return [Call(count, count, final=True)]


def streamed(golden: Golden, growth: int) -> list[Call]:
    """The calls of a streaming request whose tokens are all there; `growth` multiplies the hop after each call."""
    count, config = len(tokens(golden)), golden.model.flow
    prompt = golden.arrays("tts_inputs.npz")["prompt_token"].size
    hop = config.chunk_tokens
    pad = -prompt % hop
    calls: list[Call] = []
    offset = 0
    while True:
        this_hop = hop + (0 if offset else pad)
        if count - offset >= this_hop + config.lookahead_tokens:
            offset += this_hop
            calls.append(Call(offset + config.lookahead_tokens, offset, final=False))
            hop = min(MOST_CHUNKS * config.chunk_tokens, hop * growth)
        if count - offset < this_hop + config.lookahead_tokens:  # upstream asks by the hop before it grew
            break
    return [*calls, Call(count, count, final=True)]


def speak(golden: Golden, calls: list[Call], *, causal_last: bool = False) -> list[Tensor]:
    """The audio [samples] of each call; `causal_last` keeps the last call chunk-causal, which upstream does not."""
    whole, causal = plans(golden)
    vocode = (Rerun if golden.model.vocoder.causal else CrossFade)(golden.vocoder)
    audio = []
    for before, call in pairwise([Call(0, 0, final=False), *calls]):
        plan: ChunkPlan = causal if causal_last or not call.final else whole
        state = open_stream(golden, plan)
        state.done = state.prompt + before.end if before.end else 0
        mel = mel_after(golden, state, call.end, final=call.final, keep=False)
        audio.append(vocode(mel, call.final))
    return audio


def zero_noise_source(vocoder: Vocoder, mel: Tensor) -> Tensor:
    """The excitation [M * hop] of a mel [M, bins] taken as an utterance of its own, noise draws 0."""
    with torch.inference_mode():
        f0 = vocoder.pitch(mel.T[None].double())[0]
        harmonics, hop = vocoder.source.harmonics, vocoder.config.hop
        turns = cycles_per_frame(f0, harmonics, vocoder.config.sample_rate, hop)
        phase = accumulate(turns, turns.new_zeros(harmonics))
        return vocoder.source(f0, phase, None, torch.zeros(hop * mel.shape[0], harmonics))


@contextmanager
def no_noise(vocoder: Vocoder) -> Iterator[None]:
    """The vocoder's noise is zero in the block."""
    table, vocoder.noise = vocoder.noise, NoNoise(vocoder.source.harmonics)
    try:
        yield
    finally:
        vocoder.noise = table


class NoNoise(NoiseTable):
    """Zero draws."""

    def __init__(self, harmonics: int) -> None:
        self._harmonics = harmonics

    def read(self, seed: int, start: int, count: int) -> Tensor:
        return torch.zeros(count, self._harmonics)


class Rerun:
    """Token2wav of CosyVoice3 after the flow: the vocoder over the whole mel at each call (spec section 9)."""

    def __init__(self, vocoder: Vocoder) -> None:
        self._vocoder = vocoder
        self._mel = torch.zeros(0, vocoder.config.in_channels)
        self._spoken = 0

    def __call__(self, mel: Tensor, final: bool) -> Tensor:
        """New mel [n, bins] to samples."""
        self._mel = torch.cat((self._mel, mel))
        audio = self._vocoder.generator(self._mel.T[None], zero_noise_source(self._vocoder, self._mel)[None])[0]
        first, self._spoken = self._spoken, audio.shape[0]
        if not final:
            self._spoken -= HELD_FRAMES * self._vocoder.config.hop
        return audio[first : self._spoken]


class CrossFade:
    """Token2wav after the flow: cached frames, cached source, Hamming cross-fade."""

    def __init__(self, vocoder: Vocoder) -> None:
        self._vocoder = vocoder
        self._cached = CACHE_FRAMES * vocoder.config.hop
        self._mel: Tensor | None = None
        self._source = torch.zeros(0)
        self._audio = torch.zeros(0)

    def __call__(self, mel: Tensor, final: bool) -> Tensor:
        """New mel [n, bins] to samples."""
        if self._mel is not None:
            mel = torch.cat((self._mel, mel))
        own = zero_noise_source(self._vocoder, mel)
        source = torch.cat((self._source, own[self._source.shape[0] :]))
        with torch.no_grad():
            audio = self._vocoder.generator(mel.T[None], source[None])[0]
        cached = self._cached
        if self._mel is not None:
            fade = torch.from_numpy(np.hamming(2 * cached)).float()
            audio[:cached] = audio[:cached] * fade[:cached] + self._audio * fade[cached:]
        if final:
            return audio
        self._mel, self._source, self._audio = mel[-CACHE_FRAMES:], source[-cached:], audio[-cached:]
        return audio[:-cached]
