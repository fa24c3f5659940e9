"""The references for the llm's step: the weights it reads, and a plain transformers loop over the same weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.floor import Clock
from services.common.checkpoint.model_dir import LlmConfig, ModelDir
from services.llm.model.model import SpeechLM, set_precision

FULL_SIZE = LlmConfig(
    hidden_size=896,
    num_layers=24,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    intermediate_size=4864,
    text_vocab=151936,
    speech_tokens=6561,
)
"""CosyVoice2-0.5B (spec section 4.1)."""


def random_model(
    model_dir: ModelDir, config: LlmConfig, dtype: torch.dtype, **options: bool
) -> tuple[ModelDir, SpeechLM]:
    """Return a model of `config`'s shape with random weights."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = SpeechLM(config)
    model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.ones_(parameter)
        else:
            parameter.data.normal_(0, 0.02, generator=generator)
    model.fuse()
    model = set_precision(model, dtype, **options).eval().requires_grad_(False)
    return replace(model_dir, llm=config), model


def step_bytes(model: SpeechLM) -> int:
    """Return the bytes of weights that a decode step reads: layers, final norm and output layer, not the embeddings."""
    parts = [*model.layers, model.llm.model.model.norm, model.llm_decoder]
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class TransformersLoop:
    """Hugging Face's Qwen2 with its own K/V cache and the model's weights, one token per sequence and step."""

    def __init__(self, model: SpeechLM, clock: Clock) -> None:
        """Raises ImportError without transformers, ValueError for weights that are not floats."""
        from transformers import DynamicCache, Qwen2Config, Qwen2Model

        config = model.config
        if any(not isinstance(layer.mlp.down_proj, nn.Linear) for layer in model.layers):
            raise ValueError("transformers has no counterpart of these 8-bit layers")
        self._model, self._new_cache, self._clock = model, DynamicCache, clock
        with torch.device("meta"):
            self._peer = Qwen2Model(
                Qwen2Config(
                    vocab_size=1,
                    hidden_size=config.hidden_size,
                    intermediate_size=config.intermediate_size,
                    num_hidden_layers=config.num_layers,
                    num_attention_heads=config.num_heads,
                    num_key_value_heads=config.num_kv_heads,
                    head_dim=config.head_dim,
                    rms_norm_eps=config.rms_norm_eps,
                    rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
                    max_position_embeddings=32768,
                    attn_implementation="sdpa",
                )
            ).eval()
        self._peer.load_state_dict(_official(model), assign=True, strict=False)
        device = model.speech_embedding.weight.device
        self._peer.rotary_emb = type(self._peer.rotary_emb)(self._peer.config).to(device)
        self._peer.embed_tokens = nn.Embedding(1, config.hidden_size, device=device, dtype=model.dtype)

    @torch.inference_mode()
    def decode(self, batch: int, prompt: int, steps: int) -> list[float]:
        """Return the seconds of each decode step of `batch` sequences after `prompt` rows."""
        model, config = self._model, self._model.config
        device = model.speech_embedding.weight.device
        cache = self._new_cache()
        # Zeros instead of a prompt: a step's time does not depend on the values of keys and values.
        past = torch.zeros((batch, config.num_kv_heads, prompt, config.head_dim), device=device, dtype=model.dtype)
        for layer in range(config.num_layers):
            cache.update(past, past, layer)
        rows = model.speech_embedding(torch.ones((batch, 1), dtype=torch.long, device=device))
        seconds = []
        for _ in range(steps + 1):
            start = self._clock()
            hidden: Tensor = self._peer(inputs_embeds=rows, past_key_values=cache, use_cache=True).last_hidden_state
            scores = model.llm_decoder(hidden[:, -1].float())[:, : model.config.speech_tokens]
            tokens = torch.multinomial(scores.softmax(-1), 1)
            rows = model.speech_embedding(tokens)
            tokens.tolist()  # the caller needs them
            seconds.append(self._clock() - start)
        return seconds[1:]


def _official(model: SpeechLM) -> dict[str, Tensor]:
    """Return the fused weights split under the names of transformers; norms in the layers' precision."""
    config, dtype = model.config, model.dtype
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    named = {"norm.weight": model.llm.model.model.norm.weight.to(dtype)}
    for index, layer in enumerate(model.layers):
        at, attention, mlp = f"layers.{index}", layer.self_attn, layer.mlp
        for kind in ("weight", "bias"):
            parts = getattr(attention.qkv_proj, kind).split((heads, kv, kv))
            named |= {f"{at}.self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
        gate, up = mlp.gate_up_proj.get_parameter("weight").chunk(2)
        named |= {
            f"{at}.self_attn.o_proj.weight": attention.o_proj.get_parameter("weight"),
            f"{at}.mlp.gate_proj.weight": gate,
            f"{at}.mlp.up_proj.weight": up,
            f"{at}.mlp.down_proj.weight": mlp.down_proj.get_parameter("weight"),
            f"{at}.input_layernorm.weight": layer.input_layernorm.weight.to(dtype),
            f"{at}.post_attention_layernorm.weight": layer.post_attention_layernorm.weight.to(dtype),
        }
    return named
