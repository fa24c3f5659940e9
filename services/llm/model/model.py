"""The speech language model: a Qwen2 decoder from text and speech-token embeddings to speech-token logits.

Source: spec sections 4.1 and 4.2, and 9 for CosyVoice3. Module names spell the official state-dict keys.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from services.common.checkpoint.model_dir import LlmConfig, ModelDir
from services.common.checkpoint.weights import load_strict, read_weights, without_weights
from services.common.engine.precision import forbid_tf32
from services.llm.engine.layout import special_ids
from services.llm.model.attention import causal, rotary_frequencies, rotary_table
from services.llm.model.int8 import Int8Linear
from services.llm.model.kernels import PLAIN, StepKernels
from services.llm.model.kv_cache import KVCache, StepBatch

FeedForward = Callable[[Tensor, Tensor, torch.dtype, StepKernels], tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions over the paged cache."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj: nn.Module = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)
        self.qkv_proj: nn.Module = nn.Identity()

    def fuse(self) -> None:
        """Join the three products into one."""
        self.qkv_proj = fused(self.q_proj, self.k_proj, self.v_proj)
        del self.q_proj, self.k_proj, self.v_proj

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        batch: StepBatch,
        cache: KVCache,
        layer: int,
        kernels: StepKernels,
    ) -> Tensor:
        """x [N, hidden]; write this step's keys and values into the cache, then attend over it."""
        query = kernels.rotate_and_store(self.qkv_proj(x), rotary, layer, batch, cache)
        if batch.tap is not None:
            batch.tap.take(layer, query, batch.last)
        attended = []
        begin = batch.decode_table.shape[0]
        if begin:
            attended.append(kernels.attend(query[:begin], layer, batch, cache))
        for segment in batch.segments:
            keys, values = cache.read(layer, segment.table)
            attended.append(causal(query[segment.begin : segment.end], keys, values, segment.mask))
            begin = segment.end
        if batch.tile_table is not None:
            attended.append(kernels.attend_tiles(query[begin:], layer, batch.tile_table, batch, cache))
        rows = [out.reshape(len(out), -1) for out in attended]
        output: Tensor = self.o_proj(rows[0] if len(rows) == 1 else torch.cat(rows))
        return output


class Mlp(nn.Module):
    """SiLU-gated feed-forward."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj: nn.Module = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.gate_up_proj: nn.Module = nn.Identity()

    def fuse(self) -> None:
        """Join the two products into one."""
        self.gate_up_proj = fused(self.gate_proj, self.up_proj)
        del self.gate_proj, self.up_proj

    def forward(self, x: Tensor, kernels: StepKernels) -> Tensor:
        out: Tensor = self.down_proj(kernels.silu_up(self.gate_up_proj(x)))
        return out


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward. The residual stream and the norms are float32 at any precision."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)
        self.feed_forward: FeedForward = self._feed_forward

    def forward(
        self,
        x: Tensor,
        delta: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        batch: StepBatch,
        cache: KVCache,
        layer: int,
        dtype: torch.dtype,
        kernels: StepKernels,
    ) -> tuple[Tensor, Tensor]:
        """Return the residual stream, and what must still be added to it; `delta` is that of the layer before.

        So an addition and the norm after it are next to each other, also across layers.
        """
        x, normed = kernels.add_norm(x, delta, self.input_layernorm, dtype)
        attended = self.self_attn(normed, rotary, batch, cache, layer, kernels)
        return self.feed_forward(x, attended, dtype, kernels)

    def _feed_forward(
        self, x: Tensor, attended: Tensor, dtype: torch.dtype, kernels: StepKernels
    ) -> tuple[Tensor, Tensor]:
        x, normed = kernels.add_norm(x, attended, self.post_attention_layernorm, dtype)
        return x, self.mlp(normed, kernels)


def fused(*parts: nn.Linear) -> nn.Linear:
    """Return one linear layer whose output is the outputs of `parts` side by side."""
    weight = torch.cat([part.weight for part in parts])
    whole = nn.Linear(weight.shape[1], weight.shape[0], bias=parts[0].bias is not None, device="meta")
    whole.weight = nn.Parameter(weight)
    if parts[0].bias is not None:
        whole.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
    return whole


class Qwen2Decoder(nn.Module):
    """`llm.model.model.*`: the text embedding, the layers and the final norm."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.text_vocab, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)


class _CausalLm(nn.Module):
    """`llm.model.*`"""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.model = Qwen2Decoder(config)


class _Pretrained(nn.Module):
    """`llm.*`"""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.model = _CausalLm(config)


