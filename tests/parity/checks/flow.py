"""The flow: noise, front, estimator, mel in one shot, recomputed and appended (spec sections 5, 6.3 and 9)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from services.common.checkpoint.chunk_plan import ChunkPlan
from services.decode.flow.dit import DiT
from services.decode.flow.encoder import ConformerFront
from services.decode.flow.forward_pass import Pass, chunk_mask
from services.decode.flow.front import ConvolutionFront, PreLookahead
from services.decode.flow.model import FlowHop, FlowState
from services.decode.flow.solver import euler_times, noise_table
from services.decode.flow.unet import UNet
from tests.parity.golden import Absent, Golden, ids
from tests.parity.registry import check
from tests.parity.report import Row, close, equal


def plans(golden: Golden) -> tuple[ChunkPlan, ChunkPlan]:
    """Upstream's `streaming` False and True."""
    chunk = golden.model.flow.chunk_tokens
    return ChunkPlan.whole(), ChunkPlan(chunk, chunk)


def open_stream(golden: Golden, plan: ChunkPlan) -> FlowState:
    """The golden prompt's stream before its first token."""
    inputs = {name: torch.from_numpy(array) for name, array in golden.arrays("tts_inputs.npz").items()}
    return golden.flow.open(inputs["prompt_token"][0], inputs["prompt_feat"][0], inputs["embedding"][0], plan)


def tokens(golden: Golden) -> list[int]:
    return list(ids(golden.arrays("tts_inputs.npz")["token"]))


def mel_after(golden: Golden, state: FlowState, count: int, *, final: bool, keep: bool) -> Tensor:
    """New frames [n, mel] of the stream's first `count` golden tokens, its lookahead known and no more."""
    known = count if final else count + golden.model.flow.lookahead_tokens
    state.tokens = tokens(golden)[:known]
    return golden.flow.append([FlowHop(state, state.prompt + count, final, keep)])[0]


@check("flow_noise.npz")
def noise(golden: Golden) -> Iterator[Row]:
    arrays = golden.arrays("flow_noise.npz")
    table = noise_table(golden.model.flow.output_size).T[None]
    yield equal("flow_noise.npz: noise_shape", list(table.shape), arrays["noise_shape"])
    first, last = arrays["noise_first"], arrays["noise_last"]
    yield close("flow_noise.npz: noise_first", table[..., : first.shape[-1]], first, 0)
    yield close("flow_noise.npz: noise_last", table[..., -last.shape[-1] :], last, 0)
    for name in arrays.matching(r"noise_row0_first(\d+)"):
        yield close(f"flow_noise.npz: {name.group()}", table[0, 0, : int(name.group(1))], arrays[name.group()], 0)
    for name in arrays.matching(r"noise_used_\d+"):
        used = arrays[name.group()]
        yield close(f"flow_noise.npz: {name.group()}", table[..., : used.shape[-1]], used, 0)
    yield close("flow_noise.npz: noise_sum_f64", table.double().sum(), arrays["noise_sum_f64"], 1e-6)
    solver = golden.model.flow.solver
    times = euler_times(solver.steps, solver.schedule)
    span = [float(t) for t, _ in times] + [float(sum(dt for _, dt in times))]
    yield close("flow_noise.npz: t_span", span, arrays["t_span"], 1e-6)


@check("flow_encoder.npz")
@torch.inference_mode()
def encoder(golden: Golden) -> Iterator[Row]:
    arrays, front, tolerance = golden.arrays("flow_encoder.npz"), conformer(golden), golden.tolerance["mel"]
    speaker = open_stream(golden, ChunkPlan()).speaker
    yield close("flow_encoder.npz: spk80", speaker, arrays["spk80"][0], tolerance)
    token_in = torch.from_numpy(arrays["token_in"])
    embedded = front.embed(token_in)
    expected = arrays["embed_scaled"]
    yield close("flow_encoder.npz: embed_scaled", embedded[:, : expected.shape[1]], expected, tolerance)
    out = _looked_ahead(golden, front.encoder.pre_lookahead_layer, embedded, embedded.shape[1])
    expected = arrays["pre_lookahead_out"]
    yield close("flow_encoder.npz: pre_lookahead_out", out[:, : expected.shape[1]], expected, tolerance)
    for name in arrays.matching(r"(h|mu)_stream([01])_final(1|0_(\d+))"):
        kind, streaming, count = name.group(1), int(name.group(2)), name.group(4)
        hidden = _encode(golden, token_in[0], int(count) if count else None, plans(golden)[streaming])
        ours = front.encoder_proj(hidden) if kind == "mu" else hidden
        yield close(f"flow_encoder.npz: {name.group()}", ours, arrays[name.group()], tolerance)


def _encode(golden: Golden, token_in: Tensor, count: int | None, plan: ChunkPlan) -> Tensor:
    """Hidden rows of the first `count` tokens, those after them as context; of all tokens when `count` is None."""
    front, config = conformer(golden), golden.model.flow
    known = len(token_in) if count is None else count
    embedded = front.embed(token_in[: known + config.lookahead_tokens])
    missing = known + config.lookahead_tokens - embedded.shape[0]
    padded = torch.cat((embedded, embedded.new_zeros(missing, embedded.shape[1])))
    ratio = config.mel_frames_per_token
    at_tokens, at_frames = _whole(plan, 1, known), _whole(plan, ratio, ratio * known)
    hidden: Tensor = front.encoder(padded[None], at_tokens, at_frames)
    return hidden


