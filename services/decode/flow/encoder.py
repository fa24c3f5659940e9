"""CosyVoice2's front: the upsampling conformer encoder (spec section 5.2).

Every function maps new positions to new positions; earlier positions are in the cache of the pass.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.flow_config import ConformerConfig, FlowConfig
from services.decode.flow.forward_pass import ForwardContext, FrontContext
from services.decode.flow.front import Front, Passes, PreLookahead
from services.decode.flow.kv_cache import KvLayout
from services.decode.flow.upload import uploaded

_UPSAMPLE_TAIL = 0
KEPT_DISTANCE = 3200
"""Positions: tables of distances are kept up to here, a minute of frames, and computed each time beyond."""


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
        self.kept: Tensor | None = None
        """The projection of a table of sinusoids."""
        self._kept_of: Tensor | None = None

    def forward(self, x: Tensor, positions: FrontContext, sinusoids: Sinusoids) -> Tensor:
        q = self.linear_q(x).unflatten(-1, (self.heads, self.head_dim))
        k = self.linear_k(x).unflatten(-1, (self.heads, self.head_dim))
        v = self.linear_v(x).unflatten(-1, (self.heads, self.head_dim))
        bias = positions.relative(self._scores(q + self.pos_bias_v, positions.keys, sinusoids))
        out: Tensor = self.linear_out(positions.attend(self.index, q + self.pos_bias_u, k, v, bias))
        return out

    def _scores(self, q: Tensor, keys: int, sinusoids: Sinusoids) -> Tensor:
        """q_i . W_pos PE(r), scaled, for r = keys - 1, …, 0, …, -(N - 1): [S, N, heads, d] -> [S, heads, N, R]."""
        streams, new = q.shape[:2]
        table = self._table(keys - 1, new - 1, sinusoids, q.device)
        scores = torch.bmm(q.permute(2, 0, 1, 3).flatten(1, 2), table.mT)
        return scores.view(self.heads, streams, new, -1).transpose(0, 1)

    def _table(self, back: int, ahead: int, sinusoids: Sinusoids, device: torch.device) -> Tensor:
        """W_pos PE(r), scaled, for r = back, …, -ahead: [heads, R, d]. Computed once unless the weights may change."""
        if max(back, ahead) > KEPT_DISTANCE:
            return self._projected(sinusoids.rows(back, ahead, device))
        table, rows = sinusoids.kept(back, ahead, device)
        if self.linear_pos.weight.requires_grad:
            return self._projected(table[rows])
        if self.kept is None or self._kept_of is not table:
            self.kept, self._kept_of = self._projected(table), table
        return self.kept[:, rows]

    def _projected(self, sinusoids: Tensor) -> Tensor:
        table: Tensor = self.linear_pos(sinusoids) / math.sqrt(self.head_dim)
        return table.view(-1, self.heads, self.head_dim).transpose(0, 1).contiguous()


class Sinusoids:
    """PE(r) for relative positions r = query - key (spec section 5.2), computed on demand."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._back = self._ahead = -1
        self._table = torch.empty(0)

    def kept(self, back: int, ahead: int, device: torch.device) -> tuple[Tensor, slice]:
        """Return a table, and which of its rows are those for r = back, …, 0, …, -ahead.

        It is the same table until one is asked for that goes further.
        """
        if back > self._back or ahead > self._ahead or self._table.device != device:
            self._back, self._ahead = _grown(self._back, back), _grown(self._ahead, ahead)
            self._table = self.rows(self._back, self._ahead, device)
        return self._table, slice(self._back - back, self._back + ahead + 1)

    def rows(self, back: int, ahead: int, device: torch.device) -> Tensor:
        """Return the rows for r = back, …, 0, …, -ahead: [back + ahead + 1, width]."""
        distance = torch.arange(back, -ahead - 1, -1, dtype=torch.float32)
        rate = torch.exp(torch.arange(0, self._width, 2, dtype=torch.float32) * -(math.log(10000.0) / self._width))
        angle = distance[:, None] * rate  # on the host: a rate that is rounded otherwise turns by much at the far end
        return uploaded(torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1), device)


def _grown(reach: int, wanted: int) -> int:
    return reach if wanted <= reach else max(wanted, min(2 * reach, KEPT_DISTANCE))


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

    def forward(self, x: Tensor, positions: FrontContext, sinusoids: Sinusoids) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), positions, sinusoids)
        out: Tensor = x + self.feed_forward(self.norm_ff(x))
        return out


class UpLayer(nn.Module):
    """Nearest repetition to mel rate, then a causal convolution over five frames."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv = nn.Conv1d(width, width, 2 * ratio + 1)

    def forward(self, x: Tensor, frames: ForwardContext) -> Tensor:
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
        self.sinusoids, self.up_sinusoids = Sinusoids(width), Sinusoids(width)

    def forward(self, embedded: Tensor, tokens: FrontContext, frames: FrontContext) -> Tensor:
        """[S, N + lookahead, C] from `embed`, right context included -> [S, ratio * N, C] at mel rate."""
        x = self.pre_lookahead_layer(embedded, tokens)
        for block in self.encoders:
            x = block(x, tokens, self.sinusoids)
        x = self.up_embed(self.up_layer(x, frames))
        for block in self.up_encoders:
            x = block(x, frames, self.up_sinusoids)
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
            "tokens": KvLayout(
                config.blocks,
                tokens,
                config.heads,
                head_dim,
                tail_values=self.encoder.pre_lookahead_layer.tail_values,
            ),
            "frames": KvLayout(
                config.up_blocks,
                tokens * self._ratio,
                config.heads,
                head_dim,
                tail_values=2 * self._ratio * config.width,
            ),
        }

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.encoder.embed(self.input_embedding(ids))
        return embedded

    def reserve(self, keys: int, new: int) -> None:
        device = self.encoder_proj.weight.device
        self.encoder.sinusoids.kept(keys - 1, new - 1, device)
        self.encoder.up_sinusoids.kept(self._ratio * keys - 1, self._ratio * new - 1, device)

    def constants(self) -> list[Tensor]:
        layers = [module for module in self.encoder.modules() if isinstance(module, RelativeAttention)]
        return [layer.kept for layer in layers if layer.kept is not None]

    def forward(self, embedded: Tensor, over: Passes) -> Tensor:
        mu: Tensor = self.encoder_proj(self.encoder(embedded, over("tokens"), over("frames")))
        return mu
