"""The settings of the llm service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from services.common.settings import ModelServiceSettings, renamed_value


class LlmSettings(ModelServiceSettings):
    """Settings of the llm service: text tokens in, speech tokens on to the decode pool, audio back.

    Names in brackets are those of the older LightTTS guide, for users who know it.
    """

    port: int = Field(default=50052, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    decode_target: str = "static:///127.0.0.1:50061"
    """Addresses of the decode workers: static:///host:port,host:port or dns://[server[:port]]/name:port."""
    encode_target: str = ""
    """Addresses of the encode workers, from which this worker fetches the checkpoint's own voices before it is ready.
    Empty: each voice comes with its first request."""
    own_voices_seconds: float = Field(default=10.0, ge=0)
    """Longest delay of the start, in seconds, while no encode worker sends the checkpoint's own voices."""

    llm_backend: Annotated[Literal["torch", "simulated"], renamed_value("clocked", "simulated")] = "torch"
    """torch computes; simulated sleeps for a cost model and emits deterministic tokens (load and fault tests)."""
    llm_cost_file: Path | None = None
    """Cost model of the simulated backend: a JSON file like those in services/llm/costs."""
    device: str = "cpu"
    """Device of the model: cpu, cuda, cuda:1 ... If a GPU is absent or fails, the worker logs an error and uses
    the CPU."""
    llm_weights: str = Field(default="", pattern="^[a-z0-9_-]*$")
    """Other weights of the language model that the checkpoint was published with, as a style of that name and the
    default one: rl reads llm.rl.pt (CosyVoice3). Empty: llm.pt."""
    llm_memory_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of a GPU's memory that this process may use, if several processes share the GPU."""
    llm_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the layers; norms, positions and logits are always float32. auto: bfloat16 on a GPU, else
    float32."""
    llm_int8_weights: bool = False
    """Multiply 8-bit integers in the layers: a quarter of float32's memory, slightly less exact. On a CPU only; a GPU
    uses llm_dtype."""
    llm_int8_kv: bool = False
    """Store keys and values as 8-bit integers, on any device: about a quarter of float32's memory per token
    [triton_int8kv]."""
    llm_cuda_graphs: bool = True
    """On a GPU: replay a recorded CUDA graph per batch size instead of launching each kernel."""
    llm_cpu_graph: bool = True
    """On a CPU with float32 layers: run a decode step as one ONNX Runtime graph instead of many small operations. It
    keeps a second copy of the layers' weights. Operations run one by one if the graph fails or gives other results."""
    llm_word_times: bool = True
    """Derive the times of words from the attention heads that the model directory declares (`light-tts
    calibrate-alignment`). Without such heads, and when off, only utterances have times."""
    llm_paged_kernel: bool = True
    """On a GPU: use an attention kernel (Triton) that reads K/V blocks in place instead of copying them first. Blocks
    are copied if Triton is missing, fails or gives other results."""
    llm_fused_kernels: bool = True
    """On a GPU: use Triton kernels for the norms, rotary positions, the gate and the sampling instead of many small
    operations. The plain operations are used if Triton is missing, fails or gives other results."""
    llm_compile: bool = False
    """Let torch.compile fuse the operations between the matrix products; needs a C++ compiler on a CPU."""

    max_running: int = Field(default=0, ge=0)
    """Largest number of utterances generated at once, and so the largest batch; 0: 256 on a GPU, 32 on a CPU or without
    the kernel of llm_paged_kernel [gpt_paral_num]."""
    max_waiting: int = Field(default=128, ge=0)
    """Largest number of queued sessions beyond max_running; at it, new sessions are refused, admitted ones queue."""
    steps_per_turn: int = Field(default=0, ge=0)
    """Engine steps between two looks at new requests; more steps save host work and delay new requests, most of all
    with CUDA graphs, which run them without the host. 0: 8 with CUDA graphs, else 1 [gpt_paral_step_num]."""
    total_tokens: int = Field(default=0, ge=0)
    """Size of the K/V cache in tokens, for all utterances together; 0: 32768, on a GPU 1024 for each utterance of
    max_running if they fit into a quarter of its free memory [max_total_token_num]."""
    max_request_tokens: int = Field(default=4096, ge=16)
    """Most tokens of one utterance in the K/V cache: prompt, text and speech together [max_req_total_len]."""
    prefill_tokens: int = Field(default=512, ge=1)
    """Most prompt tokens fed per step, so that a long prompt does not stall running streams [batch_max_tokens]."""
    admission_interval: int = Field(default=1, ge=1)
    """Steps between admissions; with more, prompts are fed in fewer, larger steps [router_max_wait_tokens]."""
    stats_interval_seconds: float = Field(default=0.0, ge=0)
    """Seconds between log lines with the engine's statistics; 0: none."""

    llm_order: Literal["deadline", "fifo"] = "deadline"
    """deadline: the utterance whose audio runs out first goes first; fifo: first come, first served."""
    first_audio_target_seconds: float = Field(default=0.5, gt=0)
    """Target time in seconds from the start of an utterance to its first audio, if the request gives none."""
    offline_patience_seconds: float = Field(default=60.0, gt=0)
    """Longest time in seconds that offline utterances wait for interactive ones."""
    pause_lead_seconds: float = Field(default=5.0, ge=0)
    """In deadline order: an utterance whose lead is longer than this, in seconds, pauses while others need the step."""
    lead_seconds: float = Field(default=20.0, gt=0)
    """Most speech, in seconds, generated ahead of the decoded audio; a barge-in wastes at most this much."""
    max_seconds: float = Field(default=60.0, gt=0)
    """Longest utterance in seconds of audio; requests cannot raise it."""

    voice_cache_count: int = Field(default=256, ge=1)
    """Largest number of voices in the cache."""
    voice_cache_bytes: int = Field(default=256 * 2**20, ge=1)
    """Largest size of the cached voices in bytes."""
    decode_wait_seconds: float = Field(default=5.0, ge=0)
    """Longest wait in seconds for an available decode worker before an utterance is refused."""
    decode_frozen_seconds: float = Field(default=0.3, ge=0)
    """Seconds without any message after which an utterance moves, if other decode workers answer health checks and its
    worker does not; longer while all of them are slow. 0: only decode_silence_seconds counts."""
    decode_silence_seconds: float = Field(default=3.0, gt=0)
    """Seconds without any message after which a decode worker counts as frozen and its utterance moves."""
    decode_stall_seconds: float = Field(default=15.0, gt=0)
    """Seconds without an engine step after which a decode worker counts as hung and its utterance moves."""
    decode_max_moves: int = Field(default=3, ge=0)
    """Largest number of moves of one utterance; after them it fails. Leaving a worker that drains does not count."""
    decode_patience_seconds: float = Field(default=30.0, ge=0)
    """Longest wait in seconds of an utterance of an admitted session for a decode worker; then the utterance fails."""
