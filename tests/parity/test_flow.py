"""The flow against the golden arrays, and its own promise: appended pieces equal one recompute."""

from __future__ import annotations

import decode_golden as mini
import pytest
import torch
from torch import Tensor

from services.decode.chunks import ChunkPlan
from services.decode.flow.model import Flow, FlowHop, FlowState
from services.decode.flow.past import Pass
from services.decode.flow.solver import euler_times, noise_table

TOLERANCE = 5e-5


def difference(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max())


def masked(plan: ChunkPlan, ratio: int, tokens: int) -> Tensor:
    ends = torch.tensor([ratio * min(tokens, plan.chunk_end(i // ratio)) for i in range(ratio * tokens)])
    return torch.arange(ratio * tokens) < ends[:, None]


def test_noise_is_the_models_constant() -> None:
    golden = mini.golden("flow_noise")
    noise = noise_table().T[None]
    assert list(noise.shape) == golden["noise_shape"].tolist()
    assert torch.equal(noise[..., :4], golden["noise_first"])
    assert torch.equal(noise[..., -4:], golden["noise_last"])
    assert torch.equal(noise[0, 0, :64], golden["noise_row0_first64"])
    assert torch.equal(noise[..., :64], golden["noise_used_480"])
    assert float(noise.double().sum()) == pytest.approx(float(golden["noise_sum_f64"]), abs=1e-6)


def test_euler_times_follow_the_cosine_schedule() -> None:
    span = mini.golden("flow_noise")["t_span"]
    times = torch.stack([t for t, _ in euler_times(10)] + [sum(dt for _, dt in euler_times(10))])
    assert difference(times, span) < 1e-6


def test_speaker_embedding_is_projected() -> None:
    assert difference(mini.open_stream(ChunkPlan()).speaker, mini.golden("flow_encoder")["spk80"][0]) < TOLERANCE


@torch.inference_mode()
def encode(ids: Tensor, context: Tensor | None, plan: ChunkPlan) -> tuple[Tensor, Tensor]:
    flow = mini.flow()
    embedded = flow.encoder.embed(flow.input_embedding(ids))
    right = torch.zeros(3, embedded.shape[1])
    if context is not None:
        right = flow.encoder.embed(flow.input_embedding(context))
    n = ids.shape[0]
    tokens = Pass([None], [n], [masked(plan, 1, n)], layers=len(flow.encoder.encoders))
    frames = Pass([None], [2 * n], [masked(plan, 2, n)], layers=len(flow.encoder.up_encoders))
    hidden = flow.encoder(torch.cat((embedded, right))[None], tokens, frames)
    return hidden, flow.encoder_proj(hidden)


@pytest.mark.parametrize(("stream", "plan"), [(0, ChunkPlan.whole()), (1, ChunkPlan())])
def test_encoder(stream: int, plan: ChunkPlan) -> None:
    golden = mini.golden("flow_encoder")
    ids = golden["token_in"][0]
    hidden, mu = encode(ids, None, plan)
    assert difference(hidden, golden[f"h_stream{stream}_final1"]) < TOLERANCE
    assert difference(mu, golden[f"mu_stream{stream}_final1"]) < TOLERANCE
    hidden, _ = encode(ids[:75], ids[75:78], plan)
    assert difference(hidden, golden[f"h_stream{stream}_final0_75"]) < TOLERANCE


@torch.inference_mode()
def test_encoder_front() -> None:
    golden, flow = mini.golden("flow_encoder"), mini.flow()
    embedded = flow.encoder.embed(flow.input_embedding(golden["token_in"]))
    assert difference(embedded[:, :16], golden["embed_scaled"]) < TOLERANCE
    n = embedded.shape[1]
    padded = torch.cat((embedded, torch.zeros(1, 3, embedded.shape[2])), dim=1)
    out = flow.encoder.pre_lookahead_layer(padded, Pass([None], [n], [None], layers=1))
    assert difference(out[:, :16], golden["pre_lookahead_out"]) < TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize(("stream", "plan"), [(0, ChunkPlan.whole()), (1, ChunkPlan())])
def test_estimator(stream: int, plan: ChunkPlan) -> None:
    golden, estimator = mini.golden("flow_estimator"), mini.flow().estimator
    frames = golden["x"].shape[2]
    speakers = golden["spks"][..., None].expand(-1, -1, frames)
    rows = torch.cat((golden["x"], golden["mu"], speakers, golden["cond"]), dim=1).transpose(1, 2)
    mask = masked(plan, 2, frames // 2)
    out = estimator(
        rows, estimator.time_terms(golden["t"]), Pass([None], [frames], [mask], rows=2, layers=estimator.layers)
    )
    assert difference(out.transpose(1, 2), golden[f"out_stream{stream}"]) < TOLERANCE
    assert difference(estimator.time_mlp(golden["t"]), golden["time_emb"]) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "plan"), [("mel_nonstream_final", ChunkPlan.whole()), ("mel_stream_final", ChunkPlan())]
)
def test_one_shot_mel(name: str, plan: ChunkPlan) -> None:
    assert difference(mini.one_shot_mel(plan).T[None], mini.golden("flow_mel")[name]) < TOLERANCE


def stream(flow: Flow, state: FlowState, ends: list[int], *, keep: bool) -> list[Tensor]:
    """Appends the golden tokens hop by hop, each hop knowing its three tokens of lookahead and no more."""
    pieces, everything = [], mini.tokens()
    for end in ends:
        final = end == ends[-1]
        state.tokens = everything if final else everything[: end + 3 - state.prompt]
        pieces += flow.append([FlowHop(state, end, final, keep)])
    return pieces


@pytest.mark.parametrize("keep", [True, False], ids=["append", "recompute"])
def test_streamed_mel(keep: bool) -> None:
    golden = mini.golden("flow_mel")
    pieces = stream(mini.flow(), mini.open_stream(ChunkPlan()), [75, 100, 125, 150], keep=keep)
    for piece, upto in zip(pieces, (45, 70, 95), strict=False):
        assert difference(piece.T[None], golden[f"mel_stream_nonfinal_upto{upto}"]) < TOLERANCE
    assert difference(torch.cat(pieces).T[None], golden["mel_stream_final"]) < TOLERANCE


@pytest.mark.parametrize("ends", [[50, 150], [75, 125, 150], [100, 125, 150], [25, 50, 75, 100, 125, 150]])
@pytest.mark.parametrize("plan", [ChunkPlan(), ChunkPlan(first_border=40)], ids=["even", "late first border"])
def test_append_equals_recompute(ends: list[int], plan: ChunkPlan) -> None:
    ends = [plan.border_at_least(end) for end in ends]
    whole = mini.one_shot_mel(plan)
    appended = torch.cat(stream(mini.flow(), mini.open_stream(plan), ends, keep=True))
    assert difference(appended, whole) < 1e-5


def test_batch_mates_do_not_matter() -> None:
    flow, plan = mini.flow(), ChunkPlan()
    alone = torch.cat(stream(flow, mini.open_stream(plan), [75, 150], keep=True))
    first, second = mini.open_stream(plan), mini.open_stream(plan)
    first.tokens = mini.tokens()
    second.tokens = mini.tokens()[::-1]
    ahead = flow.append([FlowHop(second, 50, final=False)])
    mels = flow.append([FlowHop(first, 75, final=False), FlowHop(second, 150, final=True)])
    rest = flow.append([FlowHop(first, 150, final=True)])
    assert difference(torch.cat((mels[0], rest[0])), alone) < 1e-5
    mate = mini.open_stream(plan)
    mate.tokens = mini.tokens()[::-1]
    assert difference(torch.cat((ahead[0], mels[1])), flow.append([FlowHop(mate, 150, final=True)])[0]) < 1e-5


def test_a_hop_needs_its_lookahead() -> None:
    state = mini.open_stream(ChunkPlan())
    state.tokens = mini.tokens()[:45]
    with pytest.raises(ValueError, match="cannot decode to token 75"):
        mini.flow().append([FlowHop(state, 75, final=False)])
    assert state.done == 0
    assert state.past is None
