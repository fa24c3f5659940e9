"""What the decode parity tests share: the mini checkpoint's modules, and upstream's token2wav rebuilt from ours.

Upstream's streaming (a cross-fade of 3840 samples, a phase that restarts in every call) is not what the product does;
it lives here only to show that the same weights and mel give upstream's audio.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from services.common.modeldir import ModelDir, open_model_dir
from services.common.weights import read_weights
from services.decode.chunks import ChunkPlan
from services.decode.flow.model import Flow, FlowHop, FlowState
from services.decode.vocoder.context import layer_bound
from services.decode.vocoder.pitch import accumulate, cycles_per_frame
from services.decode.vocoder.stream import Vocoder

MINI = Path(__file__).parents[1] / "data" / "cosyvoice2-mini"
CACHE_FRAMES, CACHE_SAMPLES = 8, 3840


def golden(name: str) -> dict[str, Tensor]:
    with np.load(MINI / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


@cache
def model_dir() -> ModelDir:
    return open_model_dir(MINI)


@cache
def flow() -> Flow:
    return Flow(model_dir().flow, read_weights(model_dir().weights_file("flow")))


@cache
def vocoder() -> Vocoder:
    config = model_dir().vocoder
    return Vocoder(config, read_weights(model_dir().weights_file("hift")), layer_bound(config))


def open_stream(plan: ChunkPlan) -> FlowState:
    inputs = golden("tts_inputs")
    return flow().open(inputs["prompt_token"][0], inputs["prompt_feat"][0], inputs["embedding"][0], plan)


def tokens() -> list[int]:
    return [int(token) for token in golden("tts_inputs")["token"][0]]


def one_shot_mel(plan: ChunkPlan) -> Tensor:
    """[240, 80] of all the golden tokens at once."""
    state = open_stream(plan)
    state.tokens = tokens()
    return flow().append([FlowHop(state, state.available, final=True, keep=False)])[0]


def zero_noise_source(mel: Tensor) -> Tensor:
    """The excitation [M * 480] of a mel [M, 80] taken as an utterance of its own, noise draws 0."""
    voc = vocoder()
    with torch.inference_mode():
        f0 = voc.pitch(mel.T[None].double())[0]
        harmonics = voc.source.harmonics
        turns = cycles_per_frame(f0, harmonics, voc.config.sample_rate, voc.config.hop)
        phase = accumulate(turns, turns.new_zeros(harmonics))
        return voc.source(f0, phase, None, torch.zeros(voc.config.hop * mel.shape[0], harmonics))


class UpstreamVocoder:
    """Upstream's token2wav after the flow: cached frames, cached source, Hamming cross-fade (spec section 6.2)."""

    def __init__(self) -> None:
        self._mel: Tensor | None = None
        self._source = torch.zeros(0)
        self._audio = torch.zeros(0)

    def __call__(self, mel: Tensor, final: bool) -> Tensor:
        if self._mel is not None:
            mel = torch.cat((self._mel, mel))
        source = torch.cat((self._source, zero_noise_source(mel)[self._source.shape[0] :]))
        with torch.no_grad():
            audio = vocoder().generator(mel.T[None], source[None])[0]
        if self._mel is not None:
            fade = torch.from_numpy(np.hamming(2 * CACHE_SAMPLES)).float()
            audio[:CACHE_SAMPLES] = audio[:CACHE_SAMPLES] * fade[:CACHE_SAMPLES] + self._audio * fade[CACHE_SAMPLES:]
        if final:
            return audio
        self._mel, self._source, self._audio = mel[-CACHE_FRAMES:], source[-CACHE_SAMPLES:], audio[-CACHE_SAMPLES:]
        return audio[:-CACHE_SAMPLES]
