"""Prompt features, the front-end graphs and their alignment (spec section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from services.encode.voice.alignment import align
from services.encode.voice.features import (
    kaldi_fbank,
    mel_filters,
    prompt_mel,
    resample,
    speaker_features,
    whisper_log_mel,
)
from services.encode.voice.graphs import SpeakerEncoder, SpeechTokenizer
from tests.parity.golden import Absent, Arrays, Golden
from tests.parity.registry import check
from tests.parity.report import Row, close, equal

_GRAPH = 1e-4
"""Graph runtimes of other versions order their sums differently."""
_SIBLING = "cosyvoice2-mini"
"""A folder without features of its own was made with this one's (README of the cosyvoice3 goldens)."""


def _features(golden: Golden) -> Arrays:
    if golden.has("features.npz"):
        return golden.arrays("features.npz")
    sibling: Path = golden.path.resolve().parent / _SIBLING / "features.npz"
    if not sibling.is_file():
        raise Absent("features.npz is neither in this folder nor next to it")
    return Arrays(sibling)


@check("features.npz")
def features(golden: Golden) -> Iterator[Row]:
    arrays, tolerance = golden.arrays("features.npz"), golden.tolerance
    slow, fast = arrays["wav16k"][0], arrays["wav24k"][0]
    yield close("features.npz: wav16k", resample(fast, 24000, 16000), slow, tolerance["resampler"])
    yield close("features.npz: fbank80", kaldi_fbank(slow), arrays["fbank80"], tolerance["fbank"])
    centred, expected = speaker_features(slow)[0], arrays["fbank80_mean_subtracted"]
    yield close("features.npz: fbank80_mean_subtracted", centred, expected, tolerance["fbank"])
    whisper = whisper_log_mel(slow)
    yield close("features.npz: whisper_logmel128", whisper, arrays["whisper_logmel128"], tolerance["features"])
    for name in arrays.matching(r"mel80_fmax(\d+|null)"):
        fmax = None if name.group(1) == "null" else float(name.group(1))
        mel = prompt_mel(fast, dataclasses.replace(golden.model.mel, fmax=fmax)).T[None]
        yield close(f"features.npz: {name.group()}", mel, arrays[name.group()], tolerance["features"])
    if "mel_basis_checksum" in arrays:
        tops = (8000.0, golden.model.mel.sample_rate / 2)
        sums = [mel_filters(dataclasses.replace(golden.model.mel, fmax=top)).sum() for top in tops]
        yield close("features.npz: mel_basis_checksum", sums, arrays["mel_basis_checksum"], tolerance["features"])


@check("frontend_onnx.npz")
def graphs(golden: Golden) -> Iterator[Row]:
    arrays, audio, model = golden.arrays("frontend_onnx.npz"), _features(golden), golden.model
    slow, fast = audio["wav16k"][0], audio["wav24k"][0]
    golden.require(model.speaker_encoder.name, model.speech_tokenizer.name)
    embedding = SpeakerEncoder(model.speaker_encoder, model.flow.speaker_dim)(slow)
    yield close("frontend_onnx.npz: embedding", embedding, arrays["embedding"].ravel(), _GRAPH)
    tokens = SpeechTokenizer(model.speech_tokenizer, model.llm.speech_tokens)(slow)
    yield equal("frontend_onnx.npz: speech_token_raw", tokens, arrays["speech_token_raw"].ravel())
    cut, mel = align(tokens, prompt_mel(fast, model.mel), model.flow.mel_frames_per_token)
    if "speech_token_aligned" in arrays:
        yield equal("frontend_onnx.npz: speech_token_aligned", cut, arrays["speech_token_aligned"].ravel())
    if "n_aligned" in arrays:
        yield equal("frontend_onnx.npz: n_aligned", len(cut), arrays["n_aligned"])
    if "prompt_feat_aligned_shape" in arrays:
        shape = np.array([1, *mel.shape])
        yield equal("frontend_onnx.npz: prompt_feat_aligned_shape", shape, arrays["prompt_feat_aligned_shape"])
