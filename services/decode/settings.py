"""What the decode service can be told."""

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
    """torch appends to kept states; onnx and tensorrt recompute; auto takes the fastest that works here and logs why
    another one does not. simulated sleeps for a cost model and emits deterministic audio (load and fault tests)."""
    decode_cache_dir: Path = Path.home() / ".cache" / "light-tts"
    """Where exported graphs and built engines are kept; `light-tts prepare` fills it ahead."""
    decode_cost_file: Path | None = None
    """Cost model of the simulated backend: a JSON file, see the files in services/decode/costs."""
    decode_clocked_recompute: bool = False
    """The simulated backend sleeps for a stream's whole history with every hop, as servers without state do."""
    decode_fixed_hops: bool = False
    """Hops of one chunk whatever the lead, to compare policies."""
    device: str = "cpu"
    """Device of the model: cpu, cuda, cuda:1 ... The CPU stands in, said loudly, for a GPU that is absent or fails."""
    decode_precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Numbers the flow's estimator computes in; the vocoder always runs in float32 and pitch in float64. auto: bfloat16
    on a GPU, else float32."""
    decode_state_precision: Literal["auto", "float32", "bfloat16", "float16", "float8"] = "auto"
    """Numbers in which streams' states are kept; auto is the precision of computing. See docs/benchmarks.md."""
    decode_cuda_graphs: bool = True
    """On a GPU: replay a recorded graph per shape of batch (streams, new chunks, past) instead of launching kernels one
    by one."""
    decode_compile: bool = False
    """Have torch.compile join the estimator's small operations; needs a C++ compiler on a CPU."""
    decode_keep_state: bool = True
    """Let streams keep what they computed; without, every hop computes its stream's whole history again."""
    decode_state_bytes: int = Field(default=0, ge=0)
    """Memory for streams' states; 0 takes 80% of what a GPU, or half of what the machine or container, has left. A
    stream without room computes its whole history with every hop."""
    decode_memory_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the device's memory this process may take, where several share it."""
    decode_policy: Literal["deadline", "fifo"] = "deadline"
    """Who decodes next: whoever must begin first to be in time, or whoever was ready first."""
    decode_admission: Literal["auto", "on", "off"] = "auto"
    """Refuse an utterance that would make a playing one late. auto: not when the CPU computes, which may stutter."""
    decode_max_streams: int = Field(default=32, ge=1)
    """Utterances open at once; one more is refused. Other servers call it decode_paral_num."""
    decode_max_queue: int = Field(default=10, ge=1)
    """Utterances that may wait for their first audio on this worker; while so many do, a new one is refused."""
    decode_max_batch_size: int = Field(default=0, ge=0)
    """Hops of different utterances decoded as one batch, at most; 0 takes 16 on a GPU and 4 on a CPU."""
    first_audio_target_seconds: float = Field(default=0.5, gt=0)
    """Wanted time from opening an utterance to its first audio, when a request names none."""
    max_unread_seconds: float = Field(default=10.0, gt=0)
    """Audio that may wait for a slow reader before its utterance pauses."""
    voice_cache_count: int = Field(default=256, ge=1)
    """Voices kept in memory at most."""
    voice_cache_bytes: int = Field(default=256 * 2**20, ge=1)
    """Bytes of voices kept in memory at most."""
