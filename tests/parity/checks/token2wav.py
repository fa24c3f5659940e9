"""Tokens to audio against upstream's own runs: one shot, streamed, last call chunk-causal (spec section 6)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from services.common.checkpoint.weights import read_weights
from tests.parity.checks.flow import mel_after, open_stream, plans, tokens
from tests.parity.golden import Arrays, Golden
from tests.parity.reference import ReferenceVocoder
from tests.parity.registry import check
from tests.parity.report import Row, close, close_rms, equal
from tests.parity.upstream import Call, no_noise, one_shot, speak, streamed

_FLOAT32 = 1e-5
"""Rounding of the vocoder's convolutions and sines in float32 over some seconds."""


@check("token2wav.npz")
def token2wav(golden: Golden) -> Iterator[Row]:
    arrays = golden.arrays("token2wav.npz")
    by_name = {
        "nonstream": one_shot(golden),
        "stream_growth": streamed(golden, growth=2),
        "stream_hop25": streamed(golden, growth=1),
    }
    for name, calls in by_name.items():
        if f"{name}_audio" in arrays:
            yield from _run(golden, arrays, name, calls)
    yield _one_shot_in_float64(golden)
    last = "stream_hop25_causalfinal_last_chunk_audio"
    if last in arrays:
        audio = speak(golden, by_name["stream_hop25"], causal_last=True)[-1][None]
        yield close(f"token2wav.npz: {last}", audio, arrays[last], golden.tolerance["audio"])
        yield close_rms(f"token2wav.npz: {last}", audio, arrays[last], golden.tolerance["audio rms"])


@torch.inference_mode()
def _one_shot_in_float64(golden: Golden) -> Row:
    """The vocoder's part without upstream's float32 phase noise, which the tolerance of the other rows admits."""
    whole, _ = plans(golden)
    state = open_stream(golden, whole)
    mel = mel_after(golden, state, len(tokens(golden)), final=True, keep=False)
    vocoder = golden.vocoder
    with no_noise(vocoder):
        ours = vocoder.append(vocoder.open(seed=0), mel, last=True)
    reference = ReferenceVocoder(golden.model.vocoder, read_weights(golden.model.weights_file("hift")))
    expected = reference.audio(mel, torch.zeros(ours.shape[0], vocoder.source.harmonics))
    return close("token2wav.npz: one shot, vocoder in float64", ours, expected, _FLOAT32)


def _run(golden: Golden, arrays: Arrays, name: str, calls: list[Call]) -> Iterator[Row]:
    rows = [call.as_row(golden.model.flow.mel_frames_per_token) for call in calls]
    listed = f"{name}_calls_ntoken_streaming_finalize_nmel"
    if listed in arrays:
        yield equal(f"token2wav.npz: {listed}", rows, arrays[listed])
    chunks = speak(golden, calls)
    lengths = [chunk.shape[0] for chunk in chunks]
    yield equal(f"token2wav.npz: {name}_chunk_lengths", lengths, arrays[f"{name}_chunk_lengths"])
    audio = torch.cat(chunks)[None]
    expected = arrays[f"{name}_audio"]
    yield close(f"token2wav.npz: {name}_audio", audio, expected, golden.tolerance["audio"])
    yield close_rms(f"token2wav.npz: {name}_audio", audio, expected, golden.tolerance["audio rms"])
