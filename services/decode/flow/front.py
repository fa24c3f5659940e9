"""Speech tokens to the mean mel: what a front is, and CosyVoice3's, which is two convolutions (spec section 9).

A front maps new positions to new positions; earlier ones are in the cache of the pass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.flow_config import ConvolutionConfig, FlowConfig
from services.decode.flow.forward_pass import ForwardContext, FrontContext
from services.decode.flow.kv_cache import KvLayout

Rate = Literal["tokens", "frames"]
"""Positions of a pass: one per token, or `mel_frames_per_token`. Also the names of a front's caches."""
Passes = Callable[[Rate], FrontContext]
_LOOKAHEAD_TAIL = 0
_TAIL = 2
"""Earlier positions that the second convolution sees."""


class Front(nn.Module):
    """The part of a flow before its estimator. Its attributes have the names of the checkpoint's keys."""

    width: int
    """Channels of `embed`."""

    @abstractmethod
    def layouts(self, tokens: int) -> dict[str, KvLayout]:
        """Shapes of the caches of its passes, for blocks of `tokens` tokens."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [..., n] -> [..., n, width]."""

    def embed_known(self, ids: Tensor) -> Tensor:
        """Like `embed`; a negative id is no token and gives zeros."""
        return self.embed(ids.clamp(min=0)).masked_fill((ids < 0)[..., None], 0.0)

    def reserve(self, keys: int, new: int) -> None:
        """Make the constants for `new` tokens among `keys` of a stream, so that a recording need not make others."""

    def constants(self) -> list[Tensor]:
        """The tensors besides weights and caches that a recording refers to: it must hold them."""
        return []

    @abstractmethod
    def forward(self, embedded: Tensor, over: Passes) -> Tensor:
        """[S, N + lookahead, width], right context included -> mean mel [S, ratio * N, mel].

        The right context is zero at the end of a stream. `over` returns the pass over the new positions of a rate that
        `layouts` names.
        """


class PreLookahead(nn.Module):
    """Token t depends on tokens t-2 … t+3; the input includes the right context, zero vectors at the stream's end."""

    def __init__(self, width: int, channels: int, lookahead: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, channels, lookahead + 1)
        self.conv2 = nn.Conv1d(channels, width, _TAIL + 1)
        self.tail_values = _TAIL * channels

    def forward(self, x: Tensor, tokens: ForwardContext) -> Tensor:
        """[S, N + lookahead, C] -> [S, N, C]."""
        y = F.leaky_relu(self.conv1(x.transpose(1, 2)), 0.01).transpose(1, 2)
        y = tokens.left(_LOOKAHEAD_TAIL, y, _TAIL)
        out: Tensor = self.conv2(y.transpose(1, 2)).transpose(1, 2)
        return out + x[:, : out.shape[1]]


class ConvolutionFront(Front):
    """CosyVoice3's front: embedded tokens, the pre-lookahead convolutions, each row repeated to the mel's rate."""

    def __init__(self, flow: FlowConfig, config: ConvolutionConfig) -> None:
        super().__init__()
        self.width, self._ratio = config.input_size, flow.mel_frames_per_token
        self.input_embedding = nn.Embedding(flow.vocab_size, config.input_size)
        self.pre_lookahead_layer = PreLookahead(config.input_size, config.channels, flow.lookahead_tokens)

    def layouts(self, tokens: int) -> dict[str, KvLayout]:
        """A cache without keys and values: it holds the tail of the second convolution."""
        tails = self.pre_lookahead_layer.tail_values
        return {"tokens": KvLayout(layers=0, positions=tokens, heads=1, head_dim=1, tail_values=tails)}

    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.input_embedding(ids)
        return embedded

    def forward(self, embedded: Tensor, over: Passes) -> Tensor:
        out: Tensor = self.pre_lookahead_layer(embedded, over("tokens"))
        return out.repeat_interleave(self._ratio, dim=1)
