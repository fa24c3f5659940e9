"""What the llm service can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from services.common.settings import ModelServiceSettings, renamed_value


class LlmSettings(ModelServiceSettings):
    """Settings of the llm service: text tokens in, speech tokens on to the decode pool, audio back.

    Names in brackets are those of the older LightTTS guide, for people who come from it.
    """

    port: int = Field(default=50052, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    decode_target: str = "static:///127.0.0.1:50061"
    """Where the decode workers are: static:///host:port,host:port or dns://[server[:port]]/name:port."""

    llm_backend: Annotated[Literal["torch", "simulated"], renamed_value("clocked", "simulated")] = "torch"
    """torch computes; simulated sleeps for a cost model and emits deterministic tokens (load and fault tests)."""
    llm_cost_file: Path | None = None
    """Cost model of the simulated backend: a JSON file, see the files in services/llm/costs."""
    device: str = "cpu"
    """Device of the model: cpu, cuda, cuda:1 ... The CPU stands in, said loudly, for a GPU that is absent or fails."""
    llm_memory_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of a GPU's memory this process may take, where several share it."""
    llm_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What the layers compute in; norms, positions and logits are always float32. auto: bfloat16 on a GPU, else
    float32."""
    llm_int8_weights: bool = False
    """Multiply 8-bit integers in the layers: a quarter of float32's memory, a little less exact. On a CPU only; a GPU
    keeps to llm_dtype."""
    llm_int8_kv: bool = False
    """Keep keys and values as 8-bit integers, on any device: nearly a quarter of float32's memory per token
    [triton_int8kv]."""
    llm_cuda_graphs: bool = True
    """On a GPU: replay a recorded graph per batch size instead of launching kernels one by one."""
    llm_paged_kernel: bool = True
    """On a GPU: attention that reads K/V blocks where they lie (Triton) instead of copying them first. Copied where
    Triton is missing, fails or disagrees."""
    llm_compile: bool = False
    """Have torch.compile join the operations between the products; needs a C++ compiler on a CPU."""

    max_running: int = Field(default=32, ge=1)
    """Utterances generated at once, so also the largest batch [gpt_paral_num]."""
    max_waiting: int = Field(default=128, ge=0)
    """Utterances that may queue beyond those; one more is refused."""
    steps_per_turn: int = Field(default=0, ge=0)
    """Engine steps between two looks at what has arrived; more delays newcomers and saves host work, most where CUDA
    graphs make several steps in one go. 0: 8 there, else 1 [gpt_paral_step_num]."""
    total_tokens: int = Field(default=32768, ge=64)
    """Rows of the K/V cache, all utterances together [max_total_token_num]."""
    max_request_tokens: int = Field(default=4096, ge=16)
    """Rows one utterance may take: prompt, text and speech together [max_req_total_len]."""
    prefill_tokens: int = Field(default=512, ge=1)
    """Rows of prompt fed per step at most, so that a long prompt does not stall running streams [batch_max_tokens]."""
    admission_interval: int = Field(default=1, ge=1)
    """Steps between admissions; more lets prompts gather into fewer, larger steps [router_max_wait_tokens]."""
    stats_interval_seconds: float = Field(default=0.0, ge=0)
    """Seconds between log lines with the engine's statistics; 0 writes none."""

    llm_order: Literal["deadline", "fifo"] = "deadline"
    """deadline: whoever runs dry first goes first; fifo: first come, first served."""
    first_audio_target_seconds: float = Field(default=0.5, gt=0)
    """Wanted time from opening an utterance to its first audio, when a request names none."""
    offline_patience_seconds: float = Field(default=60.0, gt=0)
    """How long work nobody listens to may wait for work somebody does."""
    pause_lead_seconds: float = Field(default=5.0, ge=0)
    """In deadline order: a stream further ahead of its listener than this pauses while others need the step."""
    lead_seconds: float = Field(default=20.0, gt=0)
    """Speech generated ahead of what the decode stage has spoken, at most; barge-in wastes no more than this."""
    max_seconds: float = Field(default=60.0, gt=0)
    """Longest utterance, in seconds of audio, whatever a request asks for."""

    voice_cache_count: int = Field(default=256, ge=1)
    """Voices kept in memory at most."""
    voice_cache_bytes: int = Field(default=256 * 2**20, ge=1)
    """Bytes of voices kept in memory at most."""
    decode_wait_seconds: float = Field(default=5.0, ge=0)
    """Longest wait for a decode worker to become available before an utterance is refused."""
    decode_silence_seconds: float = Field(default=3.0, gt=0)
    """A decode worker that sends nothing for so long is taken for frozen, and its utterance moves."""
    decode_stall_seconds: float = Field(default=15.0, gt=0)
    """A decode worker whose engine makes no step for so long is taken for hung, and its utterance moves."""
    decode_max_moves: int = Field(default=3, ge=0)
    """Moves one utterance may make before it fails."""
