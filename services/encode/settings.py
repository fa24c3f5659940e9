"""Settings of the encode service."""

from __future__ import annotations

from pathlib import Path
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
    normaliser: Literal["auto", "wetext", "builtin", "upstream"] = "auto"
    """How numbers and symbols are read. wetext: our rules, and for Chinese wetext; builtin: our rules alone, which
    leave most digits in Chinese text as they are; auto: wetext if it is installed; upstream: only the rules of the
    model family."""
    text_cleaning: bool = True
    """Leave out what cannot be spoken: emoji, drawings, invisible characters, Markdown marks. Their text stays."""
    lexicon: Path | None = None
    """JSON file of pronunciations: {"phrase": "respelling"} or {"phrase": {"ipa": "..."}}, with ipa, arpabet or pinyin.
    It is read again when it changes."""
    text_threads: int = Field(default=2, ge=1)
    """Threads that encode text. Streams take turns, one step of about 400 characters each, so that long texts do not
    delay short ones."""
    max_text_chars: int = Field(default=20_000, ge=1)
    """Longest text of one stream, in characters."""
    text_idle_seconds: float = Field(default=0.3, gt=0)
    """After this time without new text, a held sentence that ends in a stop is spoken, and interleaved text whole."""
    max_prompt_bytes: int = Field(default=20 * 2**20, ge=1)
    """Largest prompt audio file, in bytes."""
    max_uploads: int = Field(default=64, ge=1)
    """Recordings received at the same time, each held in memory until complete; further ones are refused."""
    cache_capacity: int = Field(default=1024, ge=1)
    """Most voices kept in memory."""
    cache_bytes: int = Field(default=512 * 2**20, ge=1)
    """Most bytes of voices kept in memory."""
