"""What the encode service can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.common.settings import ModelServiceSettings


class EncodeSettings(ModelServiceSettings):
    """Settings of the encode service: text and prompt audio to what the models read."""

    port: int = Field(default=50051, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    parallel: int = Field(default=2, ge=1)
    """Voices extracted at once."""
    max_queue: int = Field(default=32, ge=0)
    """Voices that may wait for extraction beyond those; one more is refused."""
    onnx_providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """ONNX Runtime execution providers, the preferred first."""
    onnx_threads: int = Field(default=1, ge=1)
    """Threads one graph run may use."""
    normaliser: Literal["auto", "wetext", "builtin"] = "auto"
    """Reader of numbers and symbols: wetext, the built-in rules, or wetext where it is installed."""
    max_text_chars: int = Field(default=20_000, ge=1)
    """Longest text of one stream, in characters."""
    text_idle_seconds: float = Field(default=0.3, gt=0)
    """Interleaved text: after so long without any, what was held back for its sake is released."""
    max_prompt_bytes: int = Field(default=20 * 2**20, ge=1)
    """Largest prompt audio file, in bytes."""
    max_uploads: int = Field(default=64, ge=1)
    """Recordings received at once, each held in memory until it is whole; one more is refused."""
    cache_capacity: int = Field(default=1024, ge=1)
    """Voices kept in memory at most."""
    cache_bytes: int = Field(default=512 * 2**20, ge=1)
    """Bytes of voices kept in memory at most."""
