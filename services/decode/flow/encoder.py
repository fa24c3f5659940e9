"""CosyVoice2's front: the upsampling conformer encoder (spec section 5.2).

Every function maps new positions to new positions; earlier positions are in the cache of the pass.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.flow_config import ConformerConfig, FlowConfig
from services.decode.flow.forward_pass import Pass
from services.decode.flow.front import Front, Passes, PreLookahead
from services.decode.flow.kv_cache import KvLayout

_UPSAMPLE_TAIL = 0


class Embed(nn.Module):
    """Linear, LayerNorm, times the square root of the width."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(in_features, width), nn.LayerNorm(width, eps=1e-5))
        self.scale = math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.out(x)
        return embedded * self.scale


class RelativeAttention(nn.Module):
    """Multi-head attention with a relative-position term; key and query may be any distance apart."""

    def __init__(self, width: int, heads: int, index: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.index = heads, width // heads, index
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, self.head_dim))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, self.head_dim))

    def forward(self, x: Tensor, positions: Pass, sinusoids: Sinusoids) -> Tensor:
        q = self.linear_q(x).unflatten(-1, (self.heads, self.head_dim))
        k = self.linear_k(x).unflatten(-1, (self.heads, self.head_dim))
        v = self.linear_v(x).unflatten(-1, (self.heads, self.head_dim))
        biases = [
            self._position_bias(q[row, :length], start, sinusoids)
            for row, (start, length) in enumerate(zip(positions.starts, positions.lengths, strict=True))
        ]
        out: Tensor = self.linear_out(positions.attend(self.index, q + self.pos_bias_u, k, v, biases))
        return out

    def _position_bias(self, q: Tensor, start: int, sinusoids: Sinusoids) -> Tensor:
        """(q_i + v) . W_pos PE(i - j), scaled: [heads, N, start + N] for queries at absolute start … start + N."""
        new = q.shape[0]
        keys = start + new
        # Distances fall along a row (j grows) and rise along a column, so each row is a window of one table that
        # begins at the largest distance, keys - 1, and is shifted by one per query.
        table = self.linear_pos(sinusoids(keys - 1, new - 1, q.device)).unflatten(-1, (self.heads, self.head_dim))
        scores = torch.einsum("nhd,rhd->hnr", q + self.pos_bias_v, table) / math.sqrt(self.head_dim)
        stride_h, stride_n, stride_r = scores.stride()
        return scores.as_strided(
            (self.heads, new, keys), (stride_h, stride_n - stride_r, stride_r), (new - 1) * stride_r
        )


class Sinusoids:
    """PE(r) for relative positions r = query - key (spec section 5.2), computed on demand."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._reach = 0
        self._table = torch.empty(0)

    def __call__(self, furthest_back: int, furthest_ahead: int, device: torch.device) -> Tensor:
        """Rows for r = furthest_back, …, 0, …, -furthest_ahead: [back + ahead + 1, width]."""
        reach = max(furthest_back, furthest_ahead)
        if reach > self._reach or not self._table.numel():
            self._grow(max(reach, 2 * self._reach))
        self._table = self._table.to(device)
        return self._table[self._reach - furthest_back : self._reach + furthest_ahead + 1]

    def _grow(self, reach: int) -> None:
        distance = torch.arange(reach, -reach - 1, -1, dtype=torch.float32)
        rate = torch.exp(torch.arange(0, self._width, 2, dtype=torch.float32) * -(math.log(10000.0) / self._width))
        angle = distance[:, None] * rate
        self._reach, self._table = reach, torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


class FeedForward(nn.Module):
    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, units)
        self.w_2 = nn.Linear(units, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_2(F.silu(self.w_1(x)))
        return out


class ConformerBlock(nn.Module):
    """Pre-norm attention and feed-forward (LayerNorm eps 1e-12); the other parts of a conformer are disabled."""

    def __init__(self, width: int, heads: int, units: int, index: int) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(width, heads, index)
        self.feed_forward = FeedForward(width, units)
        self.norm_ff = nn.LayerNorm(width, eps=1e-12)
        self.norm_mha = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, positions: Pass, sinusoids: Sinusoids) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), positions, sinusoids)
        out: Tensor = x + self.feed_forward(self.norm_ff(x))
        return out


class UpLayer(nn.Module):
    """Nearest repetition to mel rate, then a causal convolution over five frames."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv = nn.Conv1d(width, width, 2 * ratio + 1)

    def forward(self, x: Tensor, frames: Pass) -> Tensor:
        x = frames.left(_UPSAMPLE_TAIL, x.repeat_interleave(self.ratio, dim=1), 2 * self.ratio)
        out: Tensor = self.conv(x.transpose(1, 2))
        return out.transpose(1, 2)


class Encoder(nn.Module):
    """The whole encoder: two stacks of blocks, at token rate and at mel rate."""

    def __init__(self, flow: FlowConfig, config: ConformerConfig) -> None:
        super().__init__()
        width, ratio = config.width, flow.mel_frames_per_token
        sizes = (width, config.heads, config.units)
        self.embed = Embed(config.input_size, width)
        self.pre_lookahead_layer = PreLookahead(width, width, flow.lookahead_tokens)
        self.encoders = nn.ModuleList(ConformerBlock(*sizes, index) for index in range(config.blocks))
        self.up_layer = UpLayer(width, ratio)
        self.up_embed = Embed(width, width)
        self.up_encoders = nn.ModuleList(ConformerBlock(*sizes, index) for index in range(config.up_blocks))
        self.after_norm = nn.LayerNorm(width, eps=1e-5)
        self.sinusoids = Sinusoids(width)

    def forward(self, embedded: Tensor, tokens: Pass, frames: Pass) -> Tensor:
        """[S, N + lookahead, C] from `embed`, right context included -> [S, ratio * N, C] at mel rate."""
        x = self.pre_lookahead_layer(embedded, tokens)
        for block in self.encoders:
            x = block(x, tokens, self.sinusoids)
        x = self.up_embed(self.up_layer(x, frames))
        for block in self.up_encoders:
            x = block(x, frames, self.sinusoids)
        out: Tensor = self.after_norm(x)
        return out


class ConformerFront(Front):
    """CosyVoice2's front: embedded tokens, the encoder, a projection to the mel."""

    def __init__(self, flow: FlowConfig, config: ConformerConfig) -> None:
        super().__init__()
        self._config, self._ratio, self.width = config, flow.mel_frames_per_token, config.width
        self.input_embedding = nn.Embedding(flow.vocab_size, config.input_size)
        self.encoder = Encoder(flow, config)
        self.encoder_proj = nn.Linear(config.width, flow.output_size)

    def layouts(self, tokens: int) -> dict[str, KvLayout]:
        config = self._config
        head_dim = config.width // config.heads
        return {
            "tokens": KvLayout(config.blocks, tokens, config.heads, head_dim),
            "frames": KvLayout(config.up_blocks, tokens * self._ratio, config.heads, head_dim),
        }

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.encoder.embed(self.input_embedding(ids))
        return embedded

    def forward(self, embedded: Tensor, over: Passes) -> Tensor:
        mu: Tensor = self.encoder_proj(self.encoder(embedded, over("tokens"), over("frames")))
        return mu
