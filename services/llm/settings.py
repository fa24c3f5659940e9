"""What the llm service can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from services.common.settings import ModelServiceSettings


class LlmSettings(ModelServiceSettings):
    """Settings of the llm service: text tokens in, speech tokens on to the decode pool, audio back."""

    port: int = Field(default=50052, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    decode_target: str = "static:///127.0.0.1:50061"
    """Where the decode workers are: static:///host:port,host:port or dns://[server[:port]]/name:port."""
    llm_backend: Literal["torch", "clocked"] = "torch"
    """torch computes; clocked sleeps for a cost model and emits deterministic tokens (load and fault tests)."""
    llm_cost_file: Path | None = None
    """Cost model of the clocked backend: a JSON file, see services/llm/backends.py."""
    device: str = "cpu"
    """Device of the model: cpu, cuda, cuda:1 ..."""
    max_running: int = Field(default=32, ge=1)
    """Utterances generated at once, so also the largest batch."""
    max_waiting: int = Field(default=128, ge=0)
    """Utterances that may queue beyond those; one more is refused."""
    total_tokens: int = Field(default=32768, ge=64)
    """Rows of the K/V cache, all utterances together."""
    max_request_tokens: int = Field(default=4096, ge=16)
    """Rows one utterance may take: prompt, text and speech together."""
    prefill_tokens: int = Field(default=512, ge=1)
    """Rows of prompt fed per step at most, so that a long prompt does not stall running streams."""
    max_seconds: float = Field(default=60.0, gt=0)
    """Longest utterance, in seconds of audio, whatever a request asks for."""
    lead_seconds: float = Field(default=20.0, gt=0)
    """Speech generated ahead of what the decode stage has spoken, at most; barge-in wastes no more than this."""
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