class SpeechLM(nn.Module):
    """Input codes in (see `services.llm.engine.layout`), hidden states and logits out."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        speech_vocab = special_ids(config).stop
        own_rows = config.special.prompt_rows is None
        self.config = config
        self.llm = _Pretrained(config)
        self.llm_embedding = nn.Embedding(2, config.hidden_size) if own_rows else None
        self.speech_embedding = nn.Embedding(speech_vocab, config.hidden_size)
        self.llm_decoder = nn.Linear(config.hidden_size, speech_vocab, bias=config.special.output_bias)
        self._frequencies: dict[torch.device, Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the layers compute; norms, residual stream, positions and logits are always float32."""
        return self.speech_embedding.weight.dtype

    def fuse(self) -> None:
        """Join products that share their input. Call it once, after the official weights are loaded."""
        for layer in self.layers:
            layer.self_attn.fuse()
            layer.mlp.fuse()

    def compile_parts(self, *, undo: bool = False) -> None:
        """Compile the feed-forward part of each layer at its first use; attention is one kernel already."""
        for layer in self.layers:
            plain = layer._feed_forward
            layer.feed_forward = plain if undo else torch.compile(plain, dynamic=True)

    @property
    def layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.llm.model.model.layers if isinstance(layer, DecoderLayer)]

    def forward(self, batch: StepBatch, cache: KVCache, kernels: StepKernels = PLAIN) -> Tensor:
        """Return float32 hidden states [N, hidden] after the final norm, and write the batch's K/V into the cache."""
        decoder = self.llm.model.model
        kernels.open(batch, cache)
        dtype = self.dtype
        x, delta = self.embed(batch.codes, kernels), None
        rotary = rotary_table(batch.positions, self._rotary_frequencies(batch.positions.device))
        for index, layer in enumerate(decoder.layers):
            x, delta = layer(x, delta, rotary, batch, cache, index, dtype, kernels)
        _, hidden = kernels.add_norm(x, delta, decoder.norm, torch.float32)
        return hidden

    def _rotary_frequencies(self, device: torch.device) -> Tensor:
        if device not in self._frequencies:
            self._frequencies[device] = rotary_frequencies(self.config.head_dim, self.config.rope_theta, device)
        return self._frequencies[device]

    def embed(self, codes: Tensor, kernels: StepKernels = PLAIN) -> Tensor:
        """Embed codes [N] to float32 [N, hidden]: text ids, the two of llm_embedding, then speech ids."""
        special = None if self.llm_embedding is None else self.llm_embedding.weight
        text = self.llm.model.model.embed_tokens.weight
        return kernels.embed(codes, text, special, self.speech_embedding.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits […, speech vocabulary] of […, hidden]."""
        scores: Tensor = self.llm_decoder(hidden)
        return scores.float()


def load_speech_lm(
    model_dir: ModelDir,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    path: Path | None = None,
    int8_weights: bool = False,
) -> SpeechLM:
    """Load `llm.pt`, or another checkpoint of the same shape from `path`, ready to run.

    It calls `forbid_tf32` for the whole process, so that float32 parts run without TF32.

    Raises ModelDirError with the keys that are missing or have the wrong shape.
    """
    forbid_tf32()
    path = path or model_dir.weights_file("llm")
    weights = read_weights(path)
    with without_weights():
        model = SpeechLM(model_dir.llm)
    load_strict(model, weights, str(path), ignore=("llm.model.lm_head.",))
    model.fuse()
    return set_precision(model, dtype, int8_weights=int8_weights).to(device).eval().requires_grad_(False)


def set_precision(model: SpeechLM, dtype: torch.dtype, *, int8_weights: bool = False) -> SpeechLM:
    """Convert a fused model's embeddings and layers to `dtype`; norms and the output layer stay float32.

    With `int8_weights` the layers' products multiply 8-bit integers (see `services.llm.model.int8`).
    """
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        attention.qkv_proj, attention.o_proj = (
            _linear(part, dtype, int8_weights) for part in (attention.qkv_proj, attention.o_proj)
        )
        mlp.gate_up_proj, mlp.down_proj = (
            _linear(part, dtype, int8_weights) for part in (mlp.gate_up_proj, mlp.down_proj)
        )
    for embedding in (model.llm.model.model.embed_tokens, model.llm_embedding, model.speech_embedding):
        if embedding is not None:
            embedding.to(dtype)
    return model


def _linear(part: nn.Module, dtype: torch.dtype, int8_weights: bool) -> nn.Module:
    if int8_weights and isinstance(part, nn.Linear):
        return Int8Linear(part, dtype)
    return part.to(dtype)
