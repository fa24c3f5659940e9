"""Prototype: a decode step of one sequence as one ONNX graph, from the embedded token to the logits.

On a CPU a step of batch 1 reads every weight once and launches hundreds of small operations; one graph saves most of
the time between them. Prefill, larger batches and 8-bit K/V take the current path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cpu_prototypes.sessions import Graph
from services.llm.engine.scheduler import ScheduledSequence
from services.llm.model.attention import rotary_frequencies, rotary_table
from services.llm.model.kv_cache import KVCache
from services.llm.model.model import SpeechLM
from services.llm.model.torch_backend import TorchBackend

OPSET = 17


class DecodeStep(nn.Module):
    """One row through all layers; the K/V cache is an input, the row's own keys and values are outputs."""

    def __init__(self, model: SpeechLM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [1, hidden], cos and sin [1, 1, head_dim / 2], mask [W * block_size], and the blocks that hold the past,
        keys and values [layers, W, kv_heads, block_size, head_dim].

        Returns logits [1, speech_rows], and the row's keys and values [layers, kv_heads, head_dim].
        """
        config = self.model.config
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim

        def rms_norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
            """The norm in operations that the exporter has."""
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps) * norm.weight

        new_keys, new_values = [], []
        for index, layer in enumerate(self.model.layers):
            normed = rms_norm(layer.input_layernorm, x)
            qkv = layer.self_attn.qkv_proj(normed).view(1, -1, head_dim)
            low, high = qkv[:, : heads + kv_heads].chunk(2, dim=-1)
            rotated = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
            query = rotated[:, :heads].view(kv_heads, heads // kv_heads, head_dim) * head_dim**-0.5
            key = rotated[:, heads:].transpose(0, 1)
            value = qkv[:, heads + kv_heads :].transpose(0, 1)
            keys = past_keys[index].transpose(0, 1).reshape(kv_heads, -1, head_dim)
            values = past_values[index].transpose(0, 1).reshape(kv_heads, -1, head_dim)
            # The row's own position is a column of its own, so that the past is not copied to append it.
            scores = torch.cat((query @ keys.transpose(-1, -2) + mask, query @ key.transpose(-1, -2)), dim=-1)
            weights = torch.softmax(scores, dim=-1)
            attended = weights[..., :-1] @ values + weights[..., -1:] * value
            x = x + layer.self_attn.o_proj(attended.reshape(1, -1))
            gate, up = layer.mlp.gate_up_proj(rms_norm(layer.post_attention_layernorm, x)).chunk(2, dim=-1)
            x = x + layer.mlp.down_proj(F.silu(gate) * up)
            new_keys.append(key[:, 0])
            new_values.append(value[:, 0])
        logits = self.model.llm_decoder(rms_norm(self.model.llm.model.model.norm, x))
        return logits, torch.stack(new_keys), torch.stack(new_values)


class GraphLlmBackend(TorchBackend):
    """`TorchBackend` whose decode steps of one sequence run as one graph. Float32 on a CPU only."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._graphs: dict[SpeechLM, Graph] = {}

    def _run(self, model: SpeechLM, batch: Sequence[ScheduledSequence], cache: KVCache) -> tuple[list[int], list[int]]:
        scheduled = batch[0]
        if len(batch) != 1 or scheduled.count != 1 or not scheduled.samples or cache.quantized:
            return super()._run(model, batch, cache)
        if model not in self._graphs:
            self._graphs[model] = _export(model, cache.block_size)
        sequence, position, block_size = scheduled.sequence, scheduled.start, cache.block_size
        block, offset = sequence.blocks[position // block_size], position % block_size
        if offset == 0:  # as KVCache.open does
            cache.keys[:, block] = 0
            cache.values[:, block] = 0
        past = torch.tensor(sequence.blocks[: -(-max(position, 1) // block_size)])
        mask = torch.zeros(len(past) * block_size)
        mask[position:] = float("-inf")
        code = torch.tensor([sequence.layout.inputs[position]])
        frequencies = rotary_frequencies(model.config.head_dim, model.config.rope_theta, torch.device("cpu"))
        rotary = rotary_table(torch.tensor([position]), frequencies)
        blocks = cache.keys.index_select(1, past), cache.values.index_select(1, past)
        logits, keys, values = self._graphs[model](model.embed(code), *rotary, mask, *blocks)
        cache.keys[:, block, :, offset] = keys
        cache.values[:, block, :, offset] = values
        with mock.patch.object(model, "logits", lambda scores: scores):  # the graph's output layer has run already
            return [0], self._sample(model, [scheduled], logits)


def _export(model: SpeechLM, block_size: int) -> Graph:
    config, blocks = model.config, 7
    rotary = torch.randn(1, 1, config.head_dim // 2)
    past = torch.randn(config.num_layers, blocks, config.num_kv_heads, block_size, config.head_dim)
    inputs = (torch.randn(1, config.hidden_size), rotary, rotary.clone(), torch.zeros(blocks * block_size))
    names = ("x", "cos", "sin", "mask", "keys", "values")
    axes = {"mask": {0: "positions"}, "keys": {1: "blocks"}, "values": {1: "blocks"}}
    return Graph(DecodeStep(model), (*inputs, past, past.clone()), names, axes, OPSET)
