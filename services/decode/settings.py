"""Settings of the decode service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from services.common.settings import ModelServiceSettings, renamed_value


class DecodeSettings(ModelServiceSettings):
    """Settings of a decode worker: speech tokens in, audio out."""

    port: int = Field(default=50061, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    decode_backend: Annotated[
        Literal["auto", "torch", "onnx", "tensorrt", "simulated"], renamed_value("clocked", "simulated")
    ] = "auto"
    """torch appends to cached states. onnx and tensorrt (experimental) recompute; if one of them fails, torch replaces
    it and the log states the reason. auto is torch. simulated sleeps for a cost model and emits deterministic audio
    (load and fault tests)."""
    decode_cache_dir: Path = Path.home() / ".cache" / "light-tts"
    """Folder of exported graphs and built engines; `light-tts prepare` fills it in advance."""
    decode_cost_file: Path | None = None
    """Cost model of the simulated backend: a JSON file, see the files in services/decode/costs."""
    decode_clocked_recompute: bool = False
    """The simulated backend sleeps for a stream's whole history with every hop, like a server without state."""
    decode_fixed_hops: bool = False
    """Decode one chunk per hop regardless of the lead, to compare policies."""
    device: str = "cpu"
    """Device of the model: cpu, cuda, cuda:1 ... If a GPU is absent or fails, the worker logs an error and uses
    the CPU."""
    decode_precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the flow's estimator; the vocoder always runs in float32 and pitch in float64. auto: bfloat16 on a
    GPU, else float32."""
    decode_state_precision: Literal["auto", "float32", "bfloat16", "float16", "float8"] = "auto"
    """Precision in which streams' states are stored; auto: that of decode_precision. See docs/benchmarks.md."""
    decode_cuda_graphs: bool = True
    """On a GPU: replay a recorded graph per batch shape (streams, new and cached chunks) instead of launching kernels
    one by one."""
    decode_paged_kernel: bool = True
    """On a GPU: attention in the graphs reads the blocks of streams' states in place, with a Triton kernel. Without it
    or Triton, each layer copies them first."""
    decode_fused_kernels: bool = True
    """On a GPU: the graphs use Triton kernels that join the products and convolutions of estimator and vocoder with the
    operations around them. The start measures whether cuDNN's convolutions or Triton's are faster in the vocoder."""
    decode_compile: bool = False
    """Fuse the estimator's small operations with torch.compile; needs a C++ compiler on a CPU."""
    decode_cpu_step: Literal["joined", "plain"] = "joined"
    """On a CPU in float32: how an Euler step runs. joined: few large operations, which need a second copy of some
    weights. plain: the layers' own operations, to compare."""
    decode_keep_state: bool = True
    """Keep the states of streams; if off, every hop computes its stream's whole history again."""
    decode_state_bytes: int = Field(default=0, ge=0)
    """Memory for streams' states in bytes; 0: 80% of a GPU's free memory, less if its graphs need more than the rest;
    half of the free memory of the machine or container. A stream whose state does not fit computes its whole history
    with every hop."""
    decode_memory_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the device's memory that this process may use if several processes share it."""
    decode_policy: Literal["deadline", "fifo"] = "deadline"
    """Order of hops: deadline runs the one with the earliest latest start, fifo the one that was ready first."""
    decode_admission: Literal["auto", "on", "off"] = "auto"
    """Refuse an utterance that would make a playing one late. auto: off if the CPU computes, on otherwise."""
    decode_max_streams: int = Field(default=0, ge=0)
    """Largest number of sessions with open utterances here; 0: 128 on a GPU and 32 on a CPU. At it, new sessions are
    refused and admitted ones queue. Other servers call it decode_paral_num."""
    decode_max_queue: int = Field(default=0, ge=0)
    """Largest number of sessions that wait for their first audio on this worker; 0: 64 on a GPU and 10 on a CPU. At it,
    new sessions are refused."""
    decode_max_batch_size: int = Field(default=0, ge=0)
    """Largest number of hops of different utterances in one batch; 0: 16 on a GPU and 4 on a CPU."""
    first_audio_target_seconds: float = Field(default=0.5, gt=0)
    """Target time from the start of an utterance to its first audio, if the request gives none."""
    max_unread_seconds: float = Field(default=10.0, gt=0)
    """Seconds of unread audio at which the utterance of a slow reader pauses."""
    voice_cache_count: int = Field(default=256, ge=1)
    """Largest number of voices in the cache."""
    voice_cache_bytes: int = Field(default=256 * 2**20, ge=1)
    """Largest size of the cached voices in bytes."""
    watermark: Literal["off", "on"] = "off"
    """Mark all audio inaudibly as synthetic, so that `light-tts detect` finds it again; see docs/marking.md."""
    watermark_key_file: Path | None = None
    """File of the watermark's secret keys; `light-tts mark-key 1` prints a line for it."""
    watermark_key_id: int = Field(default=1, ge=0, le=255)
    """Number of the key that marks; the mark carries it."""
    watermark_deployment: int = Field(default=0, ge=0, le=255)
    """Number of this deployment; the mark carries it."""
