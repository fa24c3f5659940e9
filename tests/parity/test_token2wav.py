"""Tokens to audio against upstream's own runs, hop policies, full-attention last call and cross-fade included."""

from __future__ import annotations

import decode_golden as mini
import pytest
import torch
from torch import Tensor

from services.decode.chunks import ChunkPlan
from services.decode.flow.model import FlowHop


def check(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    error = actual - expected
    assert float(error.abs().max()) < 1e-2
    assert float(error.square().mean().sqrt()) < 1e-3


def upstream_stream(ends: list[int], *, full_attention_last: bool) -> list[Tensor]:
    flow, state, vocode = mini.flow(), mini.open_stream(ChunkPlan()), mini.UpstreamVocoder()
    chunks, everything = [], mini.tokens()
    for end in ends[:-1]:
        state.tokens = everything[: end + 3 - state.prompt]
        chunks.append(vocode(flow.append([FlowHop(state, end, final=False)])[0], final=False))
    state.tokens = everything
    if full_attention_last:
        state.plan, state.past = ChunkPlan.whole(), None
    mel = flow.append([FlowHop(state, ends[-1], final=True, keep=False)])[0]
    return [*chunks, vocode(mel, final=True)]


def test_one_shot() -> None:
    audio = mini.UpstreamVocoder()(mini.one_shot_mel(ChunkPlan.whole()), final=True)
    check(audio, mini.golden("token2wav")["nonstream_audio"][0])


@pytest.mark.parametrize(("name", "ends"), [("growth", [75, 125, 150]), ("hop25", [75, 100, 125, 150])])
def test_upstream_streaming(name: str, ends: list[int]) -> None:
    golden = mini.golden("token2wav")
    chunks = upstream_stream(ends, full_attention_last=True)
    assert [chunk.shape[0] for chunk in chunks] == golden[f"stream_{name}_chunk_lengths"].tolist()
    check(torch.cat(chunks), golden[f"stream_{name}_audio"][0])


def test_chunk_causal_last_chunk() -> None:
    chunks = upstream_stream([75, 100, 125, 150], full_attention_last=False)
    check(chunks[-1], mini.golden("token2wav")["stream_hop25_causalfinal_last_chunk_audio"][0])
