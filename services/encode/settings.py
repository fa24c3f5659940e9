"""Settings of the encode service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.common.settings import ModelServiceSettings


class EncodeSettings(ModelServiceSettings):
    """Settings of the encode service, which converts text to token ids and prompts to voices."""

    port: int = Field(default=50051, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    parallel: int = Field(default=2, ge=1)
    """Voices extracted at the same time."""
    max_queue: int = Field(default=32, ge=0)
    """Voices that may wait for extraction in addition; further ones are refused."""
    onnx_providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """ONNX Runtime execution providers in order of preference."""
    onnx_threads: int = Field(default=1, ge=1)
    """Threads of one graph run."""
    normaliser: Literal["auto", "wetext", "builtin"] = "auto"
    """Reads numbers and symbols: wetext, the built-in rules, or (auto) wetext if it is installed."""
    text_threads: int = Field(default=2, ge=1)
    """Threads that encode text. Streams take turns, one step of about 400 characters each, so that long texts do not
    delay short ones."""
    max_text_chars: int = Field(default=20_000, ge=1)
    """Longest text of one stream, in characters."""
    text_idle_seconds: float = Field(default=0.3, gt=0)
    """Interleaved text: after this time without new text, the text held back is released."""
    max_prompt_bytes: int = Field(default=20 * 2**20, ge=1)
    """Largest prompt audio file, in bytes."""
    max_uploads: int = Field(default=64, ge=1)
    """Recordings received at the same time, each held in memory until complete; further ones are refused."""
    cache_capacity: int = Field(default=1024, ge=1)
    """Most voices kept in memory."""
    cache_bytes: int = Field(default=512 * 2**20, ge=1)
    """Most bytes of voices kept in memory."""
