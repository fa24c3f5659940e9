"""The two ways in which a request specifies its voice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NamedVoice:
    """A bundled or registered voice; an empty name means the default voice."""

    name: str


@dataclass(frozen=True)
class PromptVoice:
    """A recording sent with the request; without a transcript it gives only its timbre."""

    audio: bytes
    transcript: str
