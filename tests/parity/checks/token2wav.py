"""Tokens to audio against upstream's own runs: one shot, streamed, last call chunk-causal (spec section 6)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tests.parity.golden import Arrays, Golden
from tests.parity.registry import check
from tests.parity.report import Row, close, close_rms, equal
from tests.parity.upstream import Call, one_shot, speak, streamed


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
    last = "stream_hop25_causalfinal_last_chunk_audio"
    if last in arrays:
        audio = speak(golden, by_name["stream_hop25"], causal_last=True)[-1][None]
        yield close(f"token2wav.npz: {last}", audio, arrays[last], golden.tolerance["audio"])
        yield close_rms(f"token2wav.npz: {last}", audio, arrays[last], golden.tolerance["audio rms"])


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