def conformer(golden: Golden) -> ConformerFront:
    """CosyVoice2's front. Raises Absent for another one."""
    front = golden.flow.front
    if not isinstance(front, ConformerFront):
        raise Absent("this checkpoint's front has no encoder")
    return front


def _looked_ahead(golden: Golden, layer: PreLookahead, embedded: Tensor, count: int) -> Tensor:
    """The pre-lookahead layer's first `count` rows over embedded tokens [1, n, C]; unknown ones are zero vectors."""
    missing = count + golden.model.flow.lookahead_tokens - embedded.shape[1]
    context = embedded.new_zeros(1, max(0, missing), embedded.shape[2])
    out: Tensor = layer(torch.cat((embedded, context), dim=1), Pass([count], None))
    return out


def _whole(plan: ChunkPlan, ratio: int, count: int, rows: int = 1) -> Pass:
    """A pass over `count` positions from the stream's beginning, `ratio` per token, chunked by `plan`."""
    ends = torch.tensor([min(count, ratio * plan.chunk_end(i // ratio)) for i in range(count)])
    return Pass([count], chunk_mask([ends], [0], [count], rows), rows=rows)


@check("flow_estimator.npz")
@torch.inference_mode()
def estimator(golden: Golden) -> Iterator[Row]:
    arrays, network, tolerance = golden.arrays("flow_estimator.npz"), golden.flow.estimator, golden.tolerance["mel"]
    inputs = {name: torch.from_numpy(arrays[name]) for name in ("x", "mu", "cond", "spks", "t")}
    batch, _, frames = inputs["x"].shape
    inputs["speaker"] = inputs["spks"][..., None].expand(-1, -1, frames)
    order = ("x", *network.conditions)
    rows = torch.cat([inputs[name] for name in order], dim=1).transpose(1, 2)
    time = network.time_embed if isinstance(network, DiT) else cast(UNet, network).time_mlp
    yield close("flow_estimator.npz: time_emb", time(inputs["t"]), arrays["time_emb"], tolerance)
    if isinstance(network, DiT):
        expected = arrays["input_embed_out"]
        ours = network.input_embed(rows, Pass([frames], None, rows=batch))[:, : expected.shape[1]]
        yield close("flow_estimator.npz: input_embed_out", ours, expected, tolerance)
        yield from _front_rows(golden, tolerance)
    ratio = golden.model.flow.mel_frames_per_token
    for name in arrays.matching(r"out_stream([01])"):
        whole = _whole(plans(golden)[int(name.group(1))], ratio, frames, rows=batch)
        out = network(rows, network.time_terms(inputs["t"]), whole)
        yield close(f"flow_estimator.npz: {name.group()}", out.transpose(1, 2), arrays[name.group()], tolerance)


def _front_rows(golden: Golden, tolerance: float) -> Iterator[Row]:
    """The rows of CosyVoice3's front before they are repeated, over the golden prompt and tokens."""
    arrays, front = golden.arrays("flow_estimator.npz"), golden.flow.front
    if not isinstance(front, ConvolutionFront):
        raise Absent("this checkpoint's front has no array")
    known = torch.tensor([*ids(golden.arrays("tts_inputs.npz")["prompt_token"]), *tokens(golden)])
    lookahead = golden.model.flow.lookahead_tokens
    for name in arrays.matching(r"pre_lookahead_out_final(1|0_(\d+))"):
        expected, count = arrays[name.group()], int(name.group(2)) if name.group(2) else len(known)
        embedded = front.embed(known[: count + lookahead])[None]
        ours = _looked_ahead(golden, front.pre_lookahead_layer, embedded, count)[:, : expected.shape[1]]
        yield close(f"flow_estimator.npz: {name.group()}", ours, expected, tolerance)


@check("flow_mel.npz")
def mel(golden: Golden) -> Iterator[Row]:
    arrays, tolerance = golden.arrays("flow_mel.npz"), golden.tolerance["mel"]
    everything = len(tokens(golden))
    for name, plan in zip(("mel_nonstream_final", "mel_stream_final"), plans(golden), strict=True):
        ours = mel_after(golden, open_stream(golden, plan), everything, final=True, keep=False)
        yield close(f"flow_mel.npz: {name}", ours.T[None], arrays[name], tolerance)
    ends = sorted(int(name.group(1)) for name in arrays.matching(r"mel_stream_nonfinal_upto(\d+)"))
    plan = plans(golden)[1]
    prompt = golden.arrays("tts_inputs.npz")["prompt_token"].size
    # Kept state ends on chunk borders; calls that end elsewhere can only be recomputed.
    aligned = all((prompt + end) % plan.chunk_tokens == 0 for end in ends)
    for keep in (False, True) if aligned else (False,):
        note = "appended to kept state" if keep else "recomputed"
        pieces = _pieces(golden, plan, [*ends, everything], keep=keep)
        for end, piece in zip(ends, pieces, strict=False):
            name = f"mel_stream_nonfinal_upto{end}"
            yield close(f"flow_mel.npz: {name}", piece.T[None], arrays[name], golden.tolerance["streamed mel"], note)
        whole = np.concatenate(pieces).T[None]
        expected = arrays["mel_stream_final"]
        yield close("flow_mel.npz: mel_stream_final", whole, expected, golden.tolerance["streamed mel"], note)


def _pieces(golden: Golden, plan: ChunkPlan, ends: Sequence[int], *, keep: bool) -> list[Tensor]:
    state = open_stream(golden, plan)
    return [mel_after(golden, state, end, final=end == ends[-1], keep=keep and end != ends[-1]) for end in ends]
