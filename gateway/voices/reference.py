"""How a request names its voice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NamedVoice:
    """A voice the gateway knows; the empty name is the default one."""

    name: str


@dataclass(frozen=True)
class PromptVoice:
    """A recording of the caller's own; without a transcript it gives its timbre alone."""

    audio: bytes
    transcript: str
