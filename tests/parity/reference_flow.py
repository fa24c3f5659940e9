"""CosyVoice3's flow in float64, written from the specification alone (sections 5.3, 5.4 and 9): slow, plain, no cache.

It shares no code with the flow that serves, and takes every size from the configuration or from the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from services.common.checkpoint.flow_config import DiTConfig, FlowConfig

KERNEL, GROUPS, SINUSOIDS = 31, 16, 256
"""Constants of upstream's code."""


@dataclass(frozen=True)
class ReferenceFlow:
    """The flow of a configuration with CosyVoice3's networks."""

    config: FlowConfig
    weights: Mapping[str, Tensor]

    def mel(self, prompt: Tensor, speech: Tensor, prompt_mel: Tensor, speaker: Tensor, noise: Tensor) -> Tensor:
        """The mel of an utterance in one go, [ratio * speech, mel], frames that the chunks of the YAML limit.

        prompt, speech int64 [P], [T]; prompt_mel [ratio * P, mel]; speaker [speaker_dim]; noise [frames, mel].
        """
        mu = self.mean(torch.cat((prompt, speech)))
        spk = self._linear(F.normalize(speaker.double(), dim=0), "spk_embed_affine_layer").expand_as(mu)
        cond = F.pad(prompt_mel.double(), (0, 0, 0, mu.shape[0] - prompt_mel.shape[0]))
        solver, x = self.config.solver, noise[: mu.shape[0]].double()
        times = [step / solver.steps for step in range(solver.steps + 1)]
        if solver.schedule == "cosine":
            times = [1 - math.cos(time * math.pi / 2) for time in times]
        nothing = torch.zeros_like(mu)
        for now, then in pairwise(times):
            guided = self.velocity(torch.cat((x, cond, mu, spk), dim=1), now)
            free = self.velocity(torch.cat((x, nothing, nothing, nothing), dim=1), now)
            x = x + (then - now) * ((1 + solver.cfg_rate) * guided - solver.cfg_rate * free)
        return x[prompt_mel.shape[0] :]

    def mean(self, tokens: Tensor) -> Tensor:
        """Tokens [T] to the mean mel [ratio * T, mel]."""
        x = self.weights["input_embedding.weight"].double()[tokens]
        y = F.pad(x.T, (0, self.config.lookahead_tokens))
        y = F.leaky_relu(self._conv(y, "pre_lookahead_layer.conv1"), 0.01)
        y = self._conv(F.pad(y, (2, 0)), "pre_lookahead_layer.conv2")
        return (y.T + x).repeat_interleave(self.config.mel_frames_per_token, dim=0)

    def velocity(self, inputs: Tensor, time: float) -> Tensor:
        """(x | cond | mu | speaker) [N, 4 * mel] of a whole utterance -> [N, mel]."""
        config = self.config.estimator
        if not isinstance(config, DiTConfig):
            raise TypeError("the configuration has another estimator")
        rates = torch.exp(-math.log(10000) * torch.arange(SINUSOIDS // 2).double() / (SINUSOIDS // 2 - 1))
        waves = torch.cat(((1000 * time * rates).sin(), (1000 * time * rates).cos()))
        when = self._net("time_embed.time_mlp.2", F.silu(self._net("time_embed.time_mlp.0", waves)))
        y = self._net("input_embed.proj", inputs)
        z = y
        for number in (1, 2):
            name = f"decoder.estimator.input_embed.conv_pos_embed.conv{number}.0"
            z = F.mish(self._conv(F.pad(z.T, (KERNEL - 1, 0)), name, GROUPS)).T
        x = y + z
        for block in range(config.depth):
            name = f"transformer_blocks.{block}"
            terms = self._net(f"{name}.attn_norm.linear", F.silu(when)).chunk(6)
            x = x + terms[2] * self._attention(self._normed(x, terms[0], terms[1]), f"{name}.attn", config)
            hidden = F.gelu(self._net(f"{name}.ff.ff.0.0", self._normed(x, terms[3], terms[4])), approximate="tanh")
            x = x + terms[5] * self._net(f"{name}.ff.ff.2", hidden)
        scale, shift = self._net("norm_out.linear", F.silu(when)).chunk(2)
        return self._net("proj_out", self._normed(x, shift, scale))

    def _attention(self, x: Tensor, name: str, config: DiTConfig) -> Tensor:
        frames, size = x.shape[0], config.head_dim
        q, k, v = (self._net(f"{name}.to_{part}", x) for part in "qkv")
        q, k = self._turned(q, size), self._turned(k, size)
        q, k, v = (part.view(frames, config.heads, size).transpose(0, 1) for part in (q, k, v))
        chunk = self.config.chunk_tokens * self.config.mel_frames_per_token
        number = torch.arange(frames) // chunk
        scores = (q @ k.transpose(1, 2) / math.sqrt(size)).masked_fill(number[None, :] > number[:, None], -math.inf)
        mixed = (scores.softmax(dim=-1) @ v).transpose(0, 1).reshape(frames, -1)
        return self._net(f"{name}.to_out.0", mixed)

    @staticmethod
    def _turned(flat: Tensor, size: int) -> Tensor:
        """Rotate the first `size` of all channels [N, heads * size] as complex numbers (2k) + i (2k + 1)."""
        angle = torch.arange(flat.shape[0]).double()[:, None] * 10000.0 ** (-torch.arange(0, size, 2).double() / size)
        pairs = torch.view_as_complex(flat[:, :size].reshape(flat.shape[0], -1, 2))
        turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(1)
        return torch.cat((turned, flat[:, size:]), dim=1)

    @staticmethod
    def _normed(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift

    def _net(self, name: str, x: Tensor) -> Tensor:
        return self._linear(x, f"decoder.estimator.{name}")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].double().T + self.weights[f"{name}.bias"].double()

    def _conv(self, x: Tensor, name: str, groups: int = 1) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"].double(), self.weights[f"{name}.bias"].double()
        return F.conv1d(x[None], weight, bias, groups=groups)[0]
