"""The speech language model in training: whole sequences at once, over the layers of `services.llm.model`.

The services run the same layers token by token over a paged cache; here a sequence attends to itself. Everything that
only training needs is in `LmTrainer`'s own attributes and is left out of the export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.common.checkpoint.model_dir import LlmConfig
from services.llm.model.attention import rotary_frequencies, rotary_table, rotate
from services.llm.model.model import Attention, DecoderLayer, Mlp, SpeechLM

ALIGNED_LAYER, ALIGNED_HEADS = 2, 2
"""The first heads of this layer are trained to attend to the text that is spoken: head 0 to the word, 1 to its part."""
PHONE_LAYER = 3
"""The phones of the next token are read after this layer."""
CHARACTERS = 10
"""Of a text token that have an embedding of their own."""
_DROPOUT = 0.1
"""Of what enters the layers and of what each part of a layer adds: the sentences are few for the model's size."""


@dataclass(frozen=True)
class Sequences:
    """A batch of sequences of input codes, padded on the right: all [B, T] unless said.

    codes   input codes (`services.llm.engine.layout.InputCodes`)
    target  the speech id after each position, -100 where none is learnt
    coarse, fine  [B, T, 2] positions [first, last) that the two aligned heads should see; -1 for none
    phones  [B, T, 2] phones of the next token, -1 for none
    """

    codes: Tensor
    target: Tensor
    coarse: Tensor
    fine: Tensor
    phones: Tensor

    def to(self, device: torch.device) -> Sequences:
        """Move all tensors."""
        return Sequences(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Losses:
    """Mean losses, and the share of tokens predicted right."""

    token: Tensor
    guide: Tensor
    phone: Tensor
    right: Tensor


class LmTrainer(nn.Module):
    """A `SpeechLM` and the parts that help its training."""

    spelling: Tensor

    def __init__(self, config: LlmConfig, phones: int, spelling: Tensor) -> None:
        """`spelling` int64 [text_vocab, CHARACTERS]: numbers of (place, character) pairs, 0 for none."""
        super().__init__()
        self.model = SpeechLM(config)
        self.phones = phones
        self.characters = nn.Embedding(int(spelling.max()) + 1, config.hidden_size, padding_idx=0)
        self.phone_head = nn.Linear(config.hidden_size, 2 * phones)
        self.dropout = nn.Dropout(_DROPOUT)
        self.register_buffer("spelling", spelling)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.04)
        for layer in self.model.layers:
            nn.init.normal_(cast(nn.Linear, layer.self_attn.o_proj).weight, std=0.02)
            nn.init.normal_(cast(nn.Linear, layer.mlp.down_proj).weight, std=0.02)
        nn.init.zeros_(self.characters.weight)

    def text_table(self) -> Tensor:
        """Embeddings of the text tokens: a token's own and its characters', so that rare tokens are readable."""
        own, spelled = self.model.llm.model.model.embed_tokens.weight, self.characters(self.spelling).sum(1)
        table: Tensor = own + spelled
        return table

    def exported(self) -> dict[str, Tensor]:
        """Return the model's weights under the official names, the text table folded in."""
        weights = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
        weights["llm.model.model.embed_tokens.weight"] = self.text_table().detach().clone()
        return weights

    def load_exported(self, weights: Mapping[str, Tensor]) -> None:
        """Load a model's weights that have the official names; the characters' embeddings stay as they are."""
        self.model.load_state_dict(dict(weights))

    def embed(self, codes: Tensor) -> Tensor:
        """Input codes [B, T] -> [B, T, hidden]."""
        rows = (
            self.text_table(),
            cast(nn.Embedding, self.model.llm_embedding).weight,
            self.model.speech_embedding.weight,
        )
        return F.embedding(codes, torch.cat(rows))

    def forward(self, batch: Sequences) -> Losses:
        """Losses of a batch."""
        hidden, seen, middle = self.run(batch.codes)
        learnt = batch.target >= 0
        scores = self.model.logits(hidden[learnt])
        token = F.cross_entropy(scores, batch.target[learnt])
        right = (scores.detach().argmax(1) == batch.target[learnt]).float().mean()
        spoken = batch.phones[..., 0] >= 0
        pairs = self.phone_head(middle[spoken]).view(-1, 2, self.phones)
        phone = F.cross_entropy(pairs.flatten(0, 1), batch.phones[spoken].flatten())
        return Losses(token, self._guide(seen, batch), phone, right)

    def run(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return hidden states after the last norm, attention of the aligned heads [B, heads, T, T], middle states."""
        config = self.model.config
        x = self.dropout(self.embed(codes))
        positions = torch.arange(codes.shape[1], device=codes.device)
        rotary = rotary_table(positions, rotary_frequencies(config.head_dim, config.rope_theta, codes.device))
        seen = middle = x
        for number, layer in enumerate(self.model.layers):
            x, weights = _layer(layer, x, rotary, number == ALIGNED_LAYER, self.dropout)
            seen = seen if weights is None else weights
            middle = x if number == PHONE_LAYER else middle
        return self.model.llm.model.model.norm(x), seen, middle

    def _guide(self, seen: Tensor, batch: Sequences) -> Tensor:
        """Minus the logarithm of how much of each aligned head's attention is in its span, on average."""
        sums = F.pad(seen.cumsum(-1), (1, 0))
        total = seen.new_zeros(())
        for head, spans in enumerate((batch.coarse, batch.fine)):
            wanted = spans[..., 0] >= 0
            inside = spans[wanted]
            row = sums[:, head][wanted]
            share = row.gather(1, inside[:, 1:]) - row.gather(1, inside[:, :1])
            total = total - torch.log(share.clamp(min=1e-4)).mean() / ALIGNED_HEADS
        return total


def _layer(
    layer: DecoderLayer, x: Tensor, rotary: tuple[Tensor, Tensor], show: bool, dropout: nn.Dropout
) -> tuple[Tensor, Tensor | None]:
    attended, weights = _attend(layer.self_attn, layer.input_layernorm(x), rotary, show)
    x = x + dropout(attended)
    return x + dropout(_feed_forward(layer.mlp, layer.post_attention_layernorm(x))), weights


def _feed_forward(mlp: Mlp, x: Tensor) -> Tensor:
    out: Tensor = mlp.down_proj(F.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
    return out


def _attend(attention: Attention, x: Tensor, rotary: tuple[Tensor, Tensor], show: bool) -> tuple[Tensor, Tensor | None]:
    """Causal attention of whole sequences [B, T, C], and the attention of the aligned heads if `show`."""
    batch, length, _ = x.shape

    def heads(values: Tensor, count: int) -> Tensor:
        return values.view(batch, length, count, attention.head_dim)

    query = rotate(heads(attention.q_proj(x), attention.heads), rotary).transpose(1, 2)
    key = rotate(heads(attention.k_proj(x), attention.kv_heads), rotary).transpose(1, 2)
    value = heads(attention.v_proj(x), attention.kv_heads).transpose(1, 2)
    group = attention.heads // attention.kv_heads
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
    weights = None
    if show:
        scores = query[:, :ALIGNED_HEADS] @ key[:, :ALIGNED_HEADS].transpose(-1, -2) / attention.head_dim**0.5
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.float().masked_fill(later, float("-inf")).softmax(-1)
    result: Tensor = attention.o_proj(out)
    return result, weights
