"""The speech language model: a Qwen2 decoder from text and speech-token embeddings to speech-token logits.

Source: spec sections 4.1 and 4.2, and 9 for CosyVoice3. Module names spell the official state-dict keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.modeldir import LlmConfig, ModelDir
from services.common.weights import load_strict, read_weights
from services.llm.kv_cache import KVCache, StepBatch
from services.llm.layout import special_ids


class Attention(nn.Module):
    """Grouped-query attention with rotary positions over the paged cache."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], batch: StepBatch, cache: KVCache, layer: int) -> Tensor:
        """x [N, hidden]; writes this step's keys and values into the cache, then attends over it."""
        rows = x.shape[0]
        query = _rotate(self.q_proj(x).view(rows, self.heads, self.head_dim), rotary)
        key = _rotate(self.k_proj(x).view(rows, self.kv_heads, self.head_dim), rotary)
        cache.write(layer, batch, key, self.v_proj(x).view(rows, self.kv_heads, self.head_dim))
        # Query heads that share a K/V head become more queries of it, so K/V are never repeated.
        query = query.view(rows, self.kv_heads, -1, self.head_dim)
        attended = []
        decoding = batch.decode_table.shape[0]
        if decoding:
            keys, values = cache.read(layer, batch.decode_table)
            out = F.scaled_dot_product_attention(query[:decoding], keys, values, attn_mask=batch.decode_mask)
            attended.append(out.reshape(decoding, -1))
        for segment in batch.segments:
            q = query[segment.begin : segment.end].permute(1, 2, 0, 3)
            group, count = q.shape[1:3]
            keys, values = cache.read(layer, segment.table)
            mask = segment.mask.repeat(group, 1)
            out = F.scaled_dot_product_attention(q.flatten(1, 2)[None], keys, values, attn_mask=mask)
            attended.append(out.view(self.heads, count, self.head_dim).transpose(0, 1).reshape(count, -1))
        output: Tensor = self.o_proj(torch.cat(attended))
        return output


class Mlp(nn.Module):
    """SiLU-gated feed-forward."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], batch: StepBatch, cache: KVCache, layer: int) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, batch, cache, layer)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


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
    """Input codes in (see `services.llm.layout`), hidden states and logits out."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        speech_rows = special_ids(config).stop
        own_rows = config.family == "cosyvoice2"
        self.config = config
        self.llm = _Pretrained(config)
        self.llm_embedding = nn.Embedding(2, config.hidden_size) if own_rows else None
        self.speech_embedding = nn.Embedding(speech_rows, config.hidden_size)
        self.llm_decoder = nn.Linear(config.hidden_size, speech_rows, bias=own_rows)

    def forward(self, batch: StepBatch, cache: KVCache) -> Tensor:
        """Hidden states [N, hidden] after the final norm; the batch's K/V are in the cache afterwards."""
        decoder = self.llm.model.model
        cache.open(batch)
        x = self.embed(batch.codes)
        rotary = self._rotary(batch.positions, x.dtype)
        for index, layer in enumerate(decoder.layers):
            x = layer(x, rotary, batch, cache, index)
        hidden: Tensor = decoder.norm(x)
        return hidden

    def embed(self, codes: Tensor) -> Tensor:
        """[N] input codes to [N, hidden]: text rows, then the two rows of llm_embedding, then speech rows."""
        text_vocab = self.config.text_vocab
        text = self.llm.model.model.embed_tokens(codes.clamp(max=text_vocab - 1))
        speech = self.speech_embedding((codes - text_vocab - 2).clamp(min=0))
        x: Tensor = torch.where((codes < text_vocab)[:, None], text, speech)
        if self.llm_embedding is not None:
            special = self.llm_embedding((codes - text_vocab).clamp(0, 1))
            is_special = (codes >= text_vocab) & (codes < text_vocab + 2)
            x = torch.where(is_special[:, None], special, x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """[…, hidden] to float32 logits […, speech_rows]."""
        scores: Tensor = self.llm_decoder(hidden)
        return scores.float()

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin [N, 1, head_dim], the two halves equal."""
        half = torch.arange(0, self.config.head_dim, 2, device=positions.device, dtype=torch.float32)
        frequency = self.config.rope_theta ** -(half / self.config.head_dim)
        angle = (positions.float()[:, None] * frequency).repeat(1, 2)[:, None, :]
        return angle.cos().to(dtype), angle.sin().to(dtype)


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Half-split rotary embedding of x [N, heads, head_dim]."""
    cos, sin = rotary
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def load_speech_lm(
    model_dir: ModelDir, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> SpeechLM:
    """Loads `llm.pt`. Raises ModelDirError naming keys that are missing or misshapen."""
    path = model_dir.weights_file("llm")
    weights = read_weights(path)
    with torch.device("meta"):
        model = SpeechLM(model_dir.llm)
    model.to_empty(device="cpu")
    load_strict(model, weights, str(path), ignore=("llm.model.lm_head.",))
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)
