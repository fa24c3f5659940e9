"""The flow in training: the decode service's front and estimator over windows of equal length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.flow_config import FlowConfig
from services.decode.flow.forward_pass import Pass, chunk_mask
from services.decode.flow.front import Rate
from services.decode.flow.model import make_front, make_network


@dataclass(frozen=True)
class Windows:
    """Windows of B streams of n tokens.

    tokens   int64 [B, n + lookahead], -1 after the end of a stream
    mel      [B, 2n, bins]; cond: the mel where it is given as a prompt, else 0
    speakers [B, 192]
    chunk    tokens of a chunk of streaming, or None for windows in which every position sees all
    """

    tokens: Tensor
    mel: Tensor
    cond: Tensor
    speakers: Tensor
    chunk: int | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.tokens, self.mel, self.cond, self.speakers


def of_tensors(tensors: tuple[Tensor, ...], chunk: int | None) -> Windows:
    """Return the windows that have these `tensors`."""
    tokens, mel, cond, speakers = tensors
    return Windows(tokens, mel, cond, speakers, chunk)


@dataclass(frozen=True)
class Given:
    """The estimator's conditions: mu and cond [B, 2n, bins], speaker [B, bins], and the context of its pass."""

    mu: Tensor
    speaker: Tensor
    cond: Tensor
    chunk: int | None

    def inputs(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """x and the conditions, side by side; rows with `kept` [B] 0 have zeros in place of the conditions."""
        parts = (self.mu, self.speaker[:, None].expand_as(self.mu), self.cond)
        conditions = torch.cat(parts, dim=-1)
        if kept is not None:
            conditions = conditions * kept[:, None, None]
        return torch.cat((x, conditions), dim=-1)


class FlowTrainer(nn.Module):
    """Front, estimator and speaker projection of a flow. `exported` has the official names."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.front, self.estimator = make_front(config), make_network(config)
        self.speaker_projection = nn.Linear(config.speaker_dim, config.output_size)

    def _named(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                **dict(self.front.named_children()),
                "spk_embed_affine_layer": self.speaker_projection,
                "decoder": nn.ModuleDict({"estimator": self.estimator}),
            }
        )

    def exported(self) -> dict[str, Tensor]:
        """Return the weights under the official names."""
        return self._named().state_dict()

    def load_exported(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights that have the official names."""
        self._named().load_state_dict(dict(weights))

    def given(self, windows: Windows) -> Given:
        """Run the front."""
        known = windows.tokens >= 0
        embedded = self.front.embed(windows.tokens.clamp(min=0)) * known[..., None]
        batch, frames = windows.mel.shape[:2]
        ratio = self.config.mel_frames_per_token

        def over(rate: Rate) -> Pass:
            scale = 1 if rate == "tokens" else ratio
            return make_pass(batch, frames // ratio * scale, windows.chunk, scale, windows.mel.device)

        speaker = self.speaker_projection(F.normalize(windows.speakers, dim=1))
        return Given(self.front(embedded, over), speaker, windows.cond, windows.chunk)

    def velocity(self, x: Tensor, t: Tensor, given: Given, kept: Tensor | None = None) -> Tensor:
        """The estimator's velocity at x [B, 2n, bins] and flow times t [B]."""
        batch, frames = x.shape[:2]
        over = make_pass(batch, frames, given.chunk, self.config.mel_frames_per_token, x.device)
        out: Tensor = self.estimator(given.inputs(x, kept), self.estimator.time_terms(t), over)
        return out

    def guided(self, x: Tensor, t: Tensor, given: Given) -> Tensor:
        """The velocity with the configuration's classifier-free guidance."""
        rate = self.config.solver.cfg_rate
        if not rate:
            return self.velocity(x, t, given)
        nothing = torch.zeros(len(x), device=x.device)
        return (1 + rate) * self.velocity(x, t, given) - rate * self.velocity(x, t, given, nothing)


@lru_cache(maxsize=64)
def make_pass(batch: int, positions: int, chunk: int | None, scale: int, device: torch.device) -> Pass:
    """A pass over whole windows; with `chunk`, a position sees no later chunk (of `chunk * scale` positions)."""
    lengths = [positions] * batch
    if chunk is None:
        return Pass(lengths, None)
    size = chunk * scale
    ends = torch.arange(positions) // size * size + size
    mask = chunk_mask([ends] * batch, [0] * batch, lengths, 1)
    return Pass(lengths, None if mask is None else mask.to(device))


def cosine_time(t: Tensor) -> Tensor:
    """Uniform times in 0 … 1 to the flow's schedule (spec section 5.3)."""
    return 1 - torch.cos(t * 0.5 * math.pi)
